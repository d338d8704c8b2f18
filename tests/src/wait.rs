//! Waiting for a condition with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything in a lab may take.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Between two looks at the condition.
const INTERVAL: Duration = Duration::from_millis(2);

/// Asks `condition` until it gives something.
///
/// # Errors
///
/// Its error, or that `what` did not happen before the deadline.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
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
