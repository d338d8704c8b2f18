mod sentences;
mod watch;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::cmd::check_config::check_config;
use crate::traffic::Watch;

/// A folder with a file to configure from, and sources that know no other.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new(text: &str) -> Self {
        let fixture = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fixture.write(text);
        fixture
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("peerwatch.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    fn sources(&self) -> Sources {
        Sources {
            flags: RunFlags::default(),
            environment: Environment::default(),
            default_file: self.file(),
        }
    }

    fn config(&self) -> Result<Config, ConfigError> {
        Config::new(self.sources())
    }

    /// The sentence for the file, without the folder's name.
    fn sentence(&self) -> String {
        let sentence = self.config().unwrap_err().to_string();
        sentence.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn summary(traffics: &Traffics) -> Vec<String> {
    let ports = |traffic: &crate::traffic::Traffic| -> Vec<_> {
        traffic.ports.iter().map(ToString::to_string).collect()
    };
    traffics
        .iter()
        .map(|t| format!("{} {} {}", t.index, t.name, ports(t).join(" ")))
        .collect()
}

#[test]
fn nothing_given_means_defaults() {
    let sources = Sources {
        default_file: PathBuf::from("/nonexistent/peerwatch.toml"),
        ..Fixture::new("").sources()
    };
    let config = Config::new(sources).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:9680");
    assert!(config.interfaces.wants("eth0"));
    assert_eq!(
        summary(&config.traffics),
        [
            "0 do_peer tcp/7680",
            "1 teredo udp/3544",
            "2 https tcp/443 udp/443"
        ]
    );
    assert!(config.traffics.iter().all(|t| t.watch == Watch::default()));
    assert_eq!(config.max_attempts, 65_536);
    assert_eq!(config.log_packets, LogPackets::Dropped);
    assert_eq!((config.log_rate, config.log_burst), (10, 100));
    assert_eq!(
        (config.log_format, config.log_level),
        (LogFormat::Text, LogLevel::Info)
    );
    assert_eq!((config.bpf_log, config.verifier_log), (BpfLog::Off, false));
    assert_eq!((config.btf, config.without), (None, Vec::new()));
    assert_eq!(config.web_config, None);
    assert_eq!(config.config_path, None);
}

#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    let fixture = Fixture::new(
        "listen = \"10.0.0.1:1\"\nweb_config = \"/file.yml\"\ninterface = [\"file*\"]\nexclude_interface = [\"x\"]\n\
         log_packets = \"none\"\nlog_packets_rate = 1\nlog_packets_burst = 2\n\
         log_format = \"json\"\nlog_level = \"error\"\nbpf_log = \"trace\"\nverifier_log = true\n\
         btf = \"/file\"\nmax_attempts = 1024\n",
    );
    let from_file = fixture.config().unwrap();
    assert_eq!(from_file.listen.to_string(), "10.0.0.1:1");
    assert!(from_file.interfaces.wants("file0") && !from_file.interfaces.wants("x"));
    assert_eq!(from_file.max_attempts, 1024);
    assert_eq!(from_file.log_packets, LogPackets::None);
    assert_eq!((from_file.log_rate, from_file.log_burst), (1, 2));
    assert_eq!(
        (from_file.log_format, from_file.log_level),
        (LogFormat::Json, LogLevel::Error)
    );
    assert_eq!(
        (from_file.bpf_log, from_file.verifier_log),
        (BpfLog::Trace, true)
    );
    assert_eq!(from_file.web_config, Some(PathBuf::from("/file.yml")));
    assert_eq!(from_file.btf, Some(PathBuf::from("/file")));
    assert_eq!(from_file.config_path, Some(fixture.file()));

    let mut sources = fixture.sources();
    sources.environment = [
        ("PEERWATCH_LISTEN", ":2"),
        ("PEERWATCH_WEB_CONFIG", "/environment.yml"),
        ("PEERWATCH_INTERFACE", "env{0,1}, wan"),
        ("PEERWATCH_EXCLUDE_INTERFACE", "env1"),
        ("PEERWATCH_MAX_ATTEMPTS", "1025"),
        ("PEERWATCH_LOG_PACKETS", "all"),
        ("PEERWATCH_LOG_PACKETS_RATE", "3"),
        ("PEERWATCH_LOG_PACKETS_BURST", "4"),
        ("PEERWATCH_LOG_FORMAT", "text"),
        ("PEERWATCH_LOG_LEVEL", "debug"),
        ("PEERWATCH_BPF_LOG", "off"),
        ("PEERWATCH_VERIFIER_LOG", "0"),
        ("PEERWATCH_BTF", "/environment"),
        ("PEERWATCH_WITHOUT", "tcx, tp_btf"),
        ("PEERWATCH_PORT_9680_TCP", "set by Kubernetes"),
    ]
    .into_iter()
    .collect();
    let config = Config::new(sources.clone()).unwrap();
    assert_eq!(config.listen.to_string(), "[::]:2");
    assert!(config.interfaces.wants("env0") && config.interfaces.wants("wan"));
    assert!(!config.interfaces.wants("env1") && !config.interfaces.wants("file0"));
    assert_eq!(config.log_packets, LogPackets::All);
    assert_eq!((config.log_rate, config.log_burst), (3, 4));
    assert_eq!(
        (config.log_format, config.log_level),
        (LogFormat::Text, LogLevel::Debug)
    );
    assert_eq!((config.bpf_log, config.verifier_log), (BpfLog::Off, false));
    assert_eq!(config.max_attempts, 1025);
    let file = PathBuf::from("/environment.yml");
    assert_eq!(config.web_config, Some(file));
    assert_eq!(config.btf, Some(PathBuf::from("/environment")));
    assert_eq!(config.without, [Feature::Tcx, Feature::TpBtf]);

    sources.flags = RunFlags {
        config: None,
        listen: Some("[::1]:3".parse().unwrap()),
        web_config: Some(PathBuf::from("/flag.yml")),
        interface: vec!["flag".parse().unwrap()],
        exclude_interface: vec!["other".parse().unwrap()],
        max_attempts: Some(1026),
        log_packets: Some(LogPackets::Allowed),
        log_packets_rate: Some(5),
        log_packets_burst: Some(6),
        log_format: Some(LogFormat::Json),
        log_level: Some(LogLevel::Trace),
        bpf_log: Some(BpfLog::Warn),
        btf: Some(PathBuf::from("/flag")),
        bpffs: Some(PathBuf::from("/flag/bpf")),
        state_dir: Some(PathBuf::from("/flag/state")),
        ephemeral: Some(true),
        bpf_stats: Some(true),
        self_test: Some(true),
        verifier_log: Some(true),
    };
    let config = Config::new(sources).unwrap();
    assert_eq!(config.listen.to_string(), "[::1]:3");
    assert_eq!(config.web_config, Some(PathBuf::from("/flag.yml")));
    assert_eq!(
        config.interfaces.plain_names().collect::<Vec<_>>(),
        ["flag"]
    );
    assert!(!config.interfaces.wants("env0"));
    assert_eq!(config.log_packets, LogPackets::Allowed);
    assert_eq!((config.log_rate, config.log_burst), (5, 6));
    assert_eq!(
        (config.log_format, config.log_level),
        (LogFormat::Json, LogLevel::Trace)
    );
    assert_eq!((config.bpf_log, config.verifier_log), (BpfLog::Warn, true));
    assert_eq!(config.max_attempts, 1026);
    assert_eq!(config.btf, Some(PathBuf::from("/flag")));
}

#[test]
fn what_is_kept_comes_from_the_highest_layer() {
    let keep = |config: &Config| {
        let kept = &config.kept;
        let paths = [&kept.bpffs, &kept.state_dir].map(|path| path.display().to_string());
        (paths, kept.ephemeral)
    };
    let of = |bpffs: &str, state: &str| [bpffs.to_owned(), state.to_owned()];
    let plain = Config::new(Fixture::new("").sources()).unwrap();
    assert_eq!(keep(&plain), (of("/sys/fs/bpf", "/run/peerwatch"), false));
    let file = "bpffs = \"/file/bpf\"\nstate_dir = \"/file/state\"\nephemeral = true";
    let fixture = Fixture::new(file);
    let mut sources = fixture.sources();
    let config = Config::new(sources.clone()).unwrap();
    assert_eq!(keep(&config), (of("/file/bpf", "/file/state"), true));
    assert_eq!(
        plain.changed_keys(&config),
        ["bpffs", "state_dir", "ephemeral"]
    );
    sources.environment = [
        ("PEERWATCH_BPFFS", "/env/bpf"),
        ("PEERWATCH_STATE_DIR", "/env/state"),
        ("PEERWATCH_EPHEMERAL", "no"),
    ]
    .into_iter()
    .collect();
    let config = Config::new(sources.clone()).unwrap();
    assert_eq!(keep(&config), (of("/env/bpf", "/env/state"), false));
    sources.flags.bpffs = Some(PathBuf::from("/flag/bpf"));
    sources.flags.state_dir = Some(PathBuf::from("/flag/state"));
    sources.flags.ephemeral = Some(true);
    let config = Config::new(sources).unwrap();
    assert_eq!(keep(&config), (of("/flag/bpf", "/flag/state"), true));
    let error = Config::new(Fixture::new("state_dir = \"run\"").sources()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("\"run\" is not the whole path of a folder"),
        "{error}"
    );
}

#[test]
fn the_file_is_named_by_flag_then_environment_then_default() {
    let by_default = Fixture::new("log_packets_rate = 1");
    let by_env = Fixture::new("log_packets_rate = 2");
    let by_flag = Fixture::new("log_packets_rate = 3");
    let mut sources = by_default.sources();
    assert_eq!(Config::new(sources.clone()).unwrap().log_rate, 1);
    sources.environment = [("PEERWATCH_CONFIG", by_env.file())].into_iter().collect();
    assert_eq!(Config::new(sources.clone()).unwrap().log_rate, 2);
    sources.flags.config = Some(by_flag.file());
    assert_eq!(Config::new(sources.clone()).unwrap().log_rate, 3);
    sources.flags.config = Some(PathBuf::from("/nonexistent/x.toml"));
    assert_eq!(
        Config::new(sources).unwrap_err().to_string(),
        "can't read /nonexistent/x.toml: No such file or directory (os error 2); give another file \
         with --config"
    );
}

#[test]
fn the_environment_is_checked_and_empty_is_unset() {
    let with = |variable: &str, value: &OsStr| {
        let mut sources = Fixture::new("").sources();
        sources.environment = [(OsString::from(variable), value.to_owned())]
            .into_iter()
            .collect();
        Config::new(sources)
    };
    for (variable, value, sentence) in [
        (
            "PEERWATCH_LISTEN",
            "x",
            "\"x\" is no IP:PORT; write it like 127.0.0.1:9680, [::]:9680 or :9680",
        ),
        (
            "PEERWATCH_INTERFACE",
            "a,,b",
            "an empty text names no interface; write a name, or a glob like \"eth*\"",
        ),
        (
            "PEERWATCH_MAX_ATTEMPTS",
            "many",
            "\"many\" is no number of attempts; write one from 1024 to 1048576",
        ),
        (
            "PEERWATCH_VERIFIER_LOG",
            "2",
            "\"2\" is neither true nor false",
        ),
    ] {
        let error = with(variable, OsStr::new(value)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{variable} in the environment: {sentence}")
        );
        assert!(error.is_usage());
        assert!(with(variable, OsStr::new("")).is_ok());
    }
    assert_eq!(
        with("PEERWATCH_LOG_LEVEL", OsStr::from_bytes(b"\xff"))
            .unwrap_err()
            .to_string(),
        "PEERWATCH_LOG_LEVEL in the environment: its value is no UTF-8; write it in UTF-8"
    );
}

#[test]
fn traffics_of_the_file_join_or_replace_the_built_in_ones() {
    let fixture = Fixture::new(
        "[[traffic]]\nname = \"cache_http\"\nports = [\"tcp/80\"]\n\
         [[traffic]]\nname = \"do_peer\"\nports = [\"tcp/7681\", \"tcp/7680\"]\n",
    );
    assert_eq!(
        summary(&fixture.config().unwrap().traffics),
        [
            "0 do_peer tcp/7681 tcp/7680",
            "1 teredo udp/3544",
            "2 https tcp/443 udp/443",
            "3 cache_http tcp/80"
        ]
    );
    let alone = Fixture::new(
        "builtin_traffics = false\n[[traffic]]\nname = \"do_peer\"\nports = [\"tcp/1\"]\n",
    );
    assert_eq!(
        summary(&alone.config().unwrap().traffics),
        ["0 do_peer tcp/1"]
    );
}

#[test]
fn a_reload_reads_the_file_again_and_keeps_indexes() {
    let traffic =
        |name: &str, n: u16| format!("[[traffic]]\nname = \"{name}\"\nports = [\"tcp/{n}\"]\n");
    let fixture = Fixture::new(&(traffic("a", 1) + &traffic("b", 2)));
    let mut sources = fixture.sources();
    sources.flags.log_level = Some(LogLevel::Debug);
    let first = Config::new(sources).unwrap();

    fixture.write(&format!(
        "log_packets_rate = 7\nlog_level = \"error\"\n{}",
        traffic("b", 22)
    ));
    let second = first.reload_from().unwrap();
    assert_eq!(
        first.changed_keys(&second),
        ["log_packets_rate"],
        "the flag still wins"
    );
    assert_eq!(summary(&second.traffics)[3..], ["4 b tcp/22"]);

    fixture.write(&(traffic("c", 3) + &traffic("a", 1)));
    let third = second.reload_from().unwrap();
    assert_eq!(summary(&third.traffics)[3..], ["3 a tcp/1", "5 c tcp/3"]);

    fixture.write("[[traffic]]\nname = \"a\"\nports = [\"tcp/0\"]\n");
    assert_eq!(
        third.reload_from().unwrap_err().to_string(),
        format!(
            "{}:3:10: traffic.ports: \"tcp/0\" has no port from 1 to 65535; write a port like \
             \"tcp/7680\"",
            fixture.file().display()
        )
    );

    let mut now = third;
    for n in 6_u16..16 {
        fixture.write(&traffic(&format!("t{n}"), n));
        now = now.reload_from().unwrap();
    }
    fixture.write(&format!("\n{}", traffic("late", 100)));
    let error = now.reload_from().unwrap_err().to_string();
    assert!(
        error.starts_with(&format!(
            "{}:3:8: traffic.name: traffic \"late\" can't be added, because the \
             counters of removed traffics (",
            fixture.file().display()
        )),
        "{error}"
    );
}

#[test]
fn check_config_looks_at_the_file_alone() {
    let fixture = Fixture::new("[[traffic]]\nname = \"a\"\nports = [\"tcp/1\"]\n");
    let check = |environment: Environment| {
        check_config(
            &crate::cli::CheckConfigFlags::default(),
            &environment,
            &fixture.file(),
        )
    };
    let path = fixture.file();
    let path = path.display();
    let bad: Environment = [("PEERWATCH_LISTEN", "bad")].into_iter().collect();
    assert_eq!(
        check(bad).unwrap(),
        format!("{path}: ok (4 traffics, 5 ports)")
    );
    fixture.write("builtin_traffics = false\n[[traffic]]\nname = \"a\"\nports = [\"tcp/1\"]\n");
    assert_eq!(
        check(Environment::default()).unwrap(),
        format!("{path}: ok (1 traffic, 1 port)")
    );
    fixture.write("x = 1");
    let error = check(Environment::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("{path}:1:1: unknown key `x`"))
    );
    let code = crate::cli::exit_code(&error);
    let failure = std::process::ExitCode::from(crate::cli::FAILURE);
    assert_eq!(code, failure, "a bad file is no bad call");
    let web = fixture.folder.path().join("web.yml");
    fs::write(&web, "basic_auth_user: {}\n").unwrap();
    let web = web.display();
    fixture.write(&format!("web_config = \"{web}\"\n"));
    let error = check(Environment::default()).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{web}:1: unknown key `basic_auth_user`")),
        "{error}"
    );
    fs::remove_file(fixture.file()).unwrap();
    assert_eq!(
        check(Environment::default()).unwrap_err().to_string(),
        format!("there is no {path}; name the file with --config")
    );
}
