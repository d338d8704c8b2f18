//! The self-test itself, in the thread that is in the gateway's namespace.

use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use monitor_common::Verdict;
use socket2::Socket;

use super::cases::{Plan, plans};
use super::counts::{Counts, Difference, Names, Rise, difference};
use super::lab::Lab;
use super::programs::Programs;
use super::{Case, Flaw, Outcome, rules};
use crate::bpf::features::Features;
use crate::bpf::kernel::Kernel;
use crate::traffic::{Traffics, builtin};

/// How long to wait for the counters of a case, and how long once a case has failed: then it is more likely that the
/// programs are wrong than that the host is busy.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_LATER: Duration = Duration::from_millis(200);

/// How long counters must stay as they are, so that a packet that counts twice has shown.
const CALM: Duration = Duration::from_millis(12);

/// The kernel repeats a SYN and its answer after a second: a case that takes longer than this may have more packets
/// than were meant.
const QUICK: Duration = Duration::from_millis(800);

/// Why a case could not be tried at the end.
const NO_TIME: &str = "there was no time left";

/// One run.
struct Test<'a> {
    programs: Programs,
    lab: Lab,
    names: Names<'a>,
    /// Why no rules can be made.
    no_rules: Option<String>,
    /// The counters before the case.
    before: Counts,
    patience: Duration,
    /// Open until the end: closing them sends packets.
    connections: Vec<Socket>,
    end: Instant,
    flaw: Flaw,
}

/// Runs all cases in new namespaces, for so long at most once the programs are in place; the calling thread stays in one
/// of them.
///
/// # Errors
///
/// Why nothing can run.
pub(super) fn test(
    kernel: &Kernel,
    features: &Features,
    root: Result<OwnedFd, String>,
    time: Duration,
    flaw: Flaw,
) -> Result<Vec<Case>, String> {
    let traffics = Traffics::new(builtin()).map_err(|error| error.to_string())?;
    let lab = Lab::new(&traffics)?;
    let programs = Programs::begin(kernel, features, root, &traffics, flaw)?;
    let names = Names {
        traffics: &traffics,
        reasons: &kernel.reasons,
        firewall: programs.firewall_reason,
    };
    let before = names.counts(&programs.read()?);
    let mut test = Test {
        programs,
        lab,
        names,
        no_rules: None,
        before,
        patience: PATIENCE,
        connections: Vec::new(),
        end: Instant::now() + time,
        flaw,
    };
    let (dropped, allowed): (Vec<Plan>, Vec<Plan>) = plans(&traffics)
        .into_iter()
        .partition(|plan| plan.verdict == Verdict::Dropped);
    let mut cases: Vec<Case> = allowed.iter().map(|plan| test.case(plan)).collect();
    if let Err(error) = rules::drop_all(&traffics) {
        test.no_rules = Some(format!("no rules of nf_tables can be made: {error}"));
    }
    cases.extend(dropped.iter().map(|plan| test.case(plan)));
    Ok(cases)
}

impl Test<'_> {
    fn case(&mut self, plan: &Plan) -> Case {
        let result = match self.lack(plan) {
            Some(why) => Err(why),
            None => self.try_case(plan),
        };
        Case {
            name: plan.name(),
            result: match result {
                Ok(None) => Outcome::Passed,
                Ok(Some(wrong)) => Outcome::Failed {
                    series: wrong.series,
                    expected: wrong.expected,
                    counted: wrong.counted,
                },
                Err(why) => Outcome::NotRun { why },
            },
        }
    }

    /// Why a case cannot be tried.
    fn lack(&self, plan: &Plan) -> Option<String> {
        if Instant::now() >= self.end {
            return Some(NO_TIME.to_owned());
        }
        let through = || {
            let series = &plan.series;
            self.lab.lack(series.family, series.direction)
        };
        let rules = self.no_rules.as_deref();
        let rules = rules.filter(|_| plan.verdict == Verdict::Dropped);
        let why = self.programs.missing(plan.hook());
        why.or_else(through).or(rules).map(str::to_owned)
    }

    /// Sends, and compares what is counted. Errors are why it could not be tried.
    fn try_case(&mut self, plan: &Plan) -> Result<Option<Difference>, String> {
        let mut expected = plan.expected(self.names);
        // What is not measured is 0.
        expected.retain(|rise| self.programs.missing(rise.hook).is_none());
        for rise in &mut expected {
            rise.by += self.flaw.expect_more;
        }
        let begin = Instant::now();
        let sent = plan.send(&self.lab, self.end);
        let quick = begin.elapsed() < QUICK;
        let wrong = self.wait(&expected)?;
        self.connections
            .extend(sent.map_err(|error| format!("the packets could not be sent: {error}"))?);
        if wrong.is_some() && Instant::now() >= self.end {
            return Err(NO_TIME.to_owned());
        }
        if wrong.is_some() && plan.connects() && !quick {
            return Err(format!(
                "the host is too busy: {} connections took {:.1} s, and the kernel may have repeated packets",
                plan.count,
                begin.elapsed().as_secs_f64()
            ));
        }
        if wrong.is_some() {
            self.patience = PATIENCE_LATER;
        }
        Ok(wrong)
    }

    /// Waits until what is expected has been counted and nothing moves any more, or patience ends. What was counted by
    /// then is what the next case begins with.
    fn wait(&mut self, expected: &[Rise]) -> Result<Option<Difference>, String> {
        let end = self.end.min(Instant::now() + self.patience);
        let mut last = None;
        loop {
            let now = self.names.counts(&self.programs.read()?);
            let wrong = difference(expected, &self.before, &now);
            let is_calm = last.replace(now.clone()).as_ref() == Some(&now);
            if wrong.is_none() && is_calm || Instant::now() >= end {
                self.before = now;
                return Ok(wrong);
            }
            sleep(CALM);
        }
    }
}
