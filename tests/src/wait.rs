//! Waiting for a condition with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long anything in a lab may take.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Between two looks at the condition.
const INTERVAL: Duration = Duration::from_millis(2);

/// How much longer than here everything takes: in a virtual machine without hardware support. A
/// whole number in `PEERWATCH_TIME_SCALE`, 1 without it.
fn time_scale() -> Result<u32> {
    const NAME: &str = "PEERWATCH_TIME_SCALE";
    std::env::var(NAME).map_or(Ok(1), |text| {
        text.parse().with_context(|| format!("{NAME} = {text}"))
    })
}

/// A deadline, multiplied by the time scale.
///
/// # Errors
///
/// When the time scale is no number.
pub fn scaled(deadline: Duration) -> Result<Duration> {
    Ok(deadline * time_scale()?)
}

/// Asks `condition` until it gives something. The deadline is multiplied by the time scale.
///
/// # Errors
///
/// Its error, or that `what` did not happen before the deadline.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = scaled(deadline)?;
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() > deadline {
            bail!("{what}: not within {} s", deadline.as_secs_f32());
        }
        std::thread::sleep(INTERVAL);
    }
}
