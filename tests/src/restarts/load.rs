//! Traffic through the gateway of a rig, all of it counted by who sends it.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::attempts::lab::{Lab, TARGETS};
use crate::expect::Family;
use crate::lab::address;
use crate::netns::NetNs;
use crate::scrape::Counts;
use crate::wait::{DEADLINE, scaled, until};

use super::value;

/// What passes, and what a rule of the gateway drops.
const PASSED: u16 = 7701;
const BARRED: u16 = 7702;

/// The server that is asked for.
const HOST: u8 = 20;

/// Packets to the gateway's own socket.
const GATEWAY_PORT: u16 = 7701;

/// The counters that are compared.
pub const COUNTERS: [&str; 6] = [
    "packets_total",
    "bytes_total",
    "drops_total",
    "interface_packets_total",
    "attempts_total",
    "attempts_lost_total",
];

/// What was sent so far.
#[derive(Debug, Default)]
pub struct Sent {
    /// Datagrams that pass through the gateway.
    passed: AtomicU64,
    /// Datagrams to the gateway.
    inbound: AtomicU64,
    /// Datagrams that it drops.
    barred: AtomicU64,
    /// Connections that are established.
    connected: AtomicU64,
    /// Attempts that it drops.
    refused: AtomicU64,
}

/// One of these counts.
type Of = fn(&Sent) -> &AtomicU64;

/// Senders at work; they end with it.
#[derive(Debug)]
pub struct Load {
    sent: Arc<Sent>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    _sockets: (UdpSocket, UdpSocket, TcpListener),
}

fn target(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(address(family, TARGETS, HOST), port)
}

fn bound(host: &NetNs, at: SocketAddr) -> Result<UdpSocket> {
    host.run(|| Ok(UdpSocket::bind(at)?))
}

impl Load {
    /// Lays the rule, opens the sockets that take what passes, and begins to send.
    ///
    /// # Errors
    ///
    /// When a socket can't be had, or `nft` fails.
    pub fn begin(lab: &Lab, family: Family) -> Result<Self> {
        lab.gw.nft(&format!(
            "table inet load {{ chain forward {{ type filter hook forward priority 0; \
             meta l4proto {{ tcp, udp }} th dport {BARRED} drop; }}; }}"
        ))?;
        let here = SocketAddr::new(Lab::gateway(family), GATEWAY_PORT);
        let sockets = (
            bound(&lab.server, target(family, PASSED))?,
            bound(&lab.gw, here)?,
            lab.server
                .run(|| Ok(TcpListener::bind(target(family, PASSED))?))?,
        );
        let (sent, stop) = (Arc::new(Sent::default()), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        let datagrams: [(Of, SocketAddr); 3] = [
            (|sent| &sent.passed, target(family, PASSED)),
            (|sent| &sent.inbound, here),
            (|sent| &sent.barred, target(family, BARRED)),
        ];
        for (count, to) in datagrams {
            let socket = lab.client.run(|| {
                let any: IpAddr = match family {
                    Family::V4 => [0, 0, 0, 0].into(),
                    Family::V6 => [0_u16; 8].into(),
                };
                Ok(UdpSocket::bind(SocketAddr::new(any, 0))?)
            })?;
            let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || {
                repeat(&stop, || {
                    socket.send_to(b"some payload", to)?;
                    count(&sent).fetch_add(1, Ordering::Relaxed);
                    Ok(())
                })
            }));
        }
        let connects: [(Of, u16); 2] = [
            (|sent| &sent.connected, PASSED),
            (|sent| &sent.refused, BARRED),
        ];
        for (count, port) in connects {
            let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop));
            let to = target(family, port);
            let path = format!("/run/netns/{}", lab.client.name());
            let listener = sockets.2.try_clone()?;
            threads.push(std::thread::spawn(move || {
                let namespace = std::fs::File::open(path)?;
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
                repeat(&stop, || {
                    let domain = Domain::for_address(to);
                    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
                    if port == PASSED {
                        socket.connect_timeout(&to.into(), scaled(DEADLINE)?)?;
                        count(&sent).fetch_add(1, Ordering::Relaxed);
                        drop(listener.accept()?);
                    } else {
                        // The SYN goes out at once; nobody waits for it to come again.
                        socket.set_nonblocking(true)?;
                        let result = socket.connect(&to.into());
                        let code = result.err().and_then(|error| error.raw_os_error());
                        ensure!(
                            code == Some(libc::EINPROGRESS),
                            "a SYN did not go out, or was answered: {code:?}"
                        );
                        count(&sent).fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            }));
        }
        Ok(Self {
            sent,
            stop,
            threads,
            _sockets: sockets,
        })
    }

    /// Ends the senders; what was sent.
    ///
    /// # Errors
    ///
    /// When one of them failed.
    pub fn end(mut self) -> Result<Totals> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Ok(Totals {
            passed: read(&self.sent.passed),
            inbound: read(&self.sent.inbound),
            barred: read(&self.sent.barred),
            connected: read(&self.sent.connected),
            refused: read(&self.sent.refused),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Does something again and again, a few hundred times a second.
fn repeat(stop: &AtomicBool, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        match work() {
            // The queue of a device of a busy machine.
            Err(error)
                if error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|error| error.raw_os_error() == Some(libc::ENOBUFS)) => {}
            result => result?,
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    /// Datagrams that pass through the gateway.
    pub passed: u64,
    /// Datagrams to the gateway.
    pub inbound: u64,
    /// Datagrams that it drops.
    pub barred: u64,
    /// Connections that are established.
    pub connected: u64,
    /// Attempts that it drops.
    pub refused: u64,
}

/// What the daemon counted of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counted {
    /// As of [`Totals`], in its order.
    pub counts: [u64; 5],
    /// Attempts that were lost.
    pub lost: u64,
}

impl Totals {
    /// As they would be counted.
    #[must_use]
    pub const fn counted(&self) -> Counted {
        Counted {
            counts: [
                self.passed,
                self.inbound,
                self.barred,
                self.connected,
                self.refused,
            ],
            lost: 0,
        }
    }
}

/// Picks out of a scrape what the load makes.
#[must_use]
pub fn counted(counts: &Counts, family: Family) -> Counted {
    let datagrams = |traffic, direction, verdict| {
        let labels = [
            ("traffic", traffic),
            ("protocol", "udp"),
            ("family", family.name()),
            ("direction", direction),
            ("flow", "request"),
            ("verdict", verdict),
        ];
        value(counts, "peerwatch_packets_total", &labels)
    };
    let attempts = |traffic, outcome, blocked_by| {
        let labels = [
            ("traffic", traffic),
            ("family", family.name()),
            ("direction", "forwarded"),
            ("outcome", outcome),
            ("blocked_by", blocked_by),
        ];
        value(counts, "peerwatch_attempts_total", &labels)
    };
    let lost = ["table", "collision", "refused", "teredo"].map(|stream| {
        value(
            counts,
            "peerwatch_attempts_lost_total",
            &[("stream", stream)],
        )
    });
    Counted {
        counts: [
            datagrams("passed", "forwarded", "allowed"),
            datagrams("passed", "inbound", "allowed"),
            datagrams("barred", "forwarded", "dropped"),
            attempts("passed", "established", "none"),
            attempts("barred", "dropped", "local_firewall"),
        ],
        lost: lost.iter().sum(),
    }
}

/// Waits until the daemon has counted exactly this.
///
/// # Errors
///
/// When it does not, with what it has.
pub fn exactly(lab: &Lab, family: Family, wanted: Counted) -> Result<()> {
    let mut last = None;
    until("the counts are exact", DEADLINE * 2, || {
        let counts = counted(&lab.daemon.scrape_of(&COUNTERS)?, family);
        last = Some(counts);
        Ok((counts == wanted).then_some(()))
    })
    .with_context(|| {
        format!("passed, inbound, barred, connected, refused: sent {wanted:?}, counted {last:?}")
    })
}
