//! The configuration: flags, environment and file become one [`Config`] that nobody checks again.
//!
//! Precedence: flag, environment, file, default. A list replaces the list of a lower layer.

mod error;
mod file;
mod interfaces;
mod keep;
mod options;
#[cfg(test)]
mod tests;
mod traffics;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use error::ConfigError;
pub use interfaces::{InterfaceFilter, LOOPBACK, Pattern, wanted};
pub use options::{
    BpfLog, DEFAULT_LISTEN, DEFAULT_MAX_ATTEMPTS, LogFormat, LogLevel, LogPackets, MAX_LOG_RATE,
    folder, listen, log_rate, log_rate_text, max_attempts, max_attempts_text, switch,
};

pub use keep::{DEFAULT_STATE_DIR, Keep};

use crate::bpf::features::Feature;
use crate::cli::RunFlags;
use crate::traffic::Traffics;
use file::File;

/// The file that is read when none is named, if it is there.
pub const DEFAULT_FILE: &str = "/etc/peerwatch/peerwatch.toml";

/// How many packets the event log takes in a second, unless something else is said.
pub const DEFAULT_LOG_RATE: u32 = 10;

/// How many packets the event log takes at once, unless something else is said.
pub const DEFAULT_LOG_BURST: u32 = 100;

/// Everything that a user can set, valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where metrics are served.
    pub listen: SocketAddr,
    /// The file with TLS and users; `None` where everything is open.
    pub web_config: Option<PathBuf>,
    /// Which interfaces are watched.
    pub interfaces: InterfaceFilter,
    /// What is counted.
    pub traffics: Traffics,
    /// How many attempts to open a connection the kernel follows at once.
    pub max_attempts: u32,
    /// Which packets go to the event log.
    pub log_packets: LogPackets,
    /// Packets that the event log takes, per second.
    pub log_rate: u32,
    /// Packets that the event log takes at once after a pause.
    pub log_burst: u32,
    /// How diagnostics and the event log are written.
    pub log_format: LogFormat,
    /// The least severe diagnostics that are written.
    pub log_level: LogLevel,
    /// The least severe diagnostics of the kernel programs that are written.
    pub bpf_log: BpfLog,
    /// A file with the running kernel's BTF; `None` for the kernel's own.
    pub btf: Option<PathBuf>,
    /// What outlasts the daemon, and where.
    pub kept: Keep,
    /// Whether the kernel keeps statistics of its programs while the daemon runs.
    pub bpf_stats: bool,
    /// Whether the daemon tests itself before it begins.
    pub self_test: bool,
    /// Features of the kernel that count as missing: an aid for tests, and only in the environment.
    pub without: Vec<Feature>,
    /// Whether the verifier's whole log is shown when it refuses a program.
    pub verifier_log: bool,
    /// The file that was read; `None` where there is none.
    pub config_path: Option<PathBuf>,
    /// What it was made of, for a reload.
    sources: Sources,
}

/// The process's environment, as far as it may concern peerwatch.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Takes what is set for this process.
    #[must_use]
    pub fn from_process() -> Self {
        std::env::vars_os().collect()
    }

    /// A variable; one that is empty counts as not set, as service managers and containers write it.
    pub(crate) fn get(&self, variable: &str) -> Option<&OsString> {
        self.0
            .get(std::ffi::OsStr::new(variable))
            .filter(|value| !value.is_empty())
    }

    fn value<T>(
        &self,
        variable: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(variable) else {
            return Ok(None);
        };
        let parsed = match value.to_str() {
            Some(text) => parse(text),
            None => Err("its value is no UTF-8; write it in UTF-8".to_owned()),
        };
        parsed
            .map(Some)
            .map_err(|problem| ConfigError::Environment { variable, problem })
    }

    /// A list, separated by commas. Those in braces belong to a glob, as in `eth{0,1}`.
    fn values<T>(
        &self,
        variable: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        self.value(variable, |text| {
            let mut depth = 0_usize;
            text.split(|c| {
                match c {
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                c == ',' && depth == 0
            })
            .map(|item| parse(item.trim()))
            .collect()
        })
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    /// Variables that do not begin with `PEERWATCH_` are left out. Unknown ones that do are no error:
    /// Kubernetes sets some for every service of that name.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()));
        let ours = |key: &OsString| key.as_encoded_bytes().starts_with(b"PEERWATCH_");
        Self(variables.filter(|(key, _)| ours(key)).collect())
    }
}

/// What a configuration is made of.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The flags of `run`.
    pub flags: RunFlags,
    /// The environment.
    pub environment: Environment,
    /// The file that is read when none is named, if it is there.
    pub default_file: PathBuf,
}

impl Sources {
    /// Those of this process, with [`DEFAULT_FILE`].
    #[must_use]
    pub fn new(flags: RunFlags) -> Self {
        Self {
            flags,
            environment: Environment::from_process(),
            default_file: PathBuf::from(DEFAULT_FILE),
        }
    }
}

/// The file that a user names by flag or environment.
fn named_file(flag: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    flag.map(Path::to_owned)
        .or_else(|| environment.get("PEERWATCH_CONFIG").map(PathBuf::from))
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let read_error = |cause| ConfigError::Read {
        path: path.to_owned(),
        cause,
    };
    File::parse(path, std::fs::read_to_string(path).map_err(read_error)?)
}

fn parse<T: FromStr<Err = String>>(text: &str) -> Result<T, String> {
    text.parse()
}

impl Config {
    /// Reads the file, merges the layers and checks everything.
    ///
    /// # Errors
    ///
    /// The first [`ConfigError`] that there is. Interfaces are not looked up:
    /// [`InterfaceFilter::require`] does.
    pub fn new(sources: Sources) -> Result<Self, ConfigError> {
        Self::with_file(sources).map(|(config, _)| config)
    }

    /// Merges an environment and the text of a file, without looking for either.
    pub(crate) fn from_text(environment: Environment, text: String) -> Result<Self, ConfigError> {
        let path = PathBuf::from(DEFAULT_FILE);
        let file = File::parse(&path, text)?;
        let sources = Sources {
            flags: RunFlags::default(),
            environment,
            default_file: path.clone(),
        };
        Self::merge(sources, &file, Some(path))
    }

    fn with_file(sources: Sources) -> Result<(Self, File), ConfigError> {
        let environment = &sources.environment;
        let (file, config_path) = match named_file(sources.flags.config.as_deref(), environment) {
            Some(path) => (read(&path)?, Some(path)),
            None => match read(&sources.default_file) {
                Err(ConfigError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                    (File::default(), None)
                }
                read => (read?, Some(sources.default_file.clone())),
            },
        };
        Ok((Self::merge(sources, &file, config_path)?, file))
    }

    /// Merges the layers. Each is checked as a whole, also where a higher one hides it: a fault in the
    /// file should not wait for the day when the flag goes.
    fn merge(
        sources: Sources,
        file: &File,
        config_path: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let flags = &sources.flags;
        let env = &sources.environment;
        let keys = &file.keys;

        let env_value = env.value("PEERWATCH_LISTEN", listen)?;
        let file_value = file.value("listen", keys.listen.as_ref(), listen)?;
        let listen = flags
            .listen
            .or(env_value)
            .or(file_value)
            .unwrap_or(DEFAULT_LISTEN);

        let env_value = env.value("PEERWATCH_WEB_CONFIG", options::file)?;
        let file_value = file.value("web_config", keys.web_config.as_ref(), options::file)?;
        let web_config = flags.web_config.clone().or(env_value).or(file_value);

        let env_value = env.values("PEERWATCH_INTERFACE", wanted)?;
        let file_value = file.values("interface", keys.interface.as_ref(), wanted)?;
        let include = list(&flags.interface, env_value, file_value);
        let env_value = env.values("PEERWATCH_EXCLUDE_INTERFACE", parse)?;
        let file_value =
            file.values("exclude_interface", keys.exclude_interface.as_ref(), parse)?;
        let exclude = list(&flags.exclude_interface, env_value, file_value);

        let env_value = env.value("PEERWATCH_MAX_ATTEMPTS", max_attempts_text)?;
        let file_value = file.number("max_attempts", keys.max_attempts.as_ref(), max_attempts)?;
        let max_attempts = flags
            .max_attempts
            .or(env_value)
            .or(file_value)
            .unwrap_or(DEFAULT_MAX_ATTEMPTS);

        let env_value = env.value("PEERWATCH_LOG_PACKETS", parse)?;
        let file_value = file.value("log_packets", keys.log_packets.as_ref(), parse)?;
        let log_packets = flags
            .log_packets
            .or(env_value)
            .or(file_value)
            .unwrap_or(LogPackets::Dropped);

        let (log_rate, log_burst) = log_rates(flags, env, file)?;

        let env_value = env.value("PEERWATCH_LOG_FORMAT", parse)?;
        let file_value = file.value("log_format", keys.log_format.as_ref(), parse)?;
        let log_format = flags
            .log_format
            .or(env_value)
            .or(file_value)
            .unwrap_or(LogFormat::Text);
        let env_value = env.value("PEERWATCH_LOG_LEVEL", parse)?;
        let file_value = file.value("log_level", keys.log_level.as_ref(), parse)?;
        let log_level = flags
            .log_level
            .or(env_value)
            .or(file_value)
            .unwrap_or(LogLevel::Info);

        let env_value = env.value("PEERWATCH_BPF_LOG", parse)?;
        let file_value = file.value("bpf_log", keys.bpf_log.as_ref(), parse)?;
        let bpf_log = flags
            .bpf_log
            .or(env_value)
            .or(file_value)
            .unwrap_or(BpfLog::Off);
        let env_value = env.value("PEERWATCH_BTF", options::file)?;
        let file_value = file.value("btf", keys.btf.as_ref(), options::file)?;
        let btf = flags.btf.clone().or(env_value).or(file_value);
        let without = env
            .values("PEERWATCH_WITHOUT", Feature::to_leave_out)?
            .unwrap_or_default();
        let kept = Keep::merge(flags, env, file)?;
        let env_value = env.value("PEERWATCH_BPF_STATS", switch)?;
        let bpf_stats = flags.bpf_stats.or(env_value).or(keys.bpf_stats);
        let env_value = env.value("PEERWATCH_SELF_TEST", switch)?;
        let self_test = flags.self_test.or(env_value).or(keys.self_test);
        let env_value = env.value("PEERWATCH_VERIFIER_LOG", switch)?;
        let verifier_log = flags
            .verifier_log
            .or(env_value)
            .or(keys.verifier_log)
            .unwrap_or(false);

        Ok(Self {
            listen,
            web_config,
            interfaces: InterfaceFilter::new(include, exclude),
            traffics: file.traffics()?,
            max_attempts,
            log_packets,
            log_rate,
            log_burst,
            log_format,
            log_level,
            bpf_log,
            btf,
            kept,
            bpf_stats: bpf_stats.unwrap_or(false),
            self_test: self_test.unwrap_or(false),
            without,
            verifier_log,
            config_path,
            sources,
        })
    }

    /// Checks a file alone, whatever flags and environment say beside its name; returns its path too.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, or [`ConfigError::NoFile`] where none is named and the default
    /// one is not there.
    pub fn check_file(
        flag: Option<&Path>,
        environment: &Environment,
        default_file: &Path,
    ) -> Result<(PathBuf, Self), ConfigError> {
        let path = match named_file(flag, environment) {
            Some(path) => path,
            None if default_file.exists() => default_file.to_owned(),
            None => {
                return Err(ConfigError::NoFile {
                    path: default_file.to_owned(),
                });
            }
        };
        let sources = Sources {
            flags: RunFlags {
                config: Some(path.clone()),
                ..RunFlags::default()
            },
            environment: Environment::default(),
            default_file: default_file.to_owned(),
        };
        Ok((path, Self::new(sources)?))
    }

    /// Reads the file again, with the flags and the environment that the process started with. A
    /// traffic that was known keeps its index: see [`Traffics::merge_reload`].
    ///
    /// # Errors
    ///
    /// As [`Self::new`], and where a traffic finds no free index; then keep the old configuration.
    pub fn reload_from(&self) -> Result<Self, ConfigError> {
        let (mut config, file) = Self::with_file(self.sources.clone())?;
        config.traffics = self
            .traffics
            .merge_reload(config.traffics)
            .map_err(|error| file.reload_error(&error))?;
        Ok(config)
    }

    /// The keys, beside traffics, in which a reloaded configuration differs from this one.
    #[must_use]
    pub fn changed_keys(&self, new: &Self) -> Vec<&'static str> {
        [
            ("listen", self.listen != new.listen),
            ("web_config", self.web_config != new.web_config),
            (
                "interface or exclude_interface",
                self.interfaces != new.interfaces,
            ),
            ("max_attempts", self.max_attempts != new.max_attempts),
            ("log_packets", self.log_packets != new.log_packets),
            ("log_packets_rate", self.log_rate != new.log_rate),
            ("log_packets_burst", self.log_burst != new.log_burst),
            ("log_format", self.log_format != new.log_format),
            ("log_level", self.log_level != new.log_level),
            ("bpf_log", self.bpf_log != new.bpf_log),
            ("btf", self.btf != new.btf),
            ("bpffs", self.kept.bpffs != new.kept.bpffs),
            ("state_dir", self.kept.state_dir != new.kept.state_dir),
            ("ephemeral", self.kept.ephemeral != new.kept.ephemeral),
            ("bpf_stats", self.bpf_stats != new.bpf_stats),
            ("self_test", self.self_test != new.self_test),
            ("verifier_log", self.verifier_log != new.verifier_log),
        ]
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
    }
}

/// How many packets the event log takes in a second, and at once.
fn log_rates(flags: &RunFlags, env: &Environment, file: &File) -> Result<(u32, u32), ConfigError> {
    let env_value = env.value("PEERWATCH_LOG_PACKETS_RATE", log_rate_text)?;
    let file_value = file.log_rate("log_packets_rate", file.keys.log_packets_rate.as_ref())?;
    let log_rate = flags
        .log_packets_rate
        .or(env_value)
        .or(file_value)
        .unwrap_or(DEFAULT_LOG_RATE);
    let env_value = env.value("PEERWATCH_LOG_PACKETS_BURST", log_rate_text)?;
    let file_value = file.log_rate("log_packets_burst", file.keys.log_packets_burst.as_ref())?;
    let log_burst = flags
        .log_packets_burst
        .or(env_value)
        .or(file_value)
        .unwrap_or(DEFAULT_LOG_BURST);
    Ok((log_rate, log_burst))
}

/// The list of the highest layer that has one.
fn list(flags: &[Pattern], env: Option<Vec<Pattern>>, file: Option<Vec<Pattern>>) -> Vec<Pattern> {
    if flags.is_empty() {
        env.or(file).unwrap_or_default()
    } else {
        flags.to_vec()
    }
}
