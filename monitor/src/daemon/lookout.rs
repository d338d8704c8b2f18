//! Signs of life of hosts that do not answer: a silent host that is alive means that something blocks.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use aya::Ebpf;
use tracing::warn;

use crate::attempt::tracker::Hosts;
use crate::bpf::silent::SilentHosts;
use crate::bpf::tables::TableError;
use crate::neighbour::{self, Neighbour};

/// How often the neighbour table is read at most, while hosts are silent.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks out for packets of hosts that do not answer.
#[derive(Debug)]
pub(super) struct Lookout {
    hosts: SilentHosts,
    /// When the neighbours were read last.
    neighbours: Option<Duration>,
    /// Whether the last time failed: said once.
    failed: bool,
}

impl Lookout {
    /// Takes its table out of a loaded object.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, TableError> {
        Ok(Self {
            hosts: SilentHosts::new(ebpf)?,
            neighbours: None,
            failed: false,
        })
    }

    /// Takes the hosts that were heard; `servers` are waited for besides. `now` is on the monotonic clock.
    pub(super) fn tell(
        &mut self,
        hosts: &mut Hosts,
        servers: impl Iterator<Item = IpAddr>,
        now: Duration,
    ) {
        let mut unproven = hosts.unproven(now);
        unproven.extend(servers);
        for (host, last) in self.hosts.heard() {
            hosts.is_seen(host, last);
        }
        let is_due = |last: Duration| now.saturating_sub(last) >= INTERVAL;
        let is_nobody = unproven.is_empty() && !hosts.any_awaited();
        if is_nobody || !self.neighbours.is_none_or(is_due) {
            return;
        }
        self.neighbours = Some(now);
        match neighbour::read() {
            Ok(neighbours) => {
                // One that answered on another link is not gone.
                let there = neighbours.iter().filter(|neighbour| neighbour.answered);
                let there: HashSet<IpAddr> = there.map(|neighbour| neighbour.address).collect();
                for Neighbour {
                    address,
                    answered,
                    ago,
                } in neighbours
                {
                    let at = now.saturating_sub(ago);
                    if answered && unproven.contains(&address) {
                        hosts.is_seen(address, at);
                    } else if !answered && !there.contains(&address) {
                        hosts.is_gone(address, at);
                    }
                }
                self.failed = false;
            }
            Err(error) => self.fail(&format!("the neighbour table cannot be read: {error}")),
        }
    }

    /// Looks out for these hosts from now on.
    pub(super) fn set(&mut self, hosts: &HashSet<IpAddr>) {
        if let Err(error) = self.hosts.set(hosts) {
            self.fail(&format!("silent hosts cannot be looked out for: {error}"));
        }
    }

    fn fail(&mut self, why: &str) {
        if !self.failed {
            warn!("{why}; some blocks beyond this host may show as \"unknown\"");
        }
        self.failed = true;
    }
}
