//! A self-test: whether the kernel programs of this build count exactly on this kernel.
//!
//! Three network namespaces are made: a client, a gateway and a target, joined by pairs of virtual
//! devices. The programs watch the gateway, as they watch the host of a daemon. Packets of the built-in
//! traffics then go in, out and through it, some let through and some dropped by rules, and what was
//! counted is compared with what was sent, series by series.
//!
//! No other program is run, and nothing has a name: the namespaces belong to threads, and the programs to
//! file descriptors. So nothing is left when the process ends, however it ends. Only modules that the
//! kernel loads for it (`veth`, `nf_tables`) stay loaded. The namespaces and programs of a daemon that runs
//! meanwhile are others.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

mod cases;
mod counts;
mod gateway;
mod lab;
mod links;
mod namespace;
mod programs;
mod route;
mod rules;

use crate::bpf::features::Features;
use crate::bpf::kernel::Kernel;
use crate::cgroup::Root;

/// The longest that the self-test takes. Most of it is for the kernel's verifier, which takes less than a second, but half a
/// minute in a machine that is emulated.
pub const LIMIT: Duration = Duration::from_mins(1);

/// How long after the programs are in place nothing more is sent or waited for.
const END: Duration = Duration::from_secs(18);

/// What the self-test found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelfTest {
    /// The cases, in the order in which they ran; none where nothing could run.
    pub cases: Vec<Case>,
    /// Why nothing could run at all, as without the right to make network namespaces.
    pub lacks: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// One kind of packets, sent and counted.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Case {
    /// Protocol, port, address family, direction and what becomes of the packets: `udp 3544 ipv4 inbound
    /// dropped`.
    pub name: String,
    /// What came of it.
    pub result: Outcome,
}

/// What came of a case.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Every packet was counted once, where it belongs, and nothing else.
    Passed,
    /// A series is wrong.
    Failed {
        /// The series, as Prometheus writes it.
        series: String,
        /// By how much it should have risen.
        expected: u64,
        /// By how much it rose.
        counted: u64,
    },
    /// The case could not be tried.
    NotRun {
        /// What is lacking.
        why: String,
    },
}

impl SelfTest {
    /// Whether some case ran and none failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        let mut ran = self.ran().peekable();
        ran.peek().is_some() && ran.all(|case| case.result == Outcome::Passed)
    }

    /// All of it in one sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        if let Some(why) = &self.lacks {
            return format!("the self-test could not run: {why}");
        }
        let (all, ran) = (self.cases.len(), self.ran().count());
        let text = match self.failed().next() {
            None if ran == 0 => "no case could run".to_owned(),
            None => format!(
                "{ran} of {all} cases counted exactly in {:.1} s",
                self.seconds
            ),
            Some((case, why)) => {
                let failed = self.failed().count();
                format!("{failed} of {ran} cases counted wrong, first {case}: {why}")
            }
        };
        let reason = self.cases.iter().find_map(|case| match &case.result {
            Outcome::NotRun { why } => Some(why),
            _ => None,
        });
        match reason {
            None => text,
            Some(why) => format!("{text}; {} not run: {why}", all - ran),
        }
    }

    /// Those that were tried.
    fn ran(&self) -> impl Iterator<Item = &Case> {
        let ran = |case: &&Case| !matches!(case.result, Outcome::NotRun { .. });
        self.cases.iter().filter(ran)
    }

    /// The names of those that failed, and how.
    fn failed(&self) -> impl Iterator<Item = (&str, String)> {
        self.cases.iter().filter_map(|case| match &case.result {
            Outcome::Failed {
                series,
                expected,
                counted,
            } => Some((
                case.name.as_str(),
                format!("{series} expected {expected}, counted {counted}"),
            )),
            _ => None,
        })
    }
}

/// How the self-test is made to fail, for its own tests.
#[derive(Clone, Copy, Debug, Default)]
struct Flaw {
    /// So many packets more are expected than are sent.
    expect_more: u64,
    /// This hook is taken for attached, and is not.
    unattached: Option<crate::bpf::Hook>,
}

/// Runs the self-test, which takes a second or two, and [`LIMIT`] at most. The calling thread stays in its
/// network namespace.
///
/// It takes the rights to load the programs and, besides, to make network namespaces (`CAP_SYS_ADMIN`) and to
/// listen on low ports (`CAP_NET_BIND_SERVICE`). The limits on locked memory and open files are taken as they
/// are: some 250 descriptors are open at once.
#[must_use]
pub fn run(kernel: &Kernel, features: &Features, cgroup: &Root) -> SelfTest {
    run_with(kernel, features, cgroup, Flaw::default())
}

fn run_with(kernel: &Kernel, features: &Features, cgroup: &Root, flaw: Flaw) -> SelfTest {
    let begin = Instant::now();
    let root = cgroup.open().map(|root| root.dir);
    let root = root.map_err(|error| error.to_string());
    let (kernel, features) = (kernel.clone(), features.clone());
    let (told, result) = mpsc::channel();
    // A thread of its own, since the gateway's namespace is that of its thread, and so that one that hangs
    // or breaks off can be left alone.
    let thread = thread::Builder::new().name("self-test".to_owned());
    let thread = thread.spawn(move || {
        // Nobody listens any more after the limit.
        told.send(gateway::test(&kernel, &features, root, END, flaw))
            .ok();
    });
    let result = match thread {
        Err(error) => Err(format!("no thread could be made: {error}")),
        Ok(thread) => match result.recv_timeout(LIMIT) {
            Ok(result) => {
                thread.join().ok();
                result
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("it did not end within {} s", LIMIT.as_secs()))
            }
            Err(RecvTimeoutError::Disconnected) => Err("it broke off".to_owned()),
        },
    };
    let (cases, lacks) = match result {
        Ok(cases) => (cases, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    SelfTest {
        cases,
        lacks,
        seconds: begin.elapsed().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests;
