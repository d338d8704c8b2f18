//! Others at work: a damaged state file, foreign pins, and tools that take our programs off.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::expect::Family;
use crate::wait::{DEADLINE, until};

use super::ends::state_file;
use super::load::{COUNTERS, Load, counted, exactly};
use super::{Rig, Trial, not_less};
use crate::scrape::Series;

/// The tests of this file.
pub const TRIALS: &[Trial] = &[
    ("damaged_state_file", damaged_state_file),
    ("pins_are_incomplete", pins_are_incomplete),
    ("map_of_drops_is_gone", map_of_drops_is_gone),
    ("killed_while_it_upgraded", killed_while_it_upgraded),
    ("taken_off/clsact_flushed", || {
        taken_off(
            &[("PEERWATCH_WITHOUT", "tcx")],
            "egress",
            "tc qdisc del dev lan0 clsact",
        )
    }),
    ("taken_off/filter_replaced", || {
        taken_off(
            &[("PEERWATCH_WITHOUT", "tcx")],
            "ingress",
            "tc filter del dev lan0 ingress && tc filter add dev lan0 ingress pref 9 protocol all u32 match u32 0 0",
        )
    }),
    ("taken_off/tcx_link_detached", || {
        taken_off(&[], "ingress", &detach("ingress_"))
    }),
    ("taken_off/cgroup_link_detached", || {
        taken_off(&[], "deliver", &detach("deliver"))
    }),
];

/// A command that cuts off the link with such a pin.
fn detach(pin: &str) -> String {
    let number = if pin.ends_with('_') {
        "$(ip -o link show lan0 | cut -d: -f1)"
    } else {
        ""
    };
    format!("bpftool link detach pinned $LINKS/{pin}{number}")
}

/// A state file that cannot be used is moved aside, which is said; the kernel's counts go on.
fn damaged_state_file() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    let load = Load::begin(&rig.lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    let sent = load.end()?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    for (damage, said) in [
        (60_usize, "it is damaged"),
        (16, "it is of version"),
        (0, "it is no state file of peerwatch"),
    ] {
        rig.lab.daemon.stop()?;
        let file = state_file(&rig)?;
        let mut bytes = fs::read(&file)?;
        bytes[damage] ^= 0x40;
        fs::write(&file, &bytes)?;
        rig.start(&[])?;
        let errors = rig.lab.daemon.errors();
        let aside = file.with_extension("state.bad");
        ensure!(
            errors.contains(said) && errors.contains(&aside.display().to_string()),
            "{errors}"
        );
        ensure!(fs::read(&aside)? == bytes, "it is not what was there");
        let now = counted(&rig.lab.daemon.scrape_of(&COUNTERS)?, Family::V4);
        ensure!(
            now.counts[..3] == sent.counted().counts[..3],
            "{now:?} of {sent:?}"
        );
    }
    // What is known of no attempt is not lost: their records are counted from the boot on.
    let now = counted(&rig.lab.daemon.settled()?, Family::V4);
    ensure!(now.lost == 0, "{now:?}");
    // A folder in its place, and one that belongs to nobody: no daemon fails for that.
    rig.lab.daemon.stop()?;
    let file = state_file(&rig)?;
    fs::remove_file(&file)?;
    fs::create_dir(&file)?;
    rig.start(&[])?;
    rig.lab.daemon.stop()
}

/// Some pins are missing: what is there is used, and no daemon fails for that.
fn pins_are_incomplete() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    let load = Load::begin(&rig.lab, Family::V4)?;
    for gone in [
        "map_EVENTS",
        "program_egress_ethernet",
        "map_PORT_TABLE",
        "program_decide",
        "map_TC_NEXT",
        "links/drop",
        "identity",
    ] {
        rig.lab.daemon.kill()?;
        let pinned = rig.pinned()?;
        let path = pinned.iter().find(|path| path.ends_with(gone));
        fs::remove_file(path.with_context(|| format!("no {gone} in {pinned:?}"))?)?;
        rig.start(&[])?;
    }
    load.end()?;
    // It counts: what is sent from now on is there, once.
    let before = counted(&rig.lab.daemon.settled()?, Family::V4);
    let load = Load::begin(&rig.lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    let sent = load.end()?.counted();
    let mut last = None;
    until("the counts are exact", DEADLINE, || {
        let now = counted(&rig.lab.daemon.scrape_of(&COUNTERS)?, Family::V4);
        last = Some(now);
        let packets = |at: usize| now.counts[at] - before.counts[at] == sent.counts[at];
        Ok((0..3).all(packets).then_some(()))
    })
    .with_context(|| format!("before {before:?}, sent {sent:?}, now {last:?}"))?;
    rig.lab.daemon.stop()
}

/// The daemon reads what the programs write to, whichever of their maps is not there any more.
fn map_of_drops_is_gone() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    rig.lab.daemon.kill()?;
    let pinned = rig.pinned()?;
    for gone in ["map_DROPS", "map_TC_NEXT"] {
        let path = pinned.iter().find(|path| path.ends_with(gone));
        fs::remove_file(path.with_context(|| format!("no {gone} in {pinned:?}"))?)?;
    }
    rig.start(&[])?;
    let load = Load::begin(&rig.lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    let sent = load.end()?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    rig.lab.daemon.stop()
}

/// A daemon that knows one map more than the build before was killed while it took over: its generation is not
/// complete, but some programs count into that map already.
fn killed_while_it_upgraded() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    let load = Load::begin(&rig.lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    let sent = load.end()?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    let before = rig.lab.daemon.scrape_of(&COUNTERS)?;
    rig.lab.daemon.kill()?;
    let pinned = rig.pinned()?;
    let map = pinned
        .iter()
        .find(|path| path.ends_with("map_INTERFACE_COUNTS_LOW"));
    let map = Path::new(map.with_context(|| format!("no such map in {pinned:?}"))?);
    let generation = map.parent().context("a pin without a folder")?;
    let half = generation.with_file_name("9");
    DirBuilder::new().mode(0o700).create(&half)?;
    let name = map.file_name().context("a pin without a name")?;
    fs::rename(map, half.join(name))?;
    rig.start(&[])?;
    let after = rig.lab.daemon.scrape_of(&COUNTERS)?;
    let of_interfaces = |(series, count): (&Series, &u64)| {
        *count > 0 && series.to_string().contains("interface_packets")
    };
    ensure!(before.iter().any(of_interfaces), "{before:?}");
    not_less(&before, &after)?;
    rig.lab.daemon.stop()
}

/// Somebody takes a program off `lan0` (`$LINKS` is where the links are pinned): it is back within a second,
/// which is counted and said, and counts from then on.
fn taken_off(
    environment: &[(&'static str, &'static str)],
    hook: &str,
    command: &str,
) -> Result<()> {
    let mut rig = Rig::create(environment, &[])?;
    let again = |rig: &Rig| rig.gauge("reattachments_total", &[("hook", hook)]);
    ensure!(again(&rig)?.abs() < f64::EPSILON, "already");
    let pinned = rig.pinned()?;
    let link = pinned.iter().find(|path| path.contains("/links/"));
    let links = link
        .and_then(|path| path.rsplit_once('/'))
        .context("no link is pinned")?
        .0;
    rig.shell(&format!("LINKS={links}; {command}"))?;
    let begin = Instant::now();
    let took = until("it is attached again", DEADLINE, || {
        Ok((again(&rig)? > 0.5).then(|| begin.elapsed()))
    })?;
    ensure!(took < Duration::from_secs(1), "after {took:?}");
    let said = rig.lab.daemon.errors();
    ensure!(
        said.contains(&format!("hook {hook}")) && said.contains("was taken off by somebody else"),
        "{said}"
    );
    let load = Load::begin(&rig.lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    let sent = load.end()?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    // Nothing else is counted as such, also when interfaces come and go.
    rig.lab.gw.ip_batch(
        "link add extra0 type veth peer name extra1\nlink set extra0 up\nlink delete extra0\n",
    )?;
    std::thread::sleep(Duration::from_millis(1500));
    let (status, body) = rig.lab.daemon.get("/metrics")?;
    ensure!(status == 200, "/metrics: {status}");
    let all: f64 = body
        .lines()
        .filter(|line| line.starts_with("peerwatch_reattachments_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    let most = if command.contains("qdisc") { 2.0 } else { 1.0 };
    ensure!((1.0..=most).contains(&all), "{all} attached again");
    println!("attached again after {took:?}");
    rig.lab.daemon.stop()
}
