//! Attempts to reach a Teredo server, from the packets that the kernel programs copy.
//!
//! A client solicits up to three times, four seconds apart: one *round*, which is one attempt. Each of its
//! solicitations may have a nonce of its own, and masquerading changes the client's port, so an
//! advertisement names its round by the nonce and, where there is none, by the addresses and ports.
//! Solicitations that test for a cone are left out: they often stay unanswered where nothing is blocked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use monitor_common::drop::Class;
use monitor_common::{Direction, Family, Protocol};
use serde::{Deserialize, Serialize};

use super::tracker::{Late, Table};
use super::{Finished, Outcome};
use crate::limits;
use crate::teredo::{Message, Nonce, Packet};

mod round;

use round::{Ended, PATIENCE, Round};

/// How long a packet from a server proves that it is alive.
const ALIVE: Duration = Duration::from_mins(5);

/// How many rounds are followed at once: more than the ring buffer of packets lets through in the time of
/// one.
const MAX_ROUNDS: usize = 65_536;

/// How many servers are known to be alive at most.
const MAX_SERVERS: usize = 16_384;

/// The most memory that rounds and servers take, bytes.
pub(crate) const fn room() -> usize {
    limits::hash_table::<(Ends, Round)>(MAX_ROUNDS)
        + MAX_ROUNDS * round::TRIES_ROOM
        + limits::hash_table::<(Nonce, Ends)>(round::TRIES * MAX_ROUNDS)
        + limits::hash_table::<(Ipv4Addr, Duration)>(MAX_SERVERS)
        + limits::list::<Finished>(MAX_ROUNDS)
}

/// Who asks whom.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
struct Ends {
    client: SocketAddrV4,
    server: SocketAddrV4,
}

/// What came of one look at the rounds.
#[derive(Debug, Default)]
pub struct Scan {
    /// Attempts that ended.
    pub finished: Vec<Finished>,
    /// Answers to attempts that had ended without one.
    pub late: Vec<Late>,
}

/// The rounds that are followed. What it finds depends on the packets and the times that it is given,
/// and on nothing else.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct TeredoTracker {
    rounds: HashMap<Ends, Round>,
    nonces: HashMap<Nonce, Ends>,
    alive: HashMap<Ipv4Addr, Duration>,
    late: Vec<Late>,
    lost: u64,
}

impl TeredoTracker {
    /// Takes in a packet. They come in the order of their times.
    pub fn packet(&mut self, packet: &Packet) {
        match packet.message {
            Message::Solicitation { cone: true, .. } => {}
            Message::Solicitation { nonce, .. } => self.solicitation(packet, nonce),
            Message::Advertisement { nonce, cone } => {
                self.is_seen(*packet.source.ip(), packet);
                // One to a test may come from another address of the server, and has no round.
                if !cone {
                    self.advertisement(packet, nonce);
                }
            }
            Message::Other => self.is_seen(*packet.source.ip(), packet),
        }
    }

    /// Takes what ended until now; `is_alive` says what is known of hosts elsewhere.
    pub fn scan(&mut self, now: Duration, table: Table, is_alive: impl Fn(IpAddr) -> bool) -> Scan {
        let mut scan = Scan {
            finished: Vec::new(),
            late: std::mem::take(&mut self.late),
        };
        let alive = &self.alive;
        for (ends, round) in &mut self.rounds {
            if round.is_finished {
                continue;
            }
            let server = *ends.server.ip();
            let ended = round.judge(now, &table, || {
                alive.get(&server).is_some_and(|at| is_recent(*at, now)) || is_alive(server.into())
            });
            if let Some(ended) = ended {
                round.is_finished = true;
                scan.finished.push(finished(*ends, round, ended, now));
            }
        }
        self.forget(now);
        scan.finished.sort_by_key(|finished| finished.first);
        scan
    }

    /// The servers that clients wait for, of whom nothing was seen.
    pub fn waiting(&self) -> impl Iterator<Item = IpAddr> {
        let open = self.rounds.iter().filter(|(_, round)| !round.is_finished);
        let servers = open.map(|(ends, _)| *ends.server.ip());
        servers
            .filter(|server| !self.alive.contains_key(server))
            .map(IpAddr::from)
    }

    /// How many solicitations found no room to be followed.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    fn is_seen(&mut self, host: Ipv4Addr, packet: &Packet) {
        // What leaves this host proves nothing of another.
        if packet.direction == Direction::Outbound {
            return;
        }
        if self.alive.len() >= MAX_SERVERS && !self.alive.contains_key(&host) {
            return;
        }
        self.alive.insert(host, packet.time);
    }

    fn solicitation(&mut self, packet: &Packet, nonce: Option<Nonce>) {
        let mut ends = Ends {
            client: packet.source,
            server: packet.destination,
        };
        // The same solicitation, or its repetition, on the other side of a translation.
        if !self.is_followed(ends, packet.time)
            && let Some(other) = nonce.and_then(|nonce| self.nonces.get(&nonce))
            && self.is_followed(*other, packet.time)
        {
            ends = *other;
        }
        if !self.is_followed(ends, packet.time) {
            if let Some(old) = self.rounds.remove(&ends) {
                self.forget_nonces(ends, &old);
            } else if self.rounds.len() >= MAX_ROUNDS {
                self.lost = self.lost.saturating_add(1);
                return;
            }
            self.rounds.insert(ends, Round::new(packet));
        }
        let Some(round) = self.rounds.get_mut(&ends) else {
            return;
        };
        let forgotten = round.solicit(packet, nonce);
        if let Some(nonce) = forgotten
            && self.nonces.get(&nonce) == Some(&ends)
        {
            self.nonces.remove(&nonce);
        }
        if let Some(nonce) = nonce {
            // Where two clients chose the same, the first keeps it; the other's ends tell it.
            self.nonces.entry(nonce).or_insert(ends);
        }
    }

    /// Whether a solicitation at this time belongs to a round between these ends.
    fn is_followed(&self, ends: Ends, at: Duration) -> bool {
        self.rounds.get(&ends).is_some_and(|round| round.takes(at))
    }

    fn advertisement(&mut self, packet: &Packet, nonce: Option<Nonce>) {
        let ends = Ends {
            client: packet.destination,
            server: packet.source,
        };
        let asked = |ends: Ends| {
            let of = self.rounds.get(&ends)?.asked(nonce)?;
            Some((ends, of))
        };
        let by_nonce = || asked(*self.nonces.get(&nonce?)?);
        let Some((ends, of)) = asked(ends).or_else(by_nonce) else {
            return;
        };
        let Some(round) = self.rounds.get_mut(&ends) else {
            return;
        };
        match packet.dropped {
            None => {
                if !goes_back(round.direction, packet.direction) || round.answered.is_some() {
                    return;
                }
                if round.is_finished {
                    self.late.push(Late {
                        traffic: round.traffic,
                        direction: round.direction,
                        at: packet.time,
                    });
                } else if packet.time.saturating_sub(of.at) > PATIENCE {
                    // The client has given it up.
                    return;
                }
                round.answered = Some(packet.time);
                round.translated_client = Some(packet.destination);
            }
            // An answer that nobody waits for any more says nothing of a block.
            Some(dropped) if dropped.class == Class::NoListener => {}
            Some(dropped) => {
                round.reply_dropped.get_or_insert((packet.time, dropped));
            }
        }
    }

    fn forget_nonces(&mut self, ends: Ends, round: &Round) {
        for nonce in round.tries.iter().filter_map(|of| of.nonce) {
            if self.nonces.get(&nonce) == Some(&ends) {
                self.nonces.remove(&nonce);
            }
        }
    }

    fn forget(&mut self, now: Duration) {
        let over: Vec<Ends> = self
            .rounds
            .iter()
            .filter(|(_, round)| round.is_over(now))
            .map(|(ends, _)| *ends)
            .collect();
        for ends in over {
            if let Some(round) = self.rounds.remove(&ends) {
                self.forget_nonces(ends, &round);
            }
        }
        self.alive.retain(|_, at| is_recent(*at, now));
    }
}

fn is_recent(at: Duration, now: Duration) -> bool {
    now.saturating_sub(at) < ALIVE
}

/// Whether a packet goes towards the client of a round from where its solicitation went.
const fn goes_back(round: Direction, packet: Direction) -> bool {
    matches!(
        (round, packet),
        (Direction::Inbound, Direction::Outbound)
            | (Direction::Outbound, Direction::Inbound)
            | (Direction::Forwarded, Direction::Forwarded)
    )
}

fn finished(ends: Ends, round: &Round, ended: Ended, now: Duration) -> Finished {
    let handshake = round
        .answered
        .filter(|_| ended.outcome == Outcome::Established)
        .map(|at| at.saturating_sub(round.first));
    Finished {
        traffic: round.traffic,
        protocol: Protocol::Udp,
        family: Family::Ipv4,
        direction: round.direction,
        outcome: ended.outcome,
        blocked_by: ended.blocked_by,
        first: round.first,
        ended: now,
        handshake,
        client: round.translated_client.unwrap_or(ends.client).into(),
        target: ends.server.into(),
        reason: ended.reason,
    }
}

#[cfg(test)]
mod tests;
