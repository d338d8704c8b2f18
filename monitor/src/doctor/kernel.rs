//! What the kernel offers, and whether each hook gets a program: by probing and by loading, as the daemon does.

use serde::Serialize;

use super::finding::{Finding, Weight};
use crate::bpf::Hook;
use crate::bpf::features::{Feature, Features, TABLE};
use crate::bpf::kernel::Kernel;
use crate::bpf::load::{self, Settings};
use crate::netns;

/// How many attempts the programs that are loaded for a look can follow.
const FEW_ATTEMPTS: u32 = 1024;

/// Whether something is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is.
    Available,
    /// It is not.
    Missing,
    /// The kernel could not be asked.
    Unknown,
}

/// A feature of the kernel.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct FeatureLine {
    /// Its name, as in docs/kernels.md.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
    /// Why not; empty where it is.
    pub why: String,
    /// What uses it.
    pub used_by: &'static str,
    /// What happens without it.
    pub without: &'static str,
}

/// A place where packets are looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct HookLine {
    /// `drop`, `deliver`, `ingress` or `egress`.
    pub hook: &'static str,
    /// Whether the kernel takes its program.
    pub state: State,
    /// Why not; empty where it does.
    pub why: String,
    /// What is not there without it.
    pub without: &'static str,
}

/// How much it matters that a feature is missing.
const fn weight(feature: Feature) -> Weight {
    match feature {
        Feature::RingBuffer => Weight::CannotWork,
        Feature::KernelBtf
        | Feature::DropReasons
        | Feature::CgroupIngress
        | Feature::CgroupRoot
        | Feature::KernelReads
        | Feature::LinkPinning => Weight::Limited,
        // Something else takes their place, or nothing uses them.
        Feature::ReceivingSocket
        | Feature::ReasonSubsystems
        | Feature::TpBtf
        | Feature::Tcx
        | Feature::NetnsCookieCgroup
        | Feature::NetnsCookieTc
        | Feature::HeadReads
        | Feature::MapBatch
        | Feature::Statistics => Weight::Note,
    }
}

/// What to do about a feature that is missing.
fn hint(feature: Feature) -> Option<&'static str> {
    match feature {
        Feature::KernelBtf => Some(
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y (all of Debian's since 11 have it), or give the BTF of this one with --btf FILE",
        ),
        Feature::DropReasons => {
            Some("use Linux 6.1 or later, where the IP layers say why they drop")
        }
        Feature::CgroupRoot => Some(
            "mount -t cgroup2 none /sys/fs/cgroup, or run in the host's cgroup namespace (nsenter --cgroup --target 1, docker run --cgroupns=host)",
        ),
        Feature::CgroupIngress => Some("use a kernel with CONFIG_CGROUP_BPF=y"),
        Feature::KernelReads => {
            Some("boot without lockdown=confidentiality; lockdown=integrity does no harm")
        }
        Feature::LinkPinning => {
            Some("mount -t bpf -o mode=0700 bpf /sys/fs/bpf, or name one with --bpffs DIR")
        }
        Feature::RingBuffer => Some("use Linux 5.8 or later"),
        _ => None,
    }
}

/// The table of features, as it is here.
pub(super) fn features(features: &Features, findings: &mut Vec<Finding>) -> Vec<FeatureLine> {
    TABLE
        .iter()
        .map(|row| {
            let (state, why) = match (
                features.why_missing(row.feature),
                features.why_unknown(row.feature),
            ) {
                (Some(why), _) => (State::Missing, why),
                (None, Some(why)) => (State::Unknown, why),
                (None, None) => (State::Available, ""),
            };
            // What nothing uses is nobody's loss, and neither is what only takes longer without it.
            let is_used = row.used_by != "nothing yet" && row.feature != Feature::HeadReads;
            if state == State::Missing && is_used {
                findings.push(Finding {
                    id: row.name,
                    weight: weight(row.feature),
                    what: format!("this kernel has no {} ({why})", row.name),
                    effect: format!("{}: {}", row.used_by, row.without),
                    hint: hint(row.feature).map(str::to_owned),
                });
            }
            FeatureLine {
                name: row.name,
                state,
                why: why.to_owned(),
                used_by: row.used_by,
                without: row.without,
            }
        })
        .collect()
}

/// What is missing that a hook is attached to.
fn lacks(hook: Hook, features: &Features) -> Option<&str> {
    let needed: &[Feature] = match hook {
        Hook::Deliver => &[Feature::CgroupRoot, Feature::CgroupIngress],
        _ => &[],
    };
    needed
        .iter()
        .find_map(|feature| features.why_missing(*feature))
}

/// Loads the programs as the daemon would, and lets them go: which hooks they are for.
pub(super) fn hooks(
    kernel: &Kernel,
    features: &Features,
    can_load: bool,
    findings: &mut Vec<Finding>,
) -> Vec<HookLine> {
    let line = |hook: Hook, state, why: &str| HookLine {
        hook: hook.as_str(),
        state,
        why: why.to_owned(),
        without: hook.purpose(),
    };
    let all = |state, why: &str| {
        Hook::ALL
            .iter()
            .map(|hook| line(*hook, state, why))
            .collect()
    };
    if !can_load {
        return all(State::Unknown, "programs cannot be loaded");
    }
    let settings = Settings {
        log_dropped: false,
        log_allowed: false,
        log_rate: 0,
        log_burst: 0,
        netns_inum: netns::inum().unwrap_or(0),
        netns_cookie: netns::cookie(),
        diagnostics: 0,
        max_attempts: FEW_ATTEMPTS,
        verifier_log: false,
    };
    let cannot = |why: &str| Finding {
        id: "hook_refused",
        weight: Weight::CannotWork,
        what: format!("the kernel takes none of the programs: {why}"),
        effect: "the daemon does not start".to_owned(),
        hint: Some(
            "docs/kernels.md says which kernels do; the kernel's log may say more".to_owned(),
        ),
    };
    let loaded = match load::load(kernel, features, &settings, None) {
        Ok(loaded) => loaded,
        Err(error) => {
            let why = error.to_string();
            findings.push(cannot(&why));
            return all(State::Missing, &why);
        }
    };
    if let Some(refusal) = loaded.nothing() {
        findings.push(cannot(&refusal.why));
    }
    let mut lines = Vec::new();
    for hook in Hook::ALL {
        let Some(refusal) = loaded.refusal(hook) else {
            // The kernel takes the program, but there may be nothing to attach it to, as the feature's own finding says.
            let why = lacks(hook, features);
            lines.push(why.map_or_else(
                || line(hook, State::Available, ""),
                |why| line(hook, State::Missing, why),
            ));
            continue;
        };
        findings.push(Finding {
            id: "hook_refused",
            weight: Weight::Limited,
            what: format!("hook {} has no program: {}", hook.as_str(), refusal.why),
            effect: hook.purpose().to_owned(),
            hint: None,
        });
        lines.push(line(hook, State::Missing, &refusal.why));
    }
    if !loaded.follows_attempts() {
        findings.push(Finding {
            id: "attempts_not_followed",
            weight: Weight::Limited,
            what: "the programs that follow attempts are refused".to_owned(),
            effect: "attempts_total and state are absent; packets are counted all the same"
                .to_owned(),
            hint: None,
        });
    }
    lines
}
