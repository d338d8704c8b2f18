//! Floods and faults: nothing is lost without a counter that says so, and nothing ends the daemon. Needs root.
//! Each row prints one line of a table, and all of them stand together at the end. The variables are those of
//! the conformance tests; `PEERWATCH_SOAK_MINUTES` says how long the soak takes, which runs with `--ignored`.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Trial};
use monitor_tests::program::exit_code;
use monitor_tests::{daemon, faults, netns};

/// How many rows run side by side: most of their time is waiting, but floods want a processor.
const THREADS: usize = 6;

fn main() -> ExitCode {
    exit_code(run())
}

fn run() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(THREADS));
    let rows = faults::ROWS.iter().copied().flatten();
    let trials: Vec<Trial> = rows
        .map(|row| {
            let run = || row.perform().map_err(|error| format!("{error:#}").into());
            Trial::test(row.name, run).with_ignored_flag(row.long)
        })
        .collect();
    eprintln!("faults: {} rows", trials.len());
    let enough = trials.len() >= faults::AT_LEAST;
    ensure!(enough, "only {} rows", trials.len());
    if !arguments.list {
        let binary = daemon::binary()?;
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the labs need root: run `cargo xtask test`"
        );
        eprintln!("faults: testing {}", binary.display());
        netns::remove_leftovers()?;
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        eprint!("{}", faults::table());
    }
    Ok(conclusion.exit_code())
}
