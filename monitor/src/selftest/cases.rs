//! The cases: what is sent, and what should be counted then.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use monitor_common::counter::Series;
use monitor_common::drop::Class;
use monitor_common::{Direction, Family, Flow, Protocol, Verdict};
use socket2::Socket;

use super::counts::{Names, Rise};
use super::lab::Lab;
use super::links::{address, ends};
use crate::bpf::Hook;
use crate::traffic::Traffics;

/// How long the connections of a case may take together: they are made within the host.
const CONNECT: Duration = Duration::from_secs(2);

/// One case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Plan {
    /// What the packets count as.
    pub(super) series: Series,
    /// The port that they go to.
    pub(super) port: u16,
    /// Whether a rule drops them.
    pub(super) verdict: Verdict,
    /// How many packets, or connections where TCP is let through: odd, and another number in each case, so
    /// that a mix-up shows.
    pub(super) count: u16,
}

/// All cases: first those without rules. Connections, of which each takes a descriptor until the end, come
/// first, where numbers are small.
pub(super) fn plans(traffics: &Traffics) -> Vec<Plan> {
    let mut plans = Vec::new();
    for &verdict in Verdict::ALL {
        for &protocol in Protocol::ALL {
            for traffic in traffics {
                let ports = traffic.ports.iter();
                for port in ports.filter(|port| port.protocol == protocol) {
                    for (&family, &direction) in Family::ALL.iter().flat_map(|family| {
                        Direction::ALL
                            .iter()
                            .map(move |direction| (family, direction))
                    }) {
                        plans.push(Plan {
                            series: Series {
                                traffic: traffic.index,
                                protocol,
                                family,
                                direction,
                                flow: Flow::Request,
                            },
                            port: port.number,
                            verdict,
                            count: 0,
                        });
                    }
                }
            }
        }
    }
    for (count, plan) in (3..).step_by(2).zip(&mut plans) {
        plan.count = count;
    }
    plans
}

/// The hook that counts a series.
const fn hook(direction: Direction, verdict: Verdict) -> Hook {
    match (verdict, direction) {
        (Verdict::Dropped, _) => Hook::Drop,
        (Verdict::Allowed, Direction::Inbound) => Hook::Deliver,
        (Verdict::Allowed, _) => Hook::Egress,
    }
}

impl Plan {
    /// Its name.
    pub(super) fn name(&self) -> String {
        let Series {
            protocol,
            family,
            direction,
            ..
        } = self.series;
        format!(
            "{} {} {} {} {}",
            protocol.as_str(),
            self.port,
            family.as_str(),
            direction.as_str(),
            self.verdict.as_str()
        )
    }

    /// The hook that it is about.
    pub(super) const fn hook(&self) -> Hook {
        hook(self.series.direction, self.verdict)
    }

    /// Whether whole connections are made.
    pub(super) const fn connects(&self) -> bool {
        matches!(
            (self.series.protocol, self.verdict),
            (Protocol::Tcp, Verdict::Allowed)
        )
    }

    /// What should be counted, what the case is about first.
    pub(super) fn expected(&self, names: Names<'_>) -> Vec<Rise> {
        let count = u64::from(self.count);
        let rise = |series: Series, by| Rise {
            series: names.packets(series, self.verdict),
            hook: hook(series.direction, self.verdict),
            by,
        };
        if self.connects() {
            // SYN and the last acknowledgement of the handshake; the answer to the first.
            let reply = Series {
                flow: Flow::Reply,
                direction: match self.series.direction {
                    Direction::Inbound => Direction::Outbound,
                    Direction::Outbound => Direction::Inbound,
                    Direction::Forwarded => Direction::Forwarded,
                },
                ..self.series
            };
            return vec![rise(self.series, 2 * count), rise(reply, count)];
        }
        let mut rises = vec![rise(self.series, count)];
        if self.verdict == Verdict::Dropped
            && let Some(reason) = names.firewall
        {
            rises.push(Rise {
                series: names.drops(self.series, Class::Firewall, reason),
                hook: Hook::Drop,
                by: count,
            });
        }
        rises
    }

    /// Sends the packets, no longer than until `end`. Gives the connections, if they are some: closing them would send more.
    pub(super) fn send(&self, lab: &Lab, end: Instant) -> io::Result<Vec<Socket>> {
        let Series {
            protocol,
            family,
            direction,
            ..
        } = self.series;
        let [from, to] = ends(direction);
        let target = SocketAddr::new(address(to, family), self.port).into();
        let socket = || lab.socket(from, family, protocol);
        let mut connections = Vec::new();
        match protocol {
            Protocol::Udp => {
                let socket = socket()?;
                for _ in 0..self.count {
                    self.refused(socket.send_to(b"peerwatch self-test", &target).map(drop))?;
                }
            }
            Protocol::Tcp if self.connects() => {
                let end = end.min(Instant::now() + CONNECT);
                for _ in 0..self.count {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    let socket = socket()?;
                    socket.connect_timeout(&target, left)?;
                    connections.push(socket);
                }
            }
            Protocol::Tcp => {
                for _ in 0..self.count {
                    let socket = socket()?;
                    socket.set_nonblocking(true)?;
                    // Closed at once: a SYN is repeated after a second.
                    self.refused(socket.connect(&target))?;
                }
            }
        }
        Ok(connections)
    }

    /// A rule of the output hook lets the sender know; and a connection goes on by itself.
    fn refused(&self, result: io::Result<()>) -> io::Result<()> {
        result.or_else(|error| match error.raw_os_error() {
            Some(libc::EINPROGRESS) => Ok(()),
            Some(libc::EPERM) if self.verdict == Verdict::Dropped => Ok(()),
            _ => Err(error),
        })
    }
}
