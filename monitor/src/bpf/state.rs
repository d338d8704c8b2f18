//! What is attached where, as metrics and readiness read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Hook;

/// How a hook is attached, as in the label `mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// BTF tracepoint.
    TpBtf,
    /// Raw tracepoint, where the kernel has no BTF of its own.
    RawTp,
    /// Link on a cgroup.
    CgroupLink,
    /// TCX link (6.6 and later).
    Tcx,
    /// Filter on the queueing discipline `clsact`.
    Clsact,
}

impl Mode {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::TpBtf,
        Self::RawTp,
        Self::CgroupLink,
        Self::Tcx,
        Self::Clsact,
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::RawTp => "raw_tp",
            Self::CgroupLink => "cgroup_link",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// One hook that is wanted: attached in some mode, or not, and why.
pub type HookState = Result<Mode, String>;

/// What is attached where: the hook and the interface, empty where it has none.
pub type HookStates = BTreeMap<(Hook, String), HookState>;

/// The states, as metrics and readiness read them.
#[derive(Clone, Debug, Default)]
pub struct SharedStates(Arc<Mutex<States>>);

#[derive(Debug, Default)]
struct States {
    hooks: HookStates,
    refused: BTreeSet<Hook>,
    /// For how long each hook did not count when this daemon took it over, at the worst place.
    gaps: BTreeMap<Hook, Duration>,
    /// How often each was attached again after somebody else had taken it off.
    reattached: BTreeMap<Hook, u64>,
}

impl SharedStates {
    fn lock(&self) -> MutexGuard<'_, States> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the states now.
    #[must_use]
    pub fn get(&self) -> HookStates {
        self.lock().hooks.clone()
    }

    /// Whether no program of the hook is loaded.
    #[must_use]
    pub fn is_refused(&self, hook: Hook) -> bool {
        self.lock().refused.contains(&hook)
    }

    /// For how long each hook did not count when this daemon took it over, at the worst place.
    #[must_use]
    pub fn gaps(&self) -> BTreeMap<Hook, Duration> {
        self.lock().gaps.clone()
    }

    pub(super) fn note_gap(&self, hook: Hook, gap: Duration) {
        let mut states = self.lock();
        let worst = states.gaps.entry(hook).or_default();
        *worst = (*worst).max(gap);
    }

    /// How often each hook was attached again after somebody else had taken it off.
    #[must_use]
    pub fn reattached(&self) -> BTreeMap<Hook, u64> {
        self.lock().reattached.clone()
    }

    /// Goes on counting from what a daemon before counted.
    pub fn resume_reattached(&self, counts: BTreeMap<Hook, u64>) {
        self.lock().reattached = counts;
    }

    pub(super) fn note_reattached(&self, hook: Hook) {
        let mut state = self.lock();
        let count = state.reattached.entry(hook).or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn set(&self, hook: Hook, interface: &str, state: HookState) {
        self.lock()
            .hooks
            .insert((hook, interface.to_owned()), state);
    }

    pub(super) fn remove_interface(&self, interface: &str) {
        self.lock().hooks.retain(|(_, name), _| name != interface);
    }

    pub(super) fn set_refused(&self, refused: BTreeSet<Hook>) {
        self.lock().refused = refused;
    }
}
