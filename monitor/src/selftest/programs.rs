//! The kernel programs as the daemon loads them, for the calling thread's network namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use monitor_common::drop::REASON_UNAVAILABLE;
use monitor_common::interface::InterfaceInfo;

use super::Flaw;
use super::links::{self, LOOPBACK};
use crate::bpf::Hook;
use crate::bpf::attach::{Hooks, Wanted};
use crate::bpf::counters::{Counters, Snapshot};
use crate::bpf::features::{Feature, Features};
use crate::bpf::kernel::Kernel;
use crate::bpf::load::{self, Settings};
use crate::bpf::tables::{TableError, Tables};
use crate::config::{DEFAULT_LOG_BURST, DEFAULT_LOG_RATE};
use crate::drop::places;
use crate::kallsyms::{KALLSYMS, Kallsyms};
use crate::metrics::attempts::teredo_index;
use crate::netns;
use crate::traffic::Traffics;

/// The fewest that a daemon follows: memory is taken for all of them.
const MAX_ATTEMPTS: u32 = 1024;

/// The programs at work. They end with it.
#[derive(Debug)]
pub(super) struct Programs {
    counters: Counters,
    /// The hooks that do not count here, and why.
    missing: BTreeMap<Hook, String>,
    /// The reason of a firewall's drop, where the class of such drops is known, too.
    pub(super) firewall_reason: Option<u32>,
    _hooks: Hooks,
    _tables: Tables,
}

impl Programs {
    /// Loads and attaches everything that the kernel takes.
    ///
    /// # Errors
    ///
    /// Where nothing can be counted at all.
    pub(super) fn begin(
        kernel: &Kernel,
        features: &Features,
        root: Result<OwnedFd, String>,
        traffics: &Traffics,
        flaw: Flaw,
    ) -> Result<Self, String> {
        let inum = netns::inum();
        let settings = Settings {
            log_dropped: false,
            log_allowed: false,
            log_rate: DEFAULT_LOG_RATE,
            log_burst: DEFAULT_LOG_BURST,
            netns_inum: inum.map_err(|error| format!("the namespace is not known: {error}"))?,
            netns_cookie: netns::cookie(),
            diagnostics: 0,
            max_attempts: MAX_ATTEMPTS,
            verifier_log: false,
        };
        let loaded = load::load(kernel, features, &settings, None);
        let mut loaded = loaded.map_err(|error| error.to_string())?;
        if let Some(refusal) = loaded.nothing() {
            return Err(refusal.why.clone());
        }
        let symbols = Kallsyms::read(KALLSYMS);
        // Without reasons the class is that of the place, and those that are known are of kernels that really
        // have no reasons.
        let by_place = !features.is_left_out(Feature::DropReasons) && symbols.is_ok();
        let reason = kernel.reasons.firewall_reason();
        let knows_class = if kernel.reasons.has_reasons() {
            reason != REASON_UNAVAILABLE
        } else {
            by_place
        };
        let filled = Tables::new(&mut loaded.ebpf).and_then(|mut tables| {
            fill(&mut tables, kernel, symbols.ok().as_ref(), traffics)?;
            Ok((tables, Counters::new(&mut loaded.ebpf)?))
        });
        let (tables, counters) = filled.map_err(|error| error.to_string())?;
        let mut hooks = Hooks::new(loaded, features);
        let missing = attach(&mut hooks, root, flaw);
        Ok(Self {
            counters,
            missing,
            firewall_reason: knows_class.then_some(reason),
            _hooks: hooks,
            _tables: tables,
        })
    }

    /// Why a hook does not count here; `None` where it does.
    pub(super) fn missing(&self, hook: Hook) -> Option<&str> {
        self.missing.get(&hook).map(String::as_str)
    }

    /// What was counted so far.
    pub(super) fn read(&self) -> Result<Snapshot, String> {
        self.counters.read().map_err(|error| error.to_string())
    }
}

/// Tells the programs what the daemon would tell them.
fn fill(
    tables: &mut Tables,
    kernel: &Kernel,
    symbols: Option<&Kallsyms>,
    traffics: &Traffics,
) -> Result<(), TableError> {
    tables.set_ports(&traffics.port_table())?;
    tables.set_teredo(teredo_index(traffics))?;
    tables.set_reasons(kernel.reasons.infos())?;
    let places = symbols.map(|symbols| places(symbols, &kernel.reasons));
    tables.set_places(&places.unwrap_or_default())?;
    let mut indexes = vec![LOOPBACK];
    indexes.extend(links::devices().map(|(index, _)| index));
    for &index in &indexes {
        tables.set_interface(index, InterfaceInfo::default())?;
    }
    let addresses: BTreeSet<_> = links::addresses().collect();
    for &address in &addresses {
        tables.add_address(address)?;
    }
    tables.keep_only(|index| indexes.contains(&index), &addresses)
}

/// Attaches everything, in the order of the daemon. Gives what does not count then, and why.
fn attach(hooks: &mut Hooks, root: Result<OwnedFd, String>, flaw: Flaw) -> BTreeMap<Hook, String> {
    let mut missing = BTreeMap::new();
    let mut interfaces = vec![(LOOPBACK, "lo")];
    interfaces.extend(links::devices());
    for (index, name) in interfaces {
        if flaw.unattached == Some(Hook::Egress) {
            continue;
        }
        let is_loopback = index == LOOPBACK;
        let wanted = Wanted {
            name: name.to_owned(),
            loopback: is_loopback,
            ethernet: true,
            ingress: !is_loopback,
        };
        // Nothing of what is sent here crosses the loopback device.
        if let Err(error) = hooks.attach_interface(index, wanted)
            && !is_loopback
        {
            missing.insert(error.hook, error.to_string());
        }
    }
    if flaw.unattached != Some(Hook::Deliver)
        && let Err(error) = hooks.attach_deliver(root)
    {
        missing.insert(error.hook, error.to_string());
    }
    if flaw.unattached != Some(Hook::Drop)
        && let Err(error) = hooks.attach_drop()
    {
        missing.insert(error.hook, error.to_string());
    }
    missing
}
