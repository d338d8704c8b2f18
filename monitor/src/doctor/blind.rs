//! Ways of packets that no hook of peerwatch is on, as far as the kernel shows that they are in use.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use netlink_sys::protocols::NETLINK_XFRM;

use super::finding::{Finding, Weight};
use super::interfaces::Watched;
use crate::bpf::others;
use crate::firewall::Port;
use crate::netlink::ask;
use monitor_common::Protocol;

/// Nothing tells whether these are in use.
pub(super) const UNDETECTABLE: &[&str] = &[
    "a packet socket with PACKET_QDISC_BYPASS sends past tc egress",
    "a BPF program that calls bpf_redirect_peer hands a packet to another network namespace past its device",
    "a filter that lets the handshake pass and blocks by the name of the server afterwards looks like success",
    "flows in the hardware of a switch or network card, unless a flow table of nftables or a filter of tc put them there",
];

/// `include/uapi/linux/xfrm.h`
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
/// `struct xfrm_userpolicy_info`: its direction stands behind selector (56), lifetimes (64 and 32), priority and
/// index, bytes.
const DIRECTION: usize = 56 + 64 + 32 + 8;

/// Looks for all that can be detected.
pub(super) fn look(ports: &[(Port, String)], interfaces: &[Watched], findings: &mut Vec<Finding>) {
    af_xdp(findings);
    encapsulation(ports, findings);
    ipsec(findings);
    socket_maps(findings);
    netkit(interfaces, findings);
}

/// Sockets of `AF_XDP` in this network namespace, by what the kernel counts of each kind of socket.
fn af_xdp(findings: &mut Vec<Finding>) {
    let text = fs::read_to_string("/proc/thread-self/net/protocols").unwrap_or_default();
    let sockets = sockets_of(&text, "XDP").unwrap_or(0);
    if sockets > 0 {
        findings.push(Finding {
            id: "af_xdp",
            weight: Weight::Limited,
            what: format!("{sockets} sockets of AF_XDP take packets off interfaces"),
            effect: "what they take or send never passes the kernel's network stack, so it is not counted".to_owned(),
            hint: Some("`ss --xdp` shows whose they are".to_owned()),
        });
    }
}

/// The number of sockets of a protocol in `/proc/net/protocols` (`proto_seq_printf`).
pub(super) fn sockets_of(text: &str, protocol: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut of = lines.find(|line| line.clone().next() == Some(protocol))?;
    of.nth(2)?.parse().ok()
}

/// Sockets of the kernel's own on a watched UDP port: it takes such packets for a tunnel before any socket hook.
fn encapsulation(ports: &[(Port, String)], findings: &mut Vec<Finding>) {
    let is_watched = |number: u16| {
        let of =
            |(port, _): &(Port, String)| (port.protocol, port.number) == (Protocol::Udp, number);
        ports.iter().any(of)
    };
    let bound: Vec<(u16, u64)> = ["udp", "udp6"]
        .iter()
        .filter_map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok())
        .flat_map(|text| bound_ports(&text))
        .filter(|(port, _)| is_watched(*port))
        .collect();
    if bound.is_empty() {
        return;
    }
    let Ok(held) = held_sockets() else {
        // Not all processes may be looked at.
        return;
    };
    let mut found: Vec<u16> = bound
        .iter()
        .filter(|(_, inode)| !held.contains(inode))
        .map(|(port, _)| *port)
        .collect();
    found.sort_unstable();
    found.dedup();
    for port in found {
        findings.push(Finding {
            id: "encapsulation_socket",
            weight: Weight::Limited,
            what: format!(
                "UDP port {port} has a socket that no process here holds: most likely a tunnel of the kernel's (VXLAN, Geneve, \
                 WireGuard, FOU)"
            ),
            effect: "what it receives there is not counted as allowed, and is no peer traffic".to_owned(),
            hint: Some(
                "`ip -d link show` names the tunnel; give it another port, or leave the port out of the traffics".to_owned(),
            ),
        });
    }
}

/// Port and inode of each UDP socket (`udp4_format_sock`, `udpv6_seq_show`).
pub(super) fn bound_ports(text: &str) -> Vec<(u16, u64)> {
    let socket = |line: &str| {
        let mut fields = line.split_whitespace();
        let (_, port) = fields.nth(1)?.rsplit_once(':')?;
        let inode = fields.nth(7)?.parse().ok()?;
        Some((u16::from_str_radix(port, 16).ok()?, inode))
    };
    text.lines().skip(1).filter_map(socket).collect()
}

/// The inodes of all sockets that processes hold. Those of the kernel have an inode too, but nobody holds them.
///
/// # Errors
///
/// Where a process may not be looked at.
fn held_sockets() -> io::Result<BTreeSet<u64>> {
    let mut held = BTreeSet::new();
    for process in fs::read_dir("/proc")? {
        let name = process?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let descriptors = match fs::read_dir(format!("/proc/{number}/fd")) {
            Ok(descriptors) => descriptors,
            // It has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for descriptor in descriptors {
            // One that is closed meanwhile is held by nobody.
            let link = descriptor.and_then(|descriptor| fs::read_link(descriptor.path()));
            held.extend(link.ok().and_then(|link| socket_of(link.to_str()?)));
        }
    }
    Ok(held)
}

/// The number in `socket:[12]`.
pub(super) fn socket_of(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// Policies of `IPsec`: packets that they take leave in another packet.
fn ipsec(findings: &mut Vec<Finding>) {
    // An error means a kernel without it, or nobody who may ask.
    let policies =
        ask::dump(&mut ask::kernel(NETLINK_XFRM), XFRM_MSG_GETPOLICY, &[]).unwrap_or_default();
    // XFRM_POLICY_IN is 0, OUT 1, FWD 2; those of single sockets come with 3 and more.
    let is_policy = |reply: &&ask::Reply| {
        let direction = reply.payload.get(DIRECTION);
        reply.kind == XFRM_MSG_NEWPOLICY && direction.is_some_and(|direction| *direction <= 2)
    };
    let count = policies.iter().filter(is_policy).count();
    if count > 0 {
        findings.push(Finding {
            id: "ipsec_policies",
            weight: Weight::Limited,
            what: format!("{count} policies of IPsec are in place (`ip xfrm policy`)"),
            effect: "what they take leaves inside ESP: outbound and forwarded packets of watched ports are not seen there, \
                     while inbound ones are, once they are unpacked"
                .to_owned(),
            hint: Some("IPsec on an interface of its own (type xfrm) is counted on that interface".to_owned()),
        });
    }
}

fn socket_maps(findings: &mut Vec<Finding>) {
    if let Ok(count @ 1..) = others::socket_maps() {
        findings.push(Finding {
            id: "socket_maps",
            weight: Weight::Limited,
            what: format!(
                "{count} maps of sockets (sockmap, sockhash) of BPF programs exist on this machine"
            ),
            effect:
                "payload that they pass from one socket to another is no packet and is not counted"
                    .to_owned(),
            hint: Some("`bpftool map` shows them".to_owned()),
        });
    }
}

/// Devices whose programs may pass packets between namespaces without a queue.
fn netkit(interfaces: &[Watched], findings: &mut Vec<Finding>) {
    let of = |line: &&Watched| line.kind.as_deref() == Some("netkit");
    let names: Vec<&str> = interfaces
        .iter()
        .filter(of)
        .map(|line| line.name.as_str())
        .collect();
    if !names.is_empty() {
        findings.push(Finding {
            id: "netkit",
            weight: Weight::Note,
            what: format!("devices of type netkit: {}", names.join(", ")),
            effect: "what their own programs redirect is not seen here".to_owned(),
            hint: None,
        });
    }
}
