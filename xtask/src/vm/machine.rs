//! A virtual machine: QEMU, its console in a file, what the guest reports on our standard output.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::arch::Arch;
use crate::{cmd, packages};

/// How many lines of the console an error shows.
const LAST_WORDS: usize = 30;

/// What every guest's kernel is told.
const COMMAND_LINE: &str = "quiet loglevel=5 panic=-1";

/// A guest that runs once.
#[derive(Debug)]
pub(super) struct Machine {
    /// Its kind.
    pub(super) arch: Arch,
    /// The kernel.
    pub(super) image: PathBuf,
    /// Its initial file system.
    pub(super) initramfs: PathBuf,
    /// The file for what it prints on its console, its first serial port.
    pub(super) console: PathBuf,
    /// What is added to the kernel's command line.
    pub(super) arguments: &'static str,
    /// How long it may run.
    pub(super) deadline: Duration,
}

/// QEMU, which ends with this whatever goes wrong.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail when it has ended, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Machine {
    /// Runs it to its end. Shows what it writes to the port for its report, behind its name, and adds it
    /// to `said`.
    ///
    /// # Errors
    ///
    /// When QEMU does not start or fails, or the deadline passes; the guest is ended then.
    pub(super) fn run(&self, name: &str, said: &mut String) -> Result<()> {
        let mut command = self.command();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", cmd::display(&command)))?;
        let mut guest = Guest(child);
        let stdout = guest.0.stdout.take().context("QEMU without an output")?;
        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                // The guest's terminal ends lines by two characters.
                if sender.send(line.trim_end_matches('\r').to_owned()).is_err() {
                    return;
                }
            }
        });
        let end = Instant::now() + self.deadline;
        let in_time = loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    writeln!(std::io::stdout(), "{name:>6} | {line}")?;
                    said.push_str(&line);
                    said.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        if !in_time {
            guest.0.kill()?;
        }
        let status = guest.0.wait()?;
        if reader.join().is_err() {
            bail!("reading what the guest says failed");
        }
        if !in_time {
            bail!(
                "it did not end within {} s, and was ended\n{}",
                self.deadline.as_secs(),
                self.last_words()
            );
        }
        if !status.success() {
            bail!("`{}` failed: {status}", cmd::display(&command));
        }
        Ok(())
    }

    /// The end of what the console showed, and where the whole is.
    pub(super) fn last_words(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
        format!(
            "its console ({}) ends with:\n{}",
            self.console.display(),
            last.join("\n")
        )
    }

    fn command(&self) -> Command {
        let mut console = std::ffi::OsString::from("file:");
        console.push(&self.console);
        let mut command = Command::new(packages::find_tool(self.arch.qemu()));
        command
            // Software emulation, also where there is hardware support: the same everywhere, and a
            // guest inside a guest fails in ways of its own.
            .args(["-accel", "tcg,thread=multi"])
            .args(self.arch.machine())
            .args(["-smp", "2", "-m", "1024M"])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            // A panic and the end of the guest's work are both a reboot, and so the end of QEMU.
            .arg("-no-reboot")
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-append")
            .arg(format!(
                "console={} {COMMAND_LINE} {}",
                self.arch.console(),
                self.arguments
            ))
            .arg("-serial")
            .arg(console)
            .args(self.arch.report_port())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }
}
