//! Whole TCP connections: none of their packets is a drop, whoever closes first, and every one of them
//! is counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use super::probe::Counter;
use super::{BOTH, HTTPS, Trial, allowed, compare, https, nothing_dropped};
use crate::expect::{Expected, Family};
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address, mac};
use crate::netns::NetNs;
use crate::packet::{Packet, Protocol};
use crate::scrape::{Series, rise};
use crate::undo::Undo;
use crate::wait::{DEADLINE, until};

pub(super) const TRIALS: &[Trial] = &[
    Trial {
        name: "inbound/20_connections_closed_first_by_client",
        families: BOTH,
        run: |lab, family| inbound(lab, family, Closer::Client),
    },
    Trial {
        name: "inbound/20_connections_closed_first_by_gateway",
        families: BOTH,
        run: |lab, family| inbound(lab, family, Closer::Server),
    },
    Trial {
        name: "outbound/20_connections_closed_first_by_gateway",
        families: BOTH,
        run: |lab, family| outbound(lab, family, Closer::Client),
    },
    Trial {
        name: "outbound/20_connections_closed_first_by_server",
        families: BOTH,
        run: |lab, family| outbound(lab, family, Closer::Server),
    },
    Trial {
        name: "forwarded/20_connections_closed_first_by_client",
        families: BOTH,
        run: |lab, family| forwarded(lab, family, Closer::Client),
    },
    Trial {
        name: "forwarded/20_connections_closed_first_by_server",
        families: BOTH,
        run: |lab, family| forwarded(lab, family, Closer::Server),
    },
    Trial {
        name: "inbound/retransmitted_syn",
        families: BOTH,
        run: syn_again_inbound,
    },
    Trial {
        name: "outbound/retransmitted_syn",
        families: BOTH,
        run: syn_again_outbound,
    },
];

const CONNECTIONS: usize = 20;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Closer {
    Client,
    Server,
}

/// Makes connections one after the other, each with some data both ways, closed in order.
fn talk(client: &NetNs, server: &NetNs, to: SocketAddr, closer: Closer) -> Result<()> {
    let listener = server.run(|| Ok(TcpListener::bind(to)?))?;
    for _ in 0..CONNECTIONS {
        let mut here = client.run(|| Ok(TcpStream::connect_timeout(&to, DEADLINE)?))?;
        let (mut there, _) = listener.accept()?;
        for socket in [&here, &there] {
            socket.set_read_timeout(Some(DEADLINE))?;
        }
        let mut buffer = [0; 300];
        here.write_all(&[1; 300])?;
        there.read_exact(&mut buffer)?;
        there.write_all(&[2; 300])?;
        here.read_exact(&mut buffer)?;
        let (mut first, mut second) = match closer {
            Closer::Client => (here, there),
            Closer::Server => (there, here),
        };
        first.shutdown(std::net::Shutdown::Write)?;
        ensure!(second.read(&mut buffer)? == 0, "data behind the end");
        drop(second);
        ensure!(first.read(&mut buffer)? == 0, "data behind the end");
    }
    Ok(())
}

/// The direction and flow of the packets towards the port, and of those that come back.
type Ways = [(&'static str, &'static str); 2];

/// Talks, and compares the allowed packets with nft counters where the gateway's devices hand them
/// over: what comes in at one, what goes out at one.
fn compare_with_counters(
    lab: &Lab,
    family: Family,
    ways: Ways,
    devices: [&str; 2],
    talk: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let hook = |direction: &str, device: &str| {
        let hook = if direction == "inbound" {
            "ingress"
        } else {
            "egress"
        };
        format!("filter hook {hook} device {device} priority -400")
    };
    let matches = ["tcp dport 443", "tcp sport 443"];
    let mut counters = Vec::new();
    for (index, (direction, _)) in ways.iter().enumerate() {
        let chain = hook(direction, devices[index]);
        let name = format!("way{index}");
        counters.push(Counter::add(
            &lab.gw,
            "netdev",
            &name,
            &chain,
            matches[index],
        )?);
    }
    let before = lab.daemon.settled()?;
    talk()?;
    let rises = until("the counters agree", DEADLINE, || {
        let rises = rise(&before, &lab.daemon.settled()?)?;
        let mut same = true;
        for ((direction, flow), counter) in ways.iter().zip(&counters) {
            let kind = https(Protocol::Tcp, family, direction, flow);
            same &= allowed(&rises, kind).0 == counter.packets()?;
        }
        Ok(same.then_some(rises))
    });
    let rises = match rises {
        Ok(rises) => rises,
        Err(_) => rise(&before, &lab.daemon.settled()?)?,
    };
    nothing_dropped(&rises, None)?;
    for ((direction, flow), counter) in ways.iter().zip(&counters) {
        let (got, _) = allowed(&rises, https(Protocol::Tcp, family, direction, flow));
        let seen = counter.packets()?;
        ensure!(
            got == seen,
            "{direction} {flow}: counted {got}, nft saw {seen}"
        );
        // SYN, ACK, data, ACK, FIN and the last ACK; some of them travel together.
        ensure!(
            seen >= 4 * CONNECTIONS as u64,
            "{direction} {flow}: only {seen} packets"
        );
    }
    let packets = rises
        .keys()
        .filter(|series| series.metric() == "peerwatch_packets_total");
    ensure!(packets.count() == 2, "other series: {rises:?}");
    Ok(())
}

/// Lets a host hear until the end of the trial.
pub(super) fn open<'a>(
    lab: &'a Lab,
    undo: &mut Undo<'a>,
    host: &'a NetNs,
    interface: &'static str,
) -> Result<()> {
    lab.open(host, interface)?;
    undo.push(move || lab.close(host, interface));
    Ok(())
}

fn inbound(lab: &Lab, family: Family, closer: Closer) -> Result<()> {
    let mut undo = Undo::new();
    open(lab, &mut undo, &lab.peer, "eth0")?;
    let to = Lab::socket(family, Net::Lan, GATEWAY, HTTPS);
    compare_with_counters(
        lab,
        family,
        [("inbound", "request"), ("outbound", "reply")],
        ["lan0", "lan0"],
        || talk(&lab.peer, &lab.gw, to, closer),
    )?;
    undo.finish()
}

fn outbound(lab: &Lab, family: Family, closer: Closer) -> Result<()> {
    let mut undo = Undo::new();
    open(lab, &mut undo, &lab.server, "eth0")?;
    let to = Lab::socket(family, Net::Wan, SERVER, HTTPS);
    compare_with_counters(
        lab,
        family,
        [("outbound", "request"), ("inbound", "reply")],
        ["wan0", "wan0"],
        || talk(&lab.gw, &lab.server, to, closer),
    )?;
    undo.finish()
}

fn forwarded(lab: &Lab, family: Family, closer: Closer) -> Result<()> {
    let mut undo = Undo::new();
    open(lab, &mut undo, &lab.peer, "eth0")?;
    open(lab, &mut undo, &lab.server, "eth0")?;
    let to = Lab::socket(family, Net::Wan, SERVER, HTTPS);
    compare_with_counters(
        lab,
        family,
        [("forwarded", "request"), ("forwarded", "reply")],
        ["wan0", "lan0"],
        || talk(&lab.peer, &lab.server, to, closer),
    )?;
    undo.finish()
}

/// The same SYN several times: the later ones are delivered to the request socket, answered, and
/// freed, which is no drop.
fn syn_again_inbound(lab: &Lab, family: Family) -> Result<()> {
    const TIMES: u64 = 5;
    let mut undo = Undo::new();
    // Repetitions are answered without a limit on their rate.
    lab.gw.sysctl("net.ipv4.tcp_invalid_ratelimit", "0")?;
    undo.push(|| lab.gw.sysctl("net.ipv4.tcp_invalid_ratelimit", "500"));
    let to = Lab::socket(family, Net::Lan, GATEWAY, HTTPS);
    let listener = lab.gw.run(|| Ok(TcpListener::bind(to)?))?;
    let source = (address(family, Net::Lan, PEER), lab.port());
    let syn = Packet::new(Protocol::Tcp, source, (to.ip(), to.port())).ip();
    let mut expected = Expected::nothing();
    let request = https(Protocol::Tcp, family, "inbound", "request");
    expected.allowed(request, "lan0", TIMES, TIMES * syn.len() as u64);
    // A SYN-ACK has the maximum segment size as its one option.
    let answer_bytes = TIMES * (family.header() + 24);
    expected.allowed(request.answer(), "lan0", TIMES, answer_bytes);
    let before = lab.daemon.settled()?;
    for _ in 0..TIMES {
        lab.lan.send(mac(Net::Lan, GATEWAY), &syn)?;
    }
    until("all SYNs are counted", DEADLINE, || {
        Ok(expected
            .reached_by(&rise(&before, &lab.daemon.scrape()?)?)
            .then_some(()))
    })
    .or_else(|_| anyhow::Ok(()))?;
    let mut rises = rise(&before, &lab.daemon.settled()?)?;
    // What the kernel says of the freed repetitions differs between kernels: they may be late drops.
    let late = |series: &Series| series.metric() == "peerwatch_late_drops_total";
    let freed: u64 = rises
        .iter()
        .filter(|(series, _)| late(series))
        .map(|(_, n)| n)
        .sum();
    ensure!(freed < TIMES, "{freed} late drops of {TIMES} SYNs");
    rises.retain(|series, _| !late(series));
    drop(listener);
    undo.finish()?;
    compare("the same SYN five times", &expected, &rises)
}

/// The gateway's own SYN, repeated by its timer.
fn syn_again_outbound(lab: &Lab, family: Family) -> Result<()> {
    let to = Lab::socket(family, Net::Wan, SERVER, HTTPS);
    let chain = "filter hook ingress device eth0 priority -501";
    let counter = Counter::add(&lab.server, "netdev", "syn", chain, "tcp dport 443")?;
    let before = lab.daemon.settled()?;
    let socket = lab
        .gw
        .run(|| Ok(Socket::new(Domain::for_address(to), Type::STREAM, None)?))?;
    socket.set_nonblocking(true)?;
    // In progress: nobody answers.
    socket
        .connect(&to.into())
        .err()
        .context("connected to nobody")?;
    until("the SYN is repeated", DEADLINE, || {
        Ok((counter.packets()? >= 3).then_some(()))
    })?;
    drop(socket);
    let sent = counter.packets()?;
    let mut expected = Expected::nothing();
    let kind = https(Protocol::Tcp, family, "outbound", "request");
    expected.allowed(kind, "wan0", sent, sent * (family.header() + 40));
    compare(
        "a repeated SYN",
        &expected,
        &rise(&before, &lab.daemon.settled()?)?,
    )
}
