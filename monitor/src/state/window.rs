//! The attempts of a sliding window, in bounded memory.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::peers::{self, PeerPair, Peers};
use super::sample::{Counts, Sample, Summary};
use crate::limits;

/// How many attempts a window keeps one by one. Of older ones, if there are more, it keeps sums: then
/// it no longer knows their peers, and forgets them up to 10 s late. This bounds what a flood
/// costs, about 3 MB for each window, and what one evaluation takes.
pub const MAX_SAMPLES: usize = 16_384;

/// Over how much time the attempts lie that one sum stands for.
const FOLD: Duration = Duration::from_secs(10);

/// How much of the memory of a window its sums take, bytes: one each 10 s of the default 15 minutes.
const SUMS: usize = 128 * size_of::<Folded>();

/// The most memory that a window of the default length takes, bytes.
pub(crate) const fn room() -> usize {
    limits::list::<Sample>(MAX_SAMPLES) + peers::room(MAX_SAMPLES) + SUMS
}

/// The sum of attempts that were pushed out.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Folded {
    /// When the outcome of the first of them was known.
    begin: Duration,
    /// And of the last.
    end: Duration,
    /// The earliest moment that one of them tells of.
    at: Duration,
    summary: Summary,
}

/// The attempts of one traffic in one direction whose outcome became known within a sliding window.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Window {
    /// In the order in which they came in, which is that of `ended` but for moments.
    samples: VecDeque<Sample>,
    /// Older than all samples.
    folded: VecDeque<Folded>,
    #[serde(skip)]
    peers: Peers,
    limit: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self::with_limit(MAX_SAMPLES)
    }
}

impl Window {
    /// An empty window that keeps at most this many attempts one by one.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self {
            samples: VecDeque::new(),
            folded: VecDeque::new(),
            peers: Peers::default(),
            limit: limit.max(1),
        }
    }

    /// Goes on with what was kept of a window.
    pub(super) fn resume(&mut self) {
        self.limit = self.limit.clamp(1, MAX_SAMPLES);
        while self.samples.len() > self.limit
            && let Some(oldest) = self.samples.pop_front()
        {
            self.fold(&oldest);
        }
        self.peers = Peers::default();
        for sample in &self.samples {
            self.peers.add(sample);
        }
    }

    /// Takes an attempt in.
    pub fn add(&mut self, sample: impl Into<Sample>) {
        let sample = sample.into();
        if self.samples.len() >= self.limit
            && let Some(oldest) = self.samples.pop_front()
        {
            self.peers.remove(&oldest);
            self.fold(&oldest);
        }
        self.peers.add(&sample);
        self.samples.push_back(sample);
    }

    fn fold(&mut self, sample: &Sample) {
        let fresh = self
            .folded
            .back()
            .is_none_or(|last| sample.ended.saturating_sub(last.begin) >= FOLD);
        if fresh {
            self.folded.push_back(Folded {
                begin: sample.ended,
                end: sample.ended,
                at: sample.at,
                summary: Summary::default(),
            });
        }
        if let Some(last) = self.folded.back_mut() {
            last.end = last.end.max(sample.ended);
            last.at = last.at.min(sample.at);
            last.summary.add(sample);
        }
    }

    /// Drops what is older than the window.
    pub fn slide(&mut self, now: Duration, length: Duration) {
        let is_old = |ended: Duration| now.saturating_sub(ended) > length;
        while self.folded.front().is_some_and(|sum| is_old(sum.end)) {
            self.folded.pop_front();
        }
        while let Some(oldest) = self.samples.pop_front_if(|sample| is_old(sample.ended)) {
            self.peers.remove(&oldest);
        }
        if self.samples.len() < self.samples.capacity() / 8 {
            self.samples.shrink_to(self.samples.len() * 2);
        }
        self.peers.shrink();
    }

    /// How many attempts it knows by sums only, without their peers.
    #[must_use]
    pub fn without_peers(&self) -> u64 {
        let sums = self.folded.iter();
        sums.map(|sum| sum.summary.counts().total()).sum()
    }

    /// How many pairs of client and target have an attempt of each result; one can be in several.
    #[must_use]
    pub fn peer_pairs(&self) -> Counts {
        self.peers.counts()
    }

    /// The pairs with most failures, most first.
    #[must_use]
    pub fn failing_pairs(&self, most: usize) -> Vec<PeerPair> {
        self.peers.failing(most)
    }

    /// The attempts that it keeps one by one.
    pub(super) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter()
    }

    /// The sum of the attempts that tell of this moment or a later one. A sum of older ones counts
    /// as a whole or not at all.
    pub(super) fn summary(&self, from: Duration) -> Summary {
        let mut summary = Summary::default();
        for sum in self.folded.iter().filter(|sum| sum.at >= from) {
            summary.merge(&sum.summary);
        }
        for sample in self.samples.iter().filter(|sample| sample.at >= from) {
            summary.add(sample);
        }
        summary
    }
}
