//! What this host offers, what will be seen here and what will not, and what to do about it: `peerwatch doctor`.
//!
//! Everything is looked at by what the daemon itself would use: the same probes, the same programs, the same rules
//! of which interfaces are watched. Nothing stays: programs are loaded and let go, the self-test has namespaces of
//! its own.

mod blind;
mod finding;
mod firewall;
mod host;
mod interfaces;
mod kernel;
mod offload;
mod programs;
#[cfg(test)]
mod tests;
mod text;

use serde::Serialize;

use crate::bpf::kernel::BtfFileError;
use crate::cgroup::Root;
use crate::config::Config;
use crate::daemon::early;
use crate::netlink::channel::Channel;
use crate::selftest::{self, SelfTest};
use crate::{conntrack, preflight};

pub use finding::{Finding, Weight};
pub use firewall::{Firewall, Mentioned};
pub use host::Host;
pub use interfaces::Watched;
pub use kernel::{FeatureLine, HookLine, State};
pub use programs::OnHook;

/// The version of the JSON form: raised when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// Everything that the doctor found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of this peerwatch.
    pub version: &'static str,
    /// Revision that it was built from.
    pub revision: &'static str,
    /// The worst of the findings.
    pub verdict: Weight,
    /// The machine and this process.
    pub host: Host,
    /// What the kernel offers.
    pub features: Vec<FeatureLine>,
    /// Whether each hook has a program here.
    pub hooks: Vec<HookLine>,
    /// The interfaces of this network namespace.
    pub interfaces: Vec<Watched>,
    /// Firewalls, and the rules that name a watched port.
    pub firewall: Firewall,
    /// Connections in the table and the most that it takes; `None` where there is no table.
    pub conntrack: Option<Connections>,
    /// BPF programs on the same hooks, in the order in which they run.
    pub programs: Vec<OnHook>,
    /// What limits peerwatch here or should be known, the weightiest first.
    pub findings: Vec<Finding>,
    /// Ways of packets that nothing sees and nobody can detect.
    pub undetectable: &'static [&'static str],
    /// The self-test, where it was wanted.
    pub selftest: Option<SelfTest>,
}

/// How full the table of connections is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Connections {
    /// Connections in the table.
    pub entries: u64,
    /// The most that it takes; 0 for no limit.
    pub limit: u64,
}

/// Looks at everything, for a daemon with this configuration; `is_tested` with the self-test.
///
/// # Errors
///
/// Where a file with BTF is named and cannot be used.
pub fn examine(config: &Config, is_tested: bool) -> Result<Report, BtfFileError> {
    // Before Linux 5.11 programs are refused without it; what is refused then says so itself.
    preflight::raise_locked_memory().ok();
    // The self-test has some 250 files open.
    preflight::raise_open_files().ok();
    let (kernel, features) = early::look(config)?;
    let cgroup = Root::find();

    let mut findings = Vec::new();
    let host = Host::look(&kernel, &config.kept.bpffs, &mut findings);
    let features_said = kernel::features(&features, &mut findings);
    let hooks = kernel::hooks(&kernel, &features, host.can_load(), &mut findings);
    let interfaces = interfaces::look(&config.interfaces, &features, &mut findings);
    let ports = firewall::ports(&config.traffics);
    let firewall = Firewall::look(&ports, &interfaces, &mut findings);
    let conntrack = connections(&mut findings);
    let programs = programs::look(&interfaces, &kernel, &cgroup, &mut findings);
    blind::look(&ports, &interfaces, &mut findings);
    offload::look(&interfaces, &mut findings);
    let selftest = (is_tested && host.can_load()).then(|| {
        let test = selftest::run(&kernel, &features, &cgroup);
        finding::of_self_test(&test, &mut findings);
        test
    });
    finding::sort(&mut findings);
    let weights = findings.iter().map(|finding| finding.weight);
    Ok(Report {
        format: FORMAT,
        version: crate::cli::VERSION,
        revision: crate::cli::REVISION,
        verdict: weights.max().unwrap_or(Weight::Note),
        host,
        features: features_said,
        hooks,
        interfaces,
        firewall,
        conntrack,
        programs,
        findings,
        undetectable: blind::UNDETECTABLE,
        selftest,
    })
}

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        text::render(self)
    }

    /// The report for programs.
    ///
    /// # Errors
    ///
    /// None that is known of: all that it holds has a form in JSON.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// 0 where all is fine, 1 where something is not seen or not known, 2 where the daemon cannot work.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.verdict {
            Weight::Note => 0,
            Weight::Limited => 1,
            Weight::CannotWork => 2,
        }
    }
}

/// What is said of filters in the hardware of interfaces with these names, whose indexes are 1 and more, wherever the
/// answers come from.
pub(crate) fn in_hardware(channel: &mut dyn Channel, names: &[&str]) -> Vec<Finding> {
    let interfaces: Vec<Watched> = (1..)
        .zip(names)
        .map(|(index, name)| Watched {
            name: (*name).to_owned(),
            index,
            kind: None,
            slave_of: None,
            lies_on: None,
            mode: None,
            hooks: Vec::new(),
            left_out: None,
            xdp: None,
        })
        .collect();
    let mut findings = Vec::new();
    offload::ask(channel, &interfaces, &mut findings);
    findings
}

/// A table that is as full as that, percent, is about to drop packets.
const NEARLY_FULL: u64 = 90;

fn connections(findings: &mut Vec<Finding>) -> Option<Connections> {
    let table = conntrack::read()?;
    let (entries, limit) = (table.entries, table.limit);
    if limit > 0 && entries.saturating_mul(100) >= limit.saturating_mul(NEARLY_FULL) {
        findings.push(Finding {
            id: "conntrack_nearly_full",
            weight: Weight::Limited,
            what: format!("the table of connections has {entries} of {limit} entries"),
            effect: "once it is full, the kernel drops the first packet of every new connection, whatever the rules say"
                .to_owned(),
            hint: Some("raise sysctl net.netfilter.nf_conntrack_max".to_owned()),
        });
    }
    Some(Connections { entries, limit })
}
