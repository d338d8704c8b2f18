//! Programs of others that run beside the daemon in a lab: servers and clients, each with a log of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{DEADLINE, until};

/// A running program; ended on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command whose output goes to `NAME.log` in a folder.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// What it wrote so far.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string())
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends it, as a service manager would: it ends its helpers.
    ///
    /// # Errors
    ///
    /// When it does not end; with what it wrote.
    pub fn stop(mut self) -> Result<()> {
        self.end().with_context(|| self.said())
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        let what = format!("{} ends", self.name);
        until(&what, DEADLINE, || Ok(self.child.try_wait()?)).map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("cannot end {}: {error:#}", self.name);
            // The last resort; it is waited for, so nothing of it stays.
            if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
                eprintln!("cannot kill {}: {error}", self.name);
            }
        }
    }
}

/// A program on the path.
///
/// # Errors
///
/// When it is not there.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|folder| folder.join(name));
    found
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} on the path; `cargo xtask test` brings it"))
}
