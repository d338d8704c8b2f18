//! Filters of the queueing discipline `clsact`, on kernels without TCX: which there are, and removing the
//! discipline where it was added here.

use std::collections::BTreeSet;
use std::io;

use aya::programs::TcAttachType;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tracing::warn;

use crate::netlink::request::Request;
use crate::netlink::{NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR};

/// include/uapi/linux/rtnetlink.h
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
/// `include/uapi/linux/pkt_sched.h`: `TC_H_CLSACT`, the parents of its filters, and its handle.
const PARENT: u32 = 0xffff_fff1;
const PARENT_INGRESS: u32 = 0xffff_fff2;
const PARENT_EGRESS: u32 = 0xffff_fff3;
const HANDLE: u32 = 0xffff_0000;
/// `struct nlmsghdr`, bytes.
const HEADER: usize = 16;
/// `struct tcmsg`, bytes.
const TCMSG: usize = 20;
/// include/uapi/linux/rtnetlink.h
const TCA_OPTIONS: u16 = 2;
/// `include/uapi/linux/pkt_cls.h`
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;

/// A filter that runs a kernel program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Filter {
    pub(super) priority: u16,
    pub(super) handle: u32,
    pub(super) name: String,
    /// The number of its program.
    pub(super) program: u32,
}

/// The filters of one side of an interface that run kernel programs. An interface without `clsact` has none.
pub(super) fn list(index: u32, attach_type: TcAttachType) -> io::Result<Vec<Filter>> {
    let parent = match attach_type {
        TcAttachType::Ingress => PARENT_INGRESS,
        _ => PARENT_EGRESS,
    };
    let dump = request(RTM_GETTFILTER, NLM_F_DUMP, index, 0, parent);
    let mut filters = Vec::new();
    match ask(&open()?, &dump, |message| filters.extend(parse(message))) {
        // No such parent: there is no clsact.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        result => result.map(|()| filters),
    }
}

/// The same for others: priority, number of the program, and name of each.
pub(in crate::bpf) fn of_interface(
    index: u32,
    attach_type: TcAttachType,
) -> io::Result<Vec<(u16, u32, String)>> {
    let filters = list(index, attach_type)?.into_iter();
    Ok(filters
        .map(|filter| (filter.priority, filter.program, filter.name))
        .collect())
}

/// Reads a message about a filter, its header included.
fn parse(message: &[u8]) -> Option<Filter> {
    let handle = u32::from_ne_bytes(field(message, HEADER + 8)?);
    let info = u32::from_ne_bytes(field(message, HEADER + 16)?);
    let options = attribute(message.get(HEADER + TCMSG..)?, TCA_OPTIONS)?;
    let name = attribute(options, TCA_BPF_NAME).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(Filter {
        priority: u16::try_from(info >> 16).ok()?,
        handle,
        name: String::from_utf8_lossy(name).into_owned(),
        program: u32::from_ne_bytes(field(attribute(options, TCA_BPF_ID)?, 0)?),
    })
}

/// The payload of the first attribute of a kind (`struct nlattr`).
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(field(bytes, 0)?));
        let kind = u16::from_ne_bytes(field(bytes, 2)?);
        let payload = bytes.get(4..length)?;
        // The two highest bits say how it is written.
        if kind & 0x3fff == wanted {
            return Some(payload);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// Removes it from the interfaces with these indexes, unless somebody else has put a filter there
/// since. An interface that is gone is no error.
pub fn remove_clsact(indexes: &BTreeSet<u32>) {
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
        let mut found = false;
        ask(socket, &dump, |_| found = true)?;
        if found {
            return Ok(());
        }
    }
    let delete = request(RTM_DELQDISC, NLM_F_ACK, index, HANDLE, PARENT);
    ask(socket, &delete, |_| ())
}

/// A message with a `struct tcmsg`.
fn request(kind: u16, flags: u16, index: u32, handle: u32, parent: u32) -> Vec<u8> {
    // `struct tcmsg`: the family and the information at its end do not matter, nor does the sequence on a socket that asks
    // one thing at a time.
    let words = [0, index, handle, parent, 0].map(u32::to_ne_bytes);
    Request::new(kind, flags, 0).raw(&words.concat()).finish()
}

/// Sends a request and reads its whole answer; `filter` is given each message about a filter.
fn ask(socket: &Socket, request: &[u8], mut filter: impl FnMut(&[u8])) -> io::Result<()> {
    socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let (Some(length), Some(kind)) = (field::<4>(rest, 0), field::<2>(rest, 4)) {
            match u16::from_ne_bytes(kind) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = field::<4>(rest, HEADER).map_or(0, i32::from_ne_bytes);
                    return match code {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    };
                }
                RTM_NEWTFILTER => {
                    let length = usize::try_from(u32::from_ne_bytes(length)).unwrap_or(0);
                    filter(rest.get(..length).unwrap_or(rest));
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_out_of_its_message() {
        // `tc filter add dev lo egress pref 7 handle 0x3 bpf …`: header, tcmsg, kind, options.
        let mut message = vec![0; HEADER];
        message.extend([0, 0, 0, 0]);
        message.extend(1_u32.to_ne_bytes());
        message.extend(3_u32.to_ne_bytes());
        message.extend(PARENT_EGRESS.to_ne_bytes());
        message.extend((7_u32 << 16 | 0x300).to_ne_bytes());
        let attribute = |kind: u16, payload: &[u8]| {
            let length = u16::try_from(4 + payload.len()).unwrap();
            let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend(payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let id = attribute(TCA_BPF_ID, &42_u32.to_ne_bytes());
        let name = attribute(TCA_BPF_NAME, b"egress_ethernet\0");
        message.extend(attribute(1, b"bpf\0"));
        // Nested, as older kernels and newer ones write it.
        message.extend(attribute(TCA_OPTIONS | 0x8000, &[name, id].concat()));
        let filter = Filter {
            priority: 7,
            handle: 3,
            name: "egress_ethernet".to_owned(),
            program: 42,
        };
        assert_eq!(parse(&message), Some(filter));
        for length in 0..message.len() {
            assert_eq!(parse(&message[..length]), None, "{length}");
        }
    }
}
