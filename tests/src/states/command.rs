//! `peerwatch status`, asked of the daemon under test.

use std::process::Stdio;

use anyhow::{Result, ensure};

use crate::attempts::lab::Lab;
use crate::daemon::binary;

/// Where the daemon is.
pub(super) const URL: &str = "http://127.0.0.1:9680";

/// Runs it on the gateway and checks how it ends; gives what it wrote to stdout and to stderr.
pub(super) fn ends_with(lab: &Lab, arguments: &[&str], code: i32) -> Result<(String, String)> {
    let mut command = lab.gw.command(binary()?)?;
    command
        .args(["status", "--url", URL])
        .args(arguments)
        .env_remove("PEERWATCH_URL")
        .stdin(Stdio::null());
    let output = command.output()?;
    let stdout = String::from_utf8(output.stdout)?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(code),
        "status {arguments:?} ends with {} and not {code}: {stdout}{stderr}",
        output.status
    );
    Ok((stdout, stderr))
}

/// The same where all is on stdout, of which the first line is given.
pub(super) fn first_line(lab: &Lab, arguments: &[&str], code: i32) -> Result<String> {
    let (stdout, stderr) = ends_with(lab, arguments, code)?;
    ensure!(stderr.is_empty(), "status {arguments:?}: {stderr}");
    Ok(stdout.lines().next().unwrap_or_default().to_owned())
}
