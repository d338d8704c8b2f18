//! Rules of `nf_tables` that drop what goes to watched ports (`linux/netfilter/nf_tables.h`).

use std::io;

use monitor_common::Protocol;
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::ask::change;
use crate::netlink::request::Request;
use crate::netlink::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};
use crate::traffic::{Port, Traffics};

/// `linux/netfilter/nfnetlink.h`
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
/// `linux/netfilter.h`
const NFPROTO_INET: u8 = 1;
const NF_DROP: u32 = 0;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_META_L4PROTO: u32 = 16;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_CMP_EQ: u32 = 0;

/// Where the destination port is in the headers of TCP and UDP.
const PORT_OFFSET: u32 = 2;
const PORT_LENGTH: u32 = 2;

const TABLE: &str = "selftest";

/// The chains and their hooks: `NF_INET_LOCAL_IN`, `NF_INET_FORWARD`, `NF_INET_LOCAL_OUT`.
const CHAINS: [(&str, u32); 3] = [("input", 1), ("forward", 2), ("output", 3)];

/// Drops everything to the traffics' ports that goes in, out or through the calling thread's network
/// namespace.
pub(super) fn drop_all(traffics: &Traffics) -> io::Result<()> {
    let ports: Vec<Port> = traffics
        .iter()
        .flat_map(|traffic| traffic.ports.clone())
        .collect();
    let (batch, requests) = batch(&ports);
    change(NETLINK_NETFILTER, &batch, requests)
}

/// The whole transaction, and how many requests in it are acknowledged.
pub(super) fn batch(ports: &[Port]) -> (Vec<u8>, usize) {
    let mut requests = vec![
        request(NFT_MSG_NEWTABLE, 0)
            .text(NFTA_TABLE_NAME, TABLE)
            .finish(),
    ];
    requests.extend(CHAINS.map(|(name, hook)| chain(name, hook)));
    for (name, _) in CHAINS {
        requests.extend(ports.iter().map(|port| drop_rule(name, *port)));
    }
    let count = requests.len();
    let mut batch = edge(NFNL_MSG_BATCH_BEGIN);
    batch.extend(requests.concat());
    batch.extend(edge(NFNL_MSG_BATCH_END));
    (batch, count)
}

/// Begin or end of a transaction. In their `struct nfgenmsg` stands who it is for.
fn edge(kind: u16) -> Vec<u8> {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    Request::new(kind, 0, 0).raw(&[0, 0, high, low]).finish()
}

/// A request to make something.
fn request(kind: u16, flags: u16) -> Request {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
    Request::new(kind, NLM_F_ACK | NLM_F_CREATE | flags, 1).raw(&[NFPROTO_INET, 0, 0, 0])
}

fn chain(name: &str, hook: u32) -> Vec<u8> {
    request(NFT_MSG_NEWCHAIN, 0)
        .text(NFTA_CHAIN_TABLE, TABLE)
        .text(NFTA_CHAIN_NAME, name)
        .nest(NFTA_CHAIN_HOOK, |request| {
            number(
                number(request, NFTA_HOOK_HOOKNUM, hook),
                NFTA_HOOK_PRIORITY,
                0,
            )
        })
        .text(NFTA_CHAIN_TYPE, "filter")
        .finish()
}

/// `meta l4proto PROTOCOL th dport PORT drop`
fn drop_rule(chain: &str, port: Port) -> Vec<u8> {
    let protocol = match port.protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    // Protocol numbers are bytes.
    let protocol = u8::try_from(protocol).unwrap_or_default();
    request(NFT_MSG_NEWRULE, NLM_F_APPEND)
        .text(NFTA_RULE_TABLE, TABLE)
        .text(NFTA_RULE_CHAIN, chain)
        .nest(NFTA_RULE_EXPRESSIONS, |rule| {
            let rule = expression(rule, "meta", |data| {
                let data = number(data, NFTA_META_DREG, NFT_REG_1);
                number(data, NFTA_META_KEY, NFT_META_L4PROTO)
            });
            let rule = equals(rule, &[protocol]);
            let rule = expression(rule, "payload", |data| {
                [
                    (NFTA_PAYLOAD_DREG, NFT_REG_1),
                    (NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER),
                    (NFTA_PAYLOAD_OFFSET, PORT_OFFSET),
                    (NFTA_PAYLOAD_LEN, PORT_LENGTH),
                ]
                .into_iter()
                .fold(data, |data, (kind, value)| number(data, kind, value))
            });
            let rule = equals(rule, &port.number.to_be_bytes());
            expression(rule, "immediate", |data| {
                let data = number(data, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
                data.nest(NFTA_IMMEDIATE_DATA, |data| {
                    data.nest(NFTA_DATA_VERDICT, |verdict| {
                        number(verdict, NFTA_VERDICT_CODE, NF_DROP)
                    })
                })
            })
        })
        .finish()
}

/// Goes on only where the first register has this value.
fn equals(rule: Request, value: &[u8]) -> Request {
    expression(rule, "cmp", |data| {
        let data = number(data, NFTA_CMP_SREG, NFT_REG_1);
        let data = number(data, NFTA_CMP_OP, NFT_CMP_EQ);
        data.nest(NFTA_CMP_DATA, |data| data.attribute(NFTA_DATA_VALUE, value))
    })
}

fn expression(rule: Request, name: &str, fill: impl FnOnce(Request) -> Request) -> Request {
    rule.nest(NFTA_LIST_ELEM, |element| {
        element
            .text(NFTA_EXPR_NAME, name)
            .nest(NFTA_EXPR_DATA, fill)
    })
}

/// Numbers of `nf_tables` are in network byte order.
fn number(request: Request, kind: u16, value: u32) -> Request {
    request.attribute(kind, &value.to_be_bytes())
}
