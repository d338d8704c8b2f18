//! What the test programs have in common.

use std::process::ExitCode;

use anyhow::Result;

/// The exit code of a test program; says what kept it from running.
#[must_use]
pub fn exit_code(result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
