//! The values that options take, each parsed in one place for flags, environment and file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

/// Defines a choice: an enum that clap lists in its help, that can be parsed and named, and whose
/// parse error is a sentence that lists the choices.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                <Self as ValueEnum>::from_str(text, false).map_err(|_| {
                    let names: Vec<_> = Self::value_variants()
                        .iter()
                        .filter_map(|variant| variant.to_possible_value())
                        .map(|value| value.get_name().to_owned())
                        .collect();
                    format!("\"{text}\" is none of {}", names.join(", "))
                })
            }
        }
    };
}

choice! {
    /// Which packets go to the event log.
    LogPackets {
        /// Those that were dropped.
        Dropped,
        /// Those that were allowed.
        Allowed,
        /// Both.
        All,
        /// None.
        None,
    }
}

choice! {
    /// How diagnostics and the event log are written.
    LogFormat {
        /// Lines for people.
        Text,
        /// One JSON object a line.
        Json,
    }
}

choice! {
    /// The least severe diagnostics that are written.
    LogLevel {
        /// What stops or breaks something.
        Error,
        /// What is likely wrong.
        Warn,
        /// What an operator wants to know in normal use.
        Info,
        /// What helps to find a fault.
        Debug,
        /// Everything.
        Trace,
    }
}

choice! {
    /// The least severe diagnostics that the kernel programs write.
    BpfLog {
        /// None: the verifier then removes the code that would write them.
        Off,
        /// Errors.
        Error,
        /// And warnings.
        Warn,
        /// And information.
        Info,
        /// And what helps to find a fault.
        Debug,
        /// Everything.
        Trace,
    }
}

impl LogLevel {
    /// The level as `tracing` knows it.
    #[must_use]
    pub fn filter(self) -> tracing_subscriber::filter::LevelFilter {
        use tracing_subscriber::filter::LevelFilter;
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

impl BpfLog {
    /// The level as `tracing` knows it; `None` for [`BpfLog::Off`].
    #[must_use]
    pub fn level(self) -> Option<LogLevel> {
        match self {
            Self::Off => None,
            Self::Error => Some(LogLevel::Error),
            Self::Warn => Some(LogLevel::Warn),
            Self::Info => Some(LogLevel::Info),
            Self::Debug => Some(LogLevel::Debug),
            Self::Trace => Some(LogLevel::Trace),
        }
    }

    /// The value of aya-log's global `AYA_LOG_LEVEL`: 0 for off, then as in `aya_log_common::Level`
    /// from error (1) to trace (5).
    #[must_use]
    pub const fn aya_level(self) -> u8 {
        self as u8
    }
}

/// Where metrics are served unless something else is said: on this host only.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9680);

/// Parses an address to listen on: `127.0.0.1:9680`, `[::]:9680`, or `:9680` for every address of this
/// host, IPv4 and IPv6. Port 0 lets the kernel choose one.
///
/// # Errors
///
/// A sentence that shows the right form.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    let parsed = match text.strip_prefix(':') {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)),
        _ => text.parse().ok(),
    };
    parsed.ok_or_else(|| {
        format!("\"{text}\" is no IP:PORT; write it like 127.0.0.1:9680, [::]:9680 or :9680")
    })
}

/// The most packets that the event log may take in a second, and at once.
pub const MAX_LOG_RATE: u32 = 1_000_000;

/// Checks a number of packets for the event log.
///
/// # Errors
///
/// A sentence that gives the range.
pub fn log_rate(number: i64) -> Result<u32, String> {
    u32::try_from(number).ok().filter(|n| (1..=MAX_LOG_RATE).contains(n)).ok_or_else(|| {
        format!("{number} is not from 1 to {MAX_LOG_RATE}; to log no packets set log_packets to none")
    })
}

/// Parses a number of packets for the event log.
///
/// # Errors
///
/// A sentence that gives the range.
pub fn log_rate_text(text: &str) -> Result<u32, String> {
    let number = text.parse().map_err(|_| {
        format!("\"{text}\" is no number of packets; write one from 1 to {MAX_LOG_RATE}")
    })?;
    log_rate(number)
}

/// How many attempts the kernel follows at once, unless something else is said.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 65_536;

/// The least and the most attempts that the kernel may be told to follow at once.
const MAX_ATTEMPTS: RangeInclusive<u32> = 1024..=1_048_576;

/// Checks how many attempts the kernel follows at once.
///
/// # Errors
///
/// A sentence that gives the range.
pub fn max_attempts(number: i64) -> Result<u32, String> {
    u32::try_from(number)
        .ok()
        .filter(|n| MAX_ATTEMPTS.contains(n))
        .ok_or_else(|| {
            let (least, most) = (MAX_ATTEMPTS.start(), MAX_ATTEMPTS.end());
            format!("{number} is not from {least} to {most} attempts")
        })
}

/// Parses how many attempts the kernel follows at once.
///
/// # Errors
///
/// A sentence that gives the range.
pub fn max_attempts_text(text: &str) -> Result<u32, String> {
    let number = text.parse().map_err(|_| {
        let (least, most) = (MAX_ATTEMPTS.start(), MAX_ATTEMPTS.end());
        format!("\"{text}\" is no number of attempts; write one from {least} to {most}")
    })?;
    max_attempts(number)
}

/// Units of time that a file may use, with their seconds, longest first.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// Parses a time of a file like `15m`: a whole number of seconds, minutes, hours or days.
///
/// # Errors
///
/// A sentence that shows the right form.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = UNITS.iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(unit)?;
        // The digits are checked because the standard parser takes "+80".
        let number = Some(number).filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?;
        number.parse::<u64>().ok()?.checked_mul(*seconds)
    });
    parsed.map(Duration::from_secs).ok_or_else(|| {
        format!("\"{text}\" is no time; write a number with s, m, h or d, like \"90s\" or \"15m\"")
    })
}

/// Writes a time as a file has it: in the longest unit of which it is a whole number.
pub(super) fn duration_text(time: Duration) -> String {
    let seconds = time.as_secs();
    let unit = UNITS
        .iter()
        .find(|(_, unit)| seconds != 0 && seconds.is_multiple_of(*unit));
    unit.map_or_else(
        || format!("{seconds}s"),
        |(name, unit)| format!("{}{name}", seconds / unit),
    )
}

/// Parses a switch, as flags and the environment write it.
///
/// # Errors
///
/// A sentence that lists the values.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("\"{text}\" is neither true nor false")),
    }
}

/// The path of a folder, which must not depend on where the daemon is started.
///
/// # Errors
///
/// A sentence that has the path.
pub fn folder(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') {
        Ok(PathBuf::from(text))
    } else {
        Err(format!(
            "\"{text}\" is not the whole path of a folder; begin it with /"
        ))
    }
}

/// The path of a file.
///
/// # Errors
///
/// Where it is empty.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("it names no file; write its path, or leave the key out".to_owned());
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_takes_addresses_and_a_bare_port() {
        assert_eq!(listen("127.0.0.1:9680"), Ok(DEFAULT_LISTEN));
        assert_eq!(listen(":9680").unwrap().to_string(), "[::]:9680");
        assert_eq!(listen("[::1]:0").unwrap().to_string(), "[::1]:0");
        for bad in [
            "9680",
            "localhost:9680",
            ":",
            ":+1",
            ":65536",
            "::9680",
            "1.2.3.4",
            "",
        ] {
            assert_eq!(
                listen(bad),
                Err(format!(
                    "\"{bad}\" is no IP:PORT; write it like 127.0.0.1:9680, [::]:9680 or :9680"
                ))
            );
        }
    }

    #[test]
    fn a_choice_lists_what_there_is() {
        assert_eq!("none".parse(), Ok(LogPackets::None));
        assert_eq!(
            "xml".parse::<LogFormat>(),
            Err("\"xml\" is none of text, json".to_owned())
        );
        assert_eq!(
            "Dropped".parse::<LogPackets>(),
            Err("\"Dropped\" is none of dropped, allowed, all, none".to_owned())
        );
    }

    #[test]
    fn kernel_levels_are_those_of_aya() {
        let levels: Vec<_> = BpfLog::value_variants()
            .iter()
            .map(|l| l.aya_level())
            .collect();
        assert_eq!(levels, [0, 1, 2, 3, 4, 5]);
        assert_eq!(BpfLog::Off.level(), None);
        assert_eq!(BpfLog::Trace.level(), Some(LogLevel::Trace));
    }

    #[test]
    fn rates_have_a_range() {
        assert_eq!(log_rate_text("1000000"), Ok(MAX_LOG_RATE));
        assert_eq!(
            log_rate_text("0"),
            Err("0 is not from 1 to 1000000; to log no packets set log_packets to none".to_owned())
        );
        assert!(log_rate(1_000_001).is_err());
        assert_eq!(
            log_rate_text("10/s"),
            Err("\"10/s\" is no number of packets; write one from 1 to 1000000".to_owned())
        );
    }

    #[test]
    fn the_number_of_attempts_has_a_range() {
        assert_eq!(max_attempts_text("1024"), Ok(1024));
        assert_eq!(max_attempts_text("1048576"), Ok(1_048_576));
        assert_eq!(
            max_attempts_text("1023"),
            Err("1023 is not from 1024 to 1048576 attempts".to_owned())
        );
        assert_eq!(
            max_attempts_text("64k"),
            Err("\"64k\" is no number of attempts; write one from 1024 to 1048576".to_owned())
        );
        assert!(max_attempts(1_048_577).is_err() && max_attempts(-1).is_err());
    }

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        for (text, seconds, same) in [
            ("90s", 90, "90s"),
            ("15m", 900, "15m"),
            ("60m", 3600, "1h"),
            ("24h", 86_400, "1d"),
            ("0s", 0, "0s"),
        ] {
            let time = duration(text).unwrap();
            assert_eq!(time, Duration::from_secs(seconds));
            assert_eq!(duration_text(time), same);
        }
        let huge = format!("{}d", u64::MAX);
        for bad in ["", "15", "m", "+1m", "1.5h", "1h30m", "15 m", "5ms", &huge] {
            assert_eq!(
                duration(bad),
                Err(format!(
                    "\"{bad}\" is no time; write a number with s, m, h or d, like \"90s\" or \"15m\""
                ))
            );
        }
    }
}
