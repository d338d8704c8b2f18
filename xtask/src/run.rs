//! `cargo xtask run`: from a fresh checkout to a running daemon.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{
    build,
    cmd::{self, Privilege},
    setup::{self, Needs},
};

/// Sets up, builds as the calling user, and becomes the daemon, through sudo when not root.
///
/// Returns only on failure: this process is replaced, so signals and the exit code are the
/// daemon's own (sudo passes both on).
///
/// # Errors
///
/// When set-up or the build fails, or the daemon does not start.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    setup::setup(Needs {
        root: true,
        ..Needs::default()
    })?;
    let daemon = build::daemon()?;
    let mut command = Privilege::find().command(daemon);
    // cargo's own library folders are not for a program that runs as root.
    command
        .arg("run")
        .args(arguments)
        .env_remove("LD_LIBRARY_PATH");
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", cmd::display(&command)))
}
