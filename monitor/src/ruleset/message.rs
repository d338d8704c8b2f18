//! Decoding of the messages of `nf_tables` (`include/uapi/linux/netfilter/nf_tables.h`, `nfnetlink.h`).

use super::{Kind, Process, Table, TableFamily};
use crate::netlink::request::Request;
use crate::netlink::{self, attributes, text};

/// `NFNL_SUBSYS_NFTABLES`: the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// `struct nfgenmsg`, bytes.
const NFGENMSG: usize = 4;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_DELSET: u16 = 11;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFT_MSG_NEWOBJ: u16 = 18;
const NFT_MSG_DELOBJ: u16 = 20;
const NFT_MSG_NEWFLOWTABLE: u16 = 22;
const NFT_MSG_DELFLOWTABLE: u16 = 24;

/// The table's name: `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE` and so on are all 1.
const NFTA_ANY_TABLE: u16 = 1;
const NFTA_GEN_ID: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;

/// What the kernel tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Body {
    /// A part of a transaction.
    Part(Kind, Option<Table>),
    /// A transaction is complete (or, as the answer to a request, which was the last one). The process
    /// is the one that did it (the one that asked).
    Generation {
        id: Option<u32>,
        by: Option<Process>,
    },
    /// Of another kind, or without what makes it useful.
    Other,
}

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Frame {
    /// Of the socket that made the request which it answers, or that caused the change.
    pub(super) port: u32,
    /// The lower half of the number of the generation of rules that it belongs to.
    pub(super) generation: u16,
    pub(super) body: Body,
}

/// The request for the number of the last transaction.
pub(super) fn generation_request() -> Vec<u8> {
    // Family, version and resource are zero.
    Request::new(SUBSYSTEM << 8 | NFT_MSG_GETGEN, 0, 0)
        .raw(&[0; NFGENMSG])
        .finish()
}

/// The messages of one datagram. What follows a length that can't be is left out.
pub(super) fn decode(datagram: &[u8]) -> impl Iterator<Item = Frame> {
    netlink::messages(datagram).map(|message| Frame {
        port: message.port,
        generation: message
            .payload
            .get(2..)
            .and_then(|bytes| bytes.first_chunk())
            .map_or(0, |bytes| u16::from_be_bytes(*bytes)),
        body: body(&message),
    })
}

fn body(message: &netlink::Message<'_>) -> Body {
    if message.kind >> 8 != SUBSYSTEM {
        return Body::Other;
    }
    match message.kind & 0xff {
        NFT_MSG_NEWTABLE | NFT_MSG_DELTABLE | NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN
        | NFT_MSG_NEWRULE | NFT_MSG_DELRULE | NFT_MSG_NEWOBJ | NFT_MSG_DELOBJ
        | NFT_MSG_NEWFLOWTABLE | NFT_MSG_DELFLOWTABLE => {
            Body::Part(Kind::Rules, table(message.payload))
        }
        NFT_MSG_NEWSET | NFT_MSG_DELSET | NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM => {
            Body::Part(Kind::Sets, table(message.payload))
        }
        NFT_MSG_NEWGEN => generation(message.payload),
        _ => Body::Other,
    }
}

fn table(payload: &[u8]) -> Option<Table> {
    let family = TableFamily::from_number(*payload.first()?);
    let (_, name) =
        attributes(payload.get(NFGENMSG..)?).find(|(kind, _)| *kind == NFTA_ANY_TABLE)?;
    Some(Table {
        family,
        name: text(name),
    })
}

fn generation(payload: &[u8]) -> Body {
    let (mut id, mut pid, mut name) = (None, None, None);
    for (kind, value) in attributes(payload.get(NFGENMSG..).unwrap_or_default()) {
        match kind {
            NFTA_GEN_ID => id = be32(value),
            NFTA_GEN_PROC_PID => pid = be32(value),
            NFTA_GEN_PROC_NAME => name = Some(text(value)),
            _ => {}
        }
    }
    Body::Generation {
        id,
        by: pid.zip(name).map(|(pid, name)| Process { pid, name }),
    }
}

fn be32(value: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(value).ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests;
