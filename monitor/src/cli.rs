//! The command line of the `peerwatch` binary, and its exit codes.

use std::error::Error;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};
use monitor_common::Direction;

use crate::config::{
    BpfLog, ConfigError, LogFormat, LogLevel, LogPackets, Pattern, listen, log_rate_text,
    max_attempts_text, switch, wanted,
};
use crate::status::known_direction;

/// The revision that the binary was built from, for `--version` and `build_info`.
pub const REVISION: &str = match option_env!("PEERWATCH_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The version, for `--version` and `build_info`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

static LONG_VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{VERSION} (revision {REVISION})"));

/// The name of the program.
pub const NAME: &str = "peerwatch";

/// Exit code of a failure at run time.
pub const FAILURE: u8 = 1;

/// Exit code of a call that is wrong in itself; the same that clap uses.
pub const USAGE: u8 = 2;

/// The exit code for an error that ended the process: [`USAGE`] where the call was wrong, however
/// deep in the chain of causes that stands, else [`FAILURE`].
#[must_use]
pub fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    let mut chain = std::iter::successors(Some(error), |error| (*error).source());
    let usage = chain.any(|error| {
        error
            .downcast_ref::<ConfigError>()
            .is_some_and(ConfigError::is_usage)
    });
    ExitCode::from(if usage { USAGE } else { FAILURE })
}

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    version = LONG_VERSION.as_str(),
    about = "Says whether Delivery Optimization peer traffic is blocked on this Linux host, by whom, since when"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Count packets and serve metrics until a signal ends it.
    #[command(
        after_help = "Every flag but --config is also a key of the file (with _ for -), and a variable of the \
                      environment (as PEERWATCH_LOG_PACKETS). A flag beats the environment, which \
                      beats the file."
    )]
    Run(RunFlags),
    /// Check a configuration file and say what is wrong with it.
    CheckConfig(CheckConfigFlags),
    /// Ask a running daemon whether anything is blocked, by whom, since when.
    #[command(
        after_help = "Exit code: 0 ok or no demand, 1 degraded or failing, 2 blocked, 3 unknown, no answer, or \
                      bad arguments; the worst of blocked, failing, degraded, unknown, ok. Times are in UTC. \
                      The first line is one that monitoring systems understand."
    )]
    Status(StatusFlags),
}

/// The flags of `run`; what is not given is `None` or empty.
#[derive(Args, Clone, Debug, Default)]
pub struct RunFlags {
    /// Configuration file [default: /etc/peerwatch/peerwatch.toml, if it is there].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Address that metrics are served on.
    #[arg(
        long,
        help = "Address that metrics are served on; [::]:9680 or :9680 for other hosts too [default: 127.0.0.1:9680]",
        value_name = "ADDR", alias = "web.listen-address", value_parser = listen)]
    pub listen: Option<SocketAddr>,

    /// File with TLS and users for those who ask, as Prometheus's own exporters have it [default: none].
    #[arg(long, value_name = "FILE", alias = "web.config.file")]
    pub web_config: Option<PathBuf>,

    /// Interfaces to watch, a name or a glob; may be repeated [default: all but lo].
    #[arg(long, value_name = "GLOB", value_parser = wanted)]
    pub interface: Vec<Pattern>,

    /// Interfaces not to watch, a name or a glob; may be repeated, and beats --interface.
    #[arg(long, value_name = "GLOB")]
    pub exclude_interface: Vec<Pattern>,

    /// How many attempts to open a connection are followed at once in the kernel [default: 65536].
    #[arg(long, value_name = "N", value_parser = max_attempts_text)]
    pub max_attempts: Option<u32>,

    /// Which packets go to the event log on standard output [default: dropped].
    #[arg(long, value_enum, value_name = "WHICH")]
    pub log_packets: Option<LogPackets>,

    /// How many packets the event log takes in a second [default: 10].
    #[arg(long, value_name = "N", value_parser = log_rate_text)]
    pub log_packets_rate: Option<u32>,

    /// How many packets the event log takes at once after a pause [default: 100].
    #[arg(long, value_name = "N", value_parser = log_rate_text)]
    pub log_packets_burst: Option<u32>,

    /// How diagnostics and the event log are written [default: text].
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// The least severe diagnostics that go to standard error [default: info].
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,

    /// The least severe diagnostics of the kernel programs that go there too [default: off].
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub bpf_log: Option<BpfLog>,

    /// File with the BTF of the running kernel [default: /sys/kernel/btf/vmlinux].
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,

    /// Show the verifier's whole log when the kernel refuses a program.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = switch
    )]
    pub verifier_log: Option<bool>,
}

/// The flags of `check-config`.
#[derive(Args, Clone, Debug, Default)]
pub struct CheckConfigFlags {
    /// Configuration file [default: /etc/peerwatch/peerwatch.toml].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The flags of `status`.
#[derive(Args, Clone, Debug)]
pub struct StatusFlags {
    /// Print the daemon's answer as JSON.
    #[arg(
        long,
        help = "Print the daemon's whole answer as JSON; the exit code stays that of what is chosen"
    )]
    pub json: bool,

    /// Only this traffic.
    #[arg(long, value_name = "NAME")]
    pub traffic: Option<String>,

    /// Only this direction: inbound, outbound or forwarded.
    #[arg(long, value_name = "DIRECTION", value_parser = direction)]
    pub direction: Option<Direction>,

    /// Where the daemon is.
    #[arg(
        long,
        help = "Where the daemon is; also PEERWATCH_URL in the environment [default: http://127.0.0.1:9680]",
        value_name = "URL"
    )]
    pub url: Option<String>,

    /// Authorities that vouch for the daemon's certificate.
    #[arg(
        long,
        help = "File with the authorities that vouch for the daemon's certificate; also PEERWATCH_CA_FILE [default: those \
                of this host]",
        value_name = "FILE"
    )]
    pub ca_file: Option<PathBuf>,

    /// File with user name and password.
    #[arg(
        long,
        help = "File with NAME:PASSWORD for a daemon that asks for it; also PEERWATCH_USER_FILE",
        value_name = "FILE"
    )]
    pub user_file: Option<PathBuf>,

    /// How long to wait for the whole answer, seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=600)
    )]
    pub timeout: u64,
}

fn direction(text: &str) -> Result<Direction, String> {
    known_direction(text).ok_or_else(|| {
        format!("{text:?} is no direction; choose one of inbound, outbound, forwarded")
    })
}

/// Whether arguments, the first one the program's own name, are a call of `status`: its exit codes are
/// those of monitoring systems, also where the rest of the call is wrong.
#[must_use]
pub fn is_status(mut arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.nth(1).is_some_and(|name| name == "status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(arguments: &[&str]) -> Result<RunFlags, clap::Error> {
        let cli = Cli::try_parse_from(["peerwatch", "run"].iter().chain(arguments))?;
        match cli.command {
            Command::Run(flags) => Ok(flags),
            Command::CheckConfig(_) | Command::Status(_) => panic!("not run"),
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
        assert_eq!(names, ["run", "check-config", "status"]);
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
}
