//! What this kernel offers, found by asking it: never by its version, which backports and build options
//! make meaningless.
//!
//! [`TABLE`] is the one list: each feature, how it is probed, what uses it, and what happens without it.
//! Probes leave nothing behind. One that the kernel could not carry out (memory, limits, permissions) says
//! nothing: the feature counts as there, so that what needs it is tried, and tried again. The variable
//! `PEERWATCH_WITHOUT` of the environment (names with commas between) makes features count as missing:
//! an aid for tests of how peerwatch does without.

mod probes;

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use tracing::debug;

use super::kernel::Kernel;

/// One row of [`TABLE`].
#[derive(Debug)]
pub struct Row {
    /// The feature.
    pub feature: Feature,
    /// Its name in logs.
    pub name: &'static str,
    /// How it is probed.
    pub how: &'static str,
    /// What uses it.
    pub used_by: &'static str,
    /// What happens without it.
    pub without: &'static str,
    probe: fn(&Asked<'_>) -> Result<(), Lack>,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    kernel: &'a Kernel,
    /// Where pins are to be.
    bpffs: &'a Path,
}

/// Why a feature is not known to be there.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Lack {
    /// The kernel does not have it.
    Missing(String),
    /// The kernel could not be asked.
    Unknown(String),
    /// `PEERWATCH_WITHOUT` names it.
    LeftOut,
}

macro_rules! features {
    ($($(#[$doc:meta])* $variant:ident $name:literal, $probe:path {
        how: $how:literal, used_by: $used_by:literal, without: $without:literal,
    })+) => {
        /// Something that a kernel has or has not.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum Feature { $($(#[$doc])* $variant,)+ }

        /// Every feature, in the order in which they are probed and told.
        pub static TABLE: &[Row] = &[$(Row {
            feature: Feature::$variant,
            name: $name,
            how: $how,
            used_by: $used_by,
            without: $without,
            probe: $probe,
        },)+];
    };
}

features! {
    /// The kernel's BTF can be read.
    KernelBtf "kernel_btf", probes::kernel_btf {
        how: "reading /sys/kernel/btf/vmlinux, or the file of --btf",
        used_by: "offsets of kernel structs, the prototype of kfree_skb, names of drop reasons",
        without: "drops are not counted, nor what leaves through interfaces without an Ethernet header",
    }
    /// `kfree_skb` says why.
    DropReasons "drop_reasons", probes::drop_reasons {
        how: "the prototype of kfree_skb and enum skb_drop_reason in BTF",
        used_by: "class and reason of a drop",
        without: "classes come from the function that dropped the packet, the reason is \"unavailable\"",
    }
    /// `kfree_skb` names the receiving socket.
    ReceivingSocket "receiving_socket", probes::receiving_socket {
        how: "the prototype of kfree_skb in BTF",
        used_by: "the network namespace of a drop, and telling TIME_WAIT from a drop",
        without: "the packet's route and device say whose it was, its flags whether TIME_WAIT took it",
    }
    /// Drop reasons have subsystems.
    ReasonSubsystems "reason_subsystems", probes::reason_subsystems {
        how: "enum skb_drop_reason_subsys in BTF",
        used_by: "names and classes of the reasons of modules, as Open vSwitch",
        without: "all reasons are the core's",
    }
    /// BTF tracepoints.
    TpBtf "tp_btf", probes::tp_btf {
        how: "attaching an empty program to kfree_skb, and detaching it",
        used_by: "hook drop",
        without: "hook drop is a raw tracepoint (mode raw_tp), which copies the kernel's packet struct first",
    }
    /// Chains of programs at tc hooks.
    Tcx "tcx", probes::tcx {
        how: "BPF_PROG_QUERY of tc egress at the loopback device",
        used_by: "hooks egress and ingress",
        without: "they are filters of the queueing discipline clsact (mode clsact)",
    }
    /// The hook on delivered packets.
    CgroupIngress "cgroup_ingress", probes::cgroup_ingress {
        how: "BPF_PROG_QUERY of cgroup ingress at the root cgroup, or loading an empty program where there is none",
        used_by: "hook deliver",
        without: "inbound packets that are allowed are not measured",
    }
    /// The real root of the cgroup v2 hierarchy.
    CgroupRoot "cgroup_root", probes::cgroup_root {
        how: "opening it where it is mounted, or by a mount of our own: its inode is 1",
        used_by: "hook deliver",
        without: "inbound packets that are allowed are not measured",
    }
    /// Ring buffer maps.
    RingBuffer "ring_buffer", probes::ring_buffer {
        how: "making one",
        used_by: "packet log",
        without: "the kernel programs cannot be loaded",
    }
    /// `bpf_get_netns_cookie` in cgroup programs.
    NetnsCookieCgroup "netns_cookie_cgroup", probes::netns_cookie_cgroup {
        how: "loading a program of that type that calls it",
        used_by: "hook deliver, to tell network namespaces apart",
        without: "it reads the number of the namespace through the device, which needs BTF",
    }
    /// `bpf_get_netns_cookie` in tc programs.
    NetnsCookieTc "netns_cookie_tc", probes::netns_cookie_tc {
        how: "loading a program of that type that calls it",
        used_by: "nothing yet",
        without: "nothing changes",
    }
    /// `bpf_probe_read_kernel`.
    KernelReads "kernel_reads", probes::kernel_reads {
        how: "loading a tracepoint program that calls bpf_probe_read_kernel",
        used_by: "hook drop; hook deliver without netns_cookie_cgroup; interfaces without an Ethernet header",
        without: "these are not there (lockdown=confidentiality forbids it)",
    }
    /// Packet bytes through `skb->head`, and any memory from there.
    HeadReads "head_reads", probes::head_reads {
        how: "loading a BTF tracepoint program that reads a byte there, and one elsewhere",
        used_by: "hook drop, to read headers, routes and devices",
        without: "hook drop reads them by calls, and takes twice as long",
    }
    /// Reading many map entries at once.
    MapBatch "map_batch", probes::map_batch {
        how: "BPF_MAP_LOOKUP_BATCH on an empty hash map",
        used_by: "nothing yet",
        without: "maps are read entry by entry",
    }
    /// Links that outlive the process.
    LinkPinning "link_pinning", probes::link_pinning {
        how: "pinning the link of an empty program in the BPF file system of --bpffs, and removing it",
        used_by: "restarts without a gap",
        without: "nothing counts while no daemon runs, and a restart begins at 0",
    }
    /// Run time of programs.
    Statistics "statistics", probes::statistics {
        how: "BPF_ENABLE_STATS, given back at once",
        used_by: "run time of the kernel programs (--bpf-stats)",
        without: "it is not known",
    }
}

impl Feature {
    /// Its row.
    #[must_use]
    pub fn row(self) -> &'static Row {
        // The table is made of the same list as the enum, in its order.
        &TABLE[self as usize]
    }

    /// The feature of a name in `PEERWATCH_WITHOUT`.
    ///
    /// # Errors
    ///
    /// Where there is none, or peerwatch would not do otherwise without it.
    pub fn to_leave_out(text: &str) -> Result<Self, String> {
        let feature: Self = text.parse()?;
        if CAN_DO_WITHOUT.contains(&feature) {
            return Ok(feature);
        }
        let names = CAN_DO_WITHOUT.map(|feature| feature.row().name).join(", ");
        Err(format!("\"{text}\" can't be left out; what can is {names}"))
    }
}

/// What `PEERWATCH_WITHOUT` may name. Of the others, nothing uses them, or nothing works without them.
const CAN_DO_WITHOUT: [Feature; 10] = [
    Feature::KernelBtf,
    Feature::DropReasons,
    Feature::ReceivingSocket,
    Feature::TpBtf,
    Feature::Tcx,
    Feature::CgroupIngress,
    Feature::CgroupRoot,
    Feature::NetnsCookieCgroup,
    Feature::KernelReads,
    Feature::HeadReads,
];

/// Why a feature is missing that `PEERWATCH_WITHOUT` names.
pub(crate) const LEFT_OUT: &str = "left out by PEERWATCH_WITHOUT";

impl FromStr for Feature {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let row = TABLE.iter().find(|row| row.name == text);
        row.map(|row| row.feature).ok_or_else(|| {
            let names: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
            format!("\"{text}\" is none of {}", names.join(", "))
        })
    }
}

/// What a kernel lacks of the table, and why.
#[derive(Clone, Debug, Default)]
pub struct Features {
    lacks: BTreeMap<Feature, Lack>,
}

impl Features {
    /// Asks the kernel, and the BPF file system where pins are to be. What is in `without` counts as missing.
    #[must_use]
    pub fn probe(kernel: &Kernel, bpffs: &Path, without: &[Feature]) -> Self {
        let asked = Asked { kernel, bpffs };
        let ask = |row: &Row| {
            let result = if without.contains(&row.feature) {
                Err(Lack::LeftOut)
            } else {
                (row.probe)(&asked)
            };
            Some((row.feature, result.err()?))
        };
        Self {
            lacks: TABLE.iter().filter_map(ask).collect(),
        }
    }

    /// The same kernel without a feature that turned out to be missing after all, and why.
    #[must_use]
    pub fn without(&self, feature: Feature, why: String) -> Self {
        let mut features = self.clone();
        features.lacks.insert(feature, Lack::Missing(why));
        features
    }

    /// Whether the kernel has it, or could not be asked.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.why_missing(feature).is_none()
    }

    /// Why the kernel has it not; `None` where it has, or could not be asked.
    #[must_use]
    pub fn why_missing(&self, feature: Feature) -> Option<&str> {
        match self.lacks.get(&feature)? {
            Lack::Missing(why) => Some(why),
            Lack::Unknown(_) => None,
            Lack::LeftOut => Some(LEFT_OUT),
        }
    }

    /// Why the kernel could not be asked for it; `None` where it could.
    #[must_use]
    pub fn why_unknown(&self, feature: Feature) -> Option<&str> {
        match self.lacks.get(&feature)? {
            Lack::Unknown(why) => Some(why),
            Lack::Missing(_) | Lack::LeftOut => None,
        }
    }

    /// Whether it counts as missing on request only.
    #[must_use]
    pub fn is_left_out(&self, feature: Feature) -> bool {
        self.lacks.get(&feature) == Some(&Lack::LeftOut)
    }

    /// One line for each feature: `feature tcx: available`, `feature tcx: missing (why); without it: …`, or
    /// `feature tcx: unknown (why); without it: …` where the kernel could not be asked. Tests read them.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |row: &Row| {
            let (state, why) = match self.lacks.get(&row.feature) {
                None => return format!("feature {}: available", row.name),
                Some(Lack::Missing(why)) => ("missing", why.as_str()),
                Some(Lack::Unknown(why)) => ("unknown", why.as_str()),
                Some(Lack::LeftOut) => ("missing", LEFT_OUT),
            };
            format!(
                "feature {}: {state} ({why}); without it: {}",
                row.name, row.without
            )
        };
        TABLE.iter().map(line).collect()
    }

    /// Writes the lines to the log.
    pub fn log(&self) {
        for line in self.lines() {
            debug!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_its_row_and_its_name() {
        for row in TABLE {
            assert_eq!(row.feature.row().name, row.name);
            assert_eq!(row.name.parse(), Ok(row.feature));
            for text in [row.how, row.used_by, row.without] {
                assert!(!text.is_empty() && !text.ends_with('.'), "{}", row.name);
            }
        }
        let error = "tcxx".parse::<Feature>().unwrap_err();
        assert!(
            error.starts_with("\"tcxx\" is none of kernel_btf, "),
            "{error}"
        );
        assert_eq!(Feature::to_leave_out("tcx"), Ok(Feature::Tcx));
        let error = Feature::to_leave_out("ring_buffer").unwrap_err();
        assert!(
            error.starts_with("\"ring_buffer\" can't be left out; what can is kernel_btf, "),
            "{error}"
        );
    }

    #[test]
    fn what_is_left_out_is_missing_and_said() {
        let kernel = Kernel::unknown("hidden".to_owned());
        let without: Vec<Feature> = TABLE.iter().map(|row| row.feature).collect();
        let features = Features::probe(&kernel, Path::new("/nowhere"), &without[1..]);
        assert_eq!(features.why_missing(Feature::KernelBtf), Some("hidden"));
        assert!(!features.has(Feature::Tcx));
        let lines = features.lines();
        assert_eq!(lines.len(), TABLE.len());
        assert_eq!(
            lines[Feature::Tcx as usize],
            "feature tcx: missing (left out by PEERWATCH_WITHOUT); without it: they are filters of the \
             queueing discipline clsact (mode clsact)"
        );
        assert_eq!(
            Features::default().lines()[Feature::Tcx as usize],
            "feature tcx: available"
        );
    }

    #[test]
    fn what_could_not_be_asked_counts_as_there_and_is_said() {
        let unknown = (Feature::Tcx, Lack::Unknown("no memory".to_owned()));
        let features = Features {
            lacks: BTreeMap::from([unknown]),
        };
        assert!(features.has(Feature::Tcx));
        assert_eq!(features.why_missing(Feature::Tcx), None);
        let line = &features.lines()[Feature::Tcx as usize];
        assert!(
            line.starts_with("feature tcx: unknown (no memory); without it: "),
            "{line}"
        );
    }
}
