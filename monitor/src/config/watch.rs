//! How the states of a traffic are decided, as the configuration file says it.

use std::ops::RangeInclusive;
use std::time::Duration;

use monitor_common::Direction;
use toml::Spanned;

use super::ConfigError;
use super::file::File;
use super::options::{duration, duration_text};
use super::traffics::TrafficKeys;
use crate::traffic::Watch;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Numbers of attempts. One says nothing about a traffic, so a single failure can't be an alarm.
const ATTEMPTS: RangeInclusive<u32> = 2..=1_000_000;

/// Shares that must be reached.
const PERCENT: RangeInclusive<u32> = 1..=100;

impl File {
    /// How a traffic is watched; what it does not say is as by default.
    pub(super) fn watch(&self, keys: &TrafficKeys) -> Result<Watch, ConfigError> {
        let mut watch = Watch::default();
        let directions = keys.state_directions.as_ref();
        if let Some(named) = self.values("traffic.state_directions", directions, direction)? {
            let all = Direction::ALL.iter().copied();
            watch.directions = all.filter(|one| named.contains(one)).collect();
        }
        let expect = self.value("traffic.expect", keys.expect.as_ref(), str::parse)?;
        watch.expect = expect.unwrap_or_default();

        let set = &mut watch.thresholds;
        let time = |value: &mut Duration, key, written: &Option<_>, range| {
            self.time(key, written.as_ref(), range)
                .map(|given| *value = given.unwrap_or(*value))
        };
        time(
            &mut set.window,
            "traffic.window",
            &keys.window,
            MINUTE..=DAY,
        )?;
        time(&mut set.hold, "traffic.hold", &keys.hold, MINUTE..=30 * DAY)?;
        time(
            &mut set.recovery,
            "traffic.recovery",
            &keys.recovery,
            SECOND..=HOUR,
        )?;
        time(
            &mut set.blocked_spread,
            "traffic.blocked_spread",
            &keys.blocked_spread,
            Duration::ZERO..=HOUR,
        )?;
        let number = |value: &mut u32, key, written: &Option<_>, range| {
            self.number(key, written.as_ref(), |number| within(number, &range))
                .map(|given| *value = given.unwrap_or(*value))
        };
        number(
            &mut set.blocked_failures,
            "traffic.blocked_failures",
            &keys.blocked_failures,
            ATTEMPTS,
        )?;
        number(
            &mut set.blocked_percent,
            "traffic.blocked_percent",
            &keys.blocked_percent,
            PERCENT,
        )?;
        number(
            &mut set.failing_attempts,
            "traffic.failing_attempts",
            &keys.failing_attempts,
            ATTEMPTS,
        )?;
        number(
            &mut set.degraded_attempts,
            "traffic.degraded_attempts",
            &keys.degraded_attempts,
            ATTEMPTS,
        )?;
        number(
            &mut set.degraded_percent,
            "traffic.degraded_percent",
            &keys.degraded_percent,
            PERCENT,
        )?;
        // It is exceeded, not reached: 0 means any loss.
        let lost = 0..=100;
        number(
            &mut set.lost_percent,
            "traffic.lost_percent",
            &keys.lost_percent,
            lost,
        )?;
        self.fit(keys, &watch)?;
        Ok(watch)
    }

    /// Checks that the times fit each other. Where they don't, one of those here is written, since the
    /// defaults fit every window.
    fn fit(&self, keys: &TrafficKeys, watch: &Watch) -> Result<(), ConfigError> {
        let set = &watch.thresholds;
        let window = duration_text(set.window);
        if let (true, Some(hold)) = (set.hold < set.window, &keys.hold) {
            let problem = format!(
                "{} is shorter than the window of {window}; make it as long at least",
                duration_text(set.hold)
            );
            return Err(self.error(hold.span(), Some("traffic.hold".to_owned()), problem));
        }
        for (key, time, written) in [
            ("traffic.recovery", set.recovery, &keys.recovery),
            (
                "traffic.blocked_spread",
                set.blocked_spread,
                &keys.blocked_spread,
            ),
        ] {
            if let (true, Some(written)) = (time >= set.window, written) {
                let problem = format!(
                    "{} is not shorter than the window of {window}; make it shorter",
                    duration_text(time)
                );
                return Err(self.error(written.span(), Some(key.to_owned()), problem));
            }
        }
        Ok(())
    }

    fn time(
        &self,
        key: &str,
        value: Option<&Spanned<String>>,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, ConfigError> {
        self.value(key, value, |text| {
            let time = duration(text)?;
            if range.contains(&time) {
                return Ok(time);
            }
            let [least, most] = [range.start(), range.end()].map(|end| duration_text(*end));
            Err(format!("{text} is not from {least} to {most}"))
        })
    }
}

fn direction(text: &str) -> Result<Direction, String> {
    let mut all = Direction::ALL.iter().copied();
    all.find(|direction| direction.as_str() == text)
        .ok_or_else(|| {
            let names: Vec<_> = Direction::ALL.iter().map(|d| d.as_str()).collect();
            format!("\"{text}\" is none of {}", names.join(", "))
        })
}

fn within(number: i64, range: &RangeInclusive<u32>) -> Result<u32, String> {
    u32::try_from(number)
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("{number} is not from {} to {}", range.start(), range.end()))
}
