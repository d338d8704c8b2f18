//! Writing netlink requests, and waiting until the kernel has acknowledged them.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

use crate::netlink::{NLMSGHDR, i32_at, messages};

/// `linux/netlink.h`
pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;

/// The kernel answers at once, unless something holds a lock for long.
const PATIENCE: Duration = Duration::from_secs(3);

/// Room for a datagram of acknowledgements, bytes: each has the header of its request at most, but an error the
/// whole request.
const DATAGRAM: usize = 32 * 1024;

/// A request that is being written.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Begins with the header; the flag that it is a request is set.
    pub(super) fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        let mut bytes = Vec::with_capacity(256);
        // The length, at the end.
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // The kernel puts the socket's port in.
        bytes.resize(NLMSGHDR, 0);
        Self { bytes }
    }

    /// Adds bytes as they are; what follows begins at a multiple of four.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self.pad()
    }

    /// Adds an attribute.
    pub(super) fn attribute(self, kind: u16, value: &[u8]) -> Self {
        self.with(kind, |this| this.raw(value), value.len())
    }

    /// Adds a text as an attribute, with the NUL at its end.
    pub(super) fn text(self, kind: u16, text: &str) -> Self {
        self.attribute(kind, &[text.as_bytes(), b"\0"].concat())
    }

    /// Adds an attribute of attributes.
    pub(super) fn nest(self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        self.with(kind | NLA_F_NESTED, fill, 0)
    }

    /// Adds an attribute. Its length is `length` or, where that is 0, that of what was added.
    fn with(mut self, kind: u16, fill: impl FnOnce(Self) -> Self, length: usize) -> Self {
        let start = self.bytes.len();
        self.bytes.extend(0_u16.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        let mut this = fill(self);
        let length = if length == 0 {
            this.bytes.len() - start
        } else {
            length + 4
        };
        // All that is written here is short.
        let length = u16::try_from(length).unwrap_or_default().to_ne_bytes();
        this.bytes[start..start + 2].copy_from_slice(&length);
        this
    }

    fn pad(mut self) -> Self {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
        self
    }

    /// The whole message.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or_default();
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// Sends requests in one datagram from the calling thread's network namespace, and waits for so many
/// acknowledgements.
pub(super) fn ask(protocol: isize, requests: &[u8], acknowledgements: usize) -> io::Result<()> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
    socket.send_to(requests, &SocketAddr::new(0, 0), 0)?;
    let mut left = acknowledgements;
    let mut datagram = Vec::with_capacity(DATAGRAM);
    while left > 0 {
        datagram.clear();
        let (_, sender) = socket.recv_from(&mut datagram, 0)?;
        // Any process may write to a netlink socket; only the kernel has this address.
        if sender.port_number() == 0 {
            left = left.saturating_sub(acknowledged(&datagram)?);
        }
    }
    Ok(())
}

/// How many requests a datagram acknowledges; the error where it refuses one.
pub(super) fn acknowledged(datagram: &[u8]) -> io::Result<usize> {
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
