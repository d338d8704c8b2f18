//! Removing the queueing discipline `clsact` where it was added here, on kernels without TCX.

use std::collections::BTreeSet;
use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tracing::warn;

/// include/uapi/linux/rtnetlink.h
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
/// include/uapi/linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// `include/uapi/linux/pkt_sched.h`: `TC_H_CLSACT`, the parents of its filters, and its handle.
const PARENT: u32 = 0xffff_fff1;
const PARENT_INGRESS: u32 = 0xffff_fff2;
const PARENT_EGRESS: u32 = 0xffff_fff3;
const HANDLE: u32 = 0xffff_0000;
/// `struct nlmsghdr`, bytes.
const HEADER: usize = 16;

/// Removes it from the interfaces with these indexes, unless somebody else has put a filter there
/// since. An interface that is gone is no error.
pub(super) fn remove(indexes: &BTreeSet<u32>) {
    if indexes.is_empty() {
        return;
    }
    let socket = match open() {
        Ok(socket) => socket,
        Err(error) => return warn!("clsact stays on {} interfaces: {error}", indexes.len()),
    };
    for &index in indexes {
        match remove_one(&socket, index) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => warn!("clsact stays on the interface with index {index}: {error}"),
        }
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    Ok(socket)
}

fn remove_one(socket: &Socket, index: u32) -> io::Result<()> {
    for parent in [PARENT_INGRESS, PARENT_EGRESS] {
        let dump = request(RTM_GETTFILTER, NLM_F_DUMP, index, 0, parent);
        if ask(socket, &dump)? {
            return Ok(());
        }
    }
    let delete = request(RTM_DELQDISC, NLM_F_ACK, index, HANDLE, PARENT);
    ask(socket, &delete).map(|_| ())
}

/// A message with a `struct tcmsg`.
fn request(kind: u16, flags: u16, index: u32, handle: u32, parent: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(36);
    message.extend(36_u32.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence and port, then the family: none matters on a socket that asks one thing at a time.
    message.extend([0; 12]);
    message.extend(index.to_ne_bytes());
    message.extend(handle.to_ne_bytes());
    message.extend(parent.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message
}

/// Sends a request and reads its whole answer. Gives whether a filter was in it.
fn ask(socket: &Socket, request: &[u8]) -> io::Result<bool> {
    socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
    let mut found = false;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let (Some(length), Some(kind)) = (field::<4>(rest, 0), field::<2>(rest, 4)) {
            match u16::from_ne_bytes(kind) {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    let code = field::<4>(rest, HEADER).map_or(0, i32::from_ne_bytes);
                    return match code {
                        0 => Ok(found),
                        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    };
                }
                RTM_NEWTFILTER => found = true,
                _ => {}
            }
            let length = u32::from_ne_bytes(length).max(16).next_multiple_of(4);
            rest = usize::try_from(length)
                .ok()
                .and_then(|length| rest.get(length..))
                .unwrap_or_default();
        }
    }
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}
