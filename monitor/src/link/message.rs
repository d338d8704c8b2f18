//! Decoding of rtnetlink messages (`rtnetlink(7)`, `include/uapi/linux/rtnetlink.h`).
//!
//! Only what is needed is read, and an attribute that can't be read is left out. The general decoder
//! of netlink-packet-route gives up a whole message for one attribute that it does not expect; an
//! interface must not be missed because a newer kernel tells more about it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Interface, LinkType};
use crate::netlink::request::Request;
use crate::netlink::{
    self, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, attributes, i32_at, text, u16_at,
    u32_at,
};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
pub(super) const RTM_GETADDR: u16 = 22;

/// `struct ifinfomsg`, `struct ifaddrmsg`, bytes.
pub(super) const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
/// `struct ifla_vlan_flags`, within [`IFLA_INFO_DATA`] of a VLAN's device.
const IFLA_VLAN_FLAGS: u16 = 2;
const VLAN_FLAG_REORDER_HDR: u32 = 0x1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;

/// An address of an interface. The kernel tells addresses apart by all fields but the broadcast
/// address (`__inet_insert_ifa`).
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Address {
    /// Index of the interface.
    pub(super) index: u32,
    /// The address of this host.
    pub(super) local: IpAddr,
    /// The other end of a point-to-point interface, else as `local`.
    pub(super) peer: IpAddr,
    /// Bits of the prefix.
    pub(super) prefix: u8,
}

/// What the kernel tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Message {
    NewLink(Interface),
    DelLink(u32),
    /// With the broadcast address that is set for it.
    NewAddress(Address, Option<IpAddr>),
    DelAddress(Address),
}

/// What a netlink message carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Body {
    Message(Message),
    /// The end of a dump.
    Done,
    /// The kernel refused or broke off a dump: the error number.
    Failed(i32),
    /// Of another kind, or without what makes it useful.
    Other,
}

/// One netlink message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Frame {
    /// Of the request that it answers, or that caused the change it tells of.
    pub(super) sequence: u32,
    /// Of the socket that made that request.
    pub(super) port: u32,
    /// Things changed while the kernel dumped them, so some may be missing.
    pub(super) interrupted: bool,
    pub(super) body: Body,
}

/// The request for all links or addresses.
pub(super) fn dump_request(kind: u16, sequence: u32) -> Vec<u8> {
    // All zero: any family, any interface.
    let body = if kind == RTM_GETLINK {
        &[0; IFINFOMSG][..]
    } else {
        &[0; IFADDRMSG]
    };
    Request::new(kind, NLM_F_DUMP, sequence).raw(body).finish()
}

/// The messages of one datagram. What follows a length that can't be is left out.
pub(super) fn decode(datagram: &[u8]) -> Vec<Frame> {
    netlink::messages(datagram).map(frame).collect()
}

fn frame(message: netlink::Message<'_>) -> Frame {
    let payload = message.payload;
    let body = match message.kind {
        NLMSG_DONE => match i32_at(payload, 0) {
            Some(error) if error < 0 => Body::Failed(error.saturating_neg()),
            _ => Body::Done,
        },
        NLMSG_ERROR => Body::Failed(i32_at(payload, 0).unwrap_or_default().saturating_neg()),
        RTM_NEWLINK => link(payload).map_or(Body::Other, Body::Message),
        RTM_DELLINK => {
            link_index(payload).map_or(Body::Other, |index| Body::Message(Message::DelLink(index)))
        }
        kind @ (RTM_NEWADDR | RTM_DELADDR) => address(payload).map_or(Body::Other, |(a, brd)| {
            Body::Message(match kind {
                RTM_NEWADDR => Message::NewAddress(a, brd),
                _ => Message::DelAddress(a),
            })
        }),
        _ => Body::Other,
    };
    Frame {
        sequence: message.sequence,
        port: message.port,
        interrupted: message.flags & NLM_F_DUMP_INTR != 0,
        body,
    }
}

/// The index out of a `struct ifinfomsg`; `None` where it tells of something else than the interface.
///
/// A bridge tells of its ports in the same group, with the family `AF_BRIDGE`: its `RTM_DELLINK` means
/// that the interface left the bridge, not that it is gone. Only `AF_UNSPEC` is about the interface.
fn link_index(payload: &[u8]) -> Option<u32> {
    let family = *payload.first()?;
    let index = u32_at(payload, 4)?;
    (i32::from(family) == libc::AF_UNSPEC && index != 0).then_some(index)
}

/// What a message tells of an interface; `None` where it tells of something else.
pub(super) fn link(payload: &[u8]) -> Option<Message> {
    let index = link_index(payload)?;
    let mut name = None;
    let (mut master, mut lower, mut elsewhere) = (None, None, false);
    let (mut info_kind, mut info_data, mut slave_kind) = (None, None, None);
    for (kind, value) in attributes(payload.get(IFINFOMSG..)?) {
        match kind {
            IFLA_IFNAME => name = Some(text(value)),
            IFLA_MASTER => master = u32_at(value, 0).filter(|master| *master != 0),
            IFLA_LINK => lower = u32_at(value, 0).filter(|lower| ![0, index].contains(lower)),
            IFLA_LINK_NETNSID => elsewhere = true,
            IFLA_LINKINFO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_INFO_KIND => info_kind = Some(text(value)),
                        IFLA_INFO_DATA => info_data = Some(value),
                        IFLA_INFO_SLAVE_KIND => slave_kind = Some(text(value)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // The other end of a pair lies beside, not below; and the kernel tells of the end that it makes
    // first before the two are joined.
    let pair = info_kind
        .as_deref()
        .is_some_and(|kind| ["veth", "netkit", "vxcan"].contains(&kind));
    // What the data means depends on the kind.
    let vlan = info_data.filter(|_| info_kind.as_deref() == Some("vlan"));
    Some(Message::NewLink(Interface {
        index,
        name: name?,
        kind: LinkType::from_arphrd(u16_at(payload, 2)?),
        master,
        slave_kind,
        info_kind,
        lower: lower.filter(|_| !elsewhere && !pair),
        writes_tag: vlan.is_some_and(writes_tag),
    }))
}

/// Whether a VLAN's device writes its tag into the frame; `data` is what is told of VLANs alone.
fn writes_tag(data: &[u8]) -> bool {
    let flags = attributes(data).find(|(kind, _)| *kind == IFLA_VLAN_FLAGS);
    // The kernel leaves them out where none is set (`vlan_fill_info`).
    let flags = flags.and_then(|(_, value)| u32_at(value, 0)).unwrap_or(0);
    flags & VLAN_FLAG_REORDER_HDR == 0
}

fn address(payload: &[u8]) -> Option<(Address, Option<IpAddr>)> {
    let family = i32::from(*payload.first()?);
    let prefix = *payload.get(1)?;
    let index = u32_at(payload, 4)?;
    let (mut local, mut peer, mut broadcast) = (None, None, None);
    for (kind, value) in attributes(payload.get(IFADDRMSG..)?) {
        match kind {
            IFA_LOCAL => local = ip(family, value),
            IFA_ADDRESS => peer = ip(family, value),
            IFA_BROADCAST => broadcast = ip(family, value),
            _ => {}
        }
    }
    // IPv6 has IFA_LOCAL only where there is a peer.
    let local = local.or(peer)?;
    Some((
        Address {
            index,
            local,
            peer: peer.unwrap_or(local),
            prefix,
        },
        broadcast,
    ))
}

fn ip(family: i32, value: &[u8]) -> Option<IpAddr> {
    match family {
        libc::AF_INET => <[u8; 4]>::try_from(value)
            .ok()
            .map(|a| Ipv4Addr::from(a).into()),
        libc::AF_INET6 => <[u8; 16]>::try_from(value)
            .ok()
            .map(|a| Ipv6Addr::from(a).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
