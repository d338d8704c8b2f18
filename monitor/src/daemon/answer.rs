//! The answer at work: attempts are read, states are computed, changes of the firewall's rules are noticed,
//! and all of it is told.

use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::attempts::{self, Attempts, monotonic};
use super::events::PacketLog;
use super::keep::Store;
use super::states::{self, States};
use crate::attempt::tracker::Table;
use crate::bpf::attach::SharedStates;
use crate::conntrack;
use crate::kallsyms::{KALLSYMS, Kallsyms};
use crate::metrics::Source;
use crate::ruleset::{Change, RulesetWatcher};
use crate::saved::{Saved, SavedRef};

/// How long a full connection table explains drops.
const FULL: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Debug)]
pub(super) enum Due {
    /// The attempts are to be read.
    Reading,
    /// The states are to be computed.
    Evaluation,
    /// The rules of the firewall changed.
    Ruleset(Change),
}

/// Attempts, states and rules.
#[derive(Debug)]
pub(super) struct Answer {
    attempts: Attempts,
    states: States,
    hooks: SharedStates,
    reading: Interval,
    evaluation: Interval,
    rules: Option<RulesetWatcher>,
    refusals: Refusals,
    store: Option<Store>,
    /// Whether anything happened that is not noted yet.
    is_news: bool,
}

/// Refusals of the connection table.
#[derive(Debug, Default)]
struct Refusals {
    drops: Option<u64>,
    last: Option<Duration>,
    /// The addresses of `nft_do_chain`, looked up when they are needed first.
    chain: Option<(u64, u64)>,
    looked_up: bool,
}

impl Refusals {
    /// Reads the table's own statistics.
    fn read(&mut self, source: &Source) -> Table {
        let table = conntrack::read();
        source.show_conntrack(table);
        let drops = table.and_then(|table| table.drops);
        let now = monotonic();
        // A sum of 32-bit counters, which begin anew.
        if self.drops.is_some() && drops != self.drops {
            self.last = Some(now);
        }
        self.drops = drops;
        let refused = self
            .last
            .is_some_and(|last| now.saturating_sub(last) < FULL);
        if !refused {
            return Table::default();
        }
        if !self.looked_up {
            self.looked_up = true;
            self.chain = chain();
        }
        Table {
            refused,
            chain: self.chain,
        }
    }
}

/// The addresses of the function that drops for a rule of nftables, where the kernel's list has it.
fn chain() -> Option<(u64, u64)> {
    let functions = Kallsyms::read(KALLSYMS).ok()?;
    let ranges = functions.ranges(&["nft_do_chain"]);
    let range = ranges.iter().find(|range| !range.cold)?;
    Some((range.start, range.end))
}

/// An interval that does not catch up on what it missed.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Answer {
    /// Reads and evaluates once, so that the first scrape has every state. Call it in a tokio runtime.
    pub(super) fn begin(
        attempts: Attempts,
        hooks: SharedStates,
        (store, saved): (Option<Store>, Option<Saved>),
        source: &Source,
        log: &mut PacketLog,
    ) -> Self {
        let mut this = Self::new(attempts, hooks, store);
        if let Some(saved) = saved {
            this.attempts.resume(saved.attempts);
            this.states.resume(saved.states);
        }
        for due in [Due::Reading, Due::Evaluation] {
            this.work(due, source, log);
        }
        this
    }

    fn new(attempts: Attempts, hooks: SharedStates, store: Option<Store>) -> Self {
        let rules = match RulesetWatcher::new() {
            Ok(rules) => Some(rules),
            Err(error) => {
                warn!("changes of the firewall's rules are not noticed: {error}");
                None
            }
        };
        Self {
            attempts,
            states: States::default(),
            hooks,
            reading: every(attempts::INTERVAL),
            evaluation: every(states::INTERVAL),
            rules,
            refusals: Refusals::default(),
            store,
            is_news: false,
        }
    }

    /// Waits until there is something to do. Nothing is lost when the future is dropped.
    pub(super) async fn due(&mut self) -> Due {
        let rules = &mut self.rules;
        let change = async {
            match rules {
                Some(rules) => rules.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.reading.tick() => Due::Reading,
            () = self.attempts.called() => Due::Reading,
            _ = self.evaluation.tick() => Due::Evaluation,
            change = change => Due::Ruleset(change),
        }
    }

    /// Does it; whether states were decided by that.
    pub(super) fn work(&mut self, due: Due, source: &Source, log: &mut PacketLog) -> bool {
        let decides = matches!(due, Due::Evaluation);
        match due {
            Due::Reading => {
                let start = Instant::now();
                let table = self.refusals.read(source);
                let news = self.attempts.read(table);
                log.attempts(&news.finished, source);
                self.states.take(&news);
                self.is_news |= news.any;
                self.keep(source, false);
                self.attempts.answered(start);
            }
            Due::Evaluation => {
                let lost = self.attempts.lost();
                for changed in self.states.tick(source, &self.hooks, &lost) {
                    self.is_news = true;
                    log.state(&changed, source);
                }
            }
            Due::Ruleset(change) => {
                info!("{}", describe(&change));
                self.is_news = true;
                source.rules_changed(change);
            }
        }
        decides
    }
}

impl Answer {
    /// Notes everything for the next daemon, and shows then what it noted: killed in between, nothing that
    /// was shown is forgotten. `must` at the end.
    pub(super) fn keep(&mut self, source: &Source, must: bool) {
        let Some(store) = &mut self.store else {
            return self.attempts.publish(source);
        };
        if store.is_due(self.is_news, must) {
            let saved = SavedRef {
                at: monotonic(),
                traffics: source.traffics().owners(),
                attempts: self.attempts.save(),
                states: self.states.save(),
                shown: source.save(),
            };
            store.write(&saved);
            self.is_news = false;
        }
        if !self.is_news {
            self.attempts.publish(source);
        }
    }
}

/// A change in one sentence. Names are the user's own, and may hold anything.
fn describe(change: &Change) -> String {
    let mut text = format!(
        "the firewall changed: {} of {}",
        change.kind.as_str(),
        change.backend.as_str()
    );
    let tables: Vec<_> = change
        .tables
        .iter()
        .map(|table| table.to_string().escape_debug().to_string())
        .collect();
    if !tables.is_empty() {
        text.push_str(" in table ");
        text.push_str(&tables.join(", "));
    }
    if let Some(by) = &change.by {
        text.push_str(" by ");
        text.extend(by.name.escape_debug());
        text.extend([format!(" (process {})", by.pid)]);
    }
    text
}
