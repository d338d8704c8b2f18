use super::*;
use clap::CommandFactory;

fn run(arguments: &[&str]) -> Result<RunFlags, clap::Error> {
    let cli = Cli::try_parse_from(["peerwatch", "run"].iter().chain(arguments))?;
    match cli.command {
        Command::Run(flags) => Ok(flags),
        Command::CheckConfig(_)
        | Command::Doctor(_)
        | Command::Status(_)
        | Command::Uninstall(_) => {
            panic!("not run")
        }
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn run_takes_its_flags() {
    let flags = run(&[
        "--web.listen-address=:9680",
        "--web.config.file=/w",
        "--interface=eth*",
        "--interface",
        "wan",
        "--exclude-interface=lo",
        "--max-attempts=2048",
        "--log-packets=none",
        "--log-packets-rate=5",
        "--log-packets-burst=6",
        "--log-format=json",
        "--log-level=trace",
        "--bpf-log=debug",
        "--btf=/boot/btf",
        "--verifier-log",
        "--bpffs=/b",
        "--state-dir=/s",
        "--ephemeral",
        "--bpf-stats",
        "--self-test",
        "--config=/x",
    ])
    .unwrap();
    assert_eq!(flags.listen.unwrap().to_string(), "[::]:9680");
    assert_eq!(
        flags
            .interface
            .iter()
            .map(Pattern::as_str)
            .collect::<Vec<_>>(),
        ["eth*", "wan"]
    );
    assert_eq!(flags.exclude_interface.len(), 1);
    assert_eq!(flags.max_attempts, Some(2048));
    assert_eq!(flags.log_packets, Some(LogPackets::None));
    assert_eq!(
        (flags.log_packets_rate, flags.log_packets_burst),
        (Some(5), Some(6))
    );
    assert_eq!(flags.log_format, Some(LogFormat::Json));
    assert_eq!(flags.log_level, Some(LogLevel::Trace));
    assert_eq!(flags.bpf_log, Some(BpfLog::Debug));
    assert_eq!(flags.btf, Some(PathBuf::from("/boot/btf")));
    assert_eq!(flags.verifier_log, Some(true));
    assert_eq!(
        run(&["--verifier-log=false"]).unwrap().verifier_log,
        Some(false)
    );
    assert_eq!(flags.config, Some(PathBuf::from("/x")));
    assert_eq!(flags.web_config, Some(PathBuf::from("/w")));
    let flags = run(&["--web-config=/v"]).unwrap();
    assert_eq!(flags.web_config, Some(PathBuf::from("/v")));
}

#[test]
fn bad_flags_are_usage_errors_with_one_reason() {
    for (flag, reason) in [
        (
            "--listen=9680",
            "\"9680\" is no IP:PORT; write it like 127.0.0.1:9680",
        ),
        ("--interface=eth[", "\"eth[\" is no glob"),
        ("--interface=lo", "\"lo\" is never watched"),
        (
            "--log-packets=some",
            "[possible values: dropped, allowed, all, none]",
        ),
        (
            "--max-attempts=100",
            "100 is not from 1024 to 1048576 attempts",
        ),
        ("--log-packets-rate=0", "0 is not from 1 to 1000000"),
        (
            "--verifier-log=maybe",
            "\"maybe\" is neither true nor false",
        ),
        (
            "--interfaces=eth0",
            "unexpected argument '--interfaces' found",
        ),
    ] {
        let error = run(&[flag]).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(USAGE), "{flag}");
        assert!(error.to_string().contains(reason), "{flag}: {error}");
    }
}

#[test]
fn status_takes_its_flags() {
    let status = |arguments: &[&str]| {
        let cli = Cli::try_parse_from(["peerwatch", "status"].iter().chain(arguments))?;
        match cli.command {
            Command::Status(flags) => Ok(flags),
            _ => panic!("not status"),
        }
    };
    let flags = status(&[]).unwrap();
    assert_eq!((flags.json, flags.timeout), (false, 5));
    assert_eq!(
        (flags.url, flags.traffic, flags.direction),
        (None, None, None)
    );
    assert_eq!((flags.ca_file, flags.user_file), (None, None));
    let flags = status(&[
        "--json",
        "--traffic=https",
        "--direction=forwarded",
        "--url=http://a",
        "--ca-file=/ca",
        "--user-file=/user",
        "--timeout=9",
    ])
    .unwrap();
    assert_eq!(flags.ca_file, Some(PathBuf::from("/ca")));
    assert_eq!(flags.user_file, Some(PathBuf::from("/user")));
    assert_eq!((flags.json, flags.timeout), (true, 9));
    assert_eq!(flags.direction, Some(Direction::Forwarded));
    for (flag, reason) in [
        (
            "--direction=up",
            "\"up\" is no direction; choose one of inbound, outbound, forwarded",
        ),
        ("--timeout=0", "0 is not in 1..=600"),
        ("--timeout=x", "invalid digit"),
    ] {
        let error: clap::Error = status(&[flag]).unwrap_err();
        assert!(error.to_string().contains(reason), "{flag}: {error}");
    }
}

#[test]
fn a_call_of_status_is_known_before_it_is_parsed() {
    let is = |words: &[&str]| is_status(words.iter().map(OsString::from));
    assert!(is(&["peerwatch", "status", "--nonsense"]));
    assert!(!is(&["status"]));
    assert!(!is(&["peerwatch", "run", "status"]));
}

#[test]
fn version_has_the_revision_and_help_only_what_works() {
    let version = Cli::command().render_version();
    assert_eq!(
        version,
        format!("peerwatch {VERSION} (revision {REVISION})\n")
    );
    let names: Vec<_> = Cli::command()
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    assert_eq!(
        names,
        ["run", "check-config", "doctor", "uninstall", "status"]
    );
}

#[test]
fn the_exit_code_tells_a_bad_call_from_a_failure() {
    #[derive(Debug, thiserror::Error)]
    #[error("start")]
    struct Start(#[source] ConfigError);

    let call = ConfigError::Environment {
        variable: "PEERWATCH_LISTEN",
        problem: "x".into(),
    };
    let file = ConfigError::NoFile {
        path: PathBuf::from("/x"),
    };
    assert_eq!(exit_code(&call), ExitCode::from(USAGE));
    assert_eq!(exit_code(&Start(call)), ExitCode::from(USAGE));
    assert_eq!(exit_code(&file), ExitCode::from(FAILURE));
    assert_eq!(
        exit_code(&std::io::Error::other("x")),
        ExitCode::from(FAILURE)
    );
}
