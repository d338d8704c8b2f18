//! Lines of attempts that failed, and of states that changed.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::{EventLog, Format, Names, printable, time};
use crate::attempt::Finished;

/// The line of an attempt, as it stands in JSON. Consumers rely on the keys.
#[derive(Serialize)]
struct AttemptLine<'a> {
    time: &'a str,
    event: &'static str,
    traffic: &'a str,
    direction: &'static str,
    protocol: &'static str,
    family: &'static str,
    client: String,
    client_port: u16,
    target: String,
    target_port: u16,
    outcome: &'static str,
    blocked_by: &'static str,
    /// `null` where no drop ended it.
    reason: Option<&'a str>,
    /// From the first packet to the end, seconds.
    seconds: f64,
}

/// The line that stands for attempts without one.
#[derive(Serialize)]
struct SuppressedLine<'a> {
    time: &'a str,
    event: &'static str,
    suppressed: u64,
    interval_seconds: f64,
}

impl<W: Write + Send> EventLog<W> {
    /// Writes the line of an attempt, with the time of its first packet by the wall clock.
    pub fn attempt(&mut self, finished: &Finished, names: &dyn Names) {
        let time = time::rfc3339(time::wall(finished.first));
        let traffic = names
            .traffic(finished.traffic)
            .unwrap_or_else(|| format!("traffic#{}", finished.traffic));
        let reason = finished.reason.map(|reason| names.reason(reason));
        if self.format == Format::Json {
            return self.json(&AttemptLine {
                time: &time,
                event: "attempt",
                traffic: &traffic,
                direction: finished.direction.as_str(),
                protocol: finished.protocol.as_str(),
                family: finished.family.as_str(),
                client: finished.client.ip().to_string(),
                client_port: finished.client.port(),
                target: finished.target.ip().to_string(),
                target_port: finished.target.port(),
                outcome: finished.outcome.as_str(),
                blocked_by: finished.blocked_by.as_str(),
                reason: reason.as_deref(),
                seconds: finished.ended.saturating_sub(finished.first).as_secs_f64(),
            });
        }
        let mut line = format!(
            "{time} attempt {} {} {} {} > {} {} by {}",
            printable(&traffic),
            finished.direction.as_str(),
            finished.protocol.as_str(),
            finished.client,
            finished.target,
            finished.outcome.as_str(),
            finished.blocked_by.as_str(),
        );
        if let Some(reason) = reason {
            line.push(' ');
            line.push_str(&printable(&reason));
        }
        self.text(&line);
    }

    /// Writes the line for attempts that the rate limit kept out of the log.
    pub fn attempts_suppressed(&mut self, count: u64, interval: Duration) {
        let time = time::rfc3339(time::now());
        match self.format {
            Format::Json => self.json(&SuppressedLine {
                time: &time,
                event: "attempts_suppressed",
                suppressed: count,
                interval_seconds: interval.as_secs_f64(),
            }),
            Format::Text => {
                let attempts = if count == 1 { "attempt" } else { "attempts" };
                self.text(&format!(
                    "{time} {count} failed {attempts} suppressed in the last {} s",
                    interval.as_secs_f64(),
                ));
            }
        }
    }
}
