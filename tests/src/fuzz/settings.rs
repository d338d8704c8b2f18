//! What a user writes: the configuration file, variables of the environment, values of flags.

use std::str::FromStr;

use monitor::cli::{Cli, Command};
use monitor::config::{
    self, Config, Environment, InterfaceFilter, LogFormat, LogLevel, LogPackets, Pattern,
};
use monitor::fuzz;
use monitor::traffic::Port;
use monitor_common::traffic::{MAX_PORTS, MAX_TRAFFICS};

use super::assert_printable;

/// The longest file that is tried: what it takes grows with the file, and this is a hundred times what anybody
/// writes.
const LONGEST: usize = 64 * 1024;

/// The variables that take a text.
const VARIABLES: [&str; 12] = [
    "PEERWATCH_LISTEN",
    "PEERWATCH_INTERFACE",
    "PEERWATCH_EXCLUDE_INTERFACE",
    "PEERWATCH_MAX_ATTEMPTS",
    "PEERWATCH_LOG_PACKETS",
    "PEERWATCH_LOG_PACKETS_RATE",
    "PEERWATCH_LOG_PACKETS_BURST",
    "PEERWATCH_LOG_FORMAT",
    "PEERWATCH_LOG_LEVEL",
    "PEERWATCH_BPF_LOG",
    "PEERWATCH_BTF",
    "PEERWATCH_WITHOUT",
];

fn assert_valid(config: &Config) {
    let traffics = &config.traffics;
    assert!(!traffics.is_empty() && traffics.len() <= usize::from(MAX_TRAFFICS));
    assert!(traffics.port_count() <= MAX_PORTS);
    assert!((1024..=1_048_576).contains(&config.max_attempts));
    assert!((1..=config::MAX_LOG_RATE).contains(&config.log_rate));
    assert!((1..=config::MAX_LOG_RATE).contains(&config.log_burst));
    let mut indexes: Vec<u8> = traffics.iter().map(|traffic| traffic.index).collect();
    indexes.dedup();
    assert_eq!(indexes.len(), traffics.len());
    for traffic in traffics {
        assert!(!traffic.ports.is_empty());
        for port in &traffic.ports {
            assert_eq!(port.to_string().parse(), Ok(*port));
        }
    }
    assert!(!config.interfaces.wants(config::LOOPBACK));
}

/// The configuration file.
///
/// # Panics
///
/// Where an invalid configuration comes out, a sentence has no place in the file, or a reload by the same file
/// changes anything.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(&data[..data.len().min(LONGEST)]);
    match fuzz::config(Environment::default(), &text) {
        Ok(config) => {
            assert_valid(&config);
            let again = fuzz::config(Environment::default(), &text).expect("as before");
            assert!(config.changed_keys(&again).is_empty());
            let merged = config.traffics.merge_reload(again.traffics);
            assert_eq!(merged.as_ref(), Ok(&config.traffics));
        }
        Err(error) => {
            let sentence = error.to_string();
            assert!(
                sentence.len() < 4096 + 4 * text.len(),
                "{} bytes",
                sentence.len()
            );
        }
    }
}

/// The file of `--web-config`.
///
/// # Panics
///
/// Where a problem is on no line of the file or has no place in a log, or a comment changes what the file says.
pub fn web_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let said = fuzz::web_config(&text);
    match &said {
        Ok(_) => {
            let more = format!("# A comment.\n{text}");
            assert_eq!(fuzz::web_config(&more), said, "{text:?}");
        }
        Err((line, key, problem)) => {
            // A carriage return alone ends a line, too (YAML 1.2.2 section 5.4). A parser may say that something is
            // missing on the line behind the last.
            let lines = text
                .replace("\r\n", "\n")
                .replace('\r', "\n")
                .lines()
                .count();
            assert!((1..=lines + 1).contains(line), "{said:?}");
            assert!(key.len() + problem.len() < 4096 + 8 * text.len());
            assert!(!problem.is_empty());
            assert_printable(problem);
            assert_printable(key);
        }
    }
}

/// A value of the environment and of flags; the first byte says for which variable.
///
/// # Panics
///
/// Where what is shown again is not what was read.
pub fn settings(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(&rest[..rest.len().min(LONGEST)]);
    let text = text.as_ref();
    let variable = VARIABLES[usize::from(*which) % VARIABLES.len()];
    if !text.contains('\0') {
        let environment = Environment::from_iter([(variable, text)]);
        match fuzz::config(environment, "") {
            Ok(config) => assert_valid(&config),
            Err(error) => assert!(error.to_string().contains(variable), "{error}"),
        }
    }
    if let Ok(port) = Port::from_str(text) {
        assert_eq!(port.to_string().parse(), Ok(port));
        assert_ne!(port.number, 0);
    }
    if let Ok(listen) = config::listen(text) {
        assert_eq!(config::listen(&listen.to_string()), Ok(listen));
    }
    if let Ok(pattern) = Pattern::from_str(text) {
        assert_eq!(pattern.as_str(), text);
        let is_plain = pattern.is_plain();
        let filter = InterfaceFilter::new(vec![pattern], Vec::new());
        if is_plain && text != config::LOOPBACK {
            assert!(filter.wants(text), "{text:?}");
        }
        assert!(!filter.wants("") || !is_plain);
    }
    for rate in [config::log_rate_text(text), config::max_attempts_text(text)] {
        assert!(rate.is_err() || rate.is_ok_and(|rate| rate > 0));
    }
    let _: [bool; 4] = [
        LogPackets::from_str(text).is_ok(),
        LogFormat::from_str(text).is_ok(),
        LogLevel::from_str(text).is_ok(),
        config::switch(text).is_ok(),
    ];
    match fuzz::status_url(text) {
        Ok(url) => assert_eq!(fuzz::status_url(&url).as_ref(), Ok(&url)),
        Err(sentence) => assert!(!sentence.is_empty()),
    }
    flags(text);
}

/// A command line of these words.
fn flags(text: &str) {
    let words = std::iter::once("peerwatch").chain(text.split(' '));
    if let Ok(cli) = <Cli as clap::Parser>::try_parse_from(words)
        && let Command::Run(run) = cli.command
        && let Some(listen) = run.listen
    {
        assert_printable(&listen.to_string());
    }
}
