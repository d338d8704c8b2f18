//! `attempts_total`, `handshake_seconds`, `attempts_lost_total`.

use monitor_common::{Direction, Family as AddressFamily, Protocol};

use super::family::Family;
use super::names::{ATTEMPTS, ATTEMPTS_LOST, HANDSHAKE};
use crate::attempt::Outcome;
use crate::attempt::totals::{Series, Totals, possible};
use crate::bpf::attempts::Counted;
use crate::traffic::{Traffic, Traffics};

/// Attempts, as the metrics show them.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// Whether they are followed on this kernel: otherwise there are no series of them.
    pub followed: bool,
    /// Those that ended.
    pub totals: Totals,
    /// Those that were pushed out of the map.
    pub lost: u64,
    /// What the kernel programs counted.
    pub counted: Counted,
    /// Teredo packets that were lost on their way to the daemon.
    pub teredo_lost: u64,
    /// How many records there are, of those that are followed and of those that ended lately.
    pub records: u64,
    /// The most that there can be.
    pub capacity: u64,
}

/// Whether attempts of a traffic are followed: TCP's, and Teredo's.
#[must_use]
pub fn is_followed(traffic: &Traffic) -> bool {
    traffic
        .protocols()
        .any(|protocol| protocol == Protocol::Tcp)
        || is_teredo(traffic)
}

/// Whether a traffic is Teredo: the built-in one, by its name.
#[must_use]
pub fn is_teredo(traffic: &Traffic) -> bool {
    traffic.name == "teredo"
}

/// Index of the traffic that is Teredo.
#[must_use]
pub fn teredo_index(traffics: &Traffics) -> Option<u8> {
    traffics
        .iter()
        .find(|traffic| is_teredo(traffic))
        .map(|traffic| traffic.index)
}

/// The series of a traffic that are there from the beginning, and those that have counted.
fn all_series(traffic: &Traffic, totals: &Totals) -> Vec<Series> {
    let mut all: Vec<Series> = totals.counted(traffic.index).collect();
    let only_ipv4 = is_teredo(traffic);
    for &family in AddressFamily::ALL {
        if only_ipv4 && family == AddressFamily::Ipv6 {
            continue;
        }
        for &direction in Direction::ALL {
            for &outcome in Outcome::ALL {
                all.extend(
                    possible(outcome, direction)
                        .iter()
                        .map(|&blocked_by| Series {
                            traffic: traffic.index,
                            family,
                            direction,
                            outcome,
                            blocked_by,
                        }),
                );
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

pub(super) fn families(attempts: &Attempts, traffics: &Traffics) -> [Family; 3] {
    let mut total = Family::new(ATTEMPTS);
    let mut times = Family::new(HANDSHAKE);
    let followed = |traffic: &&Traffic| attempts.followed && is_followed(traffic);
    for traffic in traffics.iter().filter(followed) {
        for series in all_series(traffic, &attempts.totals) {
            total.add(
                &[
                    ("traffic", &traffic.name),
                    ("family", series.family.as_str()),
                    ("direction", series.direction.as_str()),
                    ("outcome", series.outcome.as_str()),
                    ("blocked_by", series.blocked_by.as_str()),
                ],
                attempts.totals.attempts(&series),
            );
        }
        for &direction in Direction::ALL {
            let handshakes = attempts.totals.handshakes(traffic.index, direction);
            times.add_histogram(
                &[
                    ("traffic", &traffic.name),
                    ("direction", direction.as_str()),
                ],
                handshakes.cumulative(),
                handshakes.sum,
                handshakes.count,
            );
        }
    }
    let mut lost = Family::new(ATTEMPTS_LOST);
    for (stream, count) in [
        ("table", attempts.lost),
        ("collision", attempts.counted.collisions),
        ("refused", attempts.counted.refused),
        ("teredo", attempts.teredo_lost),
    ] {
        lost.add(&[("stream", stream)], count);
    }
    [total, times, lost]
}
