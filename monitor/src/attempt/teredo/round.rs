//! The solicitations of one client that belong together, and how they ended.

use std::net::SocketAddrV4;
use std::time::Duration;

use monitor_common::Direction;
use monitor_common::drop::Class;
use serde::{Deserialize, Serialize};

use crate::attempt::judge::dropper;
use crate::attempt::tracker::Table;
use crate::attempt::{BlockedBy, Outcome};
use crate::teredo::{Dropped, Nonce, Packet};

/// How long a client waits for an advertisement (RFC 4380 section 5.2.1).
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// How often a client tries: so many misses in a row are an unanswered attempt, fewer say nothing.
pub(super) const TRIES: usize = 3;

/// What the list of solicitations of a round takes, bytes: room for four, and what the allocator adds.
pub(super) const TRIES_ROOM: usize = (TRIES + 1) * size_of::<Try>() + 16;

/// How long after the first solicitation others belong to the same round.
const ROUND: Duration = Duration::from_secs(13);

/// How long a packet that passed may wait for its own drop: a rule behind this daemon's hook.
const GRACE: Duration = Duration::from_millis(50);

/// One solicitation.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Try {
    pub(super) at: Duration,
    pub(super) nonce: Option<Nonce>,
}

/// How a round ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) blocked_by: BlockedBy,
    /// The kernel's reason for the drop that ended it.
    pub(super) reason: Option<u32>,
}

/// The solicitations of one client that belong together.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Round {
    pub(super) traffic: u8,
    pub(super) direction: Direction,
    pub(super) first: Duration,
    /// The last ones, at most [`TRIES`].
    pub(super) tries: Vec<Try>,
    /// The last of the first [`TRIES`].
    exhausted: Option<Duration>,
    pub(super) answered: Option<Duration>,
    /// The first solicitation that was dropped.
    dropped: Option<(Duration, Dropped)>,
    /// The first advertisement that was dropped.
    pub(super) reply_dropped: Option<(Duration, Dropped)>,
    /// The client as the advertisement names it, behind a translation of addresses.
    pub(super) translated_client: Option<SocketAddrV4>,
    pub(super) is_finished: bool,
}

impl Round {
    pub(super) const fn new(first: &Packet) -> Self {
        Self {
            traffic: first.traffic,
            direction: first.direction,
            first: first.time,
            tries: Vec::new(),
            exhausted: None,
            answered: None,
            dropped: None,
            reply_dropped: None,
            translated_client: None,
            is_finished: false,
        }
    }

    /// Whether it will end at a time that is known.
    const fn is_bound_to_end(&self) -> bool {
        self.exhausted.is_some()
            || self.answered.is_some()
            || self.dropped.is_some()
            || self.reply_dropped.is_some()
    }

    /// Whether another solicitation now is one of its own.
    pub(super) fn takes(&self, now: Duration) -> bool {
        now.saturating_sub(self.first) < ROUND || !self.is_finished && self.is_bound_to_end()
    }

    /// Whether a packet of it would say nothing any more.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        let last = self.tries.last().map_or(self.first, |last| last.at);
        !self.takes(now) && (self.is_finished || now.saturating_sub(last) > PATIENCE)
    }

    /// The solicitation that an advertisement answers.
    pub(super) fn asked(&self, nonce: Option<Nonce>) -> Option<Try> {
        let answers = |of: &&Try| nonce.is_none() || of.nonce.is_none() || of.nonce == nonce;
        self.tries.iter().rev().find(answers).copied()
    }

    /// Takes a solicitation in. Gives a nonce that is remembered no more.
    pub(super) fn solicit(&mut self, packet: &Packet, nonce: Option<Nonce>) -> Option<Nonce> {
        let at = packet.time;
        // A packet that passed and was dropped after that is one try.
        let again = self
            .tries
            .last()
            .is_some_and(|last| last.nonce == nonce && at.saturating_sub(last.at) < GRACE);
        let mut forgotten = None;
        if !again {
            if self.tries.len() >= TRIES {
                forgotten = self.tries.remove(0).nonce;
            }
            self.tries.push(Try { at, nonce });
            if self.tries.len() >= TRIES {
                self.exhausted.get_or_insert(at);
            }
        }
        if !self.is_finished {
            if let Some(dropped) = packet.dropped {
                self.dropped.get_or_insert((at, dropped));
            }
            self.direction = packet.direction;
        }
        forgotten.filter(|old| self.tries.iter().all(|of| of.nonce != Some(*old)))
    }

    /// How it ended, if it did.
    pub(super) fn judge(
        &self,
        now: Duration,
        table: &Table,
        is_alive: impl FnOnce() -> bool,
    ) -> Option<Ended> {
        let ended = |outcome, blocked_by, reason| Ended {
            outcome,
            blocked_by,
            reason,
        };
        let rests = |at: Duration| now.saturating_sub(at) >= GRACE;
        let by = |of: &Dropped| dropper(Some(of.class), table.is_full_at(of.location));
        if let Some((at, dropped)) = self.dropped {
            // A listener is missed at delivery, a neighbour on the way out: of a record that says otherwise it is
            // not known who.
            let inbound = self.direction == Direction::Inbound;
            let (outcome, by) = match dropped.class {
                Class::NoListener if inbound => (Outcome::Refused, BlockedBy::LocalHost),
                Class::Neighbour if !inbound => (Outcome::Offline, BlockedBy::None),
                _ => (Outcome::Dropped, by(&dropped)),
            };
            return rests(at).then_some(ended(outcome, by, Some(dropped.reason)));
        }
        if let Some((at, dropped)) = self.reply_dropped {
            let ended = ended(Outcome::ReplyDropped, by(&dropped), Some(dropped.reason));
            return rests(at).then_some(ended);
        }
        if let Some(at) = self.answered {
            return rests(at).then_some(ended(Outcome::Established, BlockedBy::None, None));
        }
        if now.saturating_sub(self.exhausted?) < PATIENCE {
            return None;
        }
        let by = if self.direction == Direction::Inbound {
            // A server here got it, and said nothing.
            BlockedBy::LocalOverload
        } else if is_alive() {
            BlockedBy::Upstream
        } else {
            BlockedBy::Unknown
        };
        Some(ended(Outcome::Unanswered, by, None))
    }
}
