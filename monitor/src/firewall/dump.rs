//! Dumps over a netlink socket of `nf_tables`: what there is of a kind, at once.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::channel::{Channel, Kernel};
use crate::netlink::request::Request;
use crate::netlink::{self, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, i32_at};

/// `NFNL_SUBSYS_NFTABLES`: the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;

/// How often a dump that a change interrupted is tried.
const TRIES: usize = 3;
/// How long the kernel may take for a part of an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The kernel, for dumps.
pub(crate) fn kernel() -> Kernel {
    Kernel::new(NETLINK_NETFILTER, PATIENCE)
}

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

/// Dumps, one after another.
pub(super) struct Dumps<'a> {
    channel: &'a mut dyn Channel,
    sequence: u32,
    /// A dump was interrupted each time, or was too long.
    pub(super) cut: bool,
}

impl<'a> Dumps<'a> {
    pub(super) fn open(channel: &'a mut dyn Channel) -> io::Result<Self> {
        channel.renew()?;
        Ok(Self {
            channel,
            sequence: 0,
            cut: false,
        })
    }

    /// Dumps a topic, of what has these names, and gives what `decode` makes of the payload of each message: `limit` at
    /// most.
    pub(super) fn all<T, I: IntoIterator<Item = T>>(
        &mut self,
        topic: Topic,
        family: u8,
        names: &[(u16, &str)],
        limit: usize,
        decode: impl Fn(&[u8]) -> I,
    ) -> io::Result<Vec<T>> {
        let mut all = Vec::new();
        for _ in 0..TRIES {
            all.clear();
            let part = self.once(topic, family, names, |payload| {
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
                self.channel.renew()?;
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
        names: &[(u16, &str)],
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<Part> {
        self.sequence = self.sequence.wrapping_add(1);
        let kind = SUBSYSTEM << 8 | u16::from(topic as u8);
        // `struct nfgenmsg`: the version and the resource are zero.
        let request = Request::new(kind, NLM_F_DUMP, self.sequence).raw(&[family, 0, 0, 0]);
        let request = names
            .iter()
            .fold(request, |request, (kind, name)| request.text(*kind, name));
        self.channel.send(&request.finish())?;
        let mut is_interrupted = false;
        loop {
            let part = read(self.channel.receive()?, self.sequence, &mut take)?;
            is_interrupted |= part.is_interrupted;
            if part.is_last || part.is_full {
                return Ok(Part {
                    is_interrupted,
                    ..part
                });
            }
        }
    }
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
