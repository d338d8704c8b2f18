//! The kernel programs look at packets and change none: they call nothing that could, and what a host sends,
//! forwards and receives is the same with and without them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use aya_obj::Object;
use monitor::bpf::OBJECT;
use monitor_tests::packet::{Packet, Protocol, flags};
use monitor_tests::send::{FrameSender, send_made_here};
use monitor_tests::wait::until;

use crate::site::{HERE, START, Site, THERE};

/// The helpers that may be called (`enum bpf_func_id`). They read, look up, count and tell the daemon. Of those that
/// are not here, some write to a packet, redirect or clone it, or send one.
const HELPERS: &[(i32, &str)] = &[
    (1, "map_lookup_elem"),
    (2, "map_update_elem"),
    (5, "ktime_get_ns"),
    (12, "tail_call"),
    (26, "skb_load_bytes"),
    (35, "get_current_task"),
    (95, "sk_fullsock"),
    (113, "probe_read_kernel"),
    (118, "jiffies64"),
    (122, "get_netns_cookie"),
    (130, "ringbuf_output"),
    (131, "ringbuf_reserve"),
    (132, "ringbuf_submit"),
    (133, "ringbuf_discard"),
];

/// `BPF_JMP | BPF_CALL`
const CALL: u8 = 0x85;

#[test]
fn the_programs_call_no_helper_that_changes_a_packet() -> Result<()> {
    let object = Object::parse(OBJECT).context("the object")?;
    let mut called = BTreeSet::new();
    for function in object.functions.values() {
        for instruction in &function.instructions {
            if instruction.code != CALL {
                continue;
            }
            match instruction.src_reg() {
                0 => {
                    called.insert(instruction.imm);
                }
                // BPF_PSEUDO_CALL: another function of the object.
                1 => {}
                other => anyhow::bail!("{} calls by {other}", function.name),
            }
        }
    }
    let allowed: BTreeSet<_> = HELPERS.iter().map(|(number, _)| *number).collect();
    let others: Vec<_> = called.difference(&allowed).collect();
    ensure!(others.is_empty(), "other helpers: {others:?}");
    ensure!(called.contains(&1) && called.contains(&113), "{called:?}");
    let names = HELPERS.iter().filter(|(number, _)| called.contains(number));
    let names: Vec<_> = names.map(|(_, name)| *name).collect();
    println!("called: {}", names.join(", "));
    Ok(())
}

/// The other end of a second link.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);

/// Packets of each kind that the programs look at, and one that they do not.
fn packets(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (protocol, port) in [
        (Protocol::Tcp, 7680),
        (Protocol::Udp, 3544),
        (Protocol::Tcp, 443),
        (Protocol::Udp, 443),
        (Protocol::Udp, 9),
    ] {
        for (to, from) in [(port, 40_000), (40_000, port)] {
            let packet = Packet::new(
                protocol,
                (IpAddr::V4(source), from),
                (IpAddr::V4(destination), to),
            );
            for tcp_flags in [flags::SYN, flags::SYN | flags::ACK, flags::RST, flags::ACK] {
                for payload in [0, 61, 700] {
                    for extra_headers in [false, true] {
                        let packet = Packet {
                            payload,
                            tcp_flags,
                            extra_headers,
                            ..packet.clone()
                        };
                        all.push(packet.ip());
                    }
                }
            }
        }
    }
    all
}

/// The frames that arrive at the far end, in hexadecimal: what the host forwards, then what it makes.
fn frames(site: &Site) -> Result<Vec<String>> {
    let forwarded = packets(Ipv4Addr::new(10, 77, 1, 9), FAR);
    let mut made = packets(HERE, FAR);
    for (number, packet) in (1_u16..).zip(&mut made) {
        // The kernel makes up an identification where there is none, and its checksum in any case.
        packet[4..6].copy_from_slice(&number.to_be_bytes());
    }
    let count = (forwarded.len() + made.len()).to_string();
    let mut tcpdump = site.peer.command("tcpdump")?;
    tcpdump
        .args([
            "-i", "eth1", "-Q", "in", "-n", "-t", "-xx", "-s", "0", "-c", &count,
        ])
        .arg("ip and (tcp or udp)");
    let errors = site.temp.path().join("tcpdump");
    let child = tcpdump
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&errors)?)
        .spawn()
        .context("tcpdump")?;
    until("it captures", START, || {
        let said = std::fs::read_to_string(&errors)?;
        Ok(said.contains("listening on").then_some(()))
    })?;
    let sender = FrameSender::open(&site.peer, "eth0")?;
    let to = site.host.mac("lan0")?;
    for packet in &forwarded {
        sender.send(to, packet)?;
    }
    send_made_here(&site.host, IpAddr::V4(FAR), &made)?;
    // It ends by itself when it has all; a test that hangs is ended by the runner.
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut frames: Vec<String> = Vec::new();
    for line in text.lines() {
        match frames.last_mut() {
            Some(frame) if line.starts_with('\t') => frame.push_str(line),
            // A frame begins with a line in words.
            _ => frames.push(String::new()),
        }
    }
    ensure!(frames.len() == forwarded.len() + made.len(), "{text}");
    Ok(frames)
}

/// Fails with the first that differs.
fn same<T: PartialEq + std::fmt::Debug>(before: &[T], now: &[T]) -> Result<()> {
    ensure!(
        before.len() == now.len(),
        "{} and {}",
        before.len(),
        now.len()
    );
    for (number, (before, now)) in before.iter().zip(now).enumerate() {
        ensure!(before == now, "number {number}: {before:?} before, {now:?}");
    }
    Ok(())
}

/// What a socket of the host gets, and who sent it.
fn datagrams(site: &Site, socket: &UdpSocket) -> Result<Vec<(Vec<u8>, String)>> {
    let sender = site.peer.run(|| Ok(UdpSocket::bind((THERE, 40_000))?))?;
    let mut got = Vec::new();
    for length in [0, 8, 61, 700, 1400] {
        let payload: Vec<u8> = (0..length)
            .map(|at| u8::try_from(at % 251).unwrap_or(0))
            .collect();
        sender.send_to(&payload, (HERE, 3544))?;
        let mut buffer = [0; 2000];
        let (length, from) = socket.recv_from(&mut buffer).context("no datagram")?;
        got.push((buffer[..length].to_vec(), from.to_string()));
    }
    Ok(got)
}

#[test]
fn every_byte_is_the_same_with_and_without_the_programs() -> Result<()> {
    let site = Site::create()?;
    site.link("lan1", "eth1", 2)?;
    site.host.sysctl("net.ipv4.ip_forward", "1")?;
    let socket = site.host.run(|| Ok(UdpSocket::bind((HERE, 3544))?))?;
    socket.set_read_timeout(Some(START))?;
    let before = (frames(&site)?, datagrams(&site, &socket)?);
    let mut daemon = site.daemon(&["--log-packets", "all"])?;
    let during = (frames(&site)?, datagrams(&site, &socket)?);
    // The programs were there.
    let counts = daemon.settled()?;
    let counted = crate::site::all_packets(&counts);
    daemon.stop()?;
    let after = (frames(&site)?, datagrams(&site, &socket)?);
    ensure!(counted > 300, "only {counted} packets were counted");
    for (what, now) in [("with them", during), ("after them", after)] {
        same(&before.0, &now.0).context(what)?;
        same(&before.1, &now.1).context(what)?;
    }
    println!("{counted} packets were counted, and none was changed");
    Ok(())
}
