//! The lab: a gateway with a running daemon between a peer and a server.
//!
//! ```text
//! peer eth0 ─── lan0 gw wan0 ─── eth0 server      routed, 10.77.1.0/24 and 10.77.2.0/24
//! peer eth1 ─── bp0 [br0] bp1 ─── eth1 server     bridged, 10.77.3.0/24; the gateway has an address
//! ```
//!
//! Link addresses are set and known to all neighbours, nothing is resolved and no duplicate address
//! detection runs, so that no packet appears that a test did not send. Peer and server drop all that
//! comes in before their stacks see it, unless a scene opens them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Result;

use crate::daemon::{Daemon, Start};
use crate::expect::Family;
use crate::netns::{NetNs, TempDir, keep, unique_prefix};
use crate::send::FrameSender;

/// A network of the lab: the third number of its addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Net {
    /// Peer and gateway.
    Lan = 1,
    /// Gateway and server.
    Wan = 2,
    /// Peer, gateway and server on the gateway's bridge.
    Bridge = 3,
    /// Nobody's; scenes route it.
    Other = 9,
    /// Behind a tun device of the gateway that a trial makes.
    Tun = 30,
    /// Behind an interface of the gateway that comes and goes.
    Passing = 31,
    /// On a device towards the peer that only some kernels have.
    ExtraLan = 32,
    /// The same towards the server.
    ExtraWan = 33,
}

/// Host number of the gateway in each network.
pub const GATEWAY: u8 = 1;
/// Host number of the peer; of the server in [`Net::Wan`].
pub const PEER: u8 = 2;
/// Host number of the server on the routed side.
pub const SERVER: u8 = 2;
/// Host number of the server on the bridge.
pub const BRIDGED_SERVER: u8 = 3;

/// An address of the lab.
#[must_use]
pub const fn address(family: Family, net: Net, host: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 77, net as u8, host)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(
            0xfd77,
            net as u16,
            0,
            0,
            0,
            0,
            0,
            host as u16,
        )),
    }
}

/// Link address of a host in a network.
#[must_use]
pub const fn mac(net: Net, host: u8) -> [u8; 6] {
    [2, 0x77, 0, 0, net as u8, host]
}

fn mac_text(net: Net, host: u8) -> String {
    mac(net, host).map(|byte| format!("{byte:02x}")).join(":")
}

/// The namespaces, the daemon, and senders on the peer's interfaces.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: the daemon first.
    /// The daemon under test, in [`Lab::gw`].
    pub daemon: Daemon,
    /// Writes frames on the peer's `eth0`, towards `lan0`.
    pub lan: FrameSender,
    /// Writes frames on the peer's `eth1`, towards `bp0`.
    pub bridge: FrameSender,
    /// The peer's namespace.
    pub peer: NetNs,
    /// The gateway's.
    pub gw: NetNs,
    /// The server's.
    pub server: NetNs,
    /// Unique prefix of the names of this lab.
    pub prefix: String,
    next_port: AtomicU16,
    /// Files of this lab: the daemon's output.
    pub temp: TempDir,
}

impl Lab {
    /// Builds the namespaces and starts the daemon.
    ///
    /// # Errors
    ///
    /// When a command fails, the daemon is not found, or does not become ready.
    pub fn create() -> Result<Self> {
        Self::create_with(&Start::default())
    }

    /// The same with a daemon that is started in another way.
    ///
    /// # Errors
    ///
    /// As [`Lab::create`].
    pub fn create_with(start: &Start<'_>) -> Result<Self> {
        let prefix = unique_prefix();
        let temp = TempDir::create(&prefix)?;
        let peer = namespace(&prefix, "peer")?;
        let gw = namespace(&prefix, "gw")?;
        let server = namespace(&prefix, "srv")?;
        connect(&gw, "lan0", (Net::Lan, GATEWAY), &peer, "eth0", PEER)?;
        connect(&gw, "wan0", (Net::Wan, GATEWAY), &server, "eth0", SERVER)?;
        gw.ip_batch("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n")?;
        connect(&gw, "bp0", (Net::Bridge, 101), &peer, "eth1", PEER)?;
        connect(
            &gw,
            "bp1",
            (Net::Bridge, 102),
            &server,
            "eth1",
            BRIDGED_SERVER,
        )?;
        gw.ip_batch(&format!(
            "link set br0 address {}\nlink set bp0 master br0\nlink set bp1 master br0\n",
            mac_text(Net::Bridge, GATEWAY)
        ))?;
        give_addresses(&gw, "lan0", Net::Lan, GATEWAY, &[PEER])?;
        give_addresses(&gw, "wan0", Net::Wan, GATEWAY, &[SERVER])?;
        give_addresses(&gw, "br0", Net::Bridge, GATEWAY, &[PEER, BRIDGED_SERVER])?;
        give_addresses(&peer, "eth0", Net::Lan, PEER, &[GATEWAY])?;
        give_addresses(&peer, "eth1", Net::Bridge, PEER, &[GATEWAY, BRIDGED_SERVER])?;
        give_addresses(&server, "eth0", Net::Wan, SERVER, &[GATEWAY])?;
        give_addresses(
            &server,
            "eth1",
            Net::Bridge,
            BRIDGED_SERVER,
            &[GATEWAY, PEER],
        )?;
        for (host, net) in [(&peer, Net::Lan), (&server, Net::Wan)] {
            let v4 = address(Family::V4, net, GATEWAY);
            let v6 = address(Family::V6, net, GATEWAY);
            host.ip_batch(&format!(
                "route add default via {v4} dev eth0\nroute add default via {v6} dev eth0\n"
            ))?;
            host.nft(&sink("eth0"))?;
            host.nft(&sink("eth1"))?;
        }
        gw.sysctl("net.ipv4.ip_forward", "1")?;
        gw.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let daemon = Daemon::start_as(&gw, temp.path(), start)?;
        if keep() {
            eprintln!("lab {prefix}: nsenter --net=/run/netns/{} bash", gw.name());
        }
        Ok(Self {
            daemon,
            lan: FrameSender::open(&peer, "eth0")?,
            bridge: FrameSender::open(&peer, "eth1")?,
            peer,
            gw,
            server,
            prefix,
            next_port: AtomicU16::new(20_000),
            temp,
        })
    }

    /// A source port that no packet of this lab has had for 10,000 packets, outside the ranges of
    /// watched ports and of the kernel's own choice.
    #[must_use]
    pub fn port(&self) -> u16 {
        let port = self.next_port.fetch_add(1, Ordering::Relaxed);
        20_000 + port % 10_000
    }

    /// Lets `host` (peer or server) hear its interface again until [`Lab::close`].
    ///
    /// # Errors
    ///
    /// When `nft` fails.
    pub fn open(&self, host: &NetNs, interface: &str) -> Result<()> {
        host.nft(&format!("delete table netdev sink_{interface}"))
    }

    /// Makes `host` deaf again.
    ///
    /// # Errors
    ///
    /// When `nft` fails.
    pub fn close(&self, host: &NetNs, interface: &str) -> Result<()> {
        host.nft(&sink(interface))
    }

    /// An address of the lab with a port.
    #[must_use]
    pub const fn socket(family: Family, net: Net, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(address(family, net, host), port)
    }
}

fn namespace(prefix: &str, role: &str) -> Result<NetNs> {
    let netns = NetNs::create(&format!("{prefix}{role}"))?;
    quiet(&netns)?;
    Ok(netns)
}

/// Settings that keep the kernel from sending what nobody asked for. Interfaces that are made later
/// inherit them.
///
/// # Errors
///
/// When a sysctl is missing.
pub fn quiet(netns: &NetNs) -> Result<()> {
    for (key, value) in [
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.default.send_redirects", "0"),
        ("net.ipv6.conf.default.accept_dad", "0"),
        ("net.ipv6.conf.default.dad_transmits", "0"),
        ("net.ipv6.conf.default.router_solicitations", "0"),
        ("net.ipv6.conf.default.accept_ra", "0"),
        ("net.ipv4.tcp_synack_retries", "0"),
    ] {
        netns.sysctl(key, value)?;
    }
    Ok(())
}

/// Connects two namespaces by a pair of interfaces, both up, with known link addresses.
pub(crate) fn connect(
    gw: &NetNs,
    here: &str,
    (net, number): (Net, u8),
    other: &NetNs,
    there: &str,
    host: u8,
) -> Result<()> {
    gw.ip_batch(&format!(
        "link add {here} address {} type veth peer name {there} address {} netns {}\n\
         link set {here} up\n",
        mac_text(net, number),
        mac_text(net, host),
        other.name(),
    ))?;
    other.ip(&format!("link set {there} up"))
}

/// Gives an interface an address of both families in a network, and tells it its neighbours.
pub(crate) fn give_addresses(
    netns: &NetNs,
    interface: &str,
    net: Net,
    host: u8,
    neighbours: &[u8],
) -> Result<()> {
    let mut lines = Vec::new();
    for (family, bits, nodad) in [(Family::V4, 24, ""), (Family::V6, 64, "nodad")] {
        let own = address(family, net, host);
        let broadcast = if family == Family::V4 {
            "broadcast +"
        } else {
            ""
        };
        lines.push(format!(
            "address add {own}/{bits} {broadcast} dev {interface} {nodad}\n"
        ));
        for neighbour in neighbours {
            let (ip, mac) = (address(family, net, *neighbour), mac_text(net, *neighbour));
            lines.push(format!(
                "neigh replace {ip} lladdr {mac} nud permanent dev {interface}\n"
            ));
        }
    }
    netns.ip_batch(&lines.concat())
}

/// Rules that drop all that arrives at an interface, before the stack sees it.
fn sink(interface: &str) -> String {
    format!(
        "table netdev sink_{interface} {{ chain it {{ \
         type filter hook ingress device \"{interface}\" priority -500; policy drop; }}; }}\n"
    )
}
