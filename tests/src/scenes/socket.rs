//! At and behind the socket of an inbound packet.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Socket, Type};

use super::{Limits, Obstacle, Play, Scene, delivered_to_listener, receive, scene, udp_socket};
use crate::case::{Case, PAYLOAD, Plan, Way};
use crate::expect::{Expected, Family};
use crate::kernel;
use crate::lab::{GATEWAY, Lab, Net, PEER, address};
use crate::packet::{Packet, Protocol};
use crate::wait::{DEADLINE, until};

pub(super) const SCENES: &[Scene] = &[
    scene("no_listener", Way::Inbound, {
        Play::Refused {
            by: Obstacle::Nothing,
            reason: ("no_listener", "NO_SOCKET"),
            at: "lan0",
        }
    }),
    scene("no_listener_to_bridge_device", Way::InboundBridge, {
        Play::Refused {
            by: Obstacle::Nothing,
            reason: ("no_listener", "NO_SOCKET"),
            at: "br0",
        }
    }),
    scene("full_socket_buffer", Way::Inbound, Play::Own(full_buffer)).only(Limits::UDP),
    scene(
        "bad_checksum_short",
        Way::Inbound,
        Play::Own(bad_checksum_short),
    ),
    scene(
        "bad_checksum_long",
        Way::Inbound,
        Play::Own(bad_checksum_long),
    ),
    scene(
        "raw_socket_closed_unread",
        Way::Inbound,
        Play::Own(raw_socket_unread),
    ),
    scene(
        "raw_socket_beside",
        Way::Inbound,
        Play::Own(raw_socket_beside),
    ),
    scene(
        "broadcast_two_sockets",
        Way::Inbound,
        Play::Own(two_sockets),
    )
    .only(Limits::UDP),
    scene(
        "broadcast_no_socket",
        Way::Inbound,
        Play::Own(broadcast_no_socket),
    )
    .only(Limits::UDP_V4),
];

/// Longer packets are checked by whoever reads them (`CHECKSUM_BREAK` in linux/skbuff.h).
const CHECKSUM_BREAK: usize = 76;

/// The receive buffer is full before the row starts: everything is allowed and lost behind it.
fn full_buffer<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let socket = Socket::from(udp_socket(&case.lab.gw, case.destination())?);
    // The kernel raises it to its minimum.
    socket.set_recv_buffer_size(1)?;
    let filler = case.packet((Net::Lan, PEER), (Net::Lan, GATEWAY));
    until("the socket's buffer is full", DEADLINE, || {
        case.send_lan(std::slice::from_ref(&filler))?;
        Ok((socket_drops(case)? > 0).then_some(()))
    })?;
    let dropped = socket_drops(case)?;
    case.hold(Drained(socket));
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), "lan0", case.count, case.bytes());
    expected.late(case.kind(), ("socket", "SOCKET_RCVBUFF"), case.count);
    Ok(Plan::new(|| case.send(), expected).checked_by(move || {
        let lost = socket_drops(case)? - dropped;
        ensure!(
            lost >= case.count,
            "the socket lost {lost} of {}",
            case.count
        );
        Ok(())
    }))
}

/// Reads a socket empty before it closes: unread datagrams would be drops of a later row.
struct Drained(Socket);

impl Drop for Drained {
    fn drop(&mut self) {
        if self.0.set_nonblocking(true).is_ok() {
            let mut buffer = [0; 2048];
            while self.0.read(&mut buffer).is_ok() {}
        }
    }
}

/// Drops of the sockets on the row's port, as the kernel counts them: the last column.
fn socket_drops(case: &Case<'_>) -> Result<u64> {
    let file = match case.family() {
        Family::V4 => "/proc/thread-self/net/udp",
        Family::V6 => "/proc/thread-self/net/udp6",
    };
    let table = case.lab.gw.run(|| Ok(std::fs::read_to_string(file)?))?;
    let port = format!(":{:04X}", case.port());
    let mut drops = 0;
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields
            .get(1)
            .is_some_and(|address| address.ends_with(&port))
        {
            drops += fields.last().context("no drops column")?.parse::<u64>()?;
        }
    }
    Ok(drops)
}

fn spoiled(case: &Case<'_>, payload: usize) -> Vec<Packet> {
    let mut packets = case.packets();
    for packet in &mut packets {
        packet.payload = payload;
        packet.bad_checksum = true;
    }
    packets
}

fn total(packets: &[Packet]) -> u64 {
    packets.iter().map(|packet| packet.ip().len() as u64).sum()
}

/// Checked on arrival, before the socket's hook.
fn bad_checksum_short<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    hold_listener(case)?;
    let packets = spoiled(case, PAYLOAD);
    let mut expected = Expected::nothing();
    let bytes = total(&packets);
    // Without a reason it looks like what finds no socket: the same function frees both.
    let class = if kernel::gives_reasons() {
        "malformed"
    } else {
        "no_listener"
    };
    expected.dropped(
        case.kind(),
        (class, checksum_reason(case)),
        "lan0",
        case.count,
        bytes,
    );
    Ok(Plan::new(move || case.send_lan(&packets), expected))
}

/// Checked behind the hook: by the listener's own path, or by the reader of a datagram.
fn bad_checksum_long<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let packets = spoiled(case, 2 * CHECKSUM_BREAK);
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), "lan0", case.count, total(&packets));
    // Without a reason it is only known that a socket had it.
    let class = if case.protocol() == Protocol::Tcp && !kernel::gives_reasons() {
        "socket"
    } else {
        "malformed"
    };
    expected.late(case.kind(), (class, reader_reason(case)), case.count);
    if case.protocol() == Protocol::Tcp {
        hold_listener(case)?;
        return Ok(Plan::new(move || case.send_lan(&packets), expected));
    }
    let socket = udp_socket(&case.lab.gw, case.destination())?;
    socket.set_nonblocking(true)?;
    // Read as a service of the gateway would, from inside its namespace.
    let read = move || match case.lab.gw.run(|| Ok(socket.recv(&mut [0; 2048])))? {
        Ok(len) => bail!("a spoiled datagram of {len} bytes was read"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
    };
    Ok(Plan::new(move || case.send_lan(&packets), expected).with_meanwhile(read))
}

fn checksum_reason(case: &Case<'_>) -> &'static str {
    match case.protocol() {
        Protocol::Tcp => "TCP_CSUM",
        Protocol::Udp => "UDP_CSUM",
    }
}

/// The readers of datagrams name it on 6.18; on 6.12 they did not yet.
fn reader_reason(case: &Case<'_>) -> &'static str {
    if case.protocol() == Protocol::Udp && !kernel::is_at_least(6, 18) {
        "NOT_SPECIFIED"
    } else {
        checksum_reason(case)
    }
}

fn hold_listener(case: &Case<'_>) -> Result<()> {
    let address = case.destination();
    match case.protocol() {
        Protocol::Tcp => case.hold(case.lab.gw.run(|| Ok(TcpListener::bind(address)?))?),
        Protocol::Udp => case.hold(udp_socket(&case.lab.gw, address)?),
    }
    Ok(())
}

/// A raw socket on `lan0` that gets a copy of each of the row's packets.
fn raw_socket(case: &Case<'_>) -> Result<Socket> {
    let domain = match case.family() {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let protocol = match case.protocol() {
        Protocol::Tcp => socket2::Protocol::TCP,
        Protocol::Udp => socket2::Protocol::UDP,
    };
    let raw = case
        .lab
        .gw
        .run(|| Ok(Socket::new(domain, Type::RAW, Some(protocol))?))?;
    // Or it would hear the scrapes as well.
    raw.bind_device(Some(b"lan0"))?;
    raw.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(raw)
}

/// The copies must not count.
fn raw_socket_beside<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let mut raw = raw_socket(case)?;
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), "lan0", case.count, case.bytes());
    let Plan {
        send,
        expected,
        check,
        ..
    } = delivered_to_listener(case, expected)?;
    Ok(Plan::new(send, expected).checked_by(move || {
        let mut buffer = [0; 2048];
        for number in 0..case.count {
            raw.read(&mut buffer)
                .with_context(|| format!("copy {number} of {}", case.count))?;
        }
        check()
    }))
}

/// Nor must they when the raw socket ends with the copies unread.
fn raw_socket_unread<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let raw = raw_socket(case)?;
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), "lan0", case.count, case.bytes());
    let Plan {
        send,
        expected,
        check,
        ..
    } = delivered_to_listener(case, expected)?;
    Ok(Plan::new(send, expected).checked_by(move || {
        drop(raw);
        wait_for_rcu()?;
        check()
    }))
}

/// Sockets are destroyed after a grace period of the kernel's read-copy-update: waits for it, and for
/// one more, in which what waited for the first is done.
fn wait_for_rcu() -> Result<()> {
    /// `MEMBARRIER_CMD_GLOBAL` of `linux/membarrier.h`: returns after a grace period.
    const GLOBAL: libc::c_long = 1;
    for _ in 0..2 {
        // SAFETY: no memory is passed.
        let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
        ensure!(
            result == 0,
            "membarrier: {}",
            std::io::Error::last_os_error()
        );
    }
    Ok(())
}

/// One packet to all, handed to two sockets, is one packet.
fn two_sockets<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let any: IpAddr = match case.family() {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let bind = || -> Result<std::net::UdpSocket> {
        let address = SocketAddr::new(any, case.port());
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket.into())
    };
    let sockets = case.lab.gw.run(|| Ok([bind()?, bind()?]))?;
    let mut expected = Expected::nothing();
    expected.allowed(case.kind(), "lan0", case.count, case.bytes());
    Ok(
        Plan::new(|| send_to_all(case), expected).checked_by(move || {
            sockets
                .iter()
                .try_for_each(|socket| receive(socket, case.count))
        }),
    )
}

/// Nobody wants the broadcast: the kernel frees it without naming a reason.
#[expect(clippy::unnecessary_wraps, reason = "the signature of plans")]
fn broadcast_no_socket<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    let mut expected = Expected::nothing();
    let reason = ("no_listener", "NOT_SPECIFIED");
    expected.dropped(case.kind(), reason, "lan0", case.count, case.bytes());
    Ok(Plan::new(|| send_to_all(case), expected))
}

/// Sends the row's packets to the broadcast address, or to all nodes over IPv6.
fn send_to_all(case: &Case<'_>) -> Result<()> {
    let (mac, all): ([u8; 6], IpAddr) = match case.family() {
        Family::V4 => ([0xff; 6], address(Family::V4, Net::Lan, 255)),
        Family::V6 => (
            [0x33, 0x33, 0, 0, 0, 1],
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        ),
    };
    let lab: &Lab = case.lab;
    case.packets().iter_mut().try_for_each(|packet| {
        packet.destination = all;
        lab.lan.send(mac, &packet.ip())
    })
}
