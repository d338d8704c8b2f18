//! A program that runs in a namespace, until it is dropped.

use std::{
    io::{BufRead as _, BufReader, Read},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

use super::namespace::Namespace;
use crate::cmd;

/// How long it may take to clean up and end.
const STOP: Duration = Duration::from_secs(5);
/// How many lines of each stream are kept.
const KEPT: usize = 20;

/// A running program; stopped on drop, as a service manager would.
#[derive(Debug)]
pub(super) struct Process {
    /// What it is called in messages.
    name: &'static str,
    child: Child,
    output: Lines,
    diagnostics: Lines,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub(super) fn start(
        name: &'static str,
        host: &Namespace,
        mut command: Command,
    ) -> Result<Self> {
        command
            .env_remove("LD_LIBRARY_PATH")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C goes to a whole process group. This one is ours to stop.
            .process_group(0);
        let mut child = host.run(|| {
            // The thread's blocked signals would be inherited, and the program needs them.
            SigSet::empty().thread_set_mask()?;
            command
                .spawn()
                .with_context(|| format!("cannot start `{}`", cmd::display(&command)))
        })?;
        let output = Lines::read(child.stdout.take());
        let diagnostics = Lines::read(child.stderr.take());
        Ok(Self {
            name,
            child,
            output,
            diagnostics,
        })
    }

    /// Makes sure that it runs.
    ///
    /// # Errors
    ///
    /// When it has ended, with what it said.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            self.diagnostics.finish();
            bail!("{} ended: {status}\n{}", self.name, self.errors());
        }
        Ok(())
    }

    /// The last line on standard output.
    pub(super) fn last_output(&self) -> Option<String> {
        self.output.all().pop()
    }

    /// What it said on standard error.
    pub(super) fn errors(&self) -> String {
        self.diagnostics.all().join("\n")
    }

    fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        let deadline = Instant::now() + STOP;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                bail!("it did not end within {} s and was killed", STOP.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{} of the demo: {error:#}", self.name);
        }
        self.output.finish();
        self.diagnostics.finish();
    }
}

/// The last lines of a stream, read by a thread so that the writer never waits.
#[derive(Debug)]
struct Lines {
    kept: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    fn read(stream: Option<impl Read + Send + 'static>) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let mine = Arc::clone(&kept);
        let thread = stream.map(|stream| {
            thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n') {
                    let Ok(line) = line else { return };
                    let mut kept = mine.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() == KEPT {
                        kept.remove(0);
                    }
                    kept.push(String::from_utf8_lossy(&line).into_owned());
                }
            })
        });
        Self { kept, thread }
    }

    fn all(&self) -> Vec<String> {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads to the end; the writer has ended.
    fn finish(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the reader of a program's output panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let text = (0..50).map(|line| line.to_string()).collect::<Vec<_>>();
        let text = text.join("\n");
        let mut lines = Lines::read(Some(std::io::Cursor::new(text)));
        lines.finish();
        let kept = lines.all();
        assert_eq!((kept.len(), kept[0].as_str()), (KEPT, "30"));
        assert_eq!(kept.last().unwrap(), "49");
    }
}
