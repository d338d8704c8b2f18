//! What a row may need of the kernel that not every kernel has, decided by asking the running one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::doctor::offload::NEW_DEVICE;
use crate::doctor::switches::open_vswitch;
use crate::kernel;
use crate::netns::{NetNs, unique_prefix};

/// Part of a kernel that may be left out or come as a module.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Feature {
    /// Devices of the type `vlan`.
    Vlan,
    /// Devices of the type `wireguard`.
    Wireguard,
    /// Devices of the type `bond`.
    Bonding,
    /// Software flow tables of nftables.
    FlowTable,
    /// Packets that are queued for programs.
    Queue,
    /// The connection table's limit, one for the whole machine, may be changed.
    ConntrackLimit,
    /// The wall clock, one for the whole machine, may be set.
    Clock,
    /// The queueing discipline `netem`.
    Netem,
    /// The classifiers `matchall` and `flower`, and actions.
    TcAction,
    /// Links of tc programs.
    Tcx,
    /// The hook `egress` of the nftables family `netdev`.
    NetdevEgress,
    /// Tun devices that take UDP datagrams to be segmented (`TUN_F_USO4`).
    TunUso,
    /// Datapaths of Open vSwitch.
    OpenVswitch,
    /// Devices of the type `netkit`.
    Netkit,
    /// Flow tables whose devices are named by what their names begin with.
    DevicePrefix,
    /// Devices whose hardware is simulated.
    Netdevsim,
    /// Reassembly before the hooks that ends with its last user: before, a lab keeps it from any test of
    /// connection tracking that ran there.
    DefragEnds,
}

/// How the kernel, or the tool that asks it, says that it has no such thing.
const REFUSALS: [&str; 7] = [
    "Unknown device type",
    "Specified qdisc kind is unknown",
    "TC classifier not found",
    "Failed to load TC action module",
    "Could not process rule: No such file or directory",
    "Operation not supported",
    "no generic netlink of",
];

/// True in the virtual machines of `cargo xtask vm-test` (`PEERWATCH_VM=1`), whose kernels have all that
/// does not depend on their age.
fn in_vm() -> bool {
    std::env::var_os("PEERWATCH_VM").is_some_and(|value| value == "1")
}

impl Feature {
    /// Why rows that need it can't run here; `None` when they can, and always in the virtual machines,
    /// where a row that can't run has to fail, but for netdevsim, which Debian builds for none of its kernels.
    ///
    /// # Errors
    ///
    /// When the kernel could not be asked.
    pub fn missing(self) -> Result<Option<String>> {
        static KNOWN: Mutex<BTreeMap<Feature, Option<String>>> = Mutex::new(BTreeMap::new());
        if let Some((version, patch_level)) = self.since() {
            let there = kernel::is_at_least(version, patch_level);
            let why = || {
                format!(
                    "Linux {version}.{patch_level} and later have {}",
                    self.name()
                )
            };
            if !there || !self.is_optional() {
                return Ok((!there).then(why));
            }
        }
        if self == Self::Netdevsim {
            let there = Path::new(NEW_DEVICE).exists();
            return Ok((!there).then(|| {
                "netdevsim is not loaded: Ubuntu's kernels have it, Debian's have not".to_owned()
            }));
        }
        if in_vm() {
            return Ok(None);
        }
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = known.get(&self) {
            return Ok(reason.clone());
        }
        let reason = self.ask()?;
        known.insert(self, reason.clone());
        Ok(reason)
    }

    /// The first release of Linux that has it, where not all that are tested have it. What is never left out of
    /// later ones is not asked for, because the product asks, and a test that did the same would go wrong with it.
    #[must_use]
    pub const fn since(self) -> Option<(u32, u32)> {
        match self {
            Self::Tcx => Some((6, 6)),
            Self::NetdevEgress => Some((5, 16)),
            Self::TunUso => Some((6, 2)),
            Self::DefragEnds => Some((5, 12)),
            Self::Netkit => Some((6, 7)),
            Self::DevicePrefix => Some((6, 17)),
            _ => None,
        }
    }

    /// Whether kernels that are new enough may be built without it all the same.
    const fn is_optional(self) -> bool {
        matches!(self, Self::Netkit | Self::DevicePrefix)
    }

    fn ask(self) -> Result<Option<String>> {
        if self == Self::ConntrackLimit {
            return Ok(Some(
                "it changes a limit of the whole machine, so only `cargo xtask vm-test` runs it"
                    .to_owned(),
            ));
        }
        if self == Self::Clock {
            return Ok(Some(
                "it sets the clock of the whole machine, so only `cargo xtask vm-test` runs it"
                    .to_owned(),
            ));
        }
        let netns = NetNs::create(&format!("{}ask", unique_prefix()))?;
        let Err(error) = self.try_in(&netns) else {
            return Ok(None);
        };
        let text = format!("{error:#}");
        if REFUSALS.iter().any(|refusal| text.contains(refusal)) {
            let name = self.name();
            return Ok(Some(format!(
                "this kernel has no {name}, those of `cargo xtask vm-test` have"
            )));
        }
        Err(error)
    }

    /// Does the least that needs the feature.
    fn try_in(self, netns: &NetNs) -> Result<()> {
        match self {
            Self::Vlan => {
                netns.ip("link add try0 type veth peer name try1")?;
                netns.ip("link add link try0 name try2 type vlan id 1")
            }
            Self::Wireguard => netns.ip("link add try0 type wireguard"),
            Self::Bonding => netns.ip("link add try0 type bond"),
            Self::OpenVswitch => open_vswitch(netns, "try0"),
            Self::Netkit => netns.ip("link add try0 type netkit"),
            Self::FlowTable | Self::DevicePrefix => {
                netns.ip("link add try0 type veth peer name try1")?;
                netns.nft(
                    "table inet try { flowtable ft { hook ingress priority 0; devices = { try0 }; }; \
                     chain it { type filter hook forward priority 0; flow add @ft; }; }",
                )
            }
            Self::Queue => netns.nft(
                "table inet try { chain it { type filter hook forward priority 0; queue num 1; }; }",
            ),
            Self::Clock
            | Self::ConntrackLimit
            | Self::Tcx
            | Self::NetdevEgress
            | Self::TunUso
            | Self::Netdevsim
            | Self::DefragEnds => Ok(()),
            Self::Netem => netns.sh("tc qdisc add dev lo root netem loss 100%").map(drop),
            Self::TcAction => {
                netns.sh("tc qdisc add dev lo clsact")?;
                netns.sh("tc filter add dev lo ingress matchall action drop")?;
                netns
                    .sh("tc filter add dev lo egress protocol ip flower ip_proto tcp action drop")
                    .map(drop)
            }
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Vlan => "VLAN devices",
            Self::Wireguard => "wireguard",
            Self::Bonding => "bonds",
            Self::FlowTable => "flow tables",
            Self::Queue => "queues for programs (NFQUEUE)",
            Self::ConntrackLimit => "limit of connections",
            Self::Clock => "clock that may be set",
            Self::Netem => "netem",
            Self::TcAction => "actions of tc",
            Self::Tcx => "links of tc programs",
            Self::NetdevEgress => "the hook egress of netdev tables",
            Self::TunUso => "segmentation of UDP by tun devices",
            Self::Netdevsim => "netdevsim",
            Self::OpenVswitch => "Open vSwitch",
            Self::Netkit => "netkit devices",
            Self::DevicePrefix => "flow tables of devices by what their names begin with",
            Self::DefragEnds => "reassembly that ends with its last user",
        }
    }
}
