//! One scene at work: its ways through the gateway, its rules and connections, and the exact comparison.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Socket, Type};

pub use super::words::{Seen, Target, Way};

use super::lab::{FAR, FORBIDDEN, Lab, NOWHERE, SPOOFED, Slot, TARGETS, WAN};
use crate::expect::{Expected, Family};
use crate::lab::address;
use crate::netns::NetNs;
use crate::scrape::{Counts, rise};
use crate::undo::Undo;
use crate::wait::until;

/// The port behind a translation of the port.
const BEHIND: u16 = 18_080;

/// Shorter than the wait before a SYN is repeated.
pub const ONCE: Duration = Duration::from_millis(700);

/// Long enough for any answer. An ICMP error that comes while the client is still in its call, as it may
/// where all is one machine, is heard only when the SYN is repeated.
pub const ANSWER: Duration = Duration::from_secs(4);

/// How long an attempt may take from the end of its scene until it is counted.
const PATIENCE: Duration = Duration::from_secs(25);

/// Two readings of the daemon and more: what is counted once too often shows.
const REST: Duration = Duration::from_millis(1200);

/// A scene in its slot.
#[derive(Debug)]
pub struct Act<'a> {
    /// The lab, shared with other scenes.
    pub lab: &'a Lab,
    /// The traffic that this scene has for itself.
    pub slot: &'a Slot,
    /// How it goes through the gateway.
    pub way: Way,
    /// Address family.
    pub family: Family,
    /// Whom it tries to reach.
    pub target: IpAddr,
    /// Number of this scene in its lab.
    pub number: u8,
    tables: AtomicU32,
    undo: Mutex<Undo<'a>>,
}

impl<'a> Act<'a> {
    /// Makes it, and sets the translation that its way needs.
    ///
    /// # Errors
    ///
    /// When the rules are refused.
    pub fn new(
        lab: &'a Lab,
        slot: &'a Slot,
        way: Way,
        family: Family,
        target: Target,
    ) -> Result<Self> {
        let number = lab.number();
        let net = match target {
            Target::Server => TARGETS,
            Target::MissingNeighbour => WAN,
            Target::MissingBeyond => FAR,
            Target::Nowhere => NOWHERE,
            Target::Forbidden => FORBIDDEN,
        };
        let this = Self {
            lab,
            slot,
            way,
            family,
            target: if way == Way::Inbound {
                Lab::gateway(family)
            } else {
                address(family, net, number)
            },
            number,
            tables: AtomicU32::new(0),
            undo: Mutex::new(Undo::new()),
        };
        let (ip, port) = (this.ip(), slot.port);
        match way {
            Way::Masquerade => this.rule(
                &lab.gw,
                "type nat hook postrouting priority 100",
                &format!("{ip} daddr {} masquerade", this.target),
            )?,
            Way::Dnat => this.rule(
                &lab.gw,
                "type nat hook prerouting priority -100",
                &format!("tcp dport {port} dnat {ip} to {}", this.listens()),
            )?,
            _ => {}
        }
        Ok(this)
    }

    /// Runs a scene, waits for what it expects, and compares every series that it may change.
    ///
    /// # Errors
    ///
    /// When a step fails, or any series is not exactly what it should be.
    pub fn perform(&self, scene: &dyn Fn(&Self) -> Result<Expected>, alone: bool) -> Result<()> {
        let mine = |counts| self.mine(counts, alone);
        let before = mine(self.lab.counts()?);
        let result = scene(self).and_then(|expected| {
            let reached = until("the expected counts", PATIENCE, || {
                let rises = rise(&before, &mine(self.lab.recent_counts()?))?;
                let wrong = rises.iter().any(|(series, n)| *n > expected.of(series));
                if expected.reached_by(&rises) || wrong {
                    return Ok(Some(()));
                }
                std::thread::sleep(Duration::from_millis(100));
                Ok(None)
            });
            std::thread::sleep(REST);
            let rises = rise(&before, &mine(self.lab.counts()?))?;
            match expected.difference(&rises) {
                None => reached,
                Some(difference) => bail!("counters differ:\n{difference}"),
            }
        });
        let undone = std::mem::take(&mut *self.undo()).finish();
        result.and(undone)
    }

    /// The series that this scene may change: all of them when it is alone in its lab.
    fn mine(&self, counts: Counts, alone: bool) -> Counts {
        let label = format!("traffic=\"{}\"", self.slot.traffic);
        counts
            .into_iter()
            .filter(|(series, _)| alone || series.to_string().contains(&label))
            .collect()
    }

    /// Adds attempts of this scene that end like this.
    pub fn expect(&self, expected: &mut Expected, outcome: &str, blocked_by: &str, count: u64) {
        let key = (&*self.slot.traffic, self.family, self.way.direction());
        expected.ended(key, (outcome, blocked_by), count);
    }

    /// Attempts of this scene that end like this, and no others.
    #[must_use]
    pub fn only(&self, outcome: &str, blocked_by: &str, count: u64) -> Expected {
        let mut expected = Expected::nothing();
        self.expect(&mut expected, outcome, blocked_by, count);
        expected
    }

    /// The family as in rules.
    #[must_use]
    pub const fn ip(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    /// Who tries.
    #[must_use]
    pub const fn from(&self) -> &'a NetNs {
        match self.way {
            Way::Outbound => &self.lab.gw,
            _ => &self.lab.client,
        }
    }

    /// Who is tried to be reached.
    #[must_use]
    pub const fn host(&self) -> &'a NetNs {
        match self.way {
            Way::Inbound => &self.lab.gw,
            _ => &self.lab.server,
        }
    }

    /// Where the client sends its SYN.
    #[must_use]
    pub const fn destination(&self) -> SocketAddr {
        match self.way {
            Way::Dnat => SocketAddr::new(Lab::gateway(self.family), self.slot.port),
            _ => SocketAddr::new(self.target, self.slot.port),
        }
    }

    /// Where the target listens.
    #[must_use]
    pub const fn listens(&self) -> SocketAddr {
        match self.way {
            Way::Dnat => SocketAddr::new(self.target, BEHIND),
            _ => SocketAddr::new(self.target, self.slot.port),
        }
    }

    /// An address of the client that nobody else uses, and at which it is deaf.
    #[must_use]
    pub const fn spoofed(&self, host: u8) -> IpAddr {
        address(self.family, SPOOFED, host)
    }

    /// What a rule behind a translation knows a SYN of this scene by.
    #[must_use]
    pub fn syn(&self) -> String {
        let to = self.listens();
        let (ip, address, port) = (self.ip(), to.ip(), to.port());
        format!("{ip} daddr {address} tcp dport {port} tcp flags syn / syn,ack")
    }

    /// The same before a translation.
    #[must_use]
    pub fn syn_as_sent(&self) -> String {
        format!("tcp dport {} tcp flags syn / syn,ack", self.slot.port)
    }

    /// What a rule knows a SYN-ACK by, where it comes from the target's own address.
    #[must_use]
    pub fn syn_ack(&self) -> String {
        let from = self.listens();
        let (ip, address, port) = (self.ip(), from.ip(), from.port());
        format!("{ip} saddr {address} tcp sport {port} tcp flags syn,ack / syn,ack")
    }

    /// The same where the client sees it.
    #[must_use]
    pub fn syn_ack_as_seen(&self) -> String {
        format!("tcp sport {} tcp flags syn,ack / syn,ack", self.slot.port)
    }

    /// Adds a rule to a host, in a table of its own, until the end of the scene. `hook` is what stands
    /// before the first semicolon of a chain.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn rule(&self, host: &'a NetNs, hook: &str, rule: &str) -> Result<()> {
        let table = self.table(host, hook, rule)?;
        self.undo()
            .push(move || host.nft(&format!("delete table {table}")));
        Ok(())
    }

    /// The same until the caller deletes the table, whose family and name are returned.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn table(&self, host: &NetNs, hook: &str, rule: &str) -> Result<String> {
        let family = if hook.contains(" device ") {
            "netdev"
        } else {
            "inet"
        };
        let number = self.tables.fetch_add(1, Ordering::Relaxed);
        let table = format!("{family} {}_{}_{number}", self.slot.traffic, self.number);
        host.nft(&format!(
            "table {table} {{ chain it {{ {hook}; {rule}; }}; }}"
        ))?;
        Ok(table)
    }

    /// Opens a listener at the target until the end of the scene.
    ///
    /// # Errors
    ///
    /// When it can't.
    pub fn listen(&self) -> Result<()> {
        let listener = self.listener(4096)?;
        self.hold(listener);
        Ok(())
    }

    /// A listener at the target.
    ///
    /// # Errors
    ///
    /// When it can't be opened.
    pub fn listener(&self, backlog: i32) -> Result<TcpListener> {
        let at = self.listens();
        self.host().run(|| {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&at.into()).with_context(|| at.to_string())?;
            socket.listen(backlog)?;
            Ok(socket.into())
        })
    }

    /// Keeps a value until the end of the scene.
    pub fn hold<T: Send + 'a>(&self, value: T) {
        self.undo().hold(value);
    }

    /// Adds a step for the end of the scene.
    pub fn on_end(&self, step: impl FnOnce() -> Result<()> + Send + 'a) {
        self.undo().push(step);
    }

    /// Connects at once this many times from the client, each from its own socket, and checks that each
    /// sees this. Connections are held until the end of the scene.
    ///
    /// # Errors
    ///
    /// When one sees anything else.
    pub fn connect(&self, count: u64, timeout: Duration, seen: Seen) -> Result<()> {
        self.connect_from(None, count, timeout, seen)
    }

    /// The same from an address.
    ///
    /// # Errors
    ///
    /// As [`Act::connect`].
    pub fn connect_from(
        &self,
        from: Option<IpAddr>,
        count: u64,
        timeout: Duration,
        seen: Seen,
    ) -> Result<()> {
        for result in self.results(from, count, timeout, seen)? {
            self.hold(result);
        }
        Ok(())
    }

    /// The same as [`Act::connect`], without holding the connections.
    ///
    /// # Errors
    ///
    /// As [`Act::connect`].
    pub fn connect_and_close(&self, count: u64, timeout: Duration, seen: Seen) -> Result<()> {
        self.results(None, count, timeout, seen).map(drop)
    }

    fn results(
        &self,
        from: Option<IpAddr>,
        count: u64,
        timeout: Duration,
        seen: Seen,
    ) -> Result<Vec<io::Result<TcpStream>>> {
        let to = self.destination();
        let results = self.from().run(|| {
            // Threads are in the namespace of the one that starts them.
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..count)
                    .map(|_| scope.spawn(move || connect_once(from, to, timeout)))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| {
                        thread
                            .join()
                            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                    })
                    .collect::<Result<Vec<_>>>()
            })
        })?;
        let mut wrong = String::new();
        for result in &results {
            let got = Seen::of(result)?;
            if got != seen {
                write!(wrong, " {got:?}")?;
            }
        }
        ensure!(wrong.is_empty(), "clients see{wrong} and not {seen:?}");
        Ok(results)
    }

    fn undo(&self) -> MutexGuard<'_, Undo<'a>> {
        self.undo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect_once(
    from: Option<IpAddr>,
    to: SocketAddr,
    timeout: Duration,
) -> Result<io::Result<TcpStream>> {
    let Some(from) = from else {
        return Ok(TcpStream::connect_timeout(&to, timeout));
    };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    let result = socket.connect_timeout(&to.into(), timeout);
    Ok(result.map(|()| socket.into()))
}
