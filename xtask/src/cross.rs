//! Building for arm64 on another kind of machine.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Built},
    cmd, packages,
};

/// The target, as Rust calls it.
pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";

/// How long rustup may take to bring the standard library: a download that does not come may hang for
/// ever.
const ADD_LIMIT: Duration = Duration::from_mins(1);

/// Brings the standard library of the target.
///
/// # Errors
///
/// When it is not there, and rustup cannot add it in time.
pub(crate) fn standard_library() -> Result<()> {
    if has_standard_library()? {
        return Ok(());
    }
    println!(
        "setup: adding the standard library for {TARGET} (at most {} s)",
        ADD_LIMIT.as_secs()
    );
    let mut command = Command::new("rustup");
    command
        .current_dir(build::root()?)
        .args(["target", "add", TARGET]);
    match cmd::run_within(&mut command, ADD_LIMIT)? {
        Some(status) if status.success() && has_standard_library()? => Ok(()),
        _ => bail!(
            "no standard library for {TARGET}: `{}` did not bring it within {} s",
            cmd::display(&command),
            ADD_LIMIT.as_secs()
        ),
    }
}

/// Whether the compiler has it.
fn has_standard_library() -> Result<bool> {
    let mut command = Command::new("rustc");
    command
        .current_dir(build::root()?)
        .args(["--print", "target-libdir", "--target", TARGET]);
    let folder = cmd::output(&mut command)?;
    Ok(Path::new(folder.trim()).is_dir())
}

/// Brings all that building programs for the target needs, and running them in a virtual machine.
///
/// # Errors
///
/// When something is missing and cannot be brought.
pub(crate) fn set_up() -> Result<()> {
    packages::cross_tools()?;
    standard_library()
}

/// Builds the daemon for the target.
///
/// # Errors
///
/// When the build fails.
pub(crate) fn daemon() -> Result<Built> {
    one(
        "peerwatch",
        &[
            "build",
            "--release",
            "--package",
            "peerwatch",
            "--bin",
            "peerwatch",
        ],
    )
}

/// Builds the program of conformance tests for the target.
///
/// # Errors
///
/// When the build fails.
pub(crate) fn conformance() -> Result<Built> {
    one(
        "conformance",
        &[
            "test",
            "--no-run",
            "--package",
            "monitor-tests",
            "--test",
            "conformance",
        ],
    )
}

fn one(name: &str, arguments: &[&str]) -> Result<Built> {
    let linker = format!("target.{TARGET}.linker=\"{}\"", packages::CROSS_LINKER);
    let mut all = arguments.to_vec();
    all.extend(["--locked", "--target", TARGET, "--config", &linker]);
    build::build(&all)?
        .into_iter()
        .find(|built| built.target == name)
        .with_context(|| format!("cargo built no {name} for {TARGET}"))
}
