//! Asking the kernel once: a request, and all messages of its answer.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::{NLMSGHDR, i32_at, messages};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;

/// How long the kernel may take for a datagram of its answer: it answers at once, but for a lock that others hold.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often an answer that changed while it was given is asked for again.
const TRIES: usize = 3;

/// One message of an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// Asks for all objects of a kind: `body` is the fixed part of the request, and attributes behind it.
///
/// # Errors
///
/// What the kernel said; `EPERM` where that takes a capability, `EPROTONOSUPPORT` or `EINVAL` where it has no such thing.
pub(crate) fn dump(protocol: isize, kind: u16, body: &[u8]) -> io::Result<Vec<Reply>> {
    for _ in 0..TRIES {
        let (replies, interrupted) = dump_once(protocol, kind, body)?;
        if !interrupted {
            return Ok(replies);
        }
    }
    Err(io::Error::other("it changed each time while it was read"))
}

fn dump_once(protocol: isize, kind: u16, body: &[u8]) -> io::Result<(Vec<Reply>, bool)> {
    let mut socket = Socket::new(protocol)?;
    let seconds = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &seconds)?;
    socket.bind_auto()?;
    socket.send_to(&request(kind, body), &SocketAddr::new(0, 0), 0)?;
    let (mut replies, mut interrupted) = (Vec::new(), false);
    loop {
        let (datagram, sender) = socket.recv_from_full()?;
        // Any process with the power may write to a netlink socket; only the kernel has this address.
        if sender.port_number() != 0 {
            continue;
        }
        let mut any = false;
        for message in messages(&datagram) {
            any = true;
            interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                NLMSG_DONE | NLMSG_ERROR => {
                    return match i32_at(message.payload, 0) {
                        Some(error) if error < 0 => {
                            Err(io::Error::from_raw_os_error(error.saturating_neg()))
                        }
                        _ => Ok((replies, interrupted)),
                    };
                }
                kind => replies.push(Reply {
                    kind,
                    payload: message.payload.to_vec(),
                }),
            }
        }
        if !any {
            return Err(io::Error::other("the kernel's answer has no message"));
        }
    }
}

/// A request for a dump.
fn request(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(NLMSGHDR + body.len()).unwrap_or(u32::MAX);
    let mut request = Vec::with_capacity(NLMSGHDR + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(body);
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_sys::protocols::NETLINK_ROUTE;

    #[test]
    fn the_loopback_device_is_among_all_links() {
        const RTM_NEWLINK: u16 = 16;
        const RTM_GETLINK: u16 = 18;
        let links = dump(NETLINK_ROUTE, RTM_GETLINK, &[0; 16]).unwrap();
        assert!(links.iter().all(|link| link.kind == RTM_NEWLINK));
        let index = |link: &Reply| super::super::u32_at(&link.payload, 4);
        assert!(links.iter().any(|link| index(link) == Some(1)));
    }

    #[test]
    fn a_refusal_is_an_error() {
        let error = dump(NETLINK_ROUTE, 0xfff0, &[0; 16]).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
    }
}
