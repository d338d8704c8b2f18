//! N packets in, N counted: in exactly the expected series and no other, read from a real scrape of
//! the real binary. Needs root. `PEERWATCH_BIN` names the binary, else it is the one beside this test;
//! `PEERWATCH_KEEP_LAB=1` leaves the labs as they are at the end. `PEERWATCH_ONLY` holds whole names of
//! the tests that are to run, with blanks between them: the harness takes one filter only. Rows that
//! this kernel can't do are ignored and say why; with `PEERWATCH_VM=1`, as in the virtual machines of
//! `cargo xtask vm-test`, they fail instead.

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use monitor_tests::needs::Feature;
use monitor_tests::pool::{LABS, Pool};
use monitor_tests::program::exit_code;
use monitor_tests::{
    daemon, degraded, doctor, features, helper, lifecycle, lockdown, netns, restarts, rows,
};

fn main() -> ExitCode {
    exit_code(run())
}

fn run() -> Result<ExitCode> {
    if helper::run_as_helper()? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(LABS).min(LABS));
    let pool = Arc::new(Pool::default());
    let rows = rows::all();
    eprintln!("conformance: {} rows", rows.len());
    assert!(rows.len() >= rows::AT_LEAST, "only {} rows", rows.len());
    let mut trials = Vec::new();
    for row in rows {
        let pool = Arc::clone(&pool);
        trials.push(Trial::ignorable_test(row.name(), move || {
            where_possible(row.scene.needs, || in_lab(&pool, |lab| row.run(lab)))
        }));
    }
    for trial in lifecycle::TRIALS.iter().copied().flatten() {
        for family in trial.families {
            let (pool, run) = (Arc::clone(&pool), trial.run);
            let name = format!("lifecycle/{}/{}", trial.name, family.name());
            let needs = trial.needs();
            trials.push(Trial::ignorable_test(name, move || {
                where_possible(needs, || in_lab(&pool, |lab| run(lab, *family)))
            }));
        }
    }
    for (name, run) in features::TRIALS
        .iter()
        .chain(degraded::TRIALS)
        .chain(doctor::TRIALS)
    {
        // Each makes what it needs itself.
        trials.push(Trial::test(*name, move || {
            run().map_err(|error| format!("{error:#}").into())
        }));
    }
    for (name, run) in restarts::OF_KERNELS.iter().chain(doctor::OF_KERNELS) {
        trials.push(Trial::ignorable_test(*name, move || {
            if std::env::var_os("PEERWATCH_VM").is_none() {
                return Ok(Completion::ignored_with("for the kernels of vm-test"));
            }
            run().map_err(|error| format!("{error:#}"))?;
            Ok(Completion::Completed)
        }));
    }
    for (feature, (name, run)) in doctor::NEEDING {
        trials.push(Trial::ignorable_test(*name, move || {
            where_possible(Some(*feature), || {
                run().map_err(|error| format!("{error:#}").into())
            })
        }));
    }
    for (name, run) in doctor::ON_HOST {
        trials.push(Trial::ignorable_test(*name, move || {
            if std::env::var_os("PEERWATCH_VM").is_some() {
                return Ok(Completion::ignored_with("takes a tool that is not in here"));
            }
            run().map_err(|error| format!("{error:#}"))?;
            Ok(Completion::Completed)
        }));
    }
    for (name, run) in lockdown::TRIALS {
        trials.push(Trial::ignorable_test(*name, move || {
            if let Some(reason) = lockdown::missing().map_err(|error| format!("{error:#}"))? {
                return Ok(Completion::ignored_with(reason));
            }
            run().map_err(|error| format!("{error:#}"))?;
            Ok(Completion::Completed)
        }));
    }
    if let Ok(only) = std::env::var("PEERWATCH_ONLY") {
        let names: HashSet<&str> = only.split_whitespace().collect();
        trials.retain(|trial| names.contains(trial.name()));
        ensure!(
            trials.len() == names.len(),
            "PEERWATCH_ONLY has {} names, and {} of them are tests",
            names.len(),
            trials.len()
        );
    }
    if !arguments.list {
        let binary = daemon::binary()?;
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the labs need root: run `cargo xtask test`"
        );
        eprintln!("conformance: testing {}", binary.display());
        netns::remove_leftovers()?;
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    pool.shut_down()?;
    Ok(conclusion.exit_code())
}

/// Runs a test where the kernel has what it needs.
fn where_possible(
    needs: Option<Feature>,
    test: impl FnOnce() -> Result<(), Failed>,
) -> Result<Completion, Failed> {
    if let Some(feature) = needs {
        let missing = feature.missing().map_err(|error| format!("{error:#}"))?;
        if let Some(reason) = missing {
            return Ok(Completion::ignored_with(reason));
        }
    }
    test()?;
    Ok(Completion::Completed)
}

fn in_lab(
    pool: &Pool,
    test: impl FnOnce(&monitor_tests::lab::Lab) -> Result<()>,
) -> Result<(), Failed> {
    let lab = pool.take().map_err(|error| format!("{error:#}"))?;
    let result = test(&lab);
    if result.is_err() {
        lab.discard();
    }
    result.map_err(|error| format!("{error:#}").into())
}
