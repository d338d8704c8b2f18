//! Metric families that say how the monitor itself fares.

use std::collections::BTreeMap;
use std::time::Duration;

use super::KernelInfo;
use super::attempts::Attempts;
use super::family::Family;
use super::names::{
    BUILD_INFO, EVENTS_LOST, HOOK_ATTACHED, HOOK_INFO, KERNEL_INFO, LOG_SUPPRESSED, MAP_CAPACITY,
    MAP_ENTRIES, MAP_FULL, PROGRAM_RUNS, PROGRAM_SECONDS, REATTACHMENTS, RELOAD, RESTART_GAP,
    SELF_TEST, TRAFFIC_INFO,
};
use crate::bpf::Hook;
use crate::bpf::attach::{HookStates, SharedStates};
use crate::bpf::counters::{Fill, Snapshot};
use crate::bpf::runs::Run;
use crate::traffic::Traffics;
use monitor_common::event::loss;

/// How a restart went, and what was taken off since.
pub(super) fn continuity(states: &SharedStates) -> [Family; 2] {
    let (gaps, reattached) = (states.gaps(), states.reattached());
    let mut again = Family::new(REATTACHMENTS);
    let mut gap = Family::new(RESTART_GAP);
    for hook in Hook::ALL {
        let labels = [("hook", hook.as_str())];
        again.add(&labels, reattached.get(&hook).copied().unwrap_or(0));
        let seconds = gaps.get(&hook).copied().unwrap_or_default();
        gap.add_fraction(&labels, seconds.as_secs_f64());
    }
    [again, gap]
}

pub(super) fn hooks(states: &HookStates) -> [Family; 2] {
    let mut attached = Family::new(HOOK_ATTACHED);
    let mut info = Family::new(HOOK_INFO);
    for ((hook, interface), state) in states {
        let labels = [("hook", hook.as_str()), ("interface", interface.as_str())];
        attached.add(&labels, u64::from(state.is_ok()));
        if let Ok(mode) = state {
            info.add(&[labels[0], labels[1], ("mode", mode.as_str())], 1);
        }
    }
    [attached, info]
}

pub(super) fn maps(snapshot: &Snapshot, attempts: &Attempts) -> [Family; 3] {
    let mut entries = Family::new(MAP_ENTRIES);
    let mut capacity = Family::new(MAP_CAPACITY);
    let mut full = Family::new(MAP_FULL);
    let attempts = Fill {
        map: "attempts",
        entries: attempts.records,
        capacity: attempts.capacity,
        full: attempts.counted.refused,
    };
    for fill in snapshot.fills().into_iter().chain([attempts]) {
        let labels = [("map", fill.map)];
        entries.add(&labels, fill.entries);
        capacity.add(&labels, fill.capacity);
        full.add(&labels, fill.full);
    }
    [entries, capacity, full]
}

/// What the programs cost, where the kernel keeps statistics.
pub(super) fn runs(programs: Option<&BTreeMap<&'static str, Run>>) -> [Family; 2] {
    let mut time = Family::new(PROGRAM_SECONDS);
    let mut runs = Family::new(PROGRAM_RUNS);
    for (program, run) in programs.into_iter().flatten() {
        let labels = [("program", *program)];
        time.add_fraction(&labels, Duration::from_nanos(run.nanoseconds).as_secs_f64());
        runs.add(&labels, run.count);
    }
    [time, runs]
}

/// Lines that are not in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    /// Its reader was too slow for them.
    pub(super) lost: u64,
    /// They could not be written.
    pub(super) unwritten: u64,
    /// Diagnostics that standard error did not take.
    pub(super) diagnostics: u64,
    /// The rate limit kept those of attempts out.
    pub(super) attempts_suppressed: u64,
}

pub(super) fn losses(snapshot: &Snapshot, lines: &Lines) -> [Family; 2] {
    let labels = [("stream", "packets")];
    let mut lost = Family::new(EVENTS_LOST);
    lost.add(&labels, snapshot.losses[loss::EVENT_LOST as usize]);
    lost.add(&[("stream", "packet_log")], lines.lost);
    lost.add(&[("stream", "log_write")], lines.unwritten);
    lost.add(&[("stream", "diagnostics")], lines.diagnostics);
    // Older kernels run the program for the interrupt's packet too, and the first one's note is lost.
    let interrupted = snapshot.losses[loss::INTERRUPTED as usize];
    if let Some(missed) = snapshot.missed {
        lost.add(&[("stream", "drops")], missed + interrupted);
    }
    let mut suppressed = Family::new(LOG_SUPPRESSED);
    suppressed.add(&labels, snapshot.losses[loss::LOG_SUPPRESSED as usize]);
    suppressed.add(&[("stream", "attempts")], lines.attempts_suppressed);
    [lost, suppressed]
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

pub(super) fn info(
    kernel: &KernelInfo,
    traffics: &Traffics,
    reload_successful: bool,
) -> [Family; 5] {
    let mut build = Family::new(BUILD_INFO);
    build.add(
        &[
            ("version", env!("CARGO_PKG_VERSION")),
            (
                "revision",
                option_env!("PEERWATCH_REVISION").unwrap_or("unknown"),
            ),
        ],
        1,
    );
    let mut info = Family::new(KERNEL_INFO);
    info.add(
        &[
            ("release", &kernel.release),
            ("btf", yes_no(kernel.btf)),
            (
                "drop_reasons",
                kernel.drop_reasons.map_or("unknown", yes_no),
            ),
        ],
        1,
    );
    let mut watched = Family::new(TRAFFIC_INFO);
    for traffic in traffics {
        let expect = traffic.watch.expect.as_str();
        watched.add(&[("traffic", &traffic.name), ("expect", expect)], 1);
    }
    let mut reload = Family::new(RELOAD);
    reload.add(&[], u64::from(reload_successful));
    let mut self_test = Family::new(SELF_TEST);
    if let Some(passed) = kernel.self_tested {
        self_test.add(&[], u64::from(passed));
    }
    [build, info, self_test, watched, reload]
}
