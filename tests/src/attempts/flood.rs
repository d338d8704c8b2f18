//! Hundreds of thousands of spoofed SYNs beside honest clients: every one is counted, or counted as lost.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::act::{ANSWER, Act, Seen, Target, Way};
use super::crafted::{sender, spoofed_syn};
use super::lab::{Lab, Slot};
use crate::expect::{Expected, Family};
use crate::faults::{Row, listed, mib, one_flood, peak_memory};
use crate::lab::{Net, mac};
use crate::netns;
use crate::scrape::{Counts, rise};
use crate::send::FrameSender;
use crate::wait::until;

/// Spoofed SYNs.
const FLOOD: u32 = 200_000;
/// Honest handshakes in the meantime.
const HONEST: u64 = 100;
/// How many threads send.
const SENDERS: u32 = 2;

/// Until all of them are judged: the listener's row waits for answers that are repeated.
const JUDGED: Duration = Duration::from_mins(1);

/// Both ways through the gateway. They are rows of the faults, which run while no other test program does, and no other
/// flood sends: a queue that is full is full for everybody on that processor.
pub const ROWS: &[Row] = &[
    Row {
        name: "flood of attempts, forwarded",
        injected: "two senders, 200,000 spoofed SYNs that a rule drops, beside 100 honest clients",
        expected: "each counted, or counted as lost; honest clients exactly",
        long: false,
        run: || alone(Way::Forwarded),
    },
    Row {
        name: "flood of attempts, inbound",
        injected: "the same to a listener",
        expected: "each counted, or counted as lost; honest clients exactly",
        long: false,
        run: || alone(Way::Inbound),
    },
];

/// The flood in a lab of its own, and what was measured.
fn alone(way: Way) -> Result<String> {
    // Until its daemon has ended.
    let _alone = one_flood();
    let mut lab = Lab::create()?;
    let slot = Slot::new(0);
    let measured = RefCell::new(String::new());
    Act::new(&lab, &slot, way, Family::V4, Target::default())?
        .perform(&|act| flood(act, &mut measured.borrow_mut()), true)?;
    if netns::keep() {
        std::mem::forget(lab);
    } else {
        lab.daemon.stop()?;
    }
    Ok(measured.into_inner())
}

/// Sends it, and says what was measured.
fn flood(act: &Act<'_>, measured: &mut String) -> Result<Expected> {
    if act.way == Way::Inbound {
        act.listen()?;
    } else {
        let rule = format!("{} drop", act.syn());
        act.rule(act.host(), "type filter hook input priority 0", &rule)?;
    }
    let slot = Slot::new(1);
    let honest = Act::new(act.lab, &slot, act.way, act.family, Target::Server)?;
    honest.listen()?;
    let before = act.lab.counts()?;
    let frames: Vec<Vec<Vec<u8>>> = (0..SENDERS).map(|part| frames(act, part)).collect();
    let took = std::thread::scope(|scope| -> Result<Duration> {
        let senders: Vec<_> = frames
            .iter()
            .map(|frames| {
                scope.spawn(move || -> Result<Duration> {
                    let sender = sender(act.lab)?;
                    let start = Instant::now();
                    frames.iter().try_for_each(|frame| push(&sender, frame))?;
                    Ok(start.elapsed())
                })
            })
            .collect();
        for _ in 0..HONEST / 10 {
            honest.connect(10, ANSWER * 2, Seen::Open)?;
        }
        let mut took = Duration::ZERO;
        for sender in senders {
            let result = sender.join();
            took = took.max(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(took)
    })?;
    let sum = |rises: &Counts| rises.values().sum::<u64>();
    let all = u64::from(FLOOD) + HONEST;
    let expected = honest.only("established", "none", HONEST);
    let mut rises = Counts::new();
    let reached = until("every SYN is accounted for", JUDGED, || {
        std::thread::sleep(Duration::from_millis(500));
        rises = rise(&before, &act.lab.counts()?)?;
        Ok((sum(&rises) >= all).then_some(()))
    });
    std::thread::sleep(Duration::from_secs(2));
    rises = rise(&before, &act.lab.counts()?)?;
    let text = listed(&rises);
    let peak = mib(peak_memory(&act.lab.daemon)?);
    let lost = crate::faults::sum(&rises, &["attempts_lost_total"]);
    *measured = format!(
        "{:.0} SYNs/s, {} of {all} accounted for, {lost} as lost; peak {peak} MiB",
        f64::from(FLOOD) / took.as_secs_f64(),
        sum(&rises)
    );
    eprintln!("flood {}: {measured}", act.way.name());
    ensure!(
        sum(&rises) == all,
        "{} of {all} are accounted for\n{text}",
        sum(&rises)
    );
    let label = format!("traffic=\"{}\"", slot.traffic);
    let theirs = rises
        .iter()
        .filter(|(series, _)| series.to_string().contains(&label))
        .map(|(series, count)| (series.clone(), *count))
        .collect();
    if let Some(difference) = expected.difference(&theirs) {
        bail!("honest clients:\n{difference}all:\n{text}");
    }
    reached?;
    drop(honest);
    // Nothing comes after that.
    Ok(rises.into())
}

/// Sends a frame, again and again where a queue is full.
fn push(sender: &FrameSender, frame: &[u8]) -> Result<()> {
    while !sender.offer(mac(Net::Lan, 1), frame)? {
        std::thread::yield_now();
    }
    Ok(())
}

/// One sender's part of the spoofed SYNs, each with a number of its own.
fn frames(act: &Act<'_>, part: u32) -> Vec<Vec<u8>> {
    (0..FLOOD / SENDERS)
        .map(|index| {
            let n = index * SENDERS + part;
            let host = 10 + u8::try_from(n % 200).unwrap_or(0);
            let source = 1024 + u16::try_from(n / 200).unwrap_or(0);
            let mut packet = spoofed_syn(act, host, source);
            // An odd factor: all numbers differ.
            packet.sequence = n.wrapping_mul(0x9e37_79b1);
            packet.ip()
        })
        .collect()
}
