//! The namespaces of the self-test: a client and a target, and between them the gateway, which is that of the
//! thread that makes them.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use monitor_common::{Direction, Family, Protocol};
use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::{Domain, Socket, Type};

use super::links::{Host, LINKS, LOOPBACK, address, ends, prefix};
use super::namespace::{self, Namespace};
use super::route;
use crate::netlink::ask::change;
use crate::traffic::Traffics;

/// A port that is not watched, by which is found out whether packets get through.
const PROBE: u16 = 9;

/// How long to wait until packets get through: the kernel takes a link into use a moment after it is set up.
const READY: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(20);

/// The namespaces, joined, with sockets that take what is sent.
#[derive(Debug)]
pub(super) struct Lab {
    client: Namespace,
    target: Namespace,
    /// Why no packets of a family get through in a direction.
    lacks: BTreeMap<(Family, Direction), String>,
    /// What takes the packets. Nothing reads them: they are few.
    takers: Vec<Socket>,
    probes: BTreeMap<(Host, Family), Socket>,
}

/// An error with what was tried.
fn at<T>(what: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

const fn domain(family: Family) -> Domain {
    match family {
        Family::Ipv4 => Domain::IPV4,
        Family::Ipv6 => Domain::IPV6,
    }
}

impl Lab {
    /// Moves the calling thread into a new namespace, the gateway's, and makes the others.
    ///
    /// # Errors
    ///
    /// Where nothing can be sent at all.
    pub(super) fn new(traffics: &Traffics) -> Result<Self, String> {
        namespace::enter_new().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => format!(
                "network namespaces cannot be made, which takes CAP_SYS_ADMIN and no RestrictNamespaces= \
                 ({error})"
            ),
            _ => format!("network namespaces cannot be made: {error}"),
        })?;
        let make = |name| at("network namespaces cannot be made", Namespace::new(name));
        let mut this = Self {
            client: make("client")?,
            target: make("target")?,
            lacks: BTreeMap::new(),
            takers: Vec::new(),
            probes: BTreeMap::new(),
        };
        this.join()?;
        for &family in Family::ALL {
            if let Err(why) = this.prepare(family, traffics) {
                for &direction in Direction::ALL {
                    this.lacks.insert((family, direction), why.clone());
                }
            }
        }
        Ok(this)
    }

    /// Why packets do not get through.
    pub(super) fn lack(&self, family: Family, direction: Direction) -> Option<&str> {
        self.lacks.get(&(family, direction)).map(String::as_str)
    }

    /// Does something in the namespace of a host.
    fn within<T: Send + 'static>(
        &self,
        host: Host,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match host {
            Host::Client => self.client.run(work),
            Host::Gateway => work(),
            Host::Target => self.target.run(work),
        }
    }

    fn route(&self, host: Host, request: Vec<u8>) -> io::Result<()> {
        self.within(host, move || change(NETLINK_ROUTE, &request, 1))
    }

    /// A socket in the namespace of a host.
    pub(super) fn socket(
        &self,
        host: Host,
        family: Family,
        protocol: Protocol,
    ) -> io::Result<Socket> {
        let kind = match protocol {
            Protocol::Tcp => Type::STREAM,
            Protocol::Udp => Type::DGRAM,
        };
        self.within(host, move || Socket::new(domain(family), kind, None))
    }

    /// Makes the links and sets them up.
    fn join(&self) -> Result<(), String> {
        for link in &LINKS {
            let namespace = match link.host {
                Host::Target => &self.target,
                _ => &self.client,
            };
            // Descriptors are not negative.
            let namespace = namespace.file().as_raw_fd().cast_unsigned();
            let [here, there] = &link.devices;
            let pair = route::pair(here, there, namespace);
            at(
                "a pair of virtual devices (veth) cannot be made",
                self.route(Host::Gateway, pair),
            )?;
            for (host, index) in [
                (Host::Gateway, here.index),
                (link.host, there.index),
                (link.host, LOOPBACK),
            ] {
                at(
                    "a device cannot be set up",
                    self.route(host, route::up(index)),
                )?;
            }
        }
        let loopback = self.route(Host::Gateway, route::up(LOOPBACK));
        at("a device cannot be set up", loopback)
    }

    /// Addresses, routes and sockets of a family. An error where none of its packets get through.
    fn prepare(&mut self, family: Family, traffics: &Traffics) -> Result<(), String> {
        if family == Family::Ipv6 {
            for host in [Host::Client, Host::Gateway, Host::Target] {
                // Where it is switched off and stays so, the address is refused.
                self.within(host, || set("net/ipv6/conf/all/disable_ipv6", "0"))
                    .ok();
            }
        }
        for (link, other) in [(&LINKS[0], &LINKS[1]), (&LINKS[1], &LINKS[0])] {
            let addresses = link.addresses(family);
            let [here, there] = link.devices;
            let network = other.network(family);
            let requests = [
                (
                    Host::Gateway,
                    route::address(here.index, addresses[0], prefix(family)),
                ),
                (
                    link.host,
                    route::address(there.index, addresses[1], prefix(family)),
                ),
                (
                    Host::Gateway,
                    route::neighbour(here.index, addresses[1], there.mac),
                ),
                (
                    link.host,
                    route::neighbour(there.index, addresses[0], here.mac),
                ),
                (
                    link.host,
                    route::route(network, prefix(family), addresses[0]),
                ),
            ];
            let what = format!(
                "the namespaces can't be given {} addresses",
                family.as_str()
            );
            for (host, request) in requests {
                at(&what, self.route(host, request))?;
            }
        }
        let opened = self.open_takers(family, traffics);
        at("the watched ports cannot be listened on", opened)?;
        let path = match family {
            Family::Ipv4 => "net/ipv4/ip_forward",
            Family::Ipv6 => "net/ipv6/conf/all/forwarding",
        };
        let forwards = self.within(Host::Gateway, move || set(path, "1"));
        for &direction in Direction::ALL {
            if direction == Direction::Forwarded
                && let Err(error) = &forwards
            {
                let why = format!("/proc/sys/{path} cannot be written in the namespace: {error}");
                self.lacks.insert((family, direction), why);
                continue;
            }
            let [from, to] = ends(direction);
            let through = self.probe(family, from, to);
            if let Err(why) = through.and_then(|()| self.probe(family, to, from)) {
                self.lacks.insert((family, direction), why);
            }
        }
        Ok(())
    }

    /// Opens the sockets that take what is sent to the watched ports and to that of the probes.
    fn open_takers(&mut self, family: Family, traffics: &Traffics) -> io::Result<()> {
        let any = match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        for host in [Host::Client, Host::Gateway, Host::Target] {
            let bound = |protocol, port| {
                let socket = self.socket(host, family, protocol)?;
                if family == Family::Ipv6 {
                    socket.set_only_v6(true)?;
                }
                socket.bind(&SocketAddr::new(any, port).into())?;
                Ok::<_, io::Error>(socket)
            };
            let probe = bound(Protocol::Udp, PROBE)?;
            probe.set_read_timeout(Some(RETRY))?;
            let mut takers = Vec::new();
            for port in traffics.iter().flat_map(|traffic| &traffic.ports) {
                let socket = bound(port.protocol, port.number)?;
                if port.protocol == Protocol::Tcp {
                    socket.listen(128)?;
                }
                takers.push(socket);
            }
            self.takers.append(&mut takers);
            self.probes.insert((host, family), probe);
        }
        Ok(())
    }

    /// Waits until packets get from one host to another.
    fn probe(&self, family: Family, from: Host, to: Host) -> Result<(), String> {
        let why = |error: io::Error| {
            let way = format!(
                "packets of {} do not get from the {} to the {}",
                family.as_str(),
                from.as_str(),
                to.as_str()
            );
            match error.kind() {
                io::ErrorKind::WouldBlock => format!("{way}: none came in {} s", READY.as_secs()),
                _ => format!("{way}: {error}"),
            }
        };
        let sender = self.socket(from, family, Protocol::Udp).map_err(why)?;
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let taker = self.probes.get(&(to, family));
        let mut taker = taker.ok_or_else(missing).map_err(why)?;
        // What is left of a probe from elsewhere is not taken for this one.
        let text = from.as_str();
        let end = Instant::now() + READY;
        loop {
            let target = SocketAddr::new(address(to, family), PROBE);
            let sent = sender.send_to(text.as_bytes(), &target.into());
            let mut buffer = [0; 16];
            let result = sent.and_then(|_| taker.read(&mut buffer));
            match result {
                Ok(length) if buffer.get(..length) == Some(text.as_bytes()) => return Ok(()),
                Ok(_) => {}
                Err(error) if Instant::now() > end => return Err(why(error)),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// Sets a variable of the calling thread's network namespace: the kernel resolves the path for the thread
/// that opens it (`net_ctl_header_lookup`).
fn set(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(Path::new("/proc/sys").join(name), value)
}
