//! Diagnostics: what the daemon and the kernel programs say about themselves, on standard error.
//! Standard output belongs to the event log.
//!
//! Both may be one stream, as in the service's journal, and nobody may read it. So once the daemon runs, a thread
//! writes diagnostics, and nothing waits for it.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{BpfLog, LogFormat, LogLevel};
use queue::Queue;

mod queue;

/// The crate of the kernel programs: the target of the records that aya-log hands over.
const KERNEL_TARGET: &str = "monitor_ebpf";

/// How many bytes of diagnostics may wait for a reader of standard error that is slower than they come: some
/// thousand lines.
pub(crate) const WAITING: usize = 1 << 20;

/// How long a stuck reader of standard error may hold up the end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What waits to be written, once there is a thread that does it.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Why diagnostics can't be written.
#[derive(Debug, thiserror::Error)]
#[error("diagnostics are set up twice in this process")]
pub struct DiagnosticsError(#[source] TryInitError);

/// Writes diagnostics of this level and above to standard error, those of the `log` crate (aya,
/// aya-log) included. Records of the kernel programs have a level of their own, or else `--bpf-log
/// debug` would show nothing without `--log-level debug`.
///
/// # Errors
///
/// [`DiagnosticsError`] where the process has a subscriber or a logger already.
pub fn init(format: LogFormat, level: LogLevel, bpf: BpfLog) -> Result<(), DiagnosticsError> {
    let kernel = bpf.level().map_or(LevelFilter::OFF, LogLevel::filter);
    let targets = Targets::new()
        .with_default(level.filter())
        .with_target(KERNEL_TARGET, kernel);
    let registry = tracing_subscriber::registry().with(targets);
    let layer = fmt::layer().with_writer(|| Stderr);
    match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    }
    .map_err(DiagnosticsError)
}

/// Lets a thread write what comes from now on. Call it once, where further threads may be: up to then whoever
/// says something writes it.
pub fn begin_queue() {
    let queue = Arc::new(Queue::new(WAITING));
    let written = Arc::clone(&queue);
    let writer = std::thread::Builder::new().name("diagnostics".to_owned());
    let started = writer.spawn(move || {
        written.run(io::stderr(), |count| {
            tracing::warn!("{count} diagnostics were lost: standard error was not read");
        });
    });
    match started {
        Ok(_) => drop(QUEUE.set(queue)),
        Err(error) => tracing::warn!("a stuck reader of this log will stop the daemon: {error}"),
    }
}

/// Writes a line as it is, as a process does that is about to end.
pub fn last_words(line: &str) {
    // Nobody could be told that it fails.
    drop(Stderr.write_all(format!("{line}\n").as_bytes()));
}

/// Waits for what is not written yet, unless the reader of standard error is stuck.
pub fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.finish(LAST_WORDS);
    }
}

/// How many diagnostics were lost in this process: nobody read them, or they could not be written.
pub(crate) fn lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lost())
}

/// Standard error, or the way to it.
struct Stderr;

impl Write for Stderr {
    /// Takes all of it: what is one line for `tracing` is one for the queue.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => queue.push(line),
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Subscriber and logger are global to a process, so each case runs in one of its own: this very
    /// test binary, with the case in its environment.
    const CHILD: &str = "PEERWATCH_TEST_DIAGNOSTICS";

    #[test]
    fn child() {
        let Ok(case) = std::env::var(CHILD) else {
            return;
        };
        let (format, bpf) = match case.as_str() {
            "json" => (LogFormat::Json, BpfLog::Debug),
            _ => (LogFormat::Text, BpfLog::Off),
        };
        init(format, LogLevel::Info, bpf).unwrap();
        assert!(init(format, LogLevel::Info, bpf).is_err());
        tracing::info!(interface = "eth0", "attached");
        tracing::debug!("detail");
        log::warn!("from the log crate");
        log::debug!(target: "aya", "aya detail");
        log::debug!(target: "monitor_ebpf::drop", "from the kernel");
    }

    fn stderr_of(case: &str) -> Vec<String> {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "diagnostics::tests::child", "--nocapture"])
            .env(CHILD, case)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn text_has_both_crates_at_the_level() {
        let lines = stderr_of("text");
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains(" INFO ") && lines[0].ends_with("attached interface=\"eth0\""));
        assert!(lines[1].contains(" WARN ") && lines[1].ends_with("from the log crate"));
    }

    #[test]
    fn json_is_one_object_a_line_and_the_kernel_has_its_own_level() {
        let lines = stderr_of("json");
        let objects: Vec<serde_json::Value> = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let messages: Vec<_> = objects
            .iter()
            .map(|object| object["fields"]["message"].as_str().unwrap())
            .collect();
        assert_eq!(
            messages,
            ["attached", "from the log crate", "from the kernel"]
        );
        assert_eq!(objects[0]["fields"]["interface"], "eth0");
    }
}
