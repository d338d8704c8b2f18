//! The networks of the demo: two sites, each a switch with peers, and a gateway that joins them with each
//! other and with a server outside.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context as _, Result};

use super::namespace::{Namespace, Tools};

/// The sites by name; the position is the third number of the addresses, from 1 on.
const SITES: [&str; 2] = ["east", "west"];
/// How many peers each has.
const PEERS: u8 = 2;
/// The third number of the addresses outside.
const OUTSIDE: u8 = 3;

/// One machine at a site.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) host: Namespace,
    pub(super) address: Ipv4Addr,
    /// Which site it is at.
    pub(super) site: u8,
}

/// All hosts, wired.
#[derive(Debug)]
pub(super) struct Hosts {
    /// Those of the sites: 10.78.1.2 and 10.78.1.3, 10.78.2.2 and 10.78.2.3.
    pub(super) peers: Vec<Peer>,
    /// The first address of each network; it routes.
    pub(super) gateway: Namespace,
    /// 10.78.3.2
    pub(super) server: Namespace,
    switches: Vec<Namespace>,
}

impl Hosts {
    /// Makes namespaces, links, addresses and routes.
    ///
    /// # Errors
    ///
    /// When a command fails; what was made by then is removed.
    pub(super) fn create(tools: &Tools) -> Result<Self> {
        let mut hosts = Self {
            peers: Vec::new(),
            gateway: Namespace::create("gateway", tools)?,
            server: Namespace::create("server", tools)?,
            switches: Vec::new(),
        };
        for (name, site) in SITES.into_iter().zip(1..) {
            hosts.add_site(name, site, tools)?;
        }
        hosts.attach("wan0", OUTSIDE, &hosts.server, "eth0", tools)?;
        join(&hosts.server, server(), tools)?;
        // The file shows the namespace of the thread that opens it.
        let forward = "/proc/sys/net/ipv4/ip_forward";
        hosts
            .gateway
            .run(|| fs::write(forward, "1").context(forward))?;
        Ok(hosts)
    }

    /// The gateway's address at a site.
    pub(super) fn gateway_at(site: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, site, 1)
    }

    /// Adds a switch, and the gateway's link to it, and peers.
    fn add_site(&mut self, name: &str, site: u8, tools: &Tools) -> Result<()> {
        let switch = Namespace::create(name, tools)?;
        let on = switch.name().to_owned();
        tools.ip(&format!("-n {on} link add lan type bridge"))?;
        tools.ip(&format!("-n {on} link set lan up"))?;
        self.attach(&format!("{name}0"), site, &switch, "uplink", tools)?;
        let mut ports = vec!["uplink".to_owned()];
        for number in 1..=PEERS {
            let port = format!("{name}{number}");
            let host = Namespace::create(&port, tools)?;
            let address = Ipv4Addr::new(10, 78, site, number + 1);
            let there = host.name();
            tools.ip(&format!(
                "-n {on} link add {port} type veth peer name eth0 netns {there}"
            ))?;
            join(&host, address, tools)?;
            ports.push(port);
            self.peers.push(Peer {
                host,
                address,
                site,
            });
        }
        for port in ports {
            tools.ip(&format!("-n {on} link set {port} master lan up"))?;
        }
        self.switches.push(switch);
        Ok(())
    }

    /// Makes a link of the gateway, with its address there, and the other end in a host.
    fn attach(
        &self,
        link: &str,
        net: u8,
        host: &Namespace,
        end: &str,
        tools: &Tools,
    ) -> Result<()> {
        let (gateway, host) = (self.gateway.name(), host.name());
        for command in [
            format!("-n {gateway} link add {link} type veth peer name {end} netns {host}"),
            format!(
                "-n {gateway} address add {}/24 dev {link}",
                Self::gateway_at(net)
            ),
            format!("-n {gateway} link set {link} up"),
        ] {
            tools.ip(&command)?;
        }
        Ok(())
    }
}

/// The address of the server.
pub(super) fn server() -> Ipv4Addr {
    Ipv4Addr::new(10, 78, OUTSIDE, 2)
}

/// Gives a host its address, on `eth0`, and its way out.
fn join(host: &Namespace, address: Ipv4Addr, tools: &Tools) -> Result<()> {
    let (name, [_, _, net, _]) = (host.name(), address.octets());
    for command in [
        format!("-n {name} address add {address}/24 dev eth0"),
        format!("-n {name} link set eth0 up"),
        format!("-n {name} route add default via {}", Hosts::gateway_at(net)),
    ] {
        tools.ip(&command)?;
    }
    Ok(())
}
