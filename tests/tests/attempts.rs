//! Attempts and their outcomes: N attempts in, N counted, in exactly the expected series and no other, read
//! from real scrapes of the real binary. Needs root. The variables are those of the conformance tests.
//! Most of the time is waiting, so many scenes run side by side, each with a traffic of its own.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use monitor_tests::attempts::act::{Act, Way};
use monitor_tests::attempts::lab::{Lab, SLOTS, Slot};
use monitor_tests::attempts::pool::Pool;
use monitor_tests::attempts::{AT_LEAST, Scene, all, miredo, teredo};
use monitor_tests::expect::Family;
use monitor_tests::program::exit_code;
use monitor_tests::{daemon, netns};

/// The scenes that fit in the shared labs, and some in labs of their own.
const THREADS: usize = 2 * SLOTS + 6;

fn main() -> ExitCode {
    exit_code(run())
}

fn run() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(THREADS).min(THREADS));
    let pool = Arc::new(Pool::default());
    let mut trials = Vec::new();
    for scene in all() {
        for &way in scene.ways {
            for &family in scene.families {
                let name = format!("{}/{}/{}", scene.name, way.name(), family.name());
                let (pool, scene) = (Arc::clone(&pool), scene.clone());
                trials.push(Trial::ignorable_test(name, move || {
                    where_possible(&pool, &scene, way, family)
                }));
            }
        }
    }
    for (name, run) in teredo::trials().into_iter().chain(miredo::trials()) {
        trials.push(Trial::test(name, move || {
            run().map_err(|error| format!("{error:#}").into())
        }));
    }
    eprintln!("attempts: {} tests", trials.len());
    assert!(trials.len() >= AT_LEAST, "only {} tests", trials.len());
    if !arguments.list {
        let binary = daemon::binary()?;
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the labs need root: run `cargo xtask test`"
        );
        eprintln!("attempts: testing {}", binary.display());
        netns::remove_leftovers()?;
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    pool.shut_down()?;
    Ok(conclusion.exit_code())
}

fn where_possible(
    pool: &Pool,
    scene: &Scene,
    way: Way,
    family: Family,
) -> Result<Completion, Failed> {
    if let Some(feature) = scene.needs
        && let Some(reason) = feature.missing().map_err(|error| format!("{error:#}"))?
    {
        return Ok(Completion::ignored_with(reason));
    }
    perform(pool, scene, way, family).map_err(|error| format!("{error:#}"))?;
    Ok(Completion::Completed)
}

fn perform(pool: &Pool, scene: &Scene, way: Way, family: Family) -> Result<()> {
    if let Some(place) = scene.place {
        let lease = pool.take(place)?;
        let act = Act::new(lease.lab()?, lease.slot(), way, family, scene.target)?;
        return act.perform(&*scene.run, false);
    }
    let mut lab = Lab::create()?;
    let slot = Slot::new(0);
    Act::new(&lab, &slot, way, family, scene.target)?.perform(&*scene.run, true)?;
    if netns::keep() {
        std::mem::forget(lab);
        return Ok(());
    }
    lab.daemon.stop()
}
