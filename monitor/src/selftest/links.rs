//! The links of the self-test's namespaces. All addresses are of those that are reserved for documentation, and nobody
//! outside of these namespaces sees them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use monitor_common::{Direction, Family};

use super::route::Device;

/// Index of the loopback device in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// Who a packet is from or for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Host {
    /// Whose packets go to the gateway, and through it.
    Client,
    /// Where the programs count.
    Gateway,
    /// To whom forwarded packets go.
    Target,
}

impl Host {
    /// Its name.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gateway => "gateway",
            Self::Target => "target",
        }
    }
}

/// One of the two links, each with a host at its other end.
pub(super) struct Link {
    pub(super) host: Host,
    /// The device of the gateway, and that of the host.
    pub(super) devices: [Device; 2],
    /// Their addresses.
    ipv4: [Ipv4Addr; 2],
    ipv6: [Ipv6Addr; 2],
}

/// Both.
pub(super) const LINKS: [Link; 2] = [
    Link {
        host: Host::Client,
        devices: [
            Device {
                name: "client",
                index: 101,
                mac: [2, 0, 0, 0, 1, 1],
            },
            Device {
                name: "gateway",
                index: 201,
                mac: [2, 0, 0, 0, 1, 2],
            },
        ],
        ipv4: [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)],
        ipv6: [
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2),
        ],
    },
    Link {
        host: Host::Target,
        devices: [
            Device {
                name: "target",
                index: 102,
                mac: [2, 0, 0, 0, 2, 1],
            },
            Device {
                name: "gateway",
                index: 202,
                mac: [2, 0, 0, 0, 2, 2],
            },
        ],
        ipv4: [
            Ipv4Addr::new(198, 51, 100, 1),
            Ipv4Addr::new(198, 51, 100, 2),
        ],
        ipv6: [
            Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2),
        ],
    },
];

impl Link {
    /// The addresses of the gateway and of the host.
    pub(super) fn addresses(&self, family: Family) -> [IpAddr; 2] {
        match family {
            Family::Ipv4 => self.ipv4.map(IpAddr::V4),
            Family::Ipv6 => self.ipv6.map(IpAddr::V6),
        }
    }

    /// The first address of its network.
    pub(super) fn network(&self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => (Ipv4Addr::from_bits(self.ipv4[0].to_bits() & !0xff)).into(),
            Family::Ipv6 => (Ipv6Addr::from_bits(self.ipv6[0].to_bits() & !0xffff)).into(),
        }
    }
}

/// Bits of the prefix of both networks.
pub(super) const fn prefix(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 24,
        Family::Ipv6 => 64,
    }
}

/// Who sends and who gets the packets of a direction.
pub(super) const fn ends(direction: Direction) -> [Host; 2] {
    match direction {
        Direction::Inbound => [Host::Client, Host::Gateway],
        Direction::Outbound => [Host::Gateway, Host::Client],
        Direction::Forwarded => [Host::Client, Host::Target],
    }
}

/// The address of a host: of the gateway, that towards the client.
pub(super) fn address(host: Host, family: Family) -> IpAddr {
    let [client, target] = LINKS.each_ref().map(|link| link.addresses(family));
    match host {
        Host::Client => client[1],
        Host::Gateway => client[0],
        Host::Target => target[1],
    }
}

/// The devices of the gateway by index and name, but the loopback device.
pub(super) fn devices() -> [(u32, &'static str); 2] {
    LINKS.each_ref().map(|link| {
        let [here, _] = link.devices;
        (here.index, here.name)
    })
}

/// All addresses of the gateway.
pub(super) fn addresses() -> impl Iterator<Item = IpAddr> {
    LINKS.iter().flat_map(|link| {
        Family::ALL
            .iter()
            .map(move |family| link.addresses(*family)[0])
    })
}
