//! Devices, rules and limits that not every kernel has. The kernels that `cargo xtask vm-test` boots
//! have them all.

pub(super) mod bond;
pub(super) mod conntrack;
pub(super) mod flowtable;
pub(super) mod netem;
pub(super) mod queue;
pub(super) mod tc;
pub(super) mod vlan;
pub(super) mod wireguard;

use anyhow::{Result, bail};

use super::{NETFILTER, Obstacle, delivered_at};
use crate::case::{Case, Plan, Way};
use crate::expect::Expected;
use crate::lab::{GATEWAY, Lab, Net, PEER};
use crate::netns::NetNs;
use crate::packet::Packet;
use crate::send::{FrameSender, send_made_here};

const INPUT: &str = "filter hook input priority 0";
const FORWARD: &str = "filter hook forward priority 0";
const OUTPUT: &str = "filter hook output priority 0";

/// Where packets come from that the gateway gets.
enum Sender<'a> {
    /// A packet socket, and the gateway's link address there.
    Frames(FrameSender, [u8; 6]),
    /// The stack of this namespace routes them.
    Stack(&'a NetNs),
}

/// The way through the gateway that a scene made.
struct Road<'a> {
    sender: Sender<'a>,
    /// The interface where packets come in, and its network; the sender is host [`PEER`] there.
    incoming: (&'static str, Net),
    /// The interface where they leave, and the host to which they go.
    outgoing: (&'static str, (Net, u8)),
}

/// What becomes of the packets.
#[derive(Clone, Copy)]
enum Fate {
    Allowed,
    /// A rule drops them: in the hook `input`, `forward` or `output`, by the row's way.
    Dropped,
}

impl<'a> Road<'a> {
    /// Sends the row's packets and expects their fate, besides what is expected already.
    fn plan(self, case: &'a Case<'_>, fate: Fate, mut expected: Expected) -> Result<Plan<'a>> {
        let way = case.row.scene.way;
        let (chain, allowed_at, dropped_at) = match way {
            Way::Inbound => (INPUT, self.incoming.0, self.incoming.0),
            Way::Forwarded => (FORWARD, self.outgoing.0, self.incoming.0),
            Way::Outbound => (OUTPUT, self.outgoing.0, "none"),
            other => bail!("no road for {other:?}"),
        };
        let (kind, count, bytes) = (case.kind(), case.count, case.bytes());
        if matches!(fate, Fate::Allowed) {
            expected.allowed(kind, allowed_at, count, bytes);
        } else {
            Obstacle::Nft("inet", chain, "drop").set(case)?;
            expected.dropped(kind, NETFILTER, dropped_at, count, bytes);
        }
        let own = Lab::socket(case.family(), self.incoming.1, GATEWAY, case.port());
        let answers_at = self.incoming.0;
        let send = move || self.send(case);
        if way == Way::Inbound && matches!(fate, Fate::Allowed) {
            return delivered_at(case, expected, own, answers_at, send);
        }
        Ok(Plan::new(send, expected))
    }

    fn send(&self, case: &Case<'_>) -> Result<()> {
        let (net, host) = match case.row.scene.way {
            Way::Inbound => (self.incoming.1, GATEWAY),
            _ => self.outgoing.1,
        };
        if case.row.scene.way == Way::Outbound {
            return case.send_by_sockets(Lab::socket(case.family(), net, host, case.port()));
        }
        let packets: Vec<Packet> = (0..case.count)
            .map(|_| case.packet((self.incoming.1, PEER), (net, host)))
            .collect();
        self.sender.send(&packets)
    }
}

impl Sender<'_> {
    fn send(&self, packets: &[Packet]) -> Result<()> {
        match self {
            Self::Frames(socket, to) => packets.iter().try_for_each(|p| socket.send(*to, &p.ip())),
            Self::Stack(netns) => packets
                .iter()
                .try_for_each(|p| send_made_here(netns, p.destination, &[p.ip()])),
        }
    }
}
