//! One row at work: the base traffic of each way through the gateway, and the exact comparison.

use std::net::SocketAddr;
use std::sync::Mutex;

use anyhow::{Result, bail};

use crate::expect::{Expected, Family, Kind};
use crate::lab::{BRIDGED_SERVER, GATEWAY, Lab, Net, PEER, SERVER, address, mac};
use crate::packet::{Packet, Protocol};
use crate::rows::Row;
use crate::scrape::{Counts, rise};
use crate::send::{send_connects, send_datagrams, send_made_here};
use crate::undo::Undo;
use crate::wait::{DEADLINE, until};

/// Bytes of payload in the datagrams of a row.
pub const PAYLOAD: usize = 16;

/// How packets go through the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// From the peer to the gateway, in at `lan0`.
    Inbound,
    /// The same through the bridge, in at `br0`.
    InboundBridge,
    /// From sockets of the gateway to the server, out at `wan0`.
    Outbound,
    /// From a raw socket of the gateway, header included, to the server.
    OutboundRaw,
    /// From sockets of the gateway through the bridge, out at `br0`.
    OutboundBridge,
    /// Routed from the peer to the server, in at `lan0`, out at `wan0`.
    Forwarded,
    /// Bridged from the peer to the server, in at `bp0`, out at `bp1`.
    Bridged,
    /// Routed from `lan0` to the server on the bridge, out at `br0`.
    RoutedToBridge,
}

impl Way {
    /// The label `direction`.
    #[must_use]
    pub const fn direction(self) -> &'static str {
        match self {
            Self::Inbound | Self::InboundBridge => "inbound",
            Self::Outbound | Self::OutboundRaw | Self::OutboundBridge => "outbound",
            Self::Forwarded | Self::Bridged | Self::RoutedToBridge => "forwarded",
        }
    }

    /// The interface at which an allowed packet counts.
    #[must_use]
    pub const fn interface(self) -> &'static str {
        match self {
            Self::Inbound => "lan0",
            Self::InboundBridge | Self::OutboundBridge | Self::RoutedToBridge => "br0",
            Self::Outbound | Self::OutboundRaw | Self::Forwarded => "wan0",
            Self::Bridged => "bp1",
        }
    }

    /// Network and host of the source and of the destination.
    const fn ends(self) -> ((Net, u8), (Net, u8)) {
        match self {
            Self::Inbound => ((Net::Lan, PEER), (Net::Lan, GATEWAY)),
            Self::InboundBridge => ((Net::Bridge, PEER), (Net::Bridge, GATEWAY)),
            Self::Outbound | Self::OutboundRaw => ((Net::Wan, GATEWAY), (Net::Wan, SERVER)),
            Self::OutboundBridge => ((Net::Bridge, GATEWAY), (Net::Bridge, BRIDGED_SERVER)),
            Self::Forwarded => ((Net::Lan, PEER), (Net::Wan, SERVER)),
            Self::Bridged => ((Net::Bridge, PEER), (Net::Bridge, BRIDGED_SERVER)),
            Self::RoutedToBridge => ((Net::Lan, PEER), (Net::Bridge, BRIDGED_SERVER)),
        }
    }
}

/// How the packets of a row look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Shape {
    /// Towards the watched port, no options.
    #[default]
    Plain,
    /// With IPv4 options or IPv6 extension headers.
    ExtraHeaders,
    /// From the watched port.
    Reply,
}

/// A row in a lab.
#[derive(Debug)]
pub struct Case<'a> {
    /// The lab it has for itself.
    pub lab: &'a Lab,
    /// What it tests.
    pub row: &'a Row,
    /// How many packets it sends.
    pub count: u64,
    undo: Mutex<Undo<'a>>,
}

/// What a scene does once it is set, and what has to come of it.
pub struct Plan<'a> {
    /// Sends the packets.
    pub send: Box<dyn FnOnce() -> Result<()> + 'a>,
    /// What the counters have to show.
    pub expected: Expected,
    /// Done again and again while the counts are awaited.
    pub meanwhile: Box<dyn FnMut() -> Result<()> + 'a>,
    /// Whether the packets really went where the scene says; runs before the last comparison.
    pub check: Box<dyn FnOnce() -> Result<()> + 'a>,
}

impl std::fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

impl<'a> Plan<'a> {
    /// A plan that checks nothing besides the counters.
    pub fn new(send: impl FnOnce() -> Result<()> + 'a, expected: Expected) -> Self {
        Self {
            send: Box::new(send),
            expected,
            meanwhile: Box::new(|| Ok(())),
            check: Box::new(|| Ok(())),
        }
    }

    /// Adds something that has to go on while the counts are awaited, such as reading a socket.
    #[must_use]
    pub fn with_meanwhile(mut self, step: impl FnMut() -> Result<()> + 'a) -> Self {
        self.meanwhile = Box::new(step);
        self
    }

    /// Adds a check.
    #[must_use]
    pub fn checked_by(mut self, check: impl FnOnce() -> Result<()> + 'a) -> Self {
        self.check = Box::new(check);
        self
    }
}

impl<'a> Case<'a> {
    /// A row that is about to run.
    #[must_use]
    pub fn new(lab: &'a Lab, row: &'a Row, count: u64) -> Self {
        Self {
            lab,
            row,
            count,
            undo: Mutex::new(Undo::new()),
        }
    }

    /// Sets the scene, sends, compares, and takes the scene down.
    ///
    /// # Errors
    ///
    /// When a step fails, or the counters show anything else than they should.
    pub fn run(&self) -> Result<()> {
        let plan = self.row.scene.set(self)?;
        let result = measure(self.lab, plan);
        let undone = std::mem::take(&mut *self.undo()).finish();
        result.and(undone)
    }

    /// Adds a step that takes the scene down.
    pub fn on_end(&self, step: impl FnOnce(&'a Lab) -> Result<()> + Send + 'a) {
        let lab = self.lab;
        self.undo().push(move || step(lab));
    }

    /// Keeps a value (a socket, an attached program) until the scene is taken down.
    pub fn hold<T: Send + 'a>(&self, value: T) {
        self.undo().hold(value);
    }

    fn undo(&self) -> std::sync::MutexGuard<'_, Undo<'a>> {
        self.undo
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The watched port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.row.port.number
    }

    /// Transport protocol of the row.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.row.port.protocol
    }

    /// Address family of the row.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.row.family
    }

    /// Labels of the row's packets.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind {
            traffic: self.row.port.traffic,
            protocol: self.protocol(),
            family: self.family(),
            direction: self.row.scene.way.direction(),
            flow: if self.row.scene.shape == Shape::Reply {
                "reply"
            } else {
                "request"
            },
        }
    }

    /// A packet of this row between these hosts, from a new source port.
    #[must_use]
    pub fn packet(&self, source: (Net, u8), destination: (Net, u8)) -> Packet {
        let family = self.family();
        let (mut from, mut to) = (self.lab.port(), self.port());
        if self.row.scene.shape == Shape::Reply {
            std::mem::swap(&mut from, &mut to);
        }
        let mut packet = Packet::new(
            self.protocol(),
            (address(family, source.0, source.1), from),
            (address(family, destination.0, destination.1), to),
        );
        packet.extra_headers = self.row.scene.shape == Shape::ExtraHeaders;
        packet
    }

    /// As many packets as the row sends, on its way.
    #[must_use]
    pub fn packets(&self) -> Vec<Packet> {
        let (source, destination) = self.row.scene.way.ends();
        (0..self.count)
            .map(|_| self.packet(source, destination))
            .collect()
    }

    /// Where the row's sockets are or send to.
    #[must_use]
    pub const fn destination(&self) -> SocketAddr {
        let (_, (net, host)) = self.row.scene.way.ends();
        Lab::socket(self.family(), net, host, self.port())
    }

    /// Sends the row's packets on its way.
    ///
    /// # Errors
    ///
    /// When they can't be sent.
    pub fn send(&self) -> Result<()> {
        match self.row.scene.way {
            Way::Inbound | Way::Forwarded | Way::RoutedToBridge => self.send_lan(&self.packets()),
            Way::InboundBridge => self.send_bridge(GATEWAY, &self.packets()),
            Way::Bridged => self.send_bridge(BRIDGED_SERVER, &self.packets()),
            Way::Outbound | Way::OutboundBridge => self.send_by_sockets(self.destination()),
            Way::OutboundRaw => {
                let packets: Vec<_> = self.packets().iter().map(Packet::ip).collect();
                send_made_here(&self.lab.gw, self.destination().ip(), &packets)
            }
        }
    }

    /// Sends from sockets of the gateway.
    ///
    /// # Errors
    ///
    /// When they can't be opened.
    pub fn send_by_sockets(&self, to: SocketAddr) -> Result<()> {
        match self.protocol() {
            Protocol::Udp => send_datagrams(&self.lab.gw, to, PAYLOAD, self.count),
            Protocol::Tcp => send_connects(&self.lab.gw, to, self.count),
        }
    }

    /// Sends these packets from the peer to the gateway's link address at `lan0`.
    ///
    /// # Errors
    ///
    /// When a frame can't be sent.
    pub fn send_lan(&self, packets: &[Packet]) -> Result<()> {
        packets
            .iter()
            .try_for_each(|p| self.lab.lan.send(mac(Net::Lan, GATEWAY), &p.ip()))
    }

    fn send_bridge(&self, host: u8, packets: &[Packet]) -> Result<()> {
        packets
            .iter()
            .try_for_each(|p| self.lab.bridge.send(mac(Net::Bridge, host), &p.ip()))
    }

    /// Bytes of one of the row's IP packets.
    #[must_use]
    pub fn packet_bytes(&self) -> u64 {
        let extra = match (self.row.scene.shape, self.family()) {
            (Shape::ExtraHeaders, Family::V4) => 4,
            (Shape::ExtraHeaders, Family::V6) => 16,
            _ => 0,
        };
        let transport = match (self.protocol(), self.row.scene.way) {
            (Protocol::Udp, _) => 8 + PAYLOAD as u64,
            // A SYN of the kernel: maximum segment size, SACK, time stamps and window scale.
            (Protocol::Tcp, Way::Outbound | Way::OutboundBridge) => 40,
            (Protocol::Tcp, _) => 20,
        };
        self.family().header() + extra + transport
    }

    /// Bytes of all of the row's packets.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.count * self.packet_bytes()
    }
}

/// Sends what the plan says and compares every series of the compared counters.
///
/// # Errors
///
/// When sending or the check fails, or any series is not exactly what it should be.
pub fn measure(lab: &Lab, plan: Plan<'_>) -> Result<()> {
    let before = lab.daemon.settled()?;
    let Plan {
        send,
        expected,
        mut meanwhile,
        check,
    } = plan;
    send()?;
    let reached = wait_for(lab, &before, &expected, &mut meanwhile);
    check()?;
    let after = lab.daemon.settled()?;
    match expected.difference(&rise(&before, &after)?) {
        None => reached,
        Some(difference) => bail!("counters differ:\n{difference}"),
    }
}

/// Waits until the expected counts are there.
///
/// # Errors
///
/// When they are not before the deadline, or a scrape fails.
pub fn wait_for(
    lab: &Lab,
    before: &Counts,
    expected: &Expected,
    meanwhile: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    until("the expected counts", DEADLINE, || {
        meanwhile()?;
        let rises = rise(before, &lab.daemon.scrape()?)?;
        Ok(expected.reached_by(&rises).then_some(()))
    })
}
