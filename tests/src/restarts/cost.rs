//! What the kernel programs cost, as the kernel's statistics say: from one daemon to the next.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::expect::Family;
use crate::scrape::parse_values;

use super::load::Load;
use super::{Rig, Trial};

/// The tests of this file.
pub(super) const TRIALS: &[Trial] = &[("programs_are_timed", programs_are_timed)];

/// Runs and seconds by program.
type Costs = BTreeMap<String, (f64, f64)>;

fn costs(rig: &Rig) -> Result<Costs> {
    let (status, body) = rig.lab.daemon.get("/metrics")?;
    ensure!(status == 200, "/metrics: {status}");
    let names = ["program_runs_total", "program_run_seconds_total"];
    let mut costs = Costs::new();
    for (series, value) in parse_values::<f64>(&body, &names)? {
        let text = series.to_string();
        let program = text.split('"').nth(1).unwrap_or_default().to_owned();
        let cost = costs.entry(program).or_default();
        if series.metric().ends_with("runs_total") {
            cost.0 = value;
        } else {
            cost.1 = value;
        }
    }
    Ok(costs)
}

fn not_less(before: &Costs, after: &Costs, what: &str) -> Result<()> {
    for (program, (runs, seconds)) in before {
        let now = after.get(program).copied().unwrap_or_default();
        ensure!(
            now.0 >= *runs && now.1 >= *seconds,
            "{what}: {program} went back from {runs} runs, {seconds} s to {now:?}"
        );
    }
    Ok(())
}

/// Each program ran for each packet that it is there for; neither a restart nor a swap makes it less; and
/// without the flag nothing is said.
fn programs_are_timed() -> Result<()> {
    let mut rig = Rig::create(&[], &["--bpf-stats"])?;
    let first = costs(&rig)?;
    let load = Load::begin(&rig.lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    let sent = load.end()?;
    let then = costs(&rig)?;
    not_less(&first, &then, "under load")?;
    let datagrams = [
        ("ingress_ethernet", sent.passed + sent.inbound + sent.barred),
        ("egress_ethernet", sent.passed),
        ("deliver", sent.inbound),
        ("kfree_skb", sent.barred),
    ];
    for (program, packets) in datagrams {
        let before = first.get(program).copied().unwrap_or_default();
        let Some((runs, seconds)) = then.get(program) else {
            anyhow::bail!("{program} is not told: {then:?}");
        };
        #[expect(clippy::cast_precision_loss, reason = "a few hundred packets")]
        let least = packets as f64;
        ensure!(packets > 0, "nothing was sent for {program}");
        ensure!(
            runs - before.0 >= least && *seconds > before.1,
            "{program}: {packets} packets, from {before:?} to {runs} runs, {seconds} s"
        );
    }
    rig.lab.daemon.kill()?;
    rig.start(&["--bpf-stats"])?;
    let adopted = costs(&rig)?;
    not_less(&then, &adopted, "the same programs")?;
    rig.lab.daemon.stop()?;
    rig.start(&["--bpf-stats", "--log-packets=all"])?;
    let swapped = costs(&rig)?;
    not_less(&adopted, &swapped, "other programs")?;
    rig.lab.daemon.kill()?;
    rig.start(&["--bpf-stats", "--log-packets=all"])?;
    not_less(&swapped, &costs(&rig)?, "the other programs again")?;
    rig.lab.daemon.stop()?;
    rig.start(&[])?;
    let switch = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")?;
    let told = costs(&rig)?;
    ensure!(
        told.is_empty() == (switch.trim() == "0"),
        "without the flag, and the switch {}: {told:?}",
        switch.trim()
    );
    rig.lab.daemon.stop()
}
