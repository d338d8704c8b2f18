//! The state of a traffic, from real packets to what metrics, log, HTTP and `peerwatch status` say of it.
//! Needs root. The variables are those of the conformance tests.
//! Most of the time is waiting, so all rows run side by side, each in a lab of its own.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Trial};
use monitor_tests::program::exit_code;
use monitor_tests::states::rows;
use monitor_tests::{daemon, netns};

fn main() -> ExitCode {
    exit_code(run())
}

fn run() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    let rows = rows();
    let threads = rows.len();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(threads).min(threads));
    let mut trials = Vec::new();
    for (name, row) in rows {
        trials.push(Trial::test(name, move || {
            row().map_err(|error| format!("{error:#}").into())
        }));
    }
    if !arguments.list {
        let binary = daemon::binary()?;
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the labs need root: run `cargo xtask test`"
        );
        eprintln!("states: testing {}", binary.display());
        netns::remove_leftovers()?;
    }
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}
