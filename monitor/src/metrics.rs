//! The metrics: a collector of the `prometheus` crate that reads the maps when it is scraped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use monitor_common::Direction;
use monitor_common::event::loss;
use prometheus::TextEncoder;
use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;

use crate::bpf::Hook;
use crate::bpf::attach::SharedStates;
use crate::bpf::counters::{Counters, Snapshot};
use crate::bpf::load::Loaded;
use crate::bpf::runs::{Runs, Statistics};
use crate::config::LOOPBACK;
use crate::conntrack::Conntrack;
use crate::diagnostics;
use crate::drop::ReasonTable;
use crate::ruleset::Change;
use crate::state::Evaluation;
use crate::traffic::Traffics;

pub mod attempts;
mod families;
mod family;
pub mod firewall;
mod interfaces;
mod keep;
mod names;
mod packets;
pub mod states;

pub use interfaces::InterfaceNames;
pub(crate) use keep::replay;

use family::Family;

/// What of the running kernel the metrics tell.
#[derive(Clone, Debug)]
pub struct KernelInfo {
    /// `uname -r`
    pub release: String,
    /// Whether its BTF could be read.
    pub btf: bool,
    /// Whether it gives drop reasons; `None` where that is not known, without BTF.
    pub drop_reasons: Option<bool>,
    /// Whether the self-test passed on it; `None` where none was wanted.
    pub self_tested: Option<bool>,
}

/// Where the metrics come from.
#[derive(Debug)]
pub struct Source {
    counters: Mutex<Counters>,
    traffics: RwLock<Arc<Traffics>>,
    interfaces: Mutex<InterfaceNames>,
    /// What was exported last of each allowed series: a packet that is taken off again must not make a
    /// counter go back.
    floors: Mutex<BTreeMap<u16, (u64, u64)>>,
    attempts: Mutex<attempts::Attempts>,
    states_shown: Mutex<states::Shows>,
    firewall: Mutex<firewall::Firewall>,
    reload_successful: AtomicBool,
    lines_lost: AtomicU64,
    /// Lines that could not be written; the writer of the log counts them.
    unwritten: OnceLock<Arc<AtomicU64>>,
    /// Those that daemons before could not write.
    unwritten_before: AtomicU64,
    attempts_suppressed: AtomicU64,
    runs: Mutex<Runs>,
    states: SharedStates,
    reasons: Arc<ReasonTable>,
    kernel: KernelInfo,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A poisoned lock means that a scrape panicked half-way; the data are counters and names, which
    // the next one reads anew.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    /// A source over the counters of loaded programs.
    #[must_use]
    pub fn new(
        counters: Counters,
        traffics: Arc<Traffics>,
        states: SharedStates,
        reasons: Arc<ReasonTable>,
        kernel: KernelInfo,
    ) -> Self {
        Self {
            counters: Mutex::new(counters),
            traffics: RwLock::new(traffics),
            interfaces: Mutex::new(InterfaceNames::default()),
            floors: Mutex::new(BTreeMap::new()),
            attempts: Mutex::new(attempts::Attempts::default()),
            states_shown: Mutex::new(states::Shows::default()),
            firewall: Mutex::new(firewall::Firewall::default()),
            reload_successful: AtomicBool::new(true),
            lines_lost: AtomicU64::new(0),
            unwritten: OnceLock::new(),
            unwritten_before: AtomicU64::new(0),
            attempts_suppressed: AtomicU64::new(0),
            runs: Mutex::new(Runs::default()),
            states,
            reasons,
            kernel,
        }
    }

    /// The traffics that are watched now.
    #[must_use]
    pub fn traffics(&self) -> Arc<Traffics> {
        Arc::clone(&self.traffics.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over the outcome of a reload: the new traffics, or `None` where the old ones stay.
    pub fn reloaded(&self, traffics: Option<Arc<Traffics>>) {
        self.reload_successful
            .store(traffics.is_some(), Ordering::Relaxed);
        if let Some(traffics) = traffics {
            *self
                .traffics
                .write()
                .unwrap_or_else(PoisonError::into_inner) = traffics;
        }
    }

    /// An interface is there, under this name from now on; `watched` says whether it gets series of its
    /// own.
    ///
    /// # Errors
    ///
    /// Where the kernel does not say what was counted under this index before: then it gets none.
    pub fn interface_is(&self, index: u32, name: &str, watched: bool) -> Result<(), String> {
        lock(&self.interfaces)
            .set(index, name, watched, |index| {
                lock(&self.counters).interface(index)
            })
            .map_err(|error| error.to_string())
    }

    /// An interface is gone: what it counted goes to `other`.
    pub fn interface_gone(&self, index: u32) {
        lock(&self.interfaces).remove(index);
    }

    /// Name of an interface that is there.
    #[must_use]
    pub fn interface_name(&self, index: u32) -> Option<String> {
        lock(&self.interfaces).name(index)
    }

    /// The name of a drop reason of this kernel.
    #[must_use]
    pub fn reason_name(&self, reason: u32) -> String {
        self.reasons.name(reason).into_owned()
    }

    /// The running kernel's release.
    #[must_use]
    pub fn kernel_release(&self) -> &str {
        &self.kernel.release
    }

    /// Programs were loaded.
    pub fn loaded(&self, loaded: &Loaded) {
        lock(&self.counters).watch_drop_program(loaded.drop_fd());
        lock(&self.runs).watch(loaded.attachable());
    }

    /// The kernel's statistics of programs, which are kept as long as this is.
    pub fn keep_statistics(&self, statistics: Statistics) {
        lock(&self.runs).keep(statistics);
    }

    /// Changes what the metrics show of attempts.
    pub fn with_attempts<T>(&self, change: impl FnOnce(&mut attempts::Attempts) -> T) -> T {
        change(&mut lock(&self.attempts))
    }

    /// Shows states that were computed at a time on the monotonic clock.
    pub fn show_states(&self, new: BTreeMap<(u8, Direction), Evaluation>, at: Duration) {
        lock(&self.states_shown).update(new, at);
    }

    /// The states as they are shown.
    #[must_use]
    pub fn states_shown(&self) -> states::Shows {
        lock(&self.states_shown).clone()
    }

    /// Shows how full the connection table is.
    pub fn show_conntrack(&self, table: Option<Conntrack>) {
        lock(&self.firewall).conntrack = table;
    }

    /// The rules of the firewall changed.
    pub fn rules_changed(&self, change: Change) {
        lock(&self.firewall).changes.record(change);
    }

    /// What is known of this host's firewall.
    #[must_use]
    pub fn firewall(&self) -> firewall::Firewall {
        lock(&self.firewall).clone()
    }

    /// The rate limit kept the line of an attempt out of the log.
    pub fn attempt_suppressed(&self) {
        self.attempts_suppressed.fetch_add(1, Ordering::Relaxed);
    }

    /// A line of the packet log was thrown away because its reader is too slow.
    pub fn line_lost(&self) {
        self.lines_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines of the log that could not be written so far.
    fn lines_unwritten(&self) -> u64 {
        let now = self.unwritten.get();
        let now = now.map_or(0, |count| count.load(Ordering::Relaxed));
        now.saturating_add(self.unwritten_before.load(Ordering::Relaxed))
    }

    /// Shows how many lines of the packet log could not be written, as its writer counts them. Only the first
    /// counter is taken.
    pub fn watch_log(&self, unwritten: Arc<AtomicU64>) {
        self.unwritten.get_or_init(|| unwritten);
    }

    fn lines(&self) -> families::Lines {
        families::Lines {
            lost: self.lines_lost.load(Ordering::Relaxed),
            unwritten: self.lines_unwritten(),
            diagnostics: diagnostics::lost(),
            attempts_suppressed: self.attempts_suppressed.load(Ordering::Relaxed),
        }
    }

    /// What could not be done so far, by [`monitor_common::event::loss`].
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn losses(&self) -> Result<[u64; loss::LEN as usize], String> {
        lock(&self.counters)
            .read_losses()
            .map_err(|error| error.to_string())
    }

    /// How many packets were counted so far, allowed and dropped.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn packets_seen(&self) -> Result<u64, String> {
        let snapshot = lock(&self.counters)
            .read()
            .map_err(|error| error.to_string())?;
        let allowed: u64 = snapshot.allowed.values().map(|count| count.packets).sum();
        let dropped: u64 = snapshot.drops.values().map(|count| count.packets).sum();
        Ok(allowed + dropped)
    }

    /// Takes interfaces that went long ago out of the map, so that churn does not fill it.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn retire_interfaces(&self) -> Result<(), String> {
        let mut names = lock(&self.interfaces);
        let mut counters = lock(&self.counters);
        names
            .retire(&mut counters)
            .map_err(|error| error.to_string())
    }

    fn families(&self) -> Result<Vec<Family>, String> {
        // Held from before the maps are read: an interface must not be taken out of the map in between,
        // or it would count twice.
        let mut interfaces = lock(&self.interfaces);
        let snapshot: Snapshot = lock(&self.counters)
            .read()
            .map_err(|error| error.to_string())?;
        let states = self.states.get();
        let attached = |hook: Hook| {
            states
                .iter()
                .any(|((wanted, _), state)| *wanted == hook && state.is_ok())
        };
        // Of a hook that belongs to interfaces, none may be there yet: its series are, at 0, as long as
        // nothing says that it cannot be attached.
        let possible = |hook: Hook| {
            let mut wanted = states
                .iter()
                .filter(|((wanted, name), _)| *wanted == hook && name != LOOPBACK)
                .peekable();
            !self.states.is_refused(hook)
                && (wanted.peek().is_none() || wanted.any(|(_, state)| state.is_ok()))
        };
        let measured = packets::Measured {
            drop: attached(Hook::Drop),
            deliver: attached(Hook::Deliver),
            egress: possible(Hook::Egress),
        };
        let mut families = packets::families(
            &snapshot,
            &self.traffics(),
            &self.reasons,
            measured,
            &mut lock(&self.floors),
        );
        families.push(interfaces.family(&snapshot, measured, |name| {
            let state = states.get(&(Hook::Egress, name.to_owned()));
            state.is_some_and(Result::is_ok)
        }));
        drop(interfaces);
        families.push(packets::fragments(
            &snapshot,
            possible(Hook::Ingress),
            measured.egress || measured.drop,
        ));
        families.extend(attempts::families(&lock(&self.attempts), &self.traffics()));
        families.extend(states::families(
            &lock(&self.states_shown),
            &self.traffics(),
        ));
        families.extend(firewall::families(&lock(&self.firewall)));
        families.extend(families::hooks(&states));
        families.extend(families::continuity(&self.states));
        families.extend(families::maps(&snapshot, &lock(&self.attempts)));
        families.extend(families::runs(lock(&self.runs).read().as_ref()));
        families.extend(families::losses(&snapshot, &self.lines()));
        families.extend(families::info(
            &self.kernel,
            &self.traffics(),
            self.reload_successful.load(Ordering::Relaxed),
        ));
        Ok(families)
    }
}

/// Everything that is shown: what the source has, and the client library's own metrics of the process.
pub struct Exporter {
    source: Arc<Source>,
    process: ProcessCollector,
    /// What was shown last, by name: the next time most of it is the same, but for numbers.
    shown: Mutex<BTreeMap<String, MetricFamily>>,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

impl Exporter {
    /// An exporter of a source.
    #[must_use]
    pub fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            process: ProcessCollector::for_self(),
            shown: Mutex::new(BTreeMap::new()),
        }
    }

    /// Everything in the text format, version 0.0.4.
    ///
    /// # Errors
    ///
    /// Why the maps could not be read.
    pub fn render(&self) -> Result<String, String> {
        let families = self.source.families()?;
        // Not held: two at once are rare, and then one of them makes everything anew.
        let mut shown = std::mem::take(&mut *lock(&self.shown));
        let proto = |family: Family| {
            let before = shown.remove(family.name());
            family.into_proto(before)
        };
        let mut families: Vec<MetricFamily> = families.into_iter().map(proto).collect();
        families.extend(self.process.collect());
        // Without a registry, which would sort the labels of all series at each scrape: a quarter of its time.
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let text = TextEncoder::new()
            .encode_to_string(&families)
            .map_err(|error| error.to_string());
        let names = families.into_iter();
        *lock(&self.shown) = names
            .map(|family| (family.name().to_owned(), family))
            .collect();
        text
    }
}
