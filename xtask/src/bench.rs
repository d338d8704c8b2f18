//! `cargo xtask bench`: what the kernel programs cost, and whether they keep to their budget.

use std::path::PathBuf;

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
    /// Show two results of --json beside each other instead of measuring
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"], conflicts_with_all = ["check", "json"])]
    compare: Option<Vec<PathBuf>>,
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
        // The labs of all but the check of sizes.
        tools: !options.check && options.compare.is_none(),
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
    // sudo resets the environment, hence `env`.
    let mut binary = std::ffi::OsString::from("PEERWATCH_BIN=");
    binary.push(build::daemon()?);
    let mut command = Privilege::find().command("env");
    command.arg(binary).arg(program);
    // cargo's own library folders are not for a program that runs as root.
    command.env_remove("LD_LIBRARY_PATH");
    for (wanted, flag) in [(options.check, "--check"), (options.json, "--json")] {
        if wanted {
            command.arg(flag);
        }
    }
    if let Some(files) = &options.compare {
        command.arg("--compare").args(files);
    }
    let status = command.status().context("cannot start the bench")?;
    Ok(status.success())
}
