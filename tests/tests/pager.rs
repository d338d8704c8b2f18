//! From a firewall's rule to whoever is paged, with real Prometheus and Alertmanager. Needs root. The
//! variables are those of the conformance tests.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Trial};
use monitor_tests::pager::rows;
use monitor_tests::program::exit_code;
use monitor_tests::{daemon, netns};

fn main() -> ExitCode {
    exit_code(run())
}

fn run() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let trials = rows().into_iter().map(|(name, row)| {
        Trial::test(name, move || {
            row().map_err(|error| format!("{error:#}").into())
        })
    });
    let trials = trials.collect();
    if !arguments.list {
        let binary = daemon::binary()?;
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the labs need root: run `cargo xtask test`"
        );
        eprintln!("pager: testing {}", binary.display());
        netns::remove_leftovers()?;
    }
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}
