//! What outlasts the daemon: maps and links in the kernel, attempts and states in a file; and what happens when
//! others meddle with them. Needs root. The variables are those of the conformance tests.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Trial};
use monitor_tests::program::exit_code;
use monitor_tests::{daemon, netns, restarts};

/// Most of the time is waiting.
const THREADS: usize = 4;

fn main() -> ExitCode {
    exit_code(run())
}

fn run() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(THREADS).min(THREADS));
    let trials = restarts::trials().into_iter().map(|(name, run)| {
        Trial::test(name, move || {
            run().map_err(|error| format!("{error:#}").into())
        })
    });
    let trials: Vec<Trial> = trials.collect();
    if !arguments.list {
        let binary = daemon::binary()?;
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the labs need root: run `cargo xtask test`"
        );
        eprintln!("restarts: testing {}", binary.display());
        netns::remove_leftovers()?;
        // Other programs' daemons take any BPF file system that they see; these here come and go.
        netns::hide_mounts()?;
    }
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}
