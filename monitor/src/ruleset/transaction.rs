//! From messages to changes: a state machine without a socket.
//!
//! The kernel numbers the transactions: each makes a generation of the ruleset, and its messages carry
//! the number's lower half. So a gap in the numbers shows what was missed, however that came about, and
//! a message that belongs to no transaction is told apart: a quota that a packet used up sends one.

use super::message::{Body, Frame};
use super::{Backend, Change, Kind, MAX_TABLES, Moment, Process, Table};

/// The parts of a transaction that have arrived.
#[derive(Debug, Default, Eq, PartialEq)]
struct Parts {
    /// The lower half of its number.
    generation: u16,
    rules: bool,
    sets: bool,
    tables: Vec<Table>,
}

/// What is known of the ruleset's generations.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// The number of the last transaction that was told, or that was before we began.
    told: Option<u32>,
    /// Those that came since.
    parts: Parts,
}

impl Transactions {
    /// Takes a notification.
    pub(super) fn apply(&mut self, frame: Frame, now: Moment, changes: &mut impl Extend<Change>) {
        match frame.body {
            Body::Part(kind, table) => self.part(frame.generation, kind, table),
            Body::Generation { id, by } => changes.extend(self.complete(id, by.as_ref(), now)),
            Body::Other => {}
        }
    }

    /// Takes the number of the last transaction, asked of the kernel when there was nothing more to
    /// read. It tells a change where we know of an earlier one only.
    pub(super) fn compare(&mut self, id: u32, now: Moment) -> Option<Change> {
        let before = self.told.replace(id)?;
        (before != id).then(|| missed(now))
    }

    fn part(&mut self, generation: u16, kind: Kind, table: Option<Table>) {
        if self.parts.generation != generation {
            self.parts = Parts {
                generation,
                ..Parts::default()
            };
        }
        match kind {
            Kind::Rules => self.parts.rules = true,
            Kind::Sets => self.parts.sets = true,
        }
        if let Some(table) = table
            && self.parts.tables.len() < MAX_TABLES
            && !self.parts.tables.contains(&table)
        {
            self.parts.tables.push(table);
        }
    }

    /// The changes of the transaction that this completes.
    fn complete(&mut self, id: Option<u32>, by: Option<&Process>, now: Moment) -> Vec<Change> {
        let mut parts = std::mem::take(&mut self.parts);
        let before = std::mem::replace(&mut self.told, id);
        if let Some(id) = id {
            if before == Some(id) {
                // It was complete when we asked for the number, and is part of what that told.
                return Vec::new();
            }
            if parts.generation != lower_half(id) {
                parts = Parts::default();
            }
        }
        let mut changes = Vec::new();
        if let (Some(before), Some(id)) = (before, id)
            && id != following(before)
        {
            changes.push(missed(now));
        }
        // None is known where they were missed, or from a newer kernel; but something changed.
        let unknown = !parts.rules && !parts.sets;
        for (kind, touched) in [
            (Kind::Rules, parts.rules || unknown),
            (Kind::Sets, parts.sets),
        ] {
            if touched {
                changes.push(Change {
                    by: by.cloned(),
                    tables: parts.tables.clone(),
                    ..change(kind, now)
                });
            }
        }
        changes
    }
}

/// The kernel leaves out 0 (`nf_tables_commit`).
const fn following(id: u32) -> u32 {
    match id.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

const fn lower_half(id: u32) -> u16 {
    let [.., high, low] = id.to_be_bytes();
    u16::from_be_bytes([high, low])
}

fn change(kind: Kind, now: Moment) -> Change {
    Change {
        at: now.at,
        monotonic: now.monotonic,
        kind,
        by: None,
        backend: Backend::Nftables,
        tables: Vec::new(),
    }
}

/// One change for all that were missed. What they were is not known: rules, as they matter most.
fn missed(now: Moment) -> Change {
    change(Kind::Rules, now)
}

#[cfg(test)]
mod tests;
