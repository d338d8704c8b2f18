//! Hundreds of thousands of spoofed SYNs beside honest clients: every one is counted, or counted as lost.

use std::fmt::Write as _;
use std::io;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::act::{ANSWER, Act, Seen, TRAFFIC, Target, Way};
use super::crafted::{send, sender, spoofed_syn};
use super::lab::Slot;
use super::{Scene, scene};
use crate::expect::{Expected, Family};
use crate::faults::{mib, peak_memory};
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

/// The scenes.
#[must_use]
pub fn scenes() -> Vec<Scene> {
    let both: &[Way] = &[Way::Forwarded, Way::Inbound];
    vec![scene("flood", both, flood).families(&[Family::V4]).alone()]
}

fn flood(act: &Act<'_>) -> Result<Expected> {
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
    let silence = TRAFFIC.write().unwrap_or_else(PoisonError::into_inner);
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
    drop(silence);
    eprintln!(
        "flood/{}: {:.0} SYNs a second",
        act.way.name(),
        f64::from(FLOOD) / took.as_secs_f64()
    );
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
    let mut text = String::new();
    for (series, count) in &rises {
        writeln!(text, "  {series} {count}")?;
    }
    let peak = mib(peak_memory(&act.lab.daemon)?);
    eprint!("flood/{}: peak {peak} MiB\n{text}", act.way.name());
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
    loop {
        let result = send(sender, frame);
        let full = result.as_ref().is_err_and(|error| {
            let error = error.downcast_ref::<io::Error>();
            error.and_then(io::Error::raw_os_error) == Some(libc::ENOBUFS)
        });
        if !full {
            return result;
        }
        std::thread::yield_now();
    }
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
