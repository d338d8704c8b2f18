//! Decoding of a rule's expressions (`enum nft_expr_attributes` and what follows it in
//! `include/uapi/linux/netfilter/nf_tables.h`, `nf_tables_compat.h`). Numbers are in network order.

use super::rules::{Expression, Field, Kind, Operator, Verdict};
use super::xtables;
use crate::netlink::{attribute, attributes, text};
use crate::ruleset::TableFamily;

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

/// `NFT_META_L4PROTO`.
const META_L4PROTO: u32 = 16;
/// `NFT_CT_PROTOCOL`, `NFT_CT_PROTO_SRC`, `NFT_CT_PROTO_DST`.
const CT_PROTOCOL: u32 = 10;
const CT_PROTO_SRC: u32 = 11;
const CT_PROTO_DST: u32 = 12;
/// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Where IPv4 has `protocol`, and IPv6 `nexthdr`.
const IPV4_PROTOCOL: usize = 9;
const IPV6_NEXTHDR: usize = 6;

/// `NFT_REG_SIZE`, bytes; four of them: `NFT_REG_1` to `NFT_REG_4`.
const REGISTER: usize = 16;
pub(super) const REGISTERS: usize = 4 * REGISTER;
/// `NFT_REG32_SIZE`, bytes, and the number of the first, `NFT_REG32_00`.
const REGISTER_32: usize = 4;
const REGISTER_32_FIRST: u32 = 8;

pub(super) fn be32(value: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(value).ok().map(u32::from_be_bytes)
}

/// The number that is the value of an attribute of a kind.
pub(super) fn number(bytes: &[u8], wanted: u16) -> Option<u32> {
    be32(attribute(bytes, wanted)?)
}

/// The bytes of a nested `NFTA_DATA_VALUE`.
pub(super) fn value(bytes: &[u8], wanted: u16) -> Option<Vec<u8>> {
    Some(attribute(attribute(bytes, wanted)?, NFTA_DATA_VALUE)?.to_vec())
}

/// The verdict of a nested `NFTA_DATA_VERDICT`.
pub(super) fn verdict(bytes: &[u8], wanted: u16) -> Option<Verdict> {
    let nested = attribute(attribute(bytes, wanted)?, NFTA_DATA_VERDICT)?;
    let chain = || Some(text(attribute(nested, NFTA_VERDICT_CHAIN)?));
    // `enum nft_verdicts`, and those of all of netfilter, which have more in their upper bytes.
    Some(match number(nested, NFTA_VERDICT_CODE)?.cast_signed() {
        -1 | -2 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        code => match code & 0xff {
            0 => Verdict::Drop,
            1 => Verdict::Accept,
            3 => Verdict::Queue,
            _ => return None,
        },
    })
}

/// The first byte of a register whose number an attribute holds, and how many bytes its name means.
fn register(bytes: &[u8], wanted: u16) -> Option<(usize, usize)> {
    let number = number(bytes, wanted)?;
    let index = |first: u32| usize::try_from(number.checked_sub(first)?).ok();
    let (at, length) = if number < REGISTER_32_FIRST {
        (index(1)?.checked_mul(REGISTER)?, REGISTER)
    } else {
        let index = index(REGISTER_32_FIRST)?;
        (index.checked_mul(REGISTER_32)?, REGISTER_32)
    };
    (at < REGISTERS).then_some((at, length))
}

/// The expressions of a rule that matter, and whether any is one of xtables.
pub(super) fn decode(family: TableFamily, list: &[u8]) -> (Vec<Expression>, bool) {
    let mut expressions = Vec::new();
    let mut is_compat = false;
    for (_, element) in attributes(list) {
        let Some(name) = attribute(element, NFTA_EXPR_NAME).map(text) else {
            continue;
        };
        let data = attribute(element, NFTA_EXPR_DATA).unwrap_or_default();
        is_compat |= matches!(name.as_str(), "match" | "target");
        expressions.extend(expression(family, &name, data));
        if name == "lookup" {
            // What a map gives is not followed.
            expressions.extend(unknown(data, 3));
        }
    }
    (expressions, is_compat)
}

fn expression(family: TableFamily, name: &str, data: &[u8]) -> Option<Expression> {
    match name {
        "payload" => payload(family, data),
        "meta" => keyed(data, |key| (key == META_L4PROTO).then_some(Kind::Protocol)),
        "ct" => keyed(data, |key| match key {
            CT_PROTOCOL => Some(Kind::Protocol),
            CT_PROTO_SRC | CT_PROTO_DST => Some(Kind::Port),
            _ => None,
        }),
        "bitwise" => bitwise(data),
        "cmp" => compare(data),
        "range" => range(data),
        "lookup" => lookup(data),
        "immediate" => verdict(data, 2)
            .map(Expression::Verdict)
            .or_else(|| unknown(data, 1)),
        "match" => xtables::decode_match(
            &text(attribute(data, 1)?),
            number(data, 2).unwrap_or_default(),
            attribute(data, 3)?,
        ),
        "target" => Some(xtables::decode_target(&text(attribute(data, 1)?))),
        "queue" => Some(Expression::Verdict(Verdict::Queue)),
        "nat" => {
            // `enum nft_nat_types`.
            let is_source = number(data, 1)? == 0;
            Some(action(if is_source { "snat" } else { "dnat" }))
        }
        "redir" => Some(action("redirect")),
        "masq" => Some(action("masquerade")),
        "flow_offload" => Some(Expression::Action(format!(
            "flow add {}",
            text(attribute(data, 1)?)
        ))),
        "reject" | "tproxy" | "synproxy" | "notrack" | "dup" | "fwd" | "log" => Some(action(name)),
        // These have where they write to as their first attribute, those as their second.
        "rt" | "fib" | "exthdr" | "numgen" | "osf" | "xfrm" => unknown(data, 1),
        "byteorder" if is_left_as_it_is(data) => None,
        "byteorder" | "hash" | "socket" | "tunnel" => unknown(data, 2),
        // Loads from a tunnel's packet, by an expression inside; whichever register it was.
        "inner" => Some(Expression::Load {
            register: 0,
            length: REGISTERS,
            fields: Vec::new(),
        }),
        _ => None,
    }
}

fn action(word: &str) -> Expression {
    Expression::Action(word.to_owned())
}

/// Something that is not followed comes into a register.
fn unknown(data: &[u8], wanted: u16) -> Option<Expression> {
    let (register, length) = register(data, wanted)?;
    Some(Expression::Load {
        register,
        length,
        fields: Vec::new(),
    })
}

/// `enum nft_byteorder_attributes`: nft swaps a protocol, which is one byte, by twos in the range of a
/// concatenation; the kernel swaps none then (`nft_byteorder_eval`).
fn is_left_as_it_is(data: &[u8]) -> bool {
    let is_in_place = number(data, 1) == number(data, 2);
    is_in_place && number(data, 4) < number(data, 5)
}

/// `enum nft_meta_attributes` and `enum nft_ct_attributes` begin alike: the register and the key.
fn keyed(data: &[u8], kind: impl Fn(u32) -> Option<Kind>) -> Option<Expression> {
    let (register, length) = register(data, 1)?;
    let fields = kind(number(data, 2)?).map(|kind| Field { kind, at: 0 });
    Some(Expression::Load {
        register,
        length,
        fields: fields.into_iter().collect(),
    })
}

/// `enum nft_payload_attributes`. nft loads fields that are beside each other at once.
fn payload(family: TableFamily, data: &[u8]) -> Option<Expression> {
    let (register, _) = register(data, 1)?;
    let offset = usize::try_from(number(data, 3)?).ok()?;
    let length = usize::try_from(number(data, 4)?).ok()?;
    let wanted: &[(Kind, usize, usize)] = match (number(data, 2)?, family) {
        (TRANSPORT_HEADER, _) => &[(Kind::Port, 0, 2), (Kind::Port, 2, 2)],
        (NETWORK_HEADER, TableFamily::Ip) => &[(Kind::Protocol, IPV4_PROTOCOL, 1)],
        (NETWORK_HEADER, TableFamily::Ip6) => &[(Kind::Protocol, IPV6_NEXTHDR, 1)],
        // The version is compared elsewhere in the rule. Only when loaded by itself is it one of them
        // for sure: what is longer may as well be an address.
        (NETWORK_HEADER, _) if length == 1 => &[
            (Kind::Protocol, IPV4_PROTOCOL, 1),
            (Kind::Protocol, IPV6_NEXTHDR, 1),
        ],
        _ => &[],
    };
    let fields = wanted.iter().filter_map(|&(kind, begin, size)| {
        let at = begin.checked_sub(offset)?;
        (at.checked_add(size)? <= length).then_some(Field { kind, at })
    });
    Some(Expression::Load {
        register,
        length: length.min(REGISTERS),
        fields: fields.collect(),
    })
}

/// `enum nft_bitwise_attributes`; a shift makes something else of a port.
fn bitwise(data: &[u8]) -> Option<Expression> {
    let (source, _) = register(data, 1)?;
    let (destination, _) = register(data, 2)?;
    let is_mask = number(data, 6).unwrap_or_default() == 0;
    match (value(data, 4), value(data, 5)) {
        (Some(mask), Some(xor)) if is_mask => Some(Expression::Mask {
            source,
            register: destination,
            mask,
            xor,
        }),
        _ => unknown(data, 2),
    }
}

/// `enum nft_cmp_attributes`.
fn compare(data: &[u8]) -> Option<Expression> {
    let operator = match number(data, 2)? {
        0 => Operator::Equal,
        1 => Operator::NotEqual,
        2 => Operator::Less,
        3 => Operator::LessOrEqual,
        4 => Operator::Greater,
        5 => Operator::GreaterOrEqual,
        _ => return None,
    };
    Some(Expression::Compare {
        register: register(data, 1)?.0,
        operator,
        value: value(data, 3)?,
    })
}

/// `enum nft_range_attributes`.
fn range(data: &[u8]) -> Option<Expression> {
    Some(Expression::Range {
        register: register(data, 1)?.0,
        inverted: number(data, 2)? == 1,
        from: value(data, 3)?,
        to: value(data, 4)?,
    })
}

/// `enum nft_lookup_attributes`.
fn lookup(data: &[u8]) -> Option<Expression> {
    Some(Expression::Lookup {
        register: register(data, 2)?.0,
        set: text(attribute(data, 1)?),
        // `NFT_LOOKUP_F_INV`.
        inverted: number(data, 5).unwrap_or_default() & 1 != 0,
        // `NFT_REG_VERDICT`.
        is_verdict: number(data, 3) == Some(0),
    })
}
