//! The programs as the daemon loads them, with the tables that it fills.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use monitor::bpf::features::{Feature, Features};
use monitor::bpf::kernel::Kernel;
use monitor::bpf::load::{self, Settings};
use monitor::bpf::pins::DEFAULT_MOUNT;
use monitor::bpf::tables::Tables;
use monitor::btf::{self, Btf};
use monitor::config::{DEFAULT_LOG_BURST, DEFAULT_LOG_RATE};
use monitor::drop::ReasonTable;
use monitor::netns;
use monitor::traffic::{Traffics, builtin};

/// The object, every program of it loaded, for the calling thread's network namespace and with the
/// settings of a daemon that has no configuration.
pub(crate) fn load() -> Result<Ebpf> {
    load_without(&[])
}

/// Whether this kernel lets the drop program read headers directly.
pub(crate) fn reads_directly() -> Result<bool> {
    let kernel = Kernel::read(None)?;
    Ok(Features::probe(&kernel, Path::new(DEFAULT_MOUNT), &[]).has(Feature::HeadReads))
}

/// The same as on a kernel without BTF tracepoints.
pub(crate) fn load_raw() -> Result<Ebpf> {
    load_without(&[Feature::TpBtf])
}

fn load_without(without: &[Feature]) -> Result<Ebpf> {
    let kernel = Kernel::read(None)?;
    let features = Features::probe(&kernel, Path::new(DEFAULT_MOUNT), without);
    let loaded = load::load(
        &kernel,
        &features,
        &Settings {
            max_attempts: monitor_common::attempt::MAX_ATTEMPTS,
            log_dropped: true,
            log_allowed: false,
            log_rate: DEFAULT_LOG_RATE,
            log_burst: DEFAULT_LOG_BURST,
            netns_inum: netns::inum()?,
            netns_cookie: netns::cookie(),
            diagnostics: 0,
            verifier_log: false,
        },
        None,
    )?;
    let refused: Vec<_> = loaded
        .refused
        .values()
        .chain(loaded.unfollowed.values())
        .map(|refusal| refusal.why.as_str())
        .collect();
    ensure!(refused.is_empty(), "{}", refused.join("; "));
    Ok(loaded.ebpf)
}

/// Fills the tables that need nothing but the kernel, and returns all of them with the traffics.
pub(crate) fn tables(ebpf: &mut Ebpf) -> Result<(Tables, Traffics)> {
    let traffics = Traffics::new(builtin())?;
    let reasons = ReasonTable::from_btf(&Btf::read(btf::VMLINUX)?)?;
    let mut tables = Tables::new(ebpf).context("tables")?;
    tables.set_ports(&traffics.port_table())?;
    tables.set_reasons(reasons.infos())?;
    Ok((tables, traffics))
}
