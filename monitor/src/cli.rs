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
    BpfLog, ConfigError, LogFormat, LogLevel, LogPackets, Pattern, folder, listen, log_rate_text,
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
    /// Say what will be seen on this host and what will not, and prove that it is counted exactly.
    #[command(
        after_help = "Exit code: 0 fine, 1 something is not seen or not known, 2 the daemon cannot work here. Nothing is \
                      changed, and nothing stays: the self-test has network namespaces of its own, which go with it."
    )]
    Doctor(DoctorFlags),
    /// Remove everything that a daemon leaves in the kernel and in files of its own.
    #[command(
        after_help = "It ends the counting that goes on while no daemon runs: pinned programs and maps of all network \
                      namespaces, filters, state files. Daemons must be stopped before. Configuration files stay."
    )]
    Uninstall(UninstallFlags),
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

    /// BPF file system in which counting goes on while the daemon is stopped [default: /sys/fs/bpf].
    #[arg(long, value_name = "DIR", value_parser = folder)]
    pub bpffs: Option<PathBuf>,

    /// Folder of what attempts and states need to go on after a restart [default: /run/peerwatch].
    #[arg(long, value_name = "DIR", value_parser = folder)]
    pub state_dir: Option<PathBuf>,

    /// Leave nothing behind at the end, and begin at 0: no counting without the daemon.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = switch
    )]
    pub ephemeral: Option<bool>,

    /// Have the kernel time its BPF programs while the daemon runs, for `program_run_seconds_total`.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = switch
    )]
    pub bpf_stats: Option<bool>,

    /// Prove before anything is counted that this kernel counts exactly, for `selftest_success`.
    #[arg(
        long,
        help = "Before anything is counted, send packets through throwaway network namespaces and compare, for selftest_success",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = switch
    )]
    pub self_test: Option<bool>,

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

/// The flags of `doctor`.
#[derive(Args, Clone, Debug, Default)]
pub struct DoctorFlags {
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,

    /// Whether to send packets through throwaway network namespaces and compare the counts.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        value_parser = switch
    )]
    pub self_test: bool,

    /// Configuration file, for ports and interfaces [default: /etc/peerwatch/peerwatch.toml, if it is there].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// File with the BTF of the running kernel [default: /sys/kernel/btf/vmlinux].
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,

    /// BPF file system in which the daemon would pin [default: /sys/fs/bpf].
    #[arg(long, value_name = "DIR", value_parser = folder)]
    pub bpffs: Option<PathBuf>,
}

/// The flags of `uninstall`.
#[derive(Args, Clone, Debug, Default)]
pub struct UninstallFlags {
    /// BPF file system in which the daemon pins [default: /sys/fs/bpf].
    #[arg(long, value_name = "DIR", value_parser = folder)]
    pub bpffs: Option<PathBuf>,

    /// Folder of the daemon's state files [default: /run/peerwatch].
    #[arg(long, value_name = "DIR", value_parser = folder)]
    pub state_dir: Option<PathBuf>,
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
mod tests;
