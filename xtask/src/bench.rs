//! `cargo xtask bench`: what the kernel programs cost, and whether they keep to their budget.

use anyhow::{Context as _, Result};

use crate::{
    build,
    cmd::Privilege,
    setup::{self, Needs},
};

/// Arguments of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Hold instruction counts to monitor-ebpf/budget.toml instead of measuring times
    #[arg(long)]
    check: bool,
    /// Print the result as one line of JSON, the last line on stdout
    #[arg(long)]
    json: bool,
}

/// Sets up, builds as the calling user, and runs the bench of package `monitor-tests` as root; true
/// when nothing is over its budget.
///
/// # Errors
///
/// When set-up or the build fails, or the bench does not start.
pub(crate) fn bench(options: &Options) -> Result<bool> {
    setup::setup(Needs {
        root: true,
        ..Needs::default()
    })?;
    let program = build::build(&[
        "build",
        "--release",
        "--locked",
        "--package",
        "monitor-tests",
        "--bin",
        "bench",
    ])?
    .into_iter()
    .find(|built| built.target == "bench")
    .map(|built| built.program)
    .context("cargo built no bench")?;
    let mut command = Privilege::find().command(program);
    // cargo's own library folders are not for a program that runs as root.
    command.env_remove("LD_LIBRARY_PATH");
    for (wanted, flag) in [(options.check, "--check"), (options.json, "--json")] {
        if wanted {
            command.arg(flag);
        }
    }
    let status = command.status().context("cannot start the bench")?;
    Ok(status.success())
}
