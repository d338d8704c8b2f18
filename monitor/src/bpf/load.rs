//! Loading the programs, each on its own: what one kernel refuses takes away one hook, not the daemon.

use std::collections::BTreeMap;

use aya::programs::{BtfTracePoint, CgroupSkb, ProgramError, ProgramType, SchedClassifier};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use thiserror::Error;

use super::Hook;
use super::facts::KernelFacts;

/// Settings that are frozen into the programs.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Send dropped packets to the event log.
    pub log_dropped: bool,
    /// Send allowed packets to the event log.
    pub log_allowed: bool,
    /// Events a second that the log takes.
    pub log_rate: u32,
    /// Events that it takes at once.
    pub log_burst: u32,
    /// Inode number of the network namespace.
    pub netns_inum: u32,
    /// Its cookie, where the kernel has them.
    pub netns_cookie: Option<u64>,
    /// The most detailed level of the programs' own diagnostics (`aya_log::Level` as a number), 0 for
    /// none.
    pub diagnostics: u8,
    /// Ask the verifier for everything it has to say.
    pub verifier_log: bool,
}

/// The object as a whole could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Maps, BTF or relocations.
    #[error("the kernel refused the maps of the kernel programs: {}", chain(.0))]
    Object(Box<aya::EbpfError>),
}

/// An error and everything behind it, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What the programs can use here, and why some are not there.
#[derive(Debug)]
pub struct Loaded {
    /// The object.
    pub ebpf: Ebpf,
    /// Hooks whose program is not loaded, and why, in one sentence.
    pub refused: BTreeMap<Hook, String>,
}

/// The programs and the hook that each serves.
const PROGRAMS: &[(&str, Hook)] = &[
    ("kfree_skb", Hook::Drop),
    ("deliver", Hook::Deliver),
    ("egress_ethernet", Hook::Egress),
    ("egress_other", Hook::Egress),
    ("ingress_ethernet", Hook::Ingress),
    ("ingress_other", Hook::Ingress),
];

/// Loads everything that this kernel takes.
///
/// # Errors
///
/// Where not even the maps can be made.
pub fn load(
    facts: &KernelFacts,
    kernel_btf: Option<&aya::Btf>,
    settings: &Settings,
) -> Result<Loaded, LoadError> {
    let has_cookie = settings.netns_cookie.is_some()
        && is_helper_supported(ProgramType::CgroupSkb, BpfHelper::BPF_FUNC_get_netns_cookie)
            .unwrap_or(false);
    let has_reason = u8::from(facts.has_reason);
    let has_receiving_socket = u8::from(facts.has_receiving_socket);
    let cookie = settings.netns_cookie.unwrap_or(0);
    let has_cookie_flag = u8::from(has_cookie);
    let log_dropped = u8::from(settings.log_dropped);
    let log_allowed = u8::from(settings.log_allowed);
    let period = 1_000_000_000 / u64::from(settings.log_rate.max(1));
    let burst = period.saturating_mul(u64::from(settings.log_burst.max(1)) - 1);

    let mut loader = EbpfLoader::new();
    loader.btf(kernel_btf);
    for (name, value) in &facts.offsets {
        loader.override_global(name, value, true);
    }
    loader
        .override_global("HAS_REASON", &has_reason, true)
        .override_global("HAS_RECEIVING_SOCKET", &has_receiving_socket, true)
        .override_global("NETNS_INUM", &settings.netns_inum, true)
        .override_global("NETNS_COOKIE", &cookie, true)
        .override_global("HAS_NETNS_COOKIE", &has_cookie_flag, true)
        .override_global("LOG_DROPPED", &log_dropped, true)
        .override_global("LOG_ALLOWED", &log_allowed, true)
        .override_global("LOG_PERIOD_NS", &period, true)
        .override_global("LOG_BURST_NS", &burst, true)
        .override_global(aya_log::LEVEL, &settings.diagnostics, true);
    if settings.verifier_log {
        loader.verifier_log_level(VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS);
    }
    let mut ebpf = loader
        .load(super::OBJECT)
        .map_err(|error| LoadError::Object(Box::new(error)))?;

    let mut refused = BTreeMap::new();
    for &(name, hook) in PROGRAMS {
        if let Some(field) = facts.obstacle(hook, has_cookie) {
            refused.insert(hook, field.to_string());
        } else if let Err(error) = load_one(&mut ebpf, name, kernel_btf) {
            let text = match &error {
                ProgramError::LoadError {
                    io_error,
                    verifier_log,
                } => format!(
                    "the kernel refused the program {name}: {io_error}{}",
                    excerpt(&verifier_log.to_string(), settings.verifier_log)
                ),
                other => format!("the program {name} was not loaded: {}", chain(other)),
            };
            refused.insert(hook, text);
        }
    }
    Ok(Loaded { ebpf, refused })
}

fn load_one(
    ebpf: &mut Ebpf,
    name: &str,
    kernel_btf: Option<&aya::Btf>,
) -> Result<(), ProgramError> {
    let Some(program) = ebpf.program_mut(name) else {
        return Err(ProgramError::NotLoaded);
    };
    match program {
        aya::programs::Program::BtfTracePoint(_) => {
            let Some(btf) = kernel_btf else {
                return Err(ProgramError::NotLoaded);
            };
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(name, btf)
        }
        aya::programs::Program::CgroupSkb(_) => {
            let program: &mut CgroupSkb = program.try_into()?;
            program.load()
        }
        _ => {
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()
        }
    }
}

/// The end of a verifier log, where the reason stands: its last useful lines, and how many came before.
fn excerpt(log: &str, whole: bool) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with("processed "))
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let shown = if whole {
        lines.len()
    } else {
        LINES.min(lines.len())
    };
    let left_out = lines.len() - shown;
    let end = lines[left_out..].join("\n  ");
    if left_out == 0 {
        return format!("\n  {end}");
    }
    format!("\n  ({left_out} lines left out; --verifier-log shows them)\n  {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_shows_the_end_and_says_what_it_left_out() {
        let lines: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let log = lines.join("\n");
        let short = excerpt(&log, false);
        assert!(short.contains("(88 lines left out"), "{short}");
        assert!(short.ends_with("line 99"), "{short}");
        assert!(!short.contains("line 87\n"), "{short}");
        assert_eq!(excerpt(&log, true).lines().count(), 101);
        assert_eq!(excerpt("\n", true), "");
    }
}
