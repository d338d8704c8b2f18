//! Scenes: what stands in the way of the packets, and how the daemon has to count them.
//!
//! Reasons and places are those that this kernel gives; a scene that the
//! kernel treats in a way of its own builds its plan itself.

mod allowed;
mod netfilter;
mod programs;
mod socket;
mod stack;
mod vm;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bpf::{DenyingCgroup, Place, Side, tcx_drop, xdp_drop};
use crate::case::{Case, Plan, Shape, Way};
use crate::expect::{Expected, Family};
use crate::helper::{Helper, Task};
use crate::lab::Lab;
use crate::needs::Feature;
use crate::netns::{NetNs, run};
use crate::packet::Protocol;
use crate::rows::Port;

/// All scenes, by file.
pub const SCENES: &[&[Scene]] = &[
    allowed::SCENES,
    netfilter::DROPS,
    netfilter::REJECTS,
    programs::SCENES,
    socket::SCENES,
    stack::SCENES,
    vm::bond::SCENES,
    vm::conntrack::SCENES,
    vm::flowtable::SCENES,
    vm::netem::SCENES,
    vm::queue::SCENES,
    vm::tc::SCENES,
    vm::vlan::SCENES,
    vm::wireguard::SCENES,
];

/// For which protocols and families a scene means something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    protocol: Option<Protocol>,
    family: Option<Family>,
    /// These ports in these families and no others.
    only: Option<&'static [(Protocol, u16, Family)]>,
}

impl Limits {
    const NONE: Self = Self {
        protocol: None,
        family: None,
        only: None,
    };
    const TCP: Self = Self {
        protocol: Some(Protocol::Tcp),
        ..Self::NONE
    };
    const UDP: Self = Self {
        protocol: Some(Protocol::Udp),
        ..Self::NONE
    };
    const V4: Self = Self {
        family: Some(Family::V4),
        ..Self::NONE
    };
    const UDP_V4: Self = Self {
        protocol: Some(Protocol::Udp),
        family: Some(Family::V4),
        ..Self::NONE
    };
    /// For scenes that cost much: both protocols and both families, but not all of each.
    const PAIR: Self = Self {
        only: Some(&[
            (Protocol::Tcp, 7680, Family::V4),
            (Protocol::Udp, 3544, Family::V6),
        ]),
        ..Self::NONE
    };
    const TWO_PAIRS: Self = Self {
        only: Some(&[
            (Protocol::Tcp, 7680, Family::V4),
            (Protocol::Tcp, 443, Family::V6),
            (Protocol::Udp, 443, Family::V4),
            (Protocol::Udp, 3544, Family::V6),
        ]),
        ..Self::NONE
    };

    /// True when the scene has a row for them.
    #[must_use]
    pub fn allow(&self, port: Port, family: Family) -> bool {
        self.protocol.is_none_or(|only| only == port.protocol)
            && self.family.is_none_or(|only| only == family)
            && self
                .only
                .is_none_or(|only| only.contains(&(port.protocol, port.number, family)))
    }
}

/// One scene.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Its name in the names of rows.
    pub name: &'static str,
    /// How the packets go.
    pub way: Way,
    /// How they look.
    pub shape: Shape,
    /// Where it is valid.
    pub limits: Limits,
    /// What the kernel must have for it, where not every kernel has it.
    pub needs: Option<Feature>,
    play: Play,
}

/// Class and kernel reason of a drop, as in the labels.
type Reason = (&'static str, &'static str);

/// What the netfilter hooks call a drop.
const NETFILTER: Reason = ("firewall", "NETFILTER_DROP");

#[derive(Clone, Copy, Debug)]
enum Play {
    /// The packets pass, with or without something that lets them.
    Allowed(Obstacle),
    /// They are handed to a socket: a listener answers a SYN.
    Delivered(Obstacle),
    /// They are dropped at this interface.
    Dropped {
        by: Obstacle,
        reason: Reason,
        at: &'static str,
    },
    /// They are dropped at this interface and the gateway answers a TCP segment with an RST.
    Refused {
        by: Obstacle,
        reason: Reason,
        at: &'static str,
    },
    /// A plan of its own.
    Own(for<'a, 'b> fn(&'b Case<'a>) -> Result<Plan<'b>>),
}

/// What is put in the way of the packets.
#[derive(Clone, Copy, Debug)]
enum Obstacle {
    Nothing,
    /// A rule: table family, chain type and hook, verdict.
    Nft(&'static str, &'static str, &'static str),
    /// A rule of iptables or ip6tables, by its back end and chain.
    Iptables(&'static str, &'static str),
    Tcx(&'static str, Side, Place),
    Clsact(&'static str, Side),
    Xdp(&'static str),
    /// The sockets are in a cgroup that is denied this direction.
    Cgroup(Side),
}

const fn scene(name: &'static str, way: Way, play: Play) -> Scene {
    Scene {
        name,
        way,
        shape: Shape::Plain,
        limits: Limits::NONE,
        needs: match play {
            Play::Dropped {
                by: Obstacle::Tcx(..),
                ..
            } => Some(Feature::Tcx),
            _ => None,
        },
        play,
    }
}

impl Scene {
    const fn only(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    const fn needing(mut self, feature: Feature) -> Self {
        self.needs = Some(feature);
        self
    }

    const fn shaped(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// Sets it and says what to send and what to expect.
    ///
    /// # Errors
    ///
    /// When it can't be set.
    pub fn set<'b>(&self, case: &'b Case<'_>) -> Result<Plan<'b>> {
        let mut expected = Expected::nothing();
        let (count, bytes, kind) = (case.count, case.bytes(), case.kind());
        match self.play {
            Play::Own(own) => own(case),
            Play::Allowed(obstacle) => {
                obstacle.set(case)?;
                expected.allowed(kind, self.way.interface(), count, bytes);
                Ok(Plan::new(|| case.send(), expected))
            }
            Play::Delivered(obstacle) => {
                obstacle.set(case)?;
                expected.allowed(kind, self.way.interface(), count, bytes);
                delivered_to_listener(case, expected)
            }
            Play::Dropped { by, reason, at } => {
                expected.dropped(kind, reason, at, count, bytes);
                match by {
                    Obstacle::Cgroup(side) => denied_by_cgroup(case, side, expected),
                    by => {
                        by.set(case)?;
                        Ok(Plan::new(|| case.send(), expected))
                    }
                }
            }
            Play::Refused { by, reason, at } => {
                by.set(case)?;
                expected.dropped(kind, reason, at, count, bytes);
                if case.protocol() == Protocol::Tcp {
                    expect_answers(case, &mut expected, answers_at(case), 0);
                }
                Ok(Plan::new(|| case.send(), expected))
            }
        }
    }
}

/// Answers leave through the device on which the packets came.
fn answers_at(case: &Case<'_>) -> &'static str {
    if case.row.scene.way == Way::InboundBridge {
        "br0"
    } else {
        "lan0"
    }
}

/// The gateway answers each packet by a TCP segment with this many bytes of options.
fn expect_answers(case: &Case<'_>, expected: &mut Expected, interface: &str, options: u64) {
    let bytes = case.family().header() + 20 + options;
    expected.allowed(
        case.kind().answer(),
        interface,
        case.count,
        case.count * bytes,
    );
}

/// A listener of the gateway takes the packets.
fn delivered_to_listener<'b>(case: &'b Case<'_>, expected: Expected) -> Result<Plan<'b>> {
    let (address, interface) = (case.destination(), answers_at(case));
    delivered_at(case, expected, address, interface, || case.send())
}

/// A listener with this address takes what is sent: SYNs are answered with SYN-ACKs through this
/// interface, datagrams are read.
fn delivered_at<'b>(
    case: &'b Case<'_>,
    mut expected: Expected,
    address: SocketAddr,
    interface: &str,
    send: impl FnOnce() -> Result<()> + 'b,
) -> Result<Plan<'b>> {
    if case.protocol() == Protocol::Tcp {
        let listener = case
            .lab
            .gw
            .run(|| Ok(std::net::TcpListener::bind(address)?))?;
        case.hold(listener);
        // The maximum segment size is the one option that is offered when the SYN has none.
        expect_answers(case, &mut expected, interface, 4);
        return Ok(Plan::new(send, expected));
    }
    let socket = udp_socket(&case.lab.gw, address)?;
    Ok(Plan::new(send, expected).checked_by(move || receive(&socket, case.count)))
}

/// A UDP socket of a namespace.
fn udp_socket(netns: &NetNs, address: SocketAddr) -> Result<UdpSocket> {
    let socket = netns.run(|| Ok(UdpSocket::bind(address)?))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

/// Reads this many datagrams; there must be no more.
fn receive(socket: &UdpSocket, count: u64) -> Result<()> {
    let mut buffer = [0; 2048];
    for number in 0..count {
        socket
            .recv(&mut buffer)
            .with_context(|| format!("datagram {number} of {count}"))?;
    }
    socket.set_nonblocking(true)?;
    ensure!(
        socket.recv(&mut buffer).is_err(),
        "more than {count} datagrams"
    );
    Ok(())
}

/// The sockets belong to a process in a cgroup with a program that denies.
fn denied_by_cgroup<'b>(case: &'b Case<'_>, side: Side, expected: Expected) -> Result<Plan<'b>> {
    let cgroup = DenyingCgroup::create(&format!("{}deny", case.lab.prefix), side)?;
    let task = match side {
        Side::Ingress => Task::Listen,
        Side::Egress => Task::Send(case.count),
    };
    let lab = case.lab;
    let helper = Helper::start(&lab.gw, &cgroup, task, case.protocol(), case.destination())?;
    case.hold(cgroup);
    match side {
        Side::Ingress => {
            case.hold(helper);
            Ok(Plan::new(|| case.send(), expected))
        }
        Side::Egress => Ok(Plan::new(move || helper.finish(), expected)),
    }
}

impl Obstacle {
    fn set(self, case: &Case<'_>) -> Result<()> {
        let gw = &case.lab.gw;
        let (protocol, port) = (case.protocol().name(), case.port());
        let side_of_port = if case.row.scene.shape == Shape::Reply {
            "sport"
        } else {
            "dport"
        };
        match self {
            // The cgroup is made together with the process in it.
            Self::Nothing | Self::Cgroup(_) => {}
            Self::Nft(family, chain, verdict) => {
                gw.nft(&format!(
                    "table {family} obstacle {{ chain it {{ type {chain}; \
                     {protocol} {side_of_port} {port} {verdict}; }}; }}"
                ))?;
                case.on_end(move |lab| lab.gw.nft(&format!("delete table {family} obstacle")));
            }
            Self::Iptables(back_end, chain) => {
                let tool = match case.family() {
                    Family::V4 => "iptables",
                    Family::V6 => "ip6tables",
                };
                let command = move |what: &str| {
                    format!(
                        "{tool}-{back_end} -w 5 {what} {chain} -p {protocol} --{side_of_port} \
                         {port} -j DROP"
                    )
                };
                gw.sh(&command("-I"))?;
                case.on_end(move |lab| lab.gw.sh(&command("-D")).map(drop));
            }
            Self::Tcx(device, side, place) => case.hold(tcx_drop(gw, device, side, place)?),
            Self::Xdp(device) => case.hold(xdp_drop(gw, device)?),
            Self::Clsact(device, side) => {
                with_clsact(case, device)?;
                let side = side.name();
                // Behind the daemon's, which is the first there. One classic instruction that returns
                // TC_ACT_SHOT.
                let mut command = gw.command("tc")?;
                command.args(["filter", "add", "dev", device, side, "prio", "2"]);
                run(command.args(["bpf", "da", "bytecode", "1,6 0 0 2"]))?;
                case.on_end(move |lab| {
                    lab.gw
                        .sh(&format!("tc filter del dev {device} {side} prio 2"))
                        .map(drop)
                });
            }
        }
        Ok(())
    }
}

/// The gateway's device has a place for the filters of `tc` until the scene ends.
fn with_clsact(case: &Case<'_>, device: &'static str) -> Result<()> {
    let gw = &case.lab.gw;
    // Where the kernel has no TCX, the daemon has put it there for itself.
    if !gw
        .sh(&format!("tc qdisc show dev {device} clsact"))?
        .contains("clsact")
    {
        gw.sh(&format!("tc qdisc add dev {device} clsact"))?;
        case.on_end(move |lab| {
            lab.gw
                .sh(&format!("tc qdisc del dev {device} clsact"))
                .map(drop)
        });
    }
    Ok(())
}

/// Sets a sysctl of the gateway until the scene ends.
fn sysctl_for(
    case: &Case<'_>,
    key: &'static str,
    value: &'static str,
    default: &'static str,
) -> Result<()> {
    case.lab.gw.sysctl(key, value)?;
    case.on_end(move |lab: &Lab| lab.gw.sysctl(key, default));
    Ok(())
}
