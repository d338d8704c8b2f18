//! The values that options take, each parsed in one place for flags, environment and file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

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

/// The path of a file.
///
/// # Errors
///
/// Where it is empty.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err(
            "it names no file; write one like \"/sys/kernel/btf/vmlinux\", or leave the key out"
                .to_owned(),
        );
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
}
