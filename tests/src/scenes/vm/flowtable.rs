//! A software flow table: packets of established connections go from the ingress of one device to the
//! egress of the other, past routing and the forward hook.

use anyhow::{Context, Result, ensure};

use super::super::{Limits, Play, Scene, scene};
use crate::case::{Case, Plan, Way};
use crate::expect::{Expected, Kind};
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, mac};
use crate::needs::Feature;
use crate::packet::{Packet, Protocol, flags};
use crate::send::FrameSender;

pub(in super::super) const SCENES: &[Scene] = &[scene(
    "flowtable/established",
    Way::Forwarded,
    Play::Own(established),
)
.only(Limits::TWO_PAIRS)
.needing(Feature::FlowTable)];

/// One connection through the gateway.
struct Connection<'a> {
    lab: &'a Lab,
    server: FrameSender,
    request: Packet,
    reply: Packet,
}

impl Connection<'_> {
    fn request(&self) -> Result<()> {
        self.lab
            .lan
            .send(mac(Net::Lan, GATEWAY), &self.request.ip())
    }

    fn reply(&self) -> Result<()> {
        self.server.send(mac(Net::Wan, GATEWAY), &self.reply.ip())
    }
}

/// Packets of both directions of a connection that is in the flow table.
fn established<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let lab = case.lab;
    lab.gw.nft(
        "table inet fast { flowtable ft { hook ingress priority 0; devices = { lan0, wan0 }; }; \
         counter slow { }; \
         chain it { type filter hook forward priority 0; counter name slow; \
         ct state established flow add @ft; }; }",
    )?;
    case.on_end(|lab| {
        lab.gw.nft("delete table inet fast")?;
        lab.gw.sh("conntrack -F").map(drop)
    });
    let connection = open(case)?;
    let slow = slow_packets(lab)?;
    let mut expected = Expected::nothing();
    let bytes = case.count * connection.request.ip().len() as u64;
    expected.allowed(case.kind(), "wan0", case.count, bytes);
    let reply = Kind {
        flow: "reply",
        ..case.kind()
    };
    expected.allowed(reply, "lan0", case.count, bytes);
    let send = move || {
        for _ in 0..case.count {
            connection.request()?;
            connection.reply()?;
        }
        Ok(())
    };
    Ok(Plan::new(send, expected).checked_by(move || {
        let more = slow_packets(lab)? - slow;
        ensure!(more == 0, "{more} packets crossed the forward hook");
        Ok(())
    }))
}

/// Opens a connection until it is in the flow table.
fn open<'b>(case: &'b Case<'_>) -> Result<Connection<'b>> {
    let lab = case.lab;
    let request = case.packet((Net::Lan, PEER), (Net::Wan, SERVER));
    let mut reply = request.clone();
    std::mem::swap(&mut reply.source, &mut reply.destination);
    std::mem::swap(&mut reply.source_port, &mut reply.destination_port);
    reply.sequence = 0x1000;
    let mut connection = Connection {
        lab,
        server: FrameSender::open(&lab.server, "eth0")?,
        request,
        reply,
    };
    connection.request()?;
    if case.protocol() == Protocol::Tcp {
        connection.reply.tcp_flags = flags::SYN | flags::ACK;
        connection.reply.acknowledgement = connection.request.sequence.wrapping_add(1);
    }
    connection.reply()?;
    if case.protocol() == Protocol::Tcp {
        for packet in [&mut connection.request, &mut connection.reply] {
            packet.tcp_flags = flags::ACK;
            packet.sequence = packet.sequence.wrapping_add(1);
        }
        connection.request.acknowledgement = connection.reply.sequence;
    }
    // The first of them puts it there, the second finds it.
    connection.request()?;
    connection.request()?;
    Ok(connection)
}

/// How many packets crossed the forward hook.
fn slow_packets(lab: &Lab) -> Result<u64> {
    let text = lab.gw.sh("nft list counter inet fast slow")?;
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    let count = words.nth(1).context("no counter")?;
    Ok(count.parse()?)
}
