//! What the kernel programs cost in production: how often each ran, and for how long, as the kernel's BPF
//! statistics say.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use aya::sys::{Stats, enable_stats};

use super::counters::value_of;

/// Where an administrator turns the statistics on for good (`sysctl kernel.bpf_stats_enabled`).
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel's statistics, on for as long as this is held (`BPF_ENABLE_STATS`, Linux 5.8): every program of
/// the machine takes some 20 ns longer.
#[derive(Debug)]
pub struct Statistics {
    _held: OwnedFd,
}

impl Statistics {
    /// Turns them on. Takes `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn enable() -> Result<Self, String> {
        let enabled = enable_stats(Stats::RunTime);
        let held = enabled.map_err(|error| format!("{}: {}", error.call, error.io_error))?;
        Ok(Self { _held: held })
    }
}

/// How often a program ran, and for how long. What it goes on with by a tail call is in it (`__bpf_prog_run`
/// stands around both).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Run {
    /// Time, nanoseconds.
    pub nanoseconds: u64,
    /// Times.
    pub count: u64,
}

impl Run {
    /// Both together; what was kept by a daemon before may be any number.
    const fn plus(self, other: Self) -> Self {
        Self {
            nanoseconds: self.nanoseconds.saturating_add(other.nanoseconds),
            count: self.count.saturating_add(other.count),
        }
    }

    /// Out of a program's `/proc/self/fdinfo` (`bpf_prog_show_fdinfo`); `None` where the kernel does not say.
    pub(crate) fn parse(fdinfo: &str) -> Option<Self> {
        Some(Self {
            nanoseconds: value_of(fdinfo, "run_time_ns:")?,
            count: value_of(fdinfo, "run_cnt:")?,
        })
    }

    fn read(program: &OwnedFd) -> Option<Self> {
        let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
        Self::parse(&fs::read_to_string(path).ok()?)
    }
}

/// The programs that are attached, and what they cost.
#[derive(Debug, Default)]
pub struct Runs {
    statistics: Option<Statistics>,
    programs: BTreeMap<&'static str, OwnedFd>,
    /// Of programs whose place those took.
    before: BTreeMap<String, Run>,
    /// What was read last: a counter must not fall where a program can't be asked, as without a descriptor
    /// that is free.
    last: BTreeMap<&'static str, Run>,
}

impl Runs {
    /// Holds the statistics as long as this is there.
    pub fn keep(&mut self, statistics: Statistics) {
        self.statistics = Some(statistics);
    }

    /// From now on these programs are asked.
    pub fn watch<'a>(&mut self, programs: impl Iterator<Item = (&'static str, BorrowedFd<'a>)>) {
        let cloned = |(name, program): (&'static str, BorrowedFd<'_>)| {
            Some((name, program.try_clone_to_owned().ok()?))
        };
        self.programs = programs.filter_map(cloned).collect();
    }

    /// Adds what a program counted whose place another one takes.
    pub fn take(&mut self, name: &str, program: &OwnedFd) {
        if let Some(run) = Run::read(program) {
            self.add(name, run);
        }
    }

    fn add(&mut self, name: &str, run: Run) {
        let sum = self.before.entry(name.to_owned()).or_default();
        *sum = sum.plus(run);
    }

    /// Of programs whose place others took, by name: nanoseconds, times.
    #[must_use]
    pub fn save(&self) -> BTreeMap<String, (u64, u64)> {
        let runs = self.before.iter();
        runs.map(|(name, run)| (name.clone(), (run.nanoseconds, run.count)))
            .collect()
    }

    /// Goes on where a daemon before was.
    pub fn resume(&mut self, saved: BTreeMap<String, (u64, u64)>) {
        for (name, (nanoseconds, count)) in saved {
            self.add(&name, Run { nanoseconds, count });
        }
    }

    /// Of each program since the first daemon; `None` where the kernel keeps no statistics.
    pub fn read(&mut self) -> Option<BTreeMap<&'static str, Run>> {
        let is_on = || fs::read_to_string(SWITCH).is_ok_and(|value| value.trim() == "1");
        if self.statistics.is_none() && !is_on() {
            return None;
        }
        for (name, program) in &self.programs {
            if let Some(run) = Run::read(program) {
                self.last.insert(name, run);
            }
        }
        let before = |name: &str| self.before.get(name).copied().unwrap_or_default();
        let sums = self.last.iter();
        Some(
            sums.map(|(name, run)| (*name, run.plus(before(name))))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read_where_the_kernel_shows_them() {
        let text =
            "pos:\t0\nprog_type:\t26\nrun_time_ns:\t4100\nrun_cnt:\t41\nrecursion_misses:\t0\n";
        let run = Run {
            nanoseconds: 4100,
            count: 41,
        };
        assert_eq!(Run::parse(text), Some(run));
        assert_eq!(Run::parse("pos:\t0\nrun_cnt:\t41\n"), None);
    }

    #[test]
    fn what_programs_before_ran_is_kept_and_never_overflows() {
        let mut runs = Runs::default();
        runs.resume([("deliver".to_owned(), (5, 1))].into());
        let most = Run {
            nanoseconds: u64::MAX,
            count: 2,
        };
        runs.add("deliver", most);
        assert_eq!(runs.save(), [("deliver".to_owned(), (u64::MAX, 3))].into());
    }
}
