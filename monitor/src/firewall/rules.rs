//! A firewall's rules, as far as they matter here: what was read, whichever way it came.

use crate::ruleset::TableFamily;

/// What a rule, an entry of a verdict map or a policy does with a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    /// On with the next rule.
    Continue,
    Queue,
    Jump(String),
    Goto(String),
}

impl Verdict {
    /// As nft writes it.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Accept => "accept".to_owned(),
            Self::Drop => "drop".to_owned(),
            Self::Return => "return".to_owned(),
            Self::Continue => "continue".to_owned(),
            Self::Queue => "queue".to_owned(),
            Self::Jump(chain) => format!("jump {chain}"),
            Self::Goto(chain) => format!("goto {chain}"),
        }
    }

    /// The chain that it leads to.
    pub(super) fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

/// What a field of a packet, or of its connection, means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A source or destination port, 2 bytes in network order.
    Port,
    /// The number of the transport protocol, 1 byte.
    Protocol,
}

/// A field in a value that is loaded, bytes from the value's beginning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Field {
    pub(super) kind: Kind,
    pub(super) at: usize,
}

/// How two values are compared (`enum nft_cmp_ops`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A part of a rule. Registers are told by their first byte in the 64 bytes that all share.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Expression {
    /// Puts something into registers: some of it may be known.
    Load {
        register: usize,
        length: usize,
        fields: Vec<Field>,
    },
    /// `register = (source & mask) ^ xor`.
    Mask {
        source: usize,
        register: usize,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Compare {
        register: usize,
        operator: Operator,
        value: Vec<u8>,
    },
    Range {
        register: usize,
        inverted: bool,
        from: Vec<u8>,
        to: Vec<u8>,
    },
    Lookup {
        register: usize,
        set: String,
        inverted: bool,
        /// What is found is the rule's verdict.
        is_verdict: bool,
    },
    /// The protocol that an entry of iptables-legacy is for.
    Protocol {
        number: u8,
        inverted: bool,
    },
    /// What a match of xtables compares ports with: any of these, from and to. The protocol is known
    /// where the match is for one only.
    Ports {
        protocol: Option<u8>,
        ranges: Vec<(u16, u16)>,
    },
    Verdict(Verdict),
    /// Does something with the packet, in one word or two.
    Action(String),
}

/// A rule.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Rule {
    /// Its number in the table, or its position in the chain of iptables-legacy, from 1 on.
    pub(super) handle: Option<u64>,
    /// It holds matches or targets of xtables.
    pub(super) is_compat: bool,
    pub(super) expressions: Vec<Expression>,
}

/// What makes a chain a base chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Base {
    pub(super) hook: String,
    pub(super) drops: bool,
}

/// A chain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// An element of a set or a map.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// The last key, field by field, where the element is a range of a concatenation.
    pub(super) end: Option<Vec<u8>>,
    /// It is the first key behind an interval.
    pub(super) is_interval_end: bool,
    pub(super) verdict: Option<Verdict>,
}

/// A set or a map.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Set {
    pub(super) name: String,
    /// Its elements are where intervals begin and end.
    pub(super) has_intervals: bool,
    pub(super) elements: Vec<Element>,
}

/// A table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Table {
    pub(super) family: TableFamily,
    pub(super) name: String,
    pub(super) is_legacy: bool,
    /// It is switched off: its base chains see no packets.
    pub(super) is_dormant: bool,
    pub(super) chains: Vec<Chain>,
    pub(super) sets: Vec<Set>,
}

impl Table {
    pub(super) const fn new(family: TableFamily, name: String) -> Self {
        Self {
            family,
            name,
            is_legacy: false,
            is_dormant: false,
            chains: Vec::new(),
            sets: Vec::new(),
        }
    }
}
