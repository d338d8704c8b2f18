//! What the kernel's neighbour table knows: which hosts on our own links are alive, and which are not. A host whose firewall eats
//! everything still answers ARP and neighbour solicitations, or nothing would reach it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::netlink::request::Request;
use crate::netlink::{self, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR};

/// `linux/rtnetlink.h`
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
/// `struct ndmsg` (`linux/neighbour.h`), bytes.
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NDA_CACHEINFO: u16 = 3;
/// `NUD_REACHABLE`, `NUD_STALE`, `NUD_DELAY`: it answered at some time. `NUD_PERMANENT` and `NUD_NOARP` say
/// nothing of the host, and `NUD_PROBE` means that it is asked right now and has not answered yet.
const ANSWERED: u16 = 0x02 | 0x04 | 0x08;
/// `NUD_FAILED`: it was asked several times, and did not answer.
const FAILED: u16 = 0x20;
/// `NTF_EXT_LEARNED`: another program put it there.
const LEARNED: u8 = 0x10;

/// Room for one datagram, bytes: the kernel makes them no longer than 32 KiB in dumps (`netlink_dump`).
const DATAGRAM: usize = 64 * 1024;

/// The unit of times towards user space, whatever the kernel's own is (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// A neighbour that answered, or that was asked in vain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Whether it answered.
    pub answered: bool,
    /// How long ago that was: when it was known last to be there (`ndm_confirmed`), or when the kernel
    /// gave up (`ndm_updated`).
    pub ago: Duration,
}

/// Reads the neighbour table of the calling thread's network namespace. The kernel answers at once, so this
/// does not wait.
///
/// # Errors
///
/// Where the kernel gives no socket, or refuses.
pub fn read() -> io::Result<Vec<Neighbour>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    socket.bind_auto()?;
    socket.send_to(&request(), &SocketAddr::new(0, 0), 0)?;
    let mut neighbours = Vec::new();
    let mut datagram = Vec::with_capacity(DATAGRAM);
    loop {
        datagram.clear();
        let (_, sender) = socket.recv_from(&mut datagram, 0)?;
        // Any process may write to a netlink socket; only the kernel has this address.
        if sender.port_number() == 0 && take(&datagram, &mut neighbours)? {
            return Ok(neighbours);
        }
    }
}

/// Asks for a dump of all families.
fn request() -> Vec<u8> {
    Request::new(RTM_GETNEIGH, NLM_F_DUMP, 0)
        .raw(&[0; NDMSG])
        .finish()
}

/// Takes a datagram; true at the end of the dump.
pub(crate) fn take(datagram: &[u8], neighbours: &mut Vec<Neighbour>) -> io::Result<bool> {
    for message in netlink::messages(datagram) {
        match message.kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = netlink::i32_at(message.payload, 0).unwrap_or(0);
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            RTM_NEWNEIGH => neighbours.extend(neighbour(message.payload)),
            _ => {}
        }
    }
    Ok(false)
}

fn neighbour(payload: &[u8]) -> Option<Neighbour> {
    let state = netlink::u16_at(payload, 8)?;
    let flags = *payload.get(10)?;
    let answered = state & ANSWERED != 0;
    if !answered && state & FAILED == 0 || flags & LEARNED != 0 {
        return None;
    }
    // Of `struct nda_cacheinfo`: confirmed, used, updated.
    let time = if answered { 0 } else { 8 };
    let (mut address, mut ago) = (None, None);
    for (kind, value) in netlink::attributes(payload.get(NDMSG..)?) {
        match kind {
            NDA_DST => address = to_address(value),
            NDA_CACHEINFO => ago = netlink::u32_at(value, time),
            _ => {}
        }
    }
    Some(Neighbour {
        address: address?,
        answered,
        ago: TICK.saturating_mul(ago?),
    })
}

fn to_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    let bytes = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(bytes).into())
}

#[cfg(test)]
mod tests;
