//! The running kernel's reasons: numbers to names, and rows for the kernel program.

use std::borrow::Cow;
use std::collections::HashMap;

use monitor_common::drop::{Class, Group, REASON_UNAVAILABLE, REASONS, ReasonInfo, reason_index};

use super::{classify, classify_subsystem};
use crate::btf::{Btf, BtfError};

/// Bits of a reason below the number of its subsystem (`SKB_DROP_REASON_SUBSYS_SHIFT`).
const SUBSYSTEM_SHIFT: u32 = 16;

/// What is in the kernel's enum but is never given as a reason.
const NO_REASONS: [&str; 3] = ["SKB_NOT_DROPPED_YET", "MAX", "SUBSYS_MASK"];

/// A reason or a subsystem without a row: everything comes from the place.
const UNKNOWN: ReasonInfo = ReasonInfo {
    group: Group::ByPlace.code(),
    class: Class::Unspecified.code(),
    unspecified: 1,
    pad: 0,
};

/// The drop reasons of one kernel.
#[derive(Clone, Debug)]
pub struct ReasonTable {
    /// Names without `SKB_DROP_REASON_`, by the kernel's number. Empty on a kernel that gives none.
    names: HashMap<u32, String>,
    /// Names of the subsystems without `SKB_DROP_REASON_SUBSYS_`, by their number.
    subsystems: HashMap<u32, String>,
    /// The rows, by [`reason_index`].
    infos: Vec<ReasonInfo>,
}

impl ReasonTable {
    /// Reads `enum skb_drop_reason` and `enum skb_drop_reason_subsys`.
    ///
    /// A kernel that gives no reasons (before 5.17) has no such enum: its table is empty, and every
    /// drop is decided by its place.
    ///
    /// # Errors
    ///
    /// [`BtfError::Malformed`] for corrupt BTF.
    pub fn from_btf(btf: &Btf) -> Result<Self, BtfError> {
        let names = enum_names(btf, "skb_drop_reason", "SKB_DROP_REASON_")?;
        let subsystems = enum_names(btf, "skb_drop_reason_subsys", "SKB_DROP_REASON_SUBSYS_")?;
        Ok(Self::from_names(names, subsystems))
    }

    /// That of a kernel of which nothing is known, or that gives no reasons.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::from_names(HashMap::new(), HashMap::new())
    }

    /// A table of these names, by the kernel's numbers.
    fn from_names(mut names: HashMap<u32, String>, mut subsystems: HashMap<u32, String>) -> Self {
        names.retain(|_, name| !NO_REASONS.contains(&name.as_str()));
        subsystems.retain(|_, name| !matches!(name.as_str(), "CORE" | "NUM"));
        let mut infos = vec![UNKNOWN; REASONS as usize];
        // Reasons beyond the table share its last row of the core, which stays unknown.
        let shared = reason_index((1 << SUBSYSTEM_SHIFT) - 1);
        for (&reason, name) in &names {
            let index = reason_index(reason);
            if index != shared {
                let (class, group) = classify(name);
                // What purges a queue is as telling as what gave no reason: an ARP queue or a
                // socket's.
                let by_place = matches!(name.as_str(), "NOT_SPECIFIED" | "QUEUE_PURGE");
                infos[index as usize] = info(class, group, by_place);
            }
        }
        for (&subsystem, name) in &subsystems {
            let (class, group) = classify_subsystem(name);
            infos[reason_index(subsystem << SUBSYSTEM_SHIFT) as usize] = info(class, group, false);
        }
        // No number of a subsystem may decide about kernels that give no reason at all.
        infos[reason_index(REASON_UNAVAILABLE) as usize] = UNKNOWN;
        Self {
            names,
            subsystems,
            infos,
        }
    }

    /// Whether this kernel gives reasons.
    #[must_use]
    pub fn has_reasons(&self) -> bool {
        !self.names.is_empty()
    }

    /// The rows for the kernel program, [`REASONS`] of them; a reason's is at its [`reason_index`].
    #[must_use]
    pub fn infos(&self) -> &[ReasonInfo] {
        &self.infos
    }

    /// The names of this kernel's core reasons, by number; without a particular order.
    pub fn names(&self) -> impl Iterator<Item = (u32, &str)> {
        self.names
            .iter()
            .map(|(&reason, name)| (reason, name.as_str()))
    }

    /// The name of a reason in metrics and logs.
    ///
    /// `unavailable` for [`REASON_UNAVAILABLE`]; `<SUBSYSTEM>_<number>` for the reason of a
    /// subsystem, whose own names are in its module; `REASON_<number>` for one that this kernel's
    /// enum does not have.
    #[must_use]
    pub fn name(&self, reason: u32) -> Cow<'_, str> {
        if reason == REASON_UNAVAILABLE {
            return "unavailable".into();
        }
        if let Some(name) = self.names.get(&reason) {
            return name.into();
        }
        match self.subsystems.get(&(reason >> SUBSYSTEM_SHIFT)) {
            Some(subsystem) => {
                format!("{subsystem}_{}", reason & ((1 << SUBSYSTEM_SHIFT) - 1)).into()
            }
            None => format!("REASON_{reason}").into(),
        }
    }

    /// The reason that this kernel gives for a firewall's drop: its number of `NETFILTER_DROP`, or
    /// [`REASON_UNAVAILABLE`] where it gives none.
    #[must_use]
    pub fn firewall_reason(&self) -> u32 {
        self.names()
            .find_map(|(reason, name)| (name == "NETFILTER_DROP").then_some(reason))
            .unwrap_or(REASON_UNAVAILABLE)
    }
}

fn info(class: Class, group: Group, class_by_place: bool) -> ReasonInfo {
    ReasonInfo {
        group: group.code(),
        class: class.code(),
        unspecified: class_by_place.into(),
        pad: 0,
    }
}

/// The values of an enum by number, without a prefix; nothing when this kernel has no such enum.
fn enum_names(btf: &Btf, name: &str, prefix: &str) -> Result<HashMap<u32, String>, BtfError> {
    let values = match btf.enum_values(name) {
        Ok(values) => values,
        Err(BtfError::MissingType { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let names = values.into_iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(prefix).map(str::to_owned).unwrap_or(name);
        // The kernel passes reasons in 32 bits, so a wider value cannot be one.
        Some((u32::try_from(value).ok()?, name))
    });
    Ok(names.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::VMLINUX;

    fn table(names: &[(u32, &str)], subsystems: &[(u32, &str)]) -> ReasonTable {
        let owned = |pairs: &[(u32, &str)]| {
            pairs
                .iter()
                .map(|&(value, name)| (value, name.to_owned()))
                .collect()
        };
        ReasonTable::from_names(owned(names), owned(subsystems))
    }

    fn sample() -> ReasonTable {
        table(
            &[
                (0, "SKB_NOT_DROPPED_YET"),
                (2, "NOT_SPECIFIED"),
                (7, "NETFILTER_DROP"),
                (8, "QUEUE_PURGE"),
                (9, "MAX"),
                (0xffff_0000, "SUBSYS_MASK"),
            ],
            &[
                (0, "CORE"),
                (1, "MAC80211_UNUSABLE"),
                (2, "OPENVSWITCH"),
                (3, "NUM"),
            ],
        )
    }

    fn row(table: &ReasonTable, reason: u32) -> (Class, Group, u8) {
        let info = table.infos()[reason_index(reason) as usize];
        let class = Class::from_code(info.class).unwrap();
        (
            class,
            Group::from_code(info.group).unwrap(),
            info.unspecified,
        )
    }

    #[test]
    fn rows_stand_at_the_kernel_s_numbers() {
        let table = sample();
        assert_eq!(table.infos().len(), 512);
        assert_eq!(row(&table, 7), (Class::Firewall, Group::Before, 0));
        assert_eq!(row(&table, 2), (Class::Unspecified, Group::ByPlace, 1));
        assert_eq!(row(&table, 8), (Class::Socket, Group::ByPlace, 1));
        assert_eq!(
            row(&table, (2 << 16) | 5),
            (Class::Firewall, Group::Before, 0)
        );
        assert_eq!(
            row(&table, (1 << 16) | 1),
            (Class::Unspecified, Group::Ignored, 0)
        );
        for unknown in [0, 9, 300, (3 << 16) | 1, 0xffff_0000, REASON_UNAVAILABLE] {
            assert_eq!(
                row(&table, unknown),
                (Class::Unspecified, Group::ByPlace, 1),
                "{unknown}"
            );
        }
    }

    #[test]
    fn neither_many_reasons_nor_many_subsystems_decide_about_unknown_ones() {
        let table = table(
            &[(255, "NETFILTER_DROP"), (700, "NO_SOCKET")],
            &[(300, "OPENVSWITCH")],
        );
        for unknown in [255, 700, 4_000, REASON_UNAVAILABLE] {
            assert_eq!(
                row(&table, unknown),
                (Class::Unspecified, Group::ByPlace, 1),
                "{unknown}"
            );
        }
        assert_eq!(table.name(700), "NO_SOCKET");
    }

    #[test]
    fn every_number_has_a_name() {
        let table = sample();
        assert_eq!(table.name(7), "NETFILTER_DROP");
        assert_eq!(table.name((2 << 16) | 5), "OPENVSWITCH_5");
        assert_eq!(table.name(77), "REASON_77");
        assert_eq!(table.name((9 << 16) | 5), "REASON_589829");
        assert_eq!(table.name(9), "REASON_9");
        assert_eq!(table.name(REASON_UNAVAILABLE), "unavailable");
    }

    #[test]
    fn a_kernel_without_reasons_has_an_empty_table() {
        let table = table(&[], &[]);
        assert!(!table.has_reasons());
        assert_eq!(table.firewall_reason(), REASON_UNAVAILABLE);
        assert_eq!(table.infos(), [UNKNOWN; 512]);
    }

    #[test]
    fn the_running_kernel_names_a_firewall_s_drop() {
        let btf = Btf::read(VMLINUX).unwrap();
        let table = ReasonTable::from_btf(&btf).unwrap();
        // Of the enum and of the tracepoint's argument a kernel has both or neither.
        let arguments = btf.tracepoint_arguments("kfree_skb").unwrap();
        assert_eq!(
            table.has_reasons(),
            arguments.iter().any(|ty| ty == "enum skb_drop_reason")
        );
        let reason = table.firewall_reason();
        if table.has_reasons() {
            assert_eq!(table.name(reason), "NETFILTER_DROP");
            assert_eq!(row(&table, reason), (Class::Firewall, Group::Before, 0));
        } else {
            assert_eq!(table.name(reason), "unavailable");
        }
        assert!(table.names().all(|(_, name)| !NO_REASONS.contains(&name)));
    }
}
