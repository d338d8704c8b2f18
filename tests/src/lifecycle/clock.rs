//! A wall clock that is set, by an hour and back: it is the whole machine's, so only virtual machines have this
//! test.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime, clock_settime};

use super::{Trial, V4};
use crate::expect::Family;
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address, mac};
use crate::packet::{Packet, Protocol};
use crate::scrape::{Series, parse_values};
use crate::wait::until;

pub(super) const TRIALS: &[Trial] = &[Trial {
    name: "clock_steps",
    families: V4,
    run: steps,
}];

const HOUR: Duration = Duration::from_hours(1);

/// The states are computed each second; emulated machines are slow.
const DECIDED: Duration = Duration::from_secs(15);

/// How much a time that the daemon shows may differ from the clock, seconds.
const CLOSE: f64 = 30.0;

/// The wall clock as it goes without being set: it is that again when this goes.
struct Clock {
    /// From the monotonic clock to it.
    ahead: Duration,
}

impl Clock {
    fn hold() -> Result<Self> {
        let now: Duration = clock_gettime(ClockId::CLOCK_REALTIME)?.into();
        let ahead = now.saturating_sub(monotonic()?);
        Ok(Self { ahead })
    }

    fn real(&self) -> Result<Duration> {
        Ok(monotonic()? + self.ahead)
    }
}

fn monotonic() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

fn set(time: Duration) -> Result<()> {
    clock_settime(ClockId::CLOCK_REALTIME, time.into()).context("setting the clock")
}

impl Drop for Clock {
    fn drop(&mut self) {
        if let Err(error) = self.real().and_then(set) {
            eprintln!("the clock stays as it is: {error:#}");
        }
    }
}

const NAMES: [&str; 6] = [
    "state",
    "state_since_timestamp_seconds",
    "blocked_since_timestamp_seconds",
    "last_attempt_timestamp_seconds",
    "last_success_timestamp_seconds",
    "evaluation_timestamp_seconds",
];

type Values = BTreeMap<Series, f64>;

fn values(lab: &Lab) -> Result<Values> {
    let (status, body) = lab.daemon.get("/metrics")?;
    ensure!(status == 200, "/metrics: {status}: {body}");
    let values = parse_values(&body, &NAMES)?;
    for (series, value) in &values {
        ensure!(*value >= 0.0, "{series} is {value}");
    }
    Ok(values)
}

fn of(values: &Values, metric: &str, more: &[(&str, &str)]) -> f64 {
    let labels = [&[("traffic", "do_peer"), ("direction", "forwarded")], more].concat();
    let series = Series::new(&format!("peerwatch_{metric}"), &labels);
    values.get(&series).copied().unwrap_or(-1.0)
}

fn is_blocked(values: &Values) -> bool {
    of(values, "state", &[("state", "blocked")]) > 0.5
}

/// One attempt that a rule drops.
fn attempt(lab: &Lab) -> Result<()> {
    let port = lab.port();
    let mut packet = Packet::new(
        Protocol::Tcp,
        (address(Family::V4, Net::Lan, PEER), port),
        (address(Family::V4, Net::Wan, SERVER), 7680),
    );
    // Neighbouring ports would share one, and be one attempt.
    packet.sequence = u32::from(port).wrapping_mul(0x9e37_79b1);
    lab.lan.send(mac(Net::Lan, GATEWAY), &packet.ip())
}

/// Sets the clock to this and makes an attempt: the new times are of the new clock, the others stay.
fn step(lab: &Lab, blocked: &Values, to: Duration) -> Result<()> {
    set(to)?;
    let evaluated = Series::new("peerwatch_evaluation_timestamp_seconds", &[]);
    attempt(lab)?;
    let mut last = Values::new();
    until("the new clock is shown", DECIDED, || {
        last = values(lab)?;
        let evaluated = last.get(&evaluated).copied().unwrap_or(0.0);
        let attempted = of(&last, "last_attempt_timestamp_seconds", &[]);
        let near = |seconds: f64| (seconds - to.as_secs_f64()).abs() < CLOSE;
        Ok((near(evaluated) && near(attempted)).then_some(()))
    })
    .with_context(|| format!("{to:?}: {last:?}"))?;
    ensure!(is_blocked(&last), "not blocked any more: {last:?}");
    for metric in [
        "blocked_since_timestamp_seconds",
        "state_since_timestamp_seconds",
    ] {
        let (was, is) = (of(blocked, metric, &[]), of(&last, metric, &[]));
        ensure!((was - is).abs() < 1e-3, "{metric} moved from {was} to {is}");
    }
    let (status, _) = lab.daemon.get("/api/v1/status")?;
    ensure!(status == 200, "/api/v1/status: {status}");
    Ok(())
}

fn steps(lab: &Lab, _: Family) -> Result<()> {
    lab.gw.nft(
        "table inet clock { chain it { type filter hook forward priority 0; tcp dport 7680 drop; }; }",
    )?;
    // Three failures, spread over 10 s.
    for pause in [6, 6, 0] {
        attempt(lab)?;
        std::thread::sleep(Duration::from_secs(pause));
    }
    let mut blocked = Values::new();
    until("it is blocked", DECIDED, || {
        blocked = values(lab)?;
        Ok(is_blocked(&blocked).then_some(()))
    })?;
    let clock = Clock::hold()?;
    step(lab, &blocked, clock.real()? + HOUR)?;
    step(lab, &blocked, clock.real()?)?;
    step(lab, &blocked, clock.real()?.saturating_sub(HOUR))?;
    drop(clock);
    lab.gw.nft("delete table inet clock")
}
