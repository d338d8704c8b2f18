//! `conntrack_entries`, `conntrack_limit`, `ruleset_changes_total`,
//! `ruleset_last_change_timestamp_seconds`.

use super::family::Family;
use super::names::{CONNTRACK_ENTRIES, CONNTRACK_LIMIT, RULESET_CHANGE, RULESET_CHANGES};
use crate::conntrack::Conntrack;
use crate::ruleset::{Changes, Kind};

/// What is known of this host's firewall.
#[derive(Clone, Debug, Default)]
pub struct Firewall {
    /// The connection table; `None` where there is none.
    pub conntrack: Option<Conntrack>,
    /// Changes of the rules.
    pub changes: Changes,
}

pub(super) fn families(firewall: &Firewall) -> Vec<Family> {
    let mut changes = Family::new(RULESET_CHANGES);
    for kind in Kind::ALL {
        changes.add(&[("kind", kind.as_str())], firewall.changes.total(kind));
    }
    let mut last = Family::new(RULESET_CHANGE);
    last.add_fraction(&[], firewall.changes.latest_timestamp_seconds());
    let mut families = vec![changes, last];
    if let Some(conntrack) = &firewall.conntrack {
        let mut entries = Family::new(CONNTRACK_ENTRIES);
        entries.add(&[], conntrack.entries);
        let mut limit = Family::new(CONNTRACK_LIMIT);
        limit.add(&[], conntrack.limit);
        families.extend([entries, limit]);
    }
    families
}
