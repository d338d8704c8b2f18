//! The daemon is killed, stopped, and swapped for another one while packets come.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::daemon::binary;
use crate::expect::Family;
use crate::netns::keep;
use crate::wait::{DEADLINE, until};

use super::load::{COUNTERS, Load, counted, exactly};
use super::{Rig, Trial, in_vm, not_less};

/// The tests of this file.
pub const TRIALS: &[Trial] = &[
    ("killed/tcx", || killed(&[], Family::V4)),
    ("killed/clsact", || {
        killed(&[("PEERWATCH_WITHOUT", "tcx")], Family::V6)
    }),
    ("killed/raw_tp", || {
        killed(&[("PEERWATCH_WITHOUT", "tp_btf")], Family::V4)
    }),
    ("killed_while_it_starts", killed_while_it_starts),
    ("stopped_for_some_time", stopped_for_some_time),
    ("swapped", swapped),
    ("another_number_of_attempts", another_number_of_attempts),
];

/// How often it is killed: 10 times, and in long tests 50.
fn times() -> u32 {
    if in_vm() {
        3
    } else if std::env::var_os("PEERWATCH_LONG").is_some() {
        50
    } else {
        10
    }
}

/// A number below `limit` that differs from call to call. (The clock's last digits are as good as dice.)
fn some(limit: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::from(now.subsec_nanos()) / 100) % limit
}

/// Ends a test well, unless its lab is to be looked at.
fn finish(mut rig: Rig) -> Result<()> {
    if keep() {
        std::mem::forget(rig);
        return Ok(());
    }
    rig.lab.daemon.stop()
}

pub(super) fn killed(environment: &[(&'static str, &'static str)], family: Family) -> Result<()> {
    let mut rig = Rig::create(environment, &[])?;
    let programs = rig.programs()?;
    let load = Load::begin(&rig.lab, family)?;
    let mut before = rig.lab.daemon.scrape_of(&COUNTERS)?;
    for _ in 0..times() {
        std::thread::sleep(Duration::from_millis(some(700)));
        before = rig.lab.daemon.scrape_of(&COUNTERS)?;
        rig.lab.daemon.kill()?;
        std::thread::sleep(Duration::from_millis(some(300)));
        rig.start(&[])?;
        not_less(&before, &rig.lab.daemon.scrape_of(&COUNTERS)?)?;
    }
    let sent = load.end()?;
    ensure!(
        sent.counted()
            .counts
            .iter()
            .all(|count| *count > if in_vm() { 5 } else { 50 }),
        "little was sent: {sent:?}"
    );
    exactly(&rig.lab, family, sent.counted())?;
    not_less(&before, &rig.lab.daemon.scrape_of(&COUNTERS)?)?;
    ensure!(rig.programs()? == programs, "the programs are not the same");
    for hook in ["drop", "deliver", "ingress", "egress"] {
        let gap = rig.gauge("restart_gap_seconds", &[("hook", hook)])?;
        ensure!(gap.abs() < f64::EPSILON, "{hook} did not count for {gap} s");
    }
    println!("killed {} times, {sent:?}", times());
    finish(rig)
}

/// Killed at any moment of its start, it leaves something that the next one can go on with.
fn killed_while_it_starts() -> Result<()> {
    let family = Family::V4;
    let mut rig = Rig::create(&[], &[])?;
    let load = Load::begin(&rig.lab, family)?;
    for turn in 0..times() {
        rig.lab.daemon.kill()?;
        // Every other one has other settings, so that programs are swapped.
        let flags: &[&str] = if turn % 2 == 0 {
            &["--log-packets-rate", "11"]
        } else {
            &[]
        };
        rig.start_as(flags, false)?;
        std::thread::sleep(Duration::from_millis(some(1200)));
    }
    rig.lab.daemon.kill()?;
    rig.start(&[])?;
    let sent = load.end()?;
    // A swap leaves the drop hook out for some milliseconds; everything else is exact, and nothing counts
    // twice.
    let wanted = sent.counted();
    let enough = |counts: [u64; 5]| {
        let exact = [0, 1, 3].iter().all(|at| counts[*at] == wanted.counts[*at]);
        let close = [2, 4]
            .iter()
            .all(|at| counts[*at] <= wanted.counts[*at] && counts[*at] + 100 >= wanted.counts[*at]);
        exact && close
    };
    let mut last = None;
    until("the counts are right", DEADLINE, || {
        let found = counted(&rig.lab.daemon.scrape_of(&COUNTERS)?, family);
        last = Some(found);
        Ok(enough(found.counts).then_some(()))
    })
    .with_context(|| format!("sent {wanted:?}, counted {last:?}"))?;
    // One generation is left: nothing piles up.
    let identities = rig.pinned()?;
    let identities = identities.iter().filter(|path| path.ends_with("/identity"));
    ensure!(identities.count() == 1, "{:?}", rig.pinned()?);
    finish(rig)
}

/// Stopped as a service manager does it, counting goes on, and attempts are judged afterwards.
fn stopped_for_some_time() -> Result<()> {
    let family = Family::V6;
    let mut rig = Rig::create(&[], &[])?;
    let load = Load::begin(&rig.lab, family)?;
    rig.lab.daemon.stop()?;
    ensure!(
        rig.lab
            .daemon
            .errors()
            .contains("counting goes on in the kernel"),
        "{}",
        rig.lab.daemon.errors()
    );
    std::thread::sleep(Duration::from_secs(2));
    rig.start(&[])?;
    let sent = load.end()?;
    exactly(&rig.lab, family, sent.counted())?;
    finish(rig)
}

/// Other settings: the programs are other ones, and the counts go on.
pub(super) fn swapped() -> Result<()> {
    let family = Family::V4;
    let mut rig = Rig::create(&[], &[])?;
    let programs = rig.programs()?;
    let load = Load::begin(&rig.lab, family)?;
    std::thread::sleep(Duration::from_millis(if in_vm() { 3000 } else { 500 }));
    let before = rig.lab.daemon.scrape_of(&COUNTERS)?;
    rig.lab.daemon.stop()?;
    rig.start(&["--log-packets", "all"])?;
    not_less(&before, &rig.lab.daemon.scrape_of(&COUNTERS)?)?;
    let now = rig.programs()?;
    ensure!(
        now.len() == programs.len() && !now.iter().any(|id| programs.contains(id)),
        "before {programs:?}, now {now:?}"
    );
    let gap = rig.gauge("restart_gap_seconds", &[("hook", "drop")])?;
    ensure!(gap > 0.0 && gap < 1.0, "drop did not count for {gap} s");
    for hook in ["deliver", "ingress", "egress"] {
        let gap = rig.gauge("restart_gap_seconds", &[("hook", hook)])?;
        ensure!(gap.abs() < f64::EPSILON, "{hook} did not count for {gap} s");
    }
    let sent = load.end()?;
    let wanted = sent.counted();
    let mut last = None;
    until("the counts are right", DEADLINE, || {
        let found = counted(&rig.lab.daemon.scrape_of(&COUNTERS)?, family);
        last = Some(found);
        let missing = wanted.counts[2].saturating_sub(found.counts[2]);
        let exact = [0, 1, 3]
            .iter()
            .all(|at| found.counts[*at] == wanted.counts[*at]);
        // Some hundred a second are dropped.
        let close = found.counts[2] <= wanted.counts[2]
            && f64::from(u32::try_from(missing)?) <= 400.0 * gap + 2.0;
        Ok((exact && close).then_some(()))
    })
    .with_context(|| format!("gap {gap} s: sent {wanted:?}, counted {last:?}"))?;
    println!("gap {gap} s, sent {wanted:?}, counted {last:?}");
    finish(rig)
}

/// A map of attempts of another size takes the attempts of the old one over.
fn another_number_of_attempts() -> Result<()> {
    let family = Family::V4;
    let mut rig = Rig::create(&[], &["--max-attempts", "4096"])?;
    let load = Load::begin(&rig.lab, family)?;
    std::thread::sleep(Duration::from_millis(500));
    rig.lab.daemon.kill()?;
    std::thread::sleep(Duration::from_millis(300));
    rig.start(&["--max-attempts", "2048"])?;
    let sent = load.end()?;
    let wanted = sent.counted();
    let mut last = None;
    until("the counts are right", DEADLINE, || {
        let found = counted(&rig.lab.daemon.scrape_of(&COUNTERS)?, family);
        last = Some(found);
        // What came while the map was copied is known to be lost.
        let all = |counts: [u64; 5]| counts[3] + counts[4];
        let sum = all(found.counts) + found.lost;
        let is_right = found.counts[..2] == wanted.counts[..2]
            && sum <= all(wanted.counts)
            && sum + 20 >= all(wanted.counts);
        Ok(is_right.then_some(()))
    })
    .with_context(|| format!("sent {wanted:?}, counted {last:?}"))?;
    ensure!(binary()?.is_file(), "no binary");
    finish(rig)
}
