//! Dumps over a netlink socket of `nf_tables`: what there is of a kind, at once.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::netlink::{self, NLMSGHDR, i32_at};

/// `NFNL_SUBSYS_NFTABLES`: the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const FLAGS: u16 = 0x301;
/// The rules changed between two parts of the answer (`NLM_F_DUMP_INTR`).
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// How often a dump that a change interrupted is tried.
const TRIES: usize = 3;
/// How long the kernel may take for a part of an answer, seconds.
const PATIENCE: i64 = 2;
/// Room for one datagram, bytes: the kernel fills 32 KiB at most (`netlink_dump`).
const DATAGRAM: usize = 64 * 1024;

/// What is dumped, by the number of its request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Topic {
    Tables = 1,
    Chains = 4,
    Rules = 7,
    Sets = 10,
    Elements = 13,
    Flowtables = 23,
}

impl Topic {
    /// What can't be read, where it can't.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Tables => "the tables of nftables",
            Self::Chains => "the chains of nftables",
            Self::Rules => "the rules of nftables",
            Self::Sets => "the sets of nftables",
            Self::Elements => "the elements of an nftables set",
            Self::Flowtables => "the flowtables of nftables",
        }
    }
}

/// What one datagram says of a dump.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Part {
    pub(super) is_last: bool,
    pub(super) is_interrupted: bool,
    /// The taker wants no more.
    pub(super) is_full: bool,
}

/// A socket for dumps, in the network namespace in which it was made.
pub(super) struct Dumps {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
    /// A dump was interrupted each time, or was too long.
    pub(super) cut: bool,
}

impl Dumps {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        // SAFETY: the descriptor is borrowed from the socket, which outlives the borrowing.
        let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        let patience = TimeVal::seconds(PATIENCE);
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &patience)?;
        Ok(Self {
            socket,
            sequence: 0,
            datagram: Vec::with_capacity(DATAGRAM),
            cut: false,
        })
    }

    /// Dumps a topic, and gives what `decode` makes of the payload of each message: `limit` at most.
    pub(super) fn all<T, I: IntoIterator<Item = T>>(
        &mut self,
        topic: Topic,
        family: u8,
        attributes: &[u8],
        limit: usize,
        decode: impl Fn(&[u8]) -> I,
    ) -> io::Result<Vec<T>> {
        let mut all = Vec::new();
        for _ in 0..TRIES {
            all.clear();
            let part = self.once(topic, family, attributes, |payload| {
                for one in decode(payload) {
                    if all.len() == limit {
                        return false;
                    }
                    all.push(one);
                }
                true
            })?;
            if part.is_full {
                self.cut = true;
                // What is left of the answer would come before the next one.
                *self = Self {
                    cut: true,
                    ..Self::open()?
                };
                return Ok(all);
            }
            if !part.is_interrupted {
                return Ok(all);
            }
        }
        self.cut = true;
        Ok(all)
    }

    fn once(
        &mut self,
        topic: Topic,
        family: u8,
        attributes: &[u8],
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<Part> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(topic, family, self.sequence, attributes)?;
        self.socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
        let mut is_interrupted = false;
        loop {
            self.receive()?;
            let part = read(&self.datagram, self.sequence, &mut take)?;
            is_interrupted |= part.is_interrupted;
            if part.is_last || part.is_full {
                return Ok(Part {
                    is_interrupted,
                    ..part
                });
            }
        }
    }

    /// Takes one datagram of the kernel.
    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.datagram.clear();
            // With MSG_TRUNC the length is that of the datagram, whether it fitted or not.
            let received = self.socket.recv_from(&mut self.datagram, libc::MSG_TRUNC);
            match received {
                // Any process may write to a netlink socket; only the kernel has this address.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((length, _)) if length > self.datagram.len() => {
                    return Err(io::Error::other(format!(
                        "a message of {length} bytes does not fit"
                    )));
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// `struct nlmsghdr`, `struct nfgenmsg`, and attributes.
fn request(topic: Topic, family: u8, sequence: u32, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(NLMSGHDR + 4 + attributes.len()).map_err(io::Error::other)?;
    let mut request = Vec::new();
    request.extend(length.to_ne_bytes());
    request.extend((SUBSYSTEM << 8 | u16::from(topic as u8)).to_ne_bytes());
    request.extend(FLAGS.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    // The port, which the kernel fills in.
    request.extend([0; 4]);
    // The version and the resource are zero.
    request.extend([family, 0, 0, 0]);
    request.extend(attributes);
    Ok(request)
}

/// A text as an attribute.
pub(super) fn text_attribute(kind: u16, text: &str) -> Vec<u8> {
    let Ok(length) = u16::try_from(4 + text.len() + 1) else {
        // No name of the kernel is so long.
        return Vec::new();
    };
    let mut attribute = Vec::new();
    attribute.extend(length.to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(text.as_bytes());
    attribute.push(0);
    attribute.resize(usize::from(length).next_multiple_of(4), 0);
    attribute
}

/// Takes the messages of a datagram that answer the request of a number, as long as `take` wants more.
pub(super) fn read(
    datagram: &[u8],
    sequence: u32,
    mut take: impl FnMut(&[u8]) -> bool,
) -> io::Result<Part> {
    let mut part = Part::default();
    for message in netlink::messages(datagram) {
        if message.sequence != sequence {
            continue;
        }
        part.is_interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
        match message.kind {
            NLMSG_ERROR | NLMSG_DONE => {
                part.is_last = true;
                match i32_at(message.payload, 0) {
                    Some(code) if code < 0 => {
                        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                    }
                    _ => return Ok(part),
                }
            }
            kind if kind >> 8 == SUBSYSTEM && !take(message.payload) => {
                part.is_full = true;
                return Ok(part);
            }
            _ => {}
        }
    }
    Ok(part)
}
