//! Requests of rtnetlink (`rtnetlink(7)`): devices, addresses, routes, neighbours. Each is acknowledged.

use std::net::IpAddr;

use crate::netlink::request::Request;
use crate::netlink::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};

/// `linux/rtnetlink.h`
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
/// `linux/if_link.h`
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// `linux/veth.h`
const VETH_INFO_PEER: u16 = 1;
/// `linux/if.h`
const IFF_UP: u32 = 1;
/// `linux/if_addr.h`. Without duplicate address detection an address can be used at once.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;
/// `linux/neighbour.h`
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// A device to be made: the other end of a pair is one, too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    /// Its name.
    pub(super) name: &'static str,
    /// Its index: chosen, so that nobody has to look it up.
    pub(super) index: u32,
    /// Its link address.
    pub(super) mac: [u8; 6],
}

/// `struct ifinfomsg`, which sets and clears no flags but these.
fn ifinfomsg(index: u32, flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [index, flags, flags] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// A pair of devices: the first in the namespace that asks, the other in that which the descriptor is of.
pub(super) fn pair(here: &Device, there: &Device, namespace: u32) -> Vec<u8> {
    Request::new(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, 1)
        .raw(&ifinfomsg(here.index, 0))
        .text(IFLA_IFNAME, here.name)
        .attribute(IFLA_ADDRESS, &here.mac)
        .nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth")
                .nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        peer.raw(&ifinfomsg(there.index, 0))
                            .text(IFLA_IFNAME, there.name)
                            .attribute(IFLA_ADDRESS, &there.mac)
                            .attribute(IFLA_NET_NS_FD, &namespace.to_ne_bytes())
                    })
                })
        })
        .finish()
}

/// Sets a device up.
pub(super) fn up(index: u32) -> Vec<u8> {
    Request::new(RTM_NEWLINK, NLM_F_ACK, 1)
        .raw(&ifinfomsg(index, IFF_UP))
        .finish()
}

/// Gives a device an address.
pub(super) fn address(index: u32, address: IpAddr, prefix: u8) -> Vec<u8> {
    let bytes = octets(address);
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    // struct ifaddrmsg
    let header = [family(address), prefix, flags, RT_SCOPE_UNIVERSE];
    Request::new(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, 1)
        .raw(&[header, index.to_ne_bytes()].concat())
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes)
        .finish()
}

/// The way to a network goes by a gateway.
pub(super) fn route(network: IpAddr, prefix: u8, gateway: IpAddr) -> Vec<u8> {
    // struct rtmsg
    let header = [
        [family(network), prefix, 0, 0],
        [RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST],
        [0; 4],
    ];
    Request::new(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, 1)
        .raw(&header.concat())
        .attribute(RTA_DST, &octets(network))
        .attribute(RTA_GATEWAY, &octets(gateway))
        .finish()
}

/// The link address of a neighbour, which nobody needs to ask for then.
pub(super) fn neighbour(index: u32, address: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    let state = NUD_PERMANENT.to_ne_bytes();
    // struct ndmsg
    let header = [
        [family(address), 0, 0, 0],
        index.to_ne_bytes(),
        [state[0], state[1], 0, 0],
    ];
    Request::new(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE, 1)
        .raw(&header.concat())
        .attribute(NDA_DST, &octets(address))
        .attribute(NDA_LLADDR, &mac)
        .finish()
}

/// `AF_INET` or `AF_INET6`, which are small.
fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    u8::try_from(family).unwrap_or_default()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
