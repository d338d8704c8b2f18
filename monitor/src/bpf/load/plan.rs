//! What is to be loaded, and what is frozen into it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use monitor_common::attempt::records_of_a_call;

use super::{Cause, Refusal, Settings};
use crate::bpf::OBJECT;
use crate::bpf::facts::KernelFacts;
use crate::bpf::features::{Feature, Features, LEFT_OUT};
use crate::bpf::kernel::Kernel;

/// Why a program is not even tried.
pub(super) fn refusal(
    name: &str,
    kernel: &Kernel,
    features: &Features,
    has_cookie: bool,
) -> Option<Refusal> {
    if name == "deliver"
        && let Some(feature) = [Feature::CgroupIngress, Feature::CgroupRoot]
            .into_iter()
            .find(|feature| features.is_left_out(*feature))
    {
        // Missing in earnest, they show when the hook is attached, and may come later.
        return Some(Refusal {
            why: format!("{}: {LEFT_OUT}", feature.row().name),
            cause: Cause::Kernel,
        });
    }
    if let Some(why) = features.why_missing(Feature::KernelReads)
        && KernelFacts::reads_kernel(name, has_cookie)
    {
        return Some(Refusal {
            why: format!("programs may not read the kernel's memory: {why}"),
            cause: Cause::Kernel,
        });
    }
    let field = kernel.facts.obstacle(name, has_cookie)?;
    Some(match &kernel.btf {
        Err(why) => Refusal {
            why: format!(
                "the kernel's BTF can't be read ({why}); give it in a file with --btf FILE"
            ),
            cause: Cause::NoBtf,
        },
        Ok(_) => Refusal {
            why: field.to_string(),
            cause: Cause::Kernel,
        },
    })
}

/// Whether the drop program is to read the kernel's memory without calls. What the kernel could not say is not tried.
pub(super) fn reads_directly(features: &Features) -> bool {
    let feature = Feature::HeadReads;
    features.why_missing(feature).is_none() && features.why_unknown(feature).is_none()
}

/// The values that are frozen into the programs, by name.
pub(super) fn globals(
    kernel: &Kernel,
    features: &Features,
    settings: &Settings,
    has_cookie: bool,
) -> BTreeMap<&'static str, Vec<u8>> {
    let facts = &kernel.facts;
    let period = 1_000_000_000 / u64::from(settings.log_rate.max(1));
    let burst = period.saturating_mul(u64::from(settings.log_burst.max(1)) - 1);
    let flag = |set: bool| vec![u8::from(set)];
    let mut globals: BTreeMap<&'static str, Vec<u8>> = facts
        .offsets
        .iter()
        .map(|(name, offset)| (*name, offset.to_ne_bytes().to_vec()))
        .collect();
    globals.extend([
        ("HAS_REASON", flag(facts.has_reason)),
        ("HAS_RECEIVING_SOCKET", flag(facts.has_receiving_socket)),
        ("HAS_HEAD_READS", flag(reads_directly(features))),
        ("NETNS_INUM", settings.netns_inum.to_ne_bytes().to_vec()),
        (
            "NETNS_COOKIE",
            settings.netns_cookie.unwrap_or(0).to_ne_bytes().to_vec(),
        ),
        ("HAS_NETNS_COOKIE", flag(has_cookie)),
        ("LOG_DROPPED", flag(settings.log_dropped)),
        ("LOG_ALLOWED", flag(settings.log_allowed)),
        ("LOG_PERIOD_NS", period.to_ne_bytes().to_vec()),
        ("LOG_BURST_NS", burst.to_ne_bytes().to_vec()),
        ("DIAGNOSTICS", flag(settings.diagnostics != 0)),
        ("RECORDS_OF_A_CALL", {
            let cpus =
                aya::util::nr_cpus().map_or(1, |cpus| u32::try_from(cpus).unwrap_or(u32::MAX));
            let records = records_of_a_call(settings.max_attempts, cpus);
            records.to_ne_bytes().to_vec()
        }),
        (aya_log::LEVEL, vec![settings.diagnostics]),
    ]);
    globals
}

/// A number for the build of the programs and everything that is frozen into them. Another compiler of the
/// daemon may give another one for the same: then programs are swapped without need.
pub(super) fn digest(
    globals: &BTreeMap<&'static str, Vec<u8>>,
    settings: &Settings,
    drop_program: &str,
    refused: &BTreeMap<&'static str, Refusal>,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    OBJECT.hash(&mut hasher);
    globals.hash(&mut hasher);
    settings.max_attempts.hash(&mut hasher);
    drop_program.hash(&mut hasher);
    for name in refused.keys() {
        name.hash(&mut hasher);
    }
    hasher.finish()
}
