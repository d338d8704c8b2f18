//! Asking the kernel once: a request, and all messages of its answer.

use std::io;
use std::time::Duration;

use super::channel::{Channel, Kernel};
use super::request::Request;
use super::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, i32_at, messages};

/// How long the kernel may take for a datagram of its answer: it answers at once, but for a lock that others hold.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take to do what it is asked.
const PATIENCE_OF_CHANGES: Duration = Duration::from_secs(3);

/// How often an answer that changed while it was given is asked for again.
const TRIES: usize = 3;

/// One message of an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// The kernel, for [`dump`].
pub(crate) fn kernel(protocol: isize) -> Kernel {
    Kernel::new(protocol, PATIENCE)
}

/// Asks for all objects of a kind: `body` is the fixed part of the request, and attributes behind it.
///
/// # Errors
///
/// What the kernel said; `EPERM` where that takes a capability, `EPROTONOSUPPORT` or `EINVAL` where it has no such thing.
pub(crate) fn dump(channel: &mut dyn Channel, kind: u16, body: &[u8]) -> io::Result<Vec<Reply>> {
    let request = Request::new(kind, NLM_F_DUMP, 1).raw(body).finish();
    for _ in 0..TRIES {
        let (replies, interrupted) = dump_once(channel, &request)?;
        if !interrupted {
            return Ok(replies);
        }
    }
    Err(io::Error::other("it changed each time while it was read"))
}

fn dump_once(channel: &mut dyn Channel, request: &[u8]) -> io::Result<(Vec<Reply>, bool)> {
    channel.renew()?;
    channel.send(request)?;
    let (mut replies, mut interrupted) = (Vec::new(), false);
    loop {
        let datagram = channel.receive()?;
        let mut any = false;
        for message in messages(datagram) {
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

/// Sends requests in one datagram from the calling thread's network namespace, and waits for so many
/// acknowledgements.
///
/// # Errors
///
/// Why the kernel refused one of them.
pub(crate) fn change(protocol: isize, requests: &[u8], acknowledgements: usize) -> io::Result<()> {
    let mut kernel = Kernel::new(protocol, PATIENCE_OF_CHANGES);
    kernel.renew()?;
    kernel.send(requests)?;
    let mut left = acknowledgements;
    while left > 0 {
        left = left.saturating_sub(acknowledged(kernel.receive()?)?);
    }
    Ok(())
}

/// How many requests a datagram acknowledges; the error where it refuses one.
pub(crate) fn acknowledged(datagram: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    for message in messages(datagram).filter(|message| message.kind == NLMSG_ERROR) {
        match i32_at(message.payload, 0) {
            Some(0) => count += 1,
            Some(code) => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
            None => {}
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_sys::protocols::NETLINK_ROUTE;

    #[test]
    fn the_loopback_device_is_among_all_links() {
        const RTM_NEWLINK: u16 = 16;
        const RTM_GETLINK: u16 = 18;
        let links = dump(&mut kernel(NETLINK_ROUTE), RTM_GETLINK, &[0; 16]).unwrap();
        assert!(links.iter().all(|link| link.kind == RTM_NEWLINK));
        let index = |link: &Reply| super::super::u32_at(&link.payload, 4);
        assert!(links.iter().any(|link| index(link) == Some(1)));
    }

    #[test]
    fn a_refusal_is_an_error() {
        let error = dump(&mut kernel(NETLINK_ROUTE), 0xfff0, &[0; 16]).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
    }

    #[test]
    fn a_refusal_is_told_and_acknowledgements_are_counted() {
        let answer = |code: i32| {
            Request::new(2, 0, 1)
                .raw(&code.to_ne_bytes())
                .raw(&[0; 16])
                .finish()
        };
        assert_eq!(acknowledged(&answer(0)).unwrap(), 1);
        assert_eq!(acknowledged(&answer(0).repeat(3)).unwrap(), 3);
        let refused = [answer(0), answer(-libc::EOPNOTSUPP)].concat();
        let error = acknowledged(&refused).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
        assert_eq!(acknowledged(&[1, 2, 3]).unwrap(), 0);
    }
}
