//! The record of an attempt: what a packet that belongs to it changes.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::maps::PerCpuArray;
use monitor_common::Direction;
use monitor_common::attempt::{Attempt, AttemptKey, EarlyAnswer, Kind, Maker, Stage, count, hook};

use super::Note;
use crate::globals;
use crate::maps::{
    ATTEMPT_ALIASES, ATTEMPT_COUNTS, ATTEMPTS, ATTEMPTS_CREATED, CALLS, EARLY_ANSWERS, FRESH,
};

/// `linux/bpf.h`: only a new entry.
const BPF_NOEXIST: u64 = 1;

/// How soon a packet of the same kind is the same packet at another place, or the answer to the same
/// repetition: TCP waits at least 200 ms (`TCP_RTO_MIN`) before it repeats.
const SAME_NS: u64 = 100_000_000;

/// Adds to one of [`count`].
#[inline(always)]
pub(crate) fn add(what: u32, hook: u32) {
    increment(&ATTEMPT_COUNTS, what * hook::LEN + hook);
}

/// Counts a new record, and calls for the daemon after many.
#[inline(always)]
fn created(index: u32) {
    let Some(value) = ATTEMPTS_CREATED.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: as in `increment`.
    let count = unsafe {
        *value += 1;
        *value
    };
    if count & (globals::RECORDS_OF_A_CALL.load() - 1) == 0 {
        // Where there is no room, the daemon has calls enough.
        CALLS.output::<u64>(count, 0).ok();
    }
}

#[inline(always)]
fn increment(map: &PerCpuArray<u64>, index: u32) {
    if let Some(value) = map.get_ptr_mut(index) {
        // SAFETY: this CPU's own value. A program that interrupts another one here may cost a count,
        // so each hook has its own.
        unsafe { *value += 1 };
    }
}

/// The record that an answer belongs to: by the number of the SYN, or of the SYN with its data.
#[inline(always)]
fn find(note: &Note) -> Option<&'static mut Attempt> {
    let mut key = AttemptKey {
        family: note.family,
        sequence: note.said.sequence,
    };
    if let Some(attempt) = ATTEMPTS.get_ptr_mut(key) {
        // SAFETY: records are never freed while programs run; fields are written whole.
        return Some(unsafe { &mut *attempt });
    }
    if note.said.kind == Kind::Syn.code() {
        return None;
    }
    // SAFETY: as above.
    key.sequence = unsafe { *ATTEMPT_ALIASES.get(key)? };
    let attempt = ATTEMPTS.get_ptr_mut(key)?;
    // SAFETY: as above.
    Some(unsafe { &mut *attempt })
}

/// Takes the note of a hook into the record of its attempt.
#[inline(always)]
pub(super) fn record(hook: u32, note: &Note) -> Option<()> {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let attempt = match find(note) {
        Some(attempt) => attempt,
        None if hook == hook::LOOPBACK => return early(note, now),
        None => create(hook, note, now)?,
    };
    if note.said.kind == Kind::Syn.code() {
        syn(attempt, hook, note, now);
    } else if note.said.kind == Kind::SynAck.code() {
        syn_ack(attempt, note, now);
    } else if note.said.kind == Kind::Reset.code() {
        reset(attempt, hook, note, now);
    } else if attempt.answered_ns == 0 && attempt.error_ns == 0 {
        attempt.error_by = note.error_by;
        attempt.error_kind = note.said.error_kind;
        attempt.error_ns = now;
    }
    Some(())
}

/// Remembers an answer that comes before the record.
#[inline(always)]
fn early(note: &Note, now: u64) -> Option<()> {
    let key = AttemptKey {
        family: note.family,
        sequence: note.said.sequence,
    };
    let answer = EarlyAnswer {
        time_ns: now,
        error_kind: u32::from(note.said.error_kind),
        pad: 0,
    };
    // The least recent one makes room. Without it, `rejected` is `dropped`.
    EARLY_ANSWERS.insert(key, answer, 0).ok()
}

/// Takes the answer that came before the record of a dropped SYN.
#[inline(always)]
fn take_early(attempt: &mut Attempt, note: &Note, now: u64) {
    let mut key = AttemptKey {
        family: note.family,
        sequence: note.said.sequence,
    };
    // SAFETY: a copy is taken; entries are written whole.
    let mut found = unsafe { EARLY_ANSWERS.get(key) };
    if found.is_none() && note.said.alias != note.said.sequence {
        // An RST answers the data as well.
        key.sequence = note.said.alias;
        // SAFETY: as above.
        found = unsafe { EARLY_ANSWERS.get(key) };
    }
    let Some(answer) = found else {
        return;
    };
    if now > answer.time_ns.wrapping_add(SAME_NS) {
        return;
    }
    if answer.error_kind == 0 {
        attempt.reset_by = Maker::Here.code();
        attempt.reset_ns = answer.time_ns;
    } else {
        attempt.error_by = Maker::Here.code();
        attempt.error_kind = answer.error_kind as u8;
        attempt.error_ns = answer.time_ns;
    }
}

/// A new record, of a SYN to a port that is watched.
#[inline(always)]
fn create(hook: u32, note: &Note, now: u64) -> Option<&'static mut Attempt> {
    if note.said.kind != Kind::Syn.code() || note.traffic == 0 {
        return None;
    }
    let key = AttemptKey {
        family: note.family,
        sequence: note.said.sequence,
    };
    let fresh = FRESH.get_ptr_mut(hook)?;
    // SAFETY: this CPU's own value, of this hook. Everything but these stays 0.
    unsafe {
        (*fresh).first_ns = now;
        (*fresh).client = note.said.source;
        (*fresh).client_port = note.said.ports.source;
        (*fresh).target = note.said.destination;
        (*fresh).target_port = note.said.ports.destination;
        (*fresh).traffic = (note.traffic - 1) as u8;
        (*fresh).born = hook as u8;
        (*fresh).direction = note.direction as u8;
    }
    // SAFETY: initialised memory of the map.
    let made = ATTEMPTS.insert(key, unsafe { *fresh }, BPF_NOEXIST);
    let Some(attempt) = ATTEMPTS.get_ptr_mut(key) else {
        add(count::REFUSED, hook);
        return None;
    };
    if made.is_ok() {
        created((note.traffic - 1) * hook::LEN + hook);
    }
    if note.said.alias != note.said.sequence {
        let alias = AttemptKey {
            family: note.family,
            sequence: note.said.alias,
        };
        // Without it, only an answer to the data is missed.
        ATTEMPT_ALIASES.insert(alias, note.said.sequence, 0).ok();
    }
    // SAFETY: records are never freed while programs run.
    let attempt = unsafe { &mut *attempt };
    if hook == hook::DROP {
        take_early(attempt, note, now);
    }
    Some(attempt)
}

/// A SYN or SYN-ACK came again behind the answer.
#[inline(always)]
fn repeated(attempt: &mut Attempt, now: u64) {
    let last = attempt.repeated_ns;
    if attempt.answered_ns == 0 || now < last.wrapping_add(SAME_NS) {
        return;
    }
    attempt.gap_ns = now - last;
    attempt.repeats += 1;
    attempt.repeated_ns = now;
}

#[inline(always)]
fn syn(attempt: &mut Attempt, hook: u32, note: &Note, now: u64) {
    if u32::from(attempt.born) == hook
        && (attempt.client_port != note.said.ports.source || attempt.client != note.said.source)
    {
        // Another connection that happens to have the same number.
        return add(count::COLLISIONS, hook);
    }
    attempt.syn_ns = now;
    repeated(attempt, now);
    if note.stage == Stage::Arrived.code() {
        return;
    }
    attempt.direction = note.direction as u8;
    if note.stage == Stage::Passed.code() {
        attempt.target = note.said.destination;
        attempt.target_port = note.said.ports.destination;
        attempt.passed_ns = now;
    } else {
        attempt.location = note.location;
        attempt.reason = note.reason;
        attempt.class = note.class as u8;
        attempt.dropped_ns = now;
    }
}

const INBOUND: u32 = Direction::Inbound as u32;
const OUTBOUND: u32 = Direction::Outbound as u32;
const FORWARDED: u32 = Direction::Forwarded as u32;

/// Whether a packet goes towards the initiator of an attempt from where its SYN went.
#[inline(always)]
fn goes_back(attempt: &Attempt, direction: u32) -> bool {
    match u32::from(attempt.direction) {
        INBOUND => direction == OUTBOUND,
        OUTBOUND => direction == INBOUND,
        _ => direction == FORWARDED,
    }
}

#[inline(always)]
fn reply_dropped(attempt: &mut Attempt, note: &Note, now: u64) {
    attempt.location = note.location;
    attempt.reply_reason = note.reason;
    attempt.reply_class = note.class as u8;
    attempt.reply_dropped_ns = now;
}

#[inline(always)]
fn syn_ack(attempt: &mut Attempt, note: &Note, now: u64) {
    if note.stage == Stage::Dropped.code() {
        if attempt.answered_ns == 0 {
            reply_dropped(attempt, note, now);
        }
        return;
    }
    // An answer to what never passed, or that goes another way, is no answer: a proxy of this host
    // that answers for somebody else.
    if note.stage != Stage::Passed.code()
        || attempt.passed_ns == 0
        || !goes_back(attempt, note.direction)
    {
        return;
    }
    if attempt.answered_ns == 0 {
        attempt.repeated_ns = now;
        attempt.answered_ns = now;
    } else {
        repeated(attempt, now);
    }
}

#[inline(always)]
fn reset(attempt: &mut Attempt, hook: u32, note: &Note, now: u64) {
    if attempt.answered_ns != 0 || attempt.reset_ns != 0 || note.stage == Stage::Arrived.code() {
        return;
    }
    // Of those that this host makes there are two: the stack's, and a rule's. The drop of the SYN says
    // which one it is.
    let here = note.direction == OUTBOUND;
    if here && hook != hook::LOOPBACK && u32::from(attempt.direction) == OUTBOUND {
        return;
    }
    if note.stage == Stage::Dropped.code() {
        if !here && goes_back(attempt, note.direction) {
            reply_dropped(attempt, note, now);
        }
        return;
    }
    attempt.reset_by = if here {
        Maker::Here.code()
    } else {
        Maker::Target.code()
    };
    attempt.reset_ns = now;
}
