//! The self-test itself, where it can be run.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::super::*;
use crate::bpf::Hook;
use crate::bpf::features::Feature;
use crate::bpf::pins::DEFAULT_MOUNT;

/// One after the other: each is to have its time, and counts descriptors.
static ALONE: Mutex<()> = Mutex::new(());

/// The self-test on this kernel, printed.
fn real(flaw: Flaw, without: &[Feature]) -> SelfTest {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Newer kernels do without.
    crate::preflight::raise_locked_memory().ok();
    let mut kernel = Kernel::read(None).unwrap();
    let features = Features::probe(&kernel, Path::new(DEFAULT_MOUNT), without);
    kernel.restrict(&features);
    let root = Root::find();
    let before = descriptors();
    let found = run_with(&kernel, &features, &root, flaw);
    assert_eq!(descriptors(), before);
    for case in &found.cases {
        eprintln!("{:<34} {:?}", case.name, case.result);
    }
    eprintln!("{}\n", found.summary());
    found
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
#[ignore = "takes root and loads the kernel programs"]
fn the_programs_count_exactly_on_this_kernel_and_nothing_is_left() {
    let here = crate::netns::inum().unwrap();
    let found = real(Flaw::default(), &[]);
    assert!(found.passed());
    assert!(
        found
            .cases
            .iter()
            .all(|case| case.result == Outcome::Passed)
    );
    assert_eq!(crate::netns::inum().unwrap(), here);
}

#[test]
#[ignore = "takes root and loads the kernel programs"]
fn a_packet_that_is_missing_is_a_failure() {
    let flaw = Flaw {
        expect_more: 1,
        unattached: None,
    };
    let found = real(flaw, &[]);
    assert!(found.cases.iter().all(|case| matches!(
        case.result,
        Outcome::Failed { expected, counted, .. } if expected == counted + 1
    )));
}

#[test]
#[ignore = "takes root and loads the kernel programs"]
fn a_hook_that_does_not_count_is_a_failure_of_its_cases() {
    for (hook, word) in [
        (Hook::Egress, "outbound allowed"),
        (Hook::Deliver, "inbound allowed"),
        (Hook::Drop, "dropped"),
    ] {
        let flaw = Flaw {
            expect_more: 0,
            unattached: Some(hook),
        };
        let found = real(flaw, &[]);
        let mut its = found.cases.iter().filter(|case| case.name.contains(word));
        assert!(its.all(|case| matches!(case.result, Outcome::Failed { .. })));
        assert!(!found.passed());
        assert!(found.seconds < LIMIT.as_secs_f64());
    }
}

#[test]
#[ignore = "takes root and loads the kernel programs"]
fn the_programs_count_exactly_as_on_an_older_kernel() {
    let without = [
        Feature::Tcx,
        Feature::TpBtf,
        Feature::DropReasons,
        Feature::ReceivingSocket,
        Feature::NetnsCookieCgroup,
    ];
    let found = real(Flaw::default(), &without);
    assert!(
        found
            .cases
            .iter()
            .all(|case| case.result == Outcome::Passed)
    );
}

#[test]
#[ignore = "takes root and loads the kernel programs"]
fn what_cannot_be_counted_is_not_run() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    crate::preflight::raise_locked_memory().ok();
    let run = |kernel: Kernel| {
        let features = Features::probe(&kernel, Path::new(DEFAULT_MOUNT), &[]);
        let root = Err("there is no root".to_owned());
        // It changes the namespace of its thread.
        let test = move || gateway::test(&kernel, &features, root, END, Flaw::default());
        let cases = thread::spawn(test).join().unwrap().unwrap();
        let not_run = cases.iter().filter_map(|case| match &case.result {
            Outcome::NotRun { why } => Some((case.name.as_str(), why.as_str())),
            other => {
                assert_eq!(*other, Outcome::Passed, "{}", case.name);
                None
            }
        });
        for (name, why) in not_run.clone() {
            eprintln!("{name:<34} {why}");
        }
        not_run.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let without_root = run(Kernel::read(None).unwrap());
    assert_eq!(without_root.len(), 8);
    assert!(
        without_root
            .iter()
            .all(|name| name.ends_with("inbound allowed"))
    );
    let without_btf = run(Kernel::unknown("it is hidden".to_owned()));
    assert_eq!(without_btf.len(), 8 + 24);
}
