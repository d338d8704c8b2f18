//! All interfaces at one time, with the XDP programs on them.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use serde::Serialize;

use super::Interface;
use super::message::{IFINFOMSG, Message, RTM_GETLINK, RTM_NEWLINK, link};
use crate::netlink::channel::Channel;
use crate::netlink::{ask, attribute, attributes, u32_at};

/// `include/uapi/linux/if_link.h`
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// In the driver, before the kernel makes a packet of it (`XDP_ATTACHED_DRV`).
    Native,
    /// On packets of the kernel's (`XDP_ATTACHED_SKB`): `kfree_skb` tells of those that it drops.
    Generic,
    /// On the network card (`XDP_ATTACHED_HW`).
    Hardware,
    /// Several at once (`XDP_ATTACHED_MULTI`), one of which may be native.
    Several,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Xdp {
    /// Where it runs.
    pub mode: XdpMode,
    /// Its number; 0 where there are several.
    pub program: u32,
}

/// The interfaces of the calling thread's network namespace, by index.
///
/// # Errors
///
/// What the kernel said.
pub fn list() -> io::Result<Vec<(Interface, Option<Xdp>)>> {
    list_of(&mut ask::kernel(NETLINK_ROUTE))
}

/// The same, wherever the answers come from.
pub(crate) fn list_of(channel: &mut dyn Channel) -> io::Result<Vec<(Interface, Option<Xdp>)>> {
    let replies = ask::dump(channel, RTM_GETLINK, &[0; IFINFOMSG])?;
    let mut found: Vec<_> = replies
        .iter()
        .filter(|reply| reply.kind == RTM_NEWLINK)
        .filter_map(|reply| match link(&reply.payload)? {
            Message::NewLink(interface) => Some((interface, xdp(&reply.payload))),
            _ => None,
        })
        .collect();
    found.sort_by_key(|(interface, _)| interface.index);
    Ok(found)
}

/// The XDP program out of a message about an interface.
fn xdp(payload: &[u8]) -> Option<Xdp> {
    let of_xdp = attribute(payload.get(IFINFOMSG..)?, IFLA_XDP)?;
    let (mut mode, mut program) = (None, 0);
    for (kind, value) in attributes(of_xdp) {
        match kind {
            // `XDP_ATTACHED_*`
            IFLA_XDP_ATTACHED => {
                mode = match value.first()? {
                    1 => Some(XdpMode::Native),
                    2 => Some(XdpMode::Generic),
                    3 => Some(XdpMode::Hardware),
                    4 => Some(XdpMode::Several),
                    _ => None,
                }
            }
            IFLA_XDP_PROG_ID => program = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(Xdp {
        mode: mode?,
        program,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + payload.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_mode_of_an_xdp_program_is_told() {
        let of = |mode: u8| {
            let inside = [
                attribute(IFLA_XDP_ATTACHED, &[mode]),
                attribute(IFLA_XDP_PROG_ID, &7_u32.to_ne_bytes()),
            ];
            let mut payload = vec![0; IFINFOMSG];
            payload.extend(attribute(IFLA_XDP | 0x8000, &inside.concat()));
            xdp(&payload)
        };
        let native = Xdp {
            mode: XdpMode::Native,
            program: 7,
        };
        assert_eq!(of(1), Some(native));
        assert_eq!(of(2).map(|xdp| xdp.mode), Some(XdpMode::Generic));
        assert_eq!(of(0), None);
        for length in 0..IFINFOMSG {
            assert_eq!(xdp(&vec![0; length]), None);
        }
    }

    #[test]
    fn the_loopback_device_is_the_first() {
        let all = list().unwrap();
        assert_eq!(all.first().map(|(one, _)| one.name.as_str()), Some("lo"));
    }
}
