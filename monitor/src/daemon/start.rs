//! From the configuration and what the kernel offers to loaded programs: they are loaded, and the tables that
//! do not change are filled. Nothing is attached yet.

use std::sync::Arc;

use tracing::warn;

use super::attempts::Attempts;
use super::calls::Calls;
use super::early::Early;
use super::events::{Diagnostics, PacketLog};
use super::keep::Store;
use super::lookout::Lookout;
use super::teredo::Teredo;
use super::{RunError, coverage, keep, places, system};
use crate::bpf::attach::Hooks;
use crate::bpf::attempts::AttemptMap;
use crate::bpf::counters::Counters;
use crate::bpf::kernel::Kernel;
use crate::bpf::load::{self, Kept, Loaded, Settings};
use crate::bpf::tables::Tables;
use crate::config::{Config, LogPackets};
use crate::metrics::attempts::teredo_index;
use crate::metrics::{KernelInfo, Source};
use crate::netns;
use crate::saved::Saved;

/// Everything that is loaded and not attached yet.
pub(super) struct Prepared {
    pub(super) hooks: Hooks,
    pub(super) tables: Tables,
    pub(super) places: places::Watched,
    pub(super) source: Arc<Source>,
    pub(super) packet_log: PacketLog,
    pub(super) attempts: Attempts,
    pub(super) diagnostics: Option<Diagnostics>,
    pub(super) store: Option<Store>,
    pub(super) saved: Option<Saved>,
}

fn info(kernel: &Kernel, self_tested: Option<bool>) -> KernelInfo {
    let release = nix::sys::utsname::uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let btf = kernel.btf.is_ok();
    KernelInfo {
        release,
        btf,
        drop_reasons: btf.then_some(kernel.facts.has_reason),
        self_tested,
    }
}

/// Loads the programs and fills the tables that do not change.
///
/// Where a daemon before left counters, the traffics of `config` get the indexes that these are under.
pub(super) fn prepare(config: &mut Config, early: &Early) -> Result<Prepared, RunError> {
    let (kernel, features) = (&early.kernel, &early.features);
    let inum = netns::inum().map_err(system("the network namespace is not known"))?;
    let loaded = load::load(
        kernel,
        features,
        &Settings {
            log_dropped: matches!(config.log_packets, LogPackets::Dropped | LogPackets::All),
            log_allowed: matches!(config.log_packets, LogPackets::Allowed | LogPackets::All),
            log_rate: config.log_rate,
            log_burst: config.log_burst,
            netns_inum: inum,
            netns_cookie: netns::cookie(),
            diagnostics: config.bpf_log.aya_level(),
            max_attempts: config.max_attempts,
            verifier_log: config.verifier_log,
        },
        keep::pins(&config.kept, inum),
    )?;
    let half = loaded.kept.as_ref().and_then(Kept::half);
    let prepared = fill(config, early, loaded, inum);
    if prepared.is_err()
        && let Some(half) = half
    {
        half.remove();
    }
    prepared
}

/// The rest of it, with what was loaded.
fn fill(
    config: &mut Config,
    early: &Early,
    mut loaded: Loaded,
    inum: u32,
) -> Result<Prepared, RunError> {
    let (kernel, features) = (&early.kernel, &early.features);
    if let Some(refusal) = loaded.nothing() {
        return Err(RunError::Refused(refusal.why.clone()));
    }
    coverage::say(kernel, features, &loaded);
    let (store, saved) = keep::store(&config.kept, inum);
    let saved = keep::adopt_traffics(config, &loaded, saved)?;
    if let Some(kept) = &mut loaded.kept
        && let Err(error) = kept.owners_are(config.traffics.owners())
    {
        warn!("{error}");
    }
    let follow_attempts = loaded.follows_attempts();
    let mut tables = Tables::new(&mut loaded.ebpf)?;
    tables.set_ports(&config.traffics.port_table())?;
    tables.set_teredo(teredo_index(&config.traffics))?;
    tables.set_reasons(kernel.reasons.infos())?;
    let places = places::Watched::new(kernel.reasons.clone(), &mut tables)?;
    let counters = Counters::new(&mut loaded.ebpf)?;
    let teredo = Teredo::new(&mut loaded.ebpf)?;
    let mut map = AttemptMap::new(&mut loaded.ebpf)?;
    if let Some(before) = loaded.kept.as_mut().and_then(Kept::attempts_before)
        && let Err(error) = map.take_over(before)
    {
        warn!("the attempts that were followed before are lost: {error}");
    }
    let lookout = Lookout::new(&mut loaded.ebpf)?;
    let calls = Calls::new(&mut loaded.ebpf)
        .map_err(system("the calls of the kernel programs cannot be read"))?;
    let attempts = Attempts::new(map, config.max_attempts, teredo, lookout, calls);
    let mut packet_log = PacketLog::new(&mut loaded.ebpf, config)
        .map_err(system("the ring buffer of packet events cannot be read"))?;
    let diagnostics = Diagnostics::new(&mut loaded.ebpf, config.bpf_log).map_err(system(
        "the diagnostics of the kernel programs cannot be read",
    ))?;
    let mut hooks = Hooks::new(loaded, features);
    let source = Arc::new(Source::new(
        counters,
        Arc::new(config.traffics.clone()),
        hooks.states(),
        Arc::new(kernel.reasons.clone()),
        info(kernel, early.self_tested),
    ));
    source.watch_log(packet_log.unwritten());
    source.with_attempts(|attempts| attempts.followed = follow_attempts);
    if let Some(saved) = &saved {
        hooks.begin(Some(saved.at));
        source.resume(saved.shown.clone(), attempts.has_maps(&saved.attempts));
    }
    match source.losses() {
        Ok(losses) => packet_log.begin(&losses),
        Err(error) => warn!("{error}"),
    }
    Ok(Prepared {
        hooks,
        tables,
        places,
        source,
        packet_log,
        attempts,
        diagnostics,
        store,
        saved,
    })
}
