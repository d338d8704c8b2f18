//! The daemon in the gateway: start, scrape, stop.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{
    http,
    namespace::{Entrance, Namespace},
    process::Process,
};

/// The port of its default address, on the gateway's loopback device.
pub(super) const PORT: u16 = 9680;

/// A running `peerwatch run`.
#[derive(Debug)]
pub(super) struct Daemon {
    process: Process,
    gateway: Entrance,
}

impl Daemon {
    /// Starts it, as a user would, with this configuration.
    ///
    /// # Errors
    ///
    /// When it does not start. Whether it gets ready is for [`Daemon::is_ready`].
    pub(super) fn start(gateway: &Namespace, binary: &Path, configuration: &Path) -> Result<Self> {
        let mut command = Command::new(binary);
        // Not the file that this machine may have: the demo is the same everywhere.
        command
            .args(["run", "--ephemeral", "--config"])
            .arg(configuration);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("PEERWATCH_") {
                command.env_remove(name);
            }
        }
        Ok(Self {
            process: Process::start("the daemon", gateway, command)?,
            gateway: gateway.entrance()?,
        })
    }

    /// Whether its hooks are attached.
    ///
    /// # Errors
    ///
    /// When it has ended, with what it said.
    pub(super) fn is_ready(&mut self) -> Result<bool> {
        self.process.check()?;
        Ok(matches!(self.get("/readyz"), Ok((200, _))))
    }

    /// A scrape.
    ///
    /// # Errors
    ///
    /// When it has ended or does not answer, with what it said.
    pub(super) fn metrics(&mut self) -> Result<String> {
        match self.get("/metrics") {
            Ok((200, body)) => Ok(body),
            Ok((status, body)) => bail!("the daemon answers a scrape by {status}: {body}"),
            Err(error) => {
                // Where it has ended, that is the better story.
                self.process.check()?;
                Err(error).with_context(|| format!("no scrape\n{}", self.errors()))
            }
        }
    }

    /// The last line of its packet log.
    pub(super) fn last_packet(&self) -> Option<String> {
        self.process.last_output()
    }

    /// What it said on standard error.
    pub(super) fn errors(&self) -> String {
        self.process.errors()
    }

    fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(&self.gateway, PORT, path)
    }
}
