//! Floods and faults: what is sent is counted, or counted as lost, whatever happens to the daemon or around
//! it. Each row gives one line of a table: load or fault, how injected, what was expected, what was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::attempts::flood;
use crate::daemon::Daemon;
use crate::scrape::{Counts, parse, rise};

pub mod descriptors;
pub mod errors;
pub mod floods;
pub mod links;
pub mod logs;
pub mod maps;
pub mod memory;
pub mod overrun;
pub mod pause;
pub mod soak;
pub mod teredo;

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The load or fault, and the test's name.
    pub name: &'static str,
    /// How it is injected.
    pub injected: &'static str,
    /// What has to come of it.
    pub expected: &'static str,
    /// Whether it takes so long that it runs only when asked for.
    pub long: bool,
    /// Does it, and says what was measured.
    pub run: fn() -> Result<String>,
}

/// All rows, those that take longest first.
pub const ROWS: &[&[Row]] = &[
    soak::ROWS,
    pause::ROWS,
    memory::ROWS,
    errors::ROWS,
    teredo::ROWS,
    overrun::ROWS,
    descriptors::ROWS,
    logs::ROWS,
    links::ROWS,
    maps::ROWS,
    floods::ROWS,
    flood::ROWS,
];

/// Fewer rows than this mean that some went missing.
pub const AT_LEAST: usize = 20;

/// Held by a flood that sends as fast as it can, beside which others would be lost, and by the row that makes and deletes
/// hundreds of interfaces, beside which a daemon waits for the kernel's lock of them: rows run side by side.
static FLOOD: Mutex<()> = Mutex::new(());

/// Waits until no other flood sends, and keeps others waiting until the guard is gone.
pub fn one_flood() -> MutexGuard<'static, ()> {
    FLOOD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lines of the rows that are done, by name.
static LINES: Mutex<BTreeMap<&'static str, String>> = Mutex::new(BTreeMap::new());

impl Row {
    /// Runs it, and keeps its line for [`table`].
    ///
    /// # Errors
    ///
    /// When anything is not as it should be.
    pub fn perform(&self) -> Result<()> {
        let measured = (self.run)().with_context(|| self.name)?;
        let line = format!(
            "| {} | {} | {} | {measured} |",
            self.name, self.injected, self.expected
        );
        eprintln!("{line}");
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        lines.insert(self.name, line);
        Ok(())
    }
}

/// The lines of all rows that are done, as a table.
#[must_use]
pub fn table() -> String {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text =
        "| load or fault | injected | expected | measured |\n| --- | --- | --- | --- |\n"
            .to_owned();
    for line in lines.values() {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// How long counters may take until they show what was sent: the machine is busy.
pub const COUNTED: Duration = Duration::from_secs(20);

/// The counters with these names, without prefix.
///
/// # Errors
///
/// When a scrape fails.
pub fn counters(daemon: &Daemon, names: &[&str]) -> Result<Counts> {
    let (status, body) = daemon.get("/metrics")?;
    ensure!(status == 200, "/metrics: {status}: {body}");
    parse(&body, names)
}

/// The sum of the series whose text has all of these words in it.
#[must_use]
pub fn sum(counts: &Counts, words: &[&str]) -> u64 {
    let of_them = |series: &str| words.iter().all(|word| series.contains(word));
    let counts = counts.iter();
    let counts = counts.filter(|(series, _)| of_them(&series.to_string()));
    counts.map(|(_, count)| count).sum()
}

/// Waits until the rises since `before` satisfy a condition; gives them, also where they never did.
///
/// # Errors
///
/// When a scrape fails, or a counter falls.
pub fn risen(
    daemon: &Daemon,
    names: &[&str],
    before: &Counts,
    deadline: Duration,
    enough: impl Fn(&Counts) -> bool,
) -> Result<Counts> {
    let start = Instant::now();
    loop {
        let rises = rise(before, &counters(daemon, names)?)?;
        if enough(&rises) || start.elapsed() > deadline {
            return Ok(rises);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Rises, one a line.
#[must_use]
pub fn listed(rises: &Counts) -> String {
    let mut text = String::new();
    for (series, count) in rises {
        // Writing to a string can't fail.
        let _ok = writeln!(text, "  {series} {count}");
    }
    text
}

/// The most memory that a process ever had resident, KiB.
///
/// # Errors
///
/// When it is gone.
pub fn peak_memory(daemon: &Daemon) -> Result<u64> {
    status_of(daemon, "VmHWM:")
}

/// The memory that a process has resident, KiB.
///
/// # Errors
///
/// When it is gone.
pub fn resident_memory(daemon: &Daemon) -> Result<u64> {
    status_of(daemon, "VmRSS:")
}

fn status_of(daemon: &Daemon, key: &str) -> Result<u64> {
    let path = format!("/proc/{}/status", daemon.pid());
    let text = std::fs::read_to_string(&path).context(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|line| line.split_whitespace().next());
    value.context("no such line")?.parse().context("no number")
}

/// How many descriptors a process has open.
///
/// # Errors
///
/// When it is gone.
pub fn descriptors_open(daemon: &Daemon) -> Result<u64> {
    let path = format!("/proc/{}/fd", daemon.pid());
    Ok(std::fs::read_dir(&path).context(path)?.count() as u64)
}

/// KiB as MiB, rounded up.
#[must_use]
pub const fn mib(kib: u64) -> u64 {
    kib.div_ceil(1024)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_there_are_enough() {
        let rows: Vec<_> = ROWS.iter().copied().flatten().collect();
        let names: HashSet<_> = rows.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), rows.len());
        assert!(rows.len() >= AT_LEAST, "{}", rows.len());
    }
}
