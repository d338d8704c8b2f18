//! Datagrams in fragments. Only the first fragment carries ports: it counts as the packet, the others
//! in `fragments_total`. What is reassembled before its verdict point is one packet there.

use std::net::UdpSocket;

use anyhow::Result;

use super::{BOTH, HTTPS, Trial, compare, https};
use crate::expect::{Expected, Family};
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address, mac};
use crate::packet::{Packet, Protocol};
use crate::scrape::rise;
use crate::send::send_datagrams;
use crate::undo::Undo;
use crate::wait::{DEADLINE, until};

pub(super) const TRIALS: &[Trial] = &[
    Trial {
        name: "forwarded/fragments_without_conntrack",
        families: BOTH,
        run: |lab, family| forwarded(lab, family, None),
    },
    Trial {
        name: "forwarded/fragments_with_conntrack",
        families: BOTH,
        run: |lab, family| forwarded(lab, family, Some("filter hook forward priority 0")),
    },
    Trial {
        name: "inbound/fragments_without_conntrack",
        families: BOTH,
        run: |lab, family| inbound(lab, family, None),
    },
    Trial {
        name: "inbound/fragments_with_conntrack",
        families: BOTH,
        run: |lab, family| inbound(lab, family, Some("filter hook input priority 0")),
    },
    Trial {
        name: "outbound/fragments",
        families: BOTH,
        run: outbound,
    },
    Trial {
        name: "forwarded/first_fragments_dropped",
        families: BOTH,
        run: first_dropped,
    },
];

const DATAGRAMS: u64 = 7;
const PAYLOAD: usize = 3000;
/// Bytes of transport data in a fragment: three fragments a datagram.
const PIECE: usize = 1200;

/// Fragments of the trial's datagrams, from the peer.
fn datagrams(lab: &Lab, family: Family, to: (Net, u8)) -> Vec<Vec<Vec<u8>>> {
    (0..DATAGRAMS)
        .map(|_| {
            let source = (address(family, Net::Lan, PEER), lab.port());
            let to = (address(family, to.0, to.1), HTTPS);
            let mut packet = Packet::new(Protocol::Udp, source, to);
            packet.payload = PAYLOAD;
            packet.fragments(PIECE)
        })
        .collect()
}

/// Sends and compares.
fn send_and_compare(
    lab: &Lab,
    datagrams: &[Vec<Vec<u8>>],
    expected: &Expected,
    what: &str,
) -> Result<()> {
    let before = lab.daemon.settled()?;
    for fragment in datagrams.iter().flatten() {
        lab.lan.send(mac(Net::Lan, GATEWAY), fragment)?;
    }
    finish(lab, &before, expected, what)
}

fn finish(
    lab: &Lab,
    before: &crate::scrape::Counts,
    expected: &Expected,
    what: &str,
) -> Result<()> {
    let reached = until("the expected counts", DEADLINE, || {
        Ok(expected
            .reached_by(&rise(before, &lab.daemon.scrape()?)?)
            .then_some(()))
    });
    compare(what, expected, &rise(before, &lab.daemon.settled()?)?)?;
    reached
}

/// Conntrack is at work as long as a rule wants it.
fn track<'a>(lab: &'a Lab, undo: &mut Undo<'a>, chain: Option<&str>) -> Result<()> {
    if let Some(chain) = chain {
        let rule = "ct state new,established accept";
        lab.gw.nft(&format!(
            "table inet track {{ chain it {{ type {chain}; {rule}; }}; }}"
        ))?;
        undo.push(|| lab.gw.nft("delete table inet track"));
    }
    Ok(())
}

fn forwarded(lab: &Lab, family: Family, conntrack: Option<&str>) -> Result<()> {
    let mut undo = Undo::new();
    track(lab, &mut undo, conntrack)?;
    let datagrams = datagrams(lab, family, (Net::Wan, SERVER));
    let first: usize = datagrams.iter().map(|fragments| fragments[0].len()).sum();
    let mut expected = Expected::nothing();
    let kind = https(Protocol::Udp, family, "forwarded", "request");
    // With conntrack they are put together, pass the rules as one packet, and leave in pieces again.
    expected.allowed(kind, "wan0", DATAGRAMS, first as u64);
    expected.fragments("forwarded", 2 * DATAGRAMS);
    send_and_compare(lab, &datagrams, &expected, "forwarded fragments")?;
    undo.finish()
}

fn inbound(lab: &Lab, family: Family, conntrack: Option<&str>) -> Result<()> {
    let mut undo = Undo::new();
    track(lab, &mut undo, conntrack)?;
    let to = Lab::socket(family, Net::Lan, GATEWAY, HTTPS);
    let socket = lab.gw.run(|| Ok(UdpSocket::bind(to)?))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let datagrams = datagrams(lab, family, (Net::Lan, GATEWAY));
    let whole = DATAGRAMS * (family.header() + 8 + PAYLOAD as u64);
    let mut expected = Expected::nothing();
    let kind = https(Protocol::Udp, family, "inbound", "request");
    // The socket's hook sees whole datagrams, whether the stack or conntrack reassembled them.
    expected.allowed(kind, "lan0", DATAGRAMS, whole);
    expected.fragments("inbound", 2 * DATAGRAMS);
    send_and_compare(lab, &datagrams, &expected, "inbound fragments")?;
    for _ in 0..DATAGRAMS {
        socket.recv(&mut [0; 4096])?;
    }
    undo.finish()
}

fn outbound(lab: &Lab, family: Family) -> Result<()> {
    let to = Lab::socket(family, Net::Wan, SERVER, HTTPS);
    // The first of three pieces at an MTU of 1500: a multiple of 8 bytes behind the headers, of which
    // IPv6 has one more for fragments.
    let first = match family {
        Family::V4 => 1500,
        Family::V6 => 40 + 8 + 1448,
    };
    let mut expected = Expected::nothing();
    let kind = https(Protocol::Udp, family, "outbound", "request");
    expected.allowed(kind, "wan0", DATAGRAMS, DATAGRAMS * first);
    expected.fragments("outbound", 2 * DATAGRAMS);
    let before = lab.daemon.settled()?;
    send_datagrams(&lab.gw, to, 4000, DATAGRAMS)?;
    finish(lab, &before, &expected, "outbound fragments")
}

/// Without conntrack a rule on ports meets only the first fragment; the others go on.
fn first_dropped(lab: &Lab, family: Family) -> Result<()> {
    let mut undo = Undo::new();
    let chain = "filter hook forward priority 0";
    lab.gw.nft(&format!(
        "table inet wall {{ chain it {{ type {chain}; udp dport {HTTPS} drop; }}; }}"
    ))?;
    undo.push(|| lab.gw.nft("delete table inet wall"));
    let datagrams = datagrams(lab, family, (Net::Wan, SERVER));
    let first: usize = datagrams.iter().map(|fragments| fragments[0].len()).sum();
    let mut expected = Expected::nothing();
    let kind = https(Protocol::Udp, family, "forwarded", "request");
    let reason = ("firewall", "NETFILTER_DROP");
    expected.dropped(kind, reason, "lan0", DATAGRAMS, first as u64);
    expected.fragments("forwarded", 2 * DATAGRAMS);
    send_and_compare(lab, &datagrams, &expected, "first fragments dropped")?;
    undo.finish()
}
