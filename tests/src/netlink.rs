//! Netlink requests for which there is no tool in a virtual machine, or none that writes them as others do.

use std::io::{self, Read as _};

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::wait::{DEADLINE, scaled};

/// From `linux/netlink.h`.
const NLMSGHDR: usize = 16;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;
/// From `linux/genetlink.h`; the version of the controller is not looked at.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const GENLMSGHDR: usize = 4;
/// From `linux/netfilter/nfnetlink.h`.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;

/// Attributes that are being written.
#[derive(Debug, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds one with these bytes.
    ///
    /// # Errors
    ///
    /// When they are too many.
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Result<Self> {
        let length = u16::try_from(4 + value.len())?;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        Ok(self)
    }

    /// Adds a text with its NUL.
    ///
    /// # Errors
    ///
    /// When it is too long.
    pub fn text(self, kind: u16, text: &str) -> Result<Self> {
        self.bytes(kind, &[text.as_bytes(), b"\0"].concat())
    }

    /// Adds a number in network order, as nftables has them.
    ///
    /// # Errors
    ///
    /// None that is known of.
    pub fn number(self, kind: u16, value: u32) -> Result<Self> {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds attributes inside one.
    ///
    /// # Errors
    ///
    /// When they are too many.
    pub fn nest(self, kind: u16, inside: &Self) -> Result<Self> {
        self.bytes(kind | NLA_F_NESTED, &inside.0)
    }
}

fn message(kind: u16, flags: u16, header: &[u8], attributes: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(NLMSGHDR + header.len() + attributes.len())?;
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // The sequence matters to nobody, and the kernel puts the port in.
    message.extend([0; 8]);
    message.extend(header);
    message.extend(attributes);
    Ok(message)
}

fn open(protocol: i32) -> Result<Socket> {
    let (domain, protocol) = (Domain::from(libc::AF_NETLINK), Protocol::from(protocol));
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("netlink socket")?;
    socket.set_read_timeout(Some(scaled(DEADLINE)?))?;
    Ok(socket)
}

/// The first message of the next datagram: its type, and what follows its header.
fn answer(mut socket: &Socket) -> Result<(u16, Vec<u8>)> {
    let mut datagram = vec![0; 64 * 1024];
    let length = socket.read(&mut datagram)?;
    datagram.truncate(length);
    let kind = number(&datagram, 4)?;
    Ok((kind, datagram.split_off(NLMSGHDR.min(length))))
}

fn number(bytes: &[u8], at: usize) -> Result<u16> {
    let two = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u16::from_ne_bytes(*two.context("a short message")?))
}

/// Whether an acknowledgement says that all is well.
fn acknowledged(kind: u16, payload: &[u8]) -> Result<()> {
    ensure!(kind == NLMSG_ERROR, "message {kind} in place of an answer");
    let code = payload.first_chunk().context("a short message")?;
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        code => bail!(io::Error::from_raw_os_error(-code)),
    }
}

/// The number of a family of generic netlink; its module is loaded for it.
fn family(socket: &Socket, name: &str) -> Result<u16> {
    let attributes = Attributes::default().text(CTRL_ATTR_FAMILY_NAME, name)?;
    let header = [CTRL_CMD_GETFAMILY, 1, 0, 0];
    socket.send(&message(GENL_ID_CTRL, 0, &header, &attributes.0)?)?;
    let (kind, payload) = answer(socket)?;
    if kind == NLMSG_ERROR {
        acknowledged(kind, &payload)?;
    }
    let mut rest = payload.get(GENLMSGHDR..).unwrap_or_default();
    while !rest.is_empty() {
        if number(rest, 2)? == CTRL_ATTR_FAMILY_ID {
            return number(rest, 4);
        }
        let length = usize::from(number(rest, 0)?).max(4).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    bail!("the answer has no number of {name}")
}

/// Makes a request of generic netlink in the calling thread's network namespace: the family's name, the command
/// with its version, and the family's own header.
///
/// # Errors
///
/// When the kernel has no such family, which is said so, or refuses the request.
pub fn generic(
    name: &str,
    (command, version): (u8, u8),
    header: &[u8],
    attributes: &Attributes,
) -> Result<()> {
    let socket = open(libc::NETLINK_GENERIC)?;
    let kind = family(&socket, name).with_context(|| format!("no generic netlink of {name}"))?;
    let header = [&[command, version, 0, 0], header].concat();
    socket.send(&message(kind, NLM_F_ACK, &header, &attributes.0)?)?;
    let (kind, payload) = answer(&socket)?;
    acknowledged(kind, &payload).with_context(|| format!("command {command} of {name}"))
}

/// Makes a request of rtnetlink in the calling thread's network namespace: its number, and its own header.
///
/// # Errors
///
/// When the kernel refuses it.
pub fn route(request: u16, header: &[u8], attributes: &Attributes) -> Result<()> {
    let socket = open(libc::NETLINK_ROUTE)?;
    socket.send(&message(request, NLM_F_ACK, header, &attributes.0)?)?;
    let (kind, payload) = answer(&socket)?;
    acknowledged(kind, &payload).with_context(|| format!("request {request} of rtnetlink"))
}

/// Makes something of nftables in the calling thread's network namespace: the number of the request, the family of
/// its table, and what it is.
///
/// # Errors
///
/// When the kernel refuses it.
pub fn nftables(request: u16, family: u8, attributes: &Attributes) -> Result<()> {
    let socket = open(libc::NETLINK_NETFILTER)?;
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    let edge = |kind| message(kind, 0, &[0, 0, high, low], &[]);
    let kind = NFNL_SUBSYS_NFTABLES << 8 | request;
    let batch = [
        edge(NFNL_MSG_BATCH_BEGIN)?,
        message(
            kind,
            NLM_F_ACK | NLM_F_CREATE,
            &[family, 0, 0, 0],
            &attributes.0,
        )?,
        edge(NFNL_MSG_BATCH_END)?,
    ];
    socket.send(&batch.concat())?;
    let (kind, payload) = answer(&socket)?;
    acknowledged(kind, &payload).with_context(|| format!("request {request} of nftables"))
}
