//! What a host of the simulation says: all that a scrape of a daemon has, with values that change.

use std::fmt::Write as _;

/// One in so many hosts does not answer.
const DOWN: u64 = 200;

/// How long a state lasts, in seconds.
const LASTS: u64 = 600;

/// The interfaces that a host has beside `lo`.
const INTERFACES: u64 = 10;

const TRAFFICS: [&str; 3] = ["do_peer", "teredo", "https"];
const STATES: [&str; 6] = [
    "ok",
    "degraded",
    "failing",
    "blocked",
    "no_demand",
    "unknown",
];
/// Those who can be behind the state `blocked` first.
const BLOCKERS: [&str; 10] = [
    "local_firewall",
    "upstream",
    "middlebox",
    "remote_host",
    "local_stack",
    "none",
    "unknown",
    "local_host",
    "local_overload",
    "local_conntrack",
];
const CAN_BLOCK: u64 = 5;

const PROTOCOLS: [&str; 4] = [
    r#"traffic="do_peer",protocol="tcp""#,
    r#"traffic="teredo",protocol="udp""#,
    r#"traffic="https",protocol="tcp""#,
    r#"traffic="https",protocol="udp""#,
];
const TRAFFIC: [&str; 3] = [
    r#"traffic="do_peer""#,
    r#"traffic="teredo""#,
    r#"traffic="https""#,
];
const FAMILY: [&str; 2] = [r#"family="ipv4""#, r#"family="ipv6""#];
const DIRECTION: [&str; 3] = [
    r#"direction="inbound""#,
    r#"direction="outbound""#,
    r#"direction="forwarded""#,
];
const FLOW: [&str; 2] = [r#"flow="request""#, r#"flow="reply""#];
const VERDICT: [&str; 2] = [r#"verdict="allowed""#, r#"verdict="dropped""#];
const REASON: [&str; 1] = [r#"class="firewall",reason="NETFILTER_DROP""#];
const OUTCOME: [&str; 13] = [
    r#"outcome="established",blocked_by="none""#,
    r#"outcome="refused",blocked_by="remote_host""#,
    r#"outcome="rejected",blocked_by="local_firewall""#,
    r#"outcome="rejected",blocked_by="middlebox""#,
    r#"outcome="offline",blocked_by="none""#,
    r#"outcome="dropped",blocked_by="local_firewall""#,
    r#"outcome="dropped",blocked_by="local_stack""#,
    r#"outcome="dropped",blocked_by="local_overload""#,
    r#"outcome="dropped",blocked_by="local_conntrack""#,
    r#"outcome="reply_dropped",blocked_by="local_firewall""#,
    r#"outcome="reply_dropped",blocked_by="local_stack""#,
    r#"outcome="unanswered",blocked_by="upstream""#,
    r#"outcome="unanswered",blocked_by="unknown""#,
];
const RESULT: [&str; 3] = [
    r#"result="success""#,
    r#"result="policy""#,
    r#"result="other""#,
];
const BUCKET: [&str; 14] = [
    r#"le="0.0005""#,
    r#"le="0.001""#,
    r#"le="0.0025""#,
    r#"le="0.005""#,
    r#"le="0.01""#,
    r#"le="0.025""#,
    r#"le="0.05""#,
    r#"le="0.1""#,
    r#"le="0.25""#,
    r#"le="0.5""#,
    r#"le="1""#,
    r#"le="3""#,
    r#"le="7""#,
    r#"le="+Inf""#,
];

/// Whether a host answers at all.
pub(crate) fn answers(number: u64) -> bool {
    !number.is_multiple_of(DOWN)
}

/// A scrape of a host, `now` seconds after 1970.
pub(crate) fn scrape(number: u64, now: u64) -> String {
    let mut scrape = Scrape {
        number,
        now,
        text: String::with_capacity(1 << 17),
    };
    scrape.states();
    scrape.counters();
    scrape.monitor();
    scrape.text
}

/// A scrape that is being written.
#[derive(Debug)]
struct Scrape {
    number: u64,
    now: u64,
    text: String,
}

impl Scrape {
    /// Begins a family.
    fn family(&mut self, name: &str, kind: &str) {
        // Writing to a string does not fail.
        writeln!(self.text, "# TYPE peerwatch_{name} {kind}").unwrap_or_default();
    }

    fn series(&mut self, name: &str, labels: &str, value: u64) {
        writeln!(self.text, "peerwatch_{name}{{{labels}}} {value}").unwrap_or_default();
    }

    /// A counter with every combination of these labels; the larger the seed, the slower it grows.
    fn cross(&mut self, name: &str, kind: &str, axes: &[&[&str]]) {
        self.family(name, kind);
        let total: usize = axes.iter().map(|axis| axis.len()).product();
        for index in 0..total {
            let mut rest = index;
            let mut labels = Vec::with_capacity(axes.len());
            for axis in axes {
                labels.push(axis[rest % axis.len()]);
                rest /= axis.len();
            }
            // Some series stand still, as on any host.
            let pace = mix(self.number, index as u64) % 50;
            let value = if pace < 30 {
                0
            } else {
                self.now % 1_000_000 * pace / 7
            };
            self.series(name, &labels.join(","), value);
        }
    }

    /// States, and what belongs to them.
    fn states(&mut self) {
        let pairs = || {
            let directions = ["outbound", "forwarded"];
            TRAFFICS
                .into_iter()
                .flat_map(move |traffic| directions.map(|direction| (traffic, direction)))
        };
        let chosen: Vec<_> = pairs()
            .enumerate()
            .map(|(pair, (traffic, direction))| {
                let labels = format!(r#"traffic="{traffic}",direction="{direction}""#);
                // They do not change all at once.
                let salt = mix(self.number, pair as u64);
                let since = self.now - (self.now + salt % LASTS) % LASTS;
                let dice = mix(salt, since);
                let state = match dice % 100 {
                    0..60 => 0,
                    60..64 => 1,
                    64..66 => 2,
                    66..69 => 3,
                    69..99 => 4,
                    _ => 5,
                };
                let by = if state == 3 {
                    dice / 100 % CAN_BLOCK
                } else {
                    CAN_BLOCK
                };
                (labels, state, by, since)
            })
            .collect();
        self.family("state", "gauge");
        for (labels, state, ..) in &chosen {
            for (index, name) in STATES.into_iter().enumerate() {
                self.series(
                    "state",
                    &format!(r#"{labels},state="{name}""#),
                    u64::from(index == *state),
                );
            }
        }
        self.family("blocked_by", "gauge");
        for (labels, _, by, _) in &chosen {
            for (index, name) in BLOCKERS.into_iter().enumerate() {
                let is = u64::from(index as u64 == *by);
                self.series(
                    "blocked_by",
                    &format!(r#"{labels},blocked_by="{name}""#),
                    is,
                );
            }
        }
        let age = mix(self.number, self.now) % 30;
        for name in [
            "state_since",
            "blocked_since",
            "last_success",
            "last_attempt",
        ] {
            let name = format!("{name}_timestamp_seconds");
            self.family(&name, "gauge");
            for (labels, state, _, since) in &chosen {
                let value = match (name.as_str(), *state) {
                    ("state_since_timestamp_seconds", _) => *since,
                    ("blocked_since_timestamp_seconds", 3) => since - 20,
                    ("blocked_since_timestamp_seconds", _) => 0,
                    ("last_success_timestamp_seconds", 0 | 1)
                    | ("last_attempt_timestamp_seconds", 0..=3) => self.now - age,
                    _ => since - 60,
                };
                self.series(&name, labels, value);
            }
        }
        for name in ["window_attempts", "window_peer_pairs"] {
            self.cross(name, "gauge", &[&TRAFFIC, &DIRECTION[1..], &RESULT]);
        }
        self.family("traffic_info", "gauge");
        for traffic in TRAFFICS {
            let closed = traffic == "teredo" && self.number % 4 == 1;
            let expect = if closed { "closed" } else { "open" };
            self.series(
                "traffic_info",
                &format!(r#"traffic="{traffic}",expect="{expect}""#),
                1,
            );
        }
    }

    /// What a fleet's Prometheus throws away, and has to read all the same.
    fn counters(&mut self) {
        for name in ["packets_total", "bytes_total"] {
            self.cross(
                name,
                "counter",
                &[&PROTOCOLS, &FAMILY, &DIRECTION, &FLOW, &VERDICT],
            );
        }
        self.cross(
            "drops_total",
            "counter",
            &[&PROTOCOLS, &FAMILY, &DIRECTION, &FLOW, &REASON],
        );
        self.cross(
            "attempts_total",
            "counter",
            &[&TRAFFIC, &FAMILY, &DIRECTION, &OUTCOME],
        );
        self.cross(
            "handshake_seconds_bucket",
            "untyped",
            &[&TRAFFIC, &DIRECTION, &BUCKET],
        );
        self.cross("handshake_seconds_sum", "untyped", &[&TRAFFIC, &DIRECTION]);
        self.cross(
            "handshake_seconds_count",
            "untyped",
            &[&TRAFFIC, &DIRECTION],
        );
        let interfaces: Vec<_> = (0..INTERFACES)
            .map(|n| format!("eth{n}"))
            .chain(["none", "other"].map(str::to_owned))
            .map(|name| format!(r#"interface="{name}""#))
            .collect();
        let interfaces: Vec<&str> = interfaces.iter().map(String::as_str).collect();
        self.cross(
            "interface_packets_total",
            "counter",
            &[&interfaces, &DIRECTION, &VERDICT],
        );
    }

    /// Hooks, and the rest.
    fn monitor(&mut self) {
        let mut hooks = vec![
            r#"hook="deliver",interface="""#.to_owned(),
            r#"hook="drop",interface="""#.to_owned(),
            r#"hook="egress",interface="lo""#.to_owned(),
        ];
        for hook in ["egress", "ingress"] {
            hooks.extend((0..INTERFACES).map(|n| format!(r#"hook="{hook}",interface="eth{n}""#)));
        }
        self.family("hook_attached", "gauge");
        for (index, labels) in hooks.iter().enumerate() {
            let missing = index == 3 && self.number % 100 == 7;
            self.series("hook_attached", labels, u64::from(!missing));
        }
        self.family("hook_info", "gauge");
        for labels in &hooks {
            self.series("hook_info", &format!(r#"{labels},mode="tcx""#), 1);
        }
        for (name, labels, value) in [
            ("build_info", r#"version="0.1.0",revision="0000000""#, 1),
            ("evaluation_timestamp_seconds", "", self.now),
            (
                "ruleset_last_change_timestamp_seconds",
                "",
                self.now - self.now % 86_400,
            ),
            ("conntrack_entries", "", mix(self.number, self.now) % 65_536),
            ("conntrack_limit", "", 65_536),
        ] {
            self.family(name, "gauge");
            self.series(name, labels, value);
        }
    }
}

/// Numbers that look random, and are the same each time (`SplitMix64`).
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(b)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_state_for_each_pair() {
        for number in 0..500 {
            let text = scrape(number, 1_800_000_000 + number);
            let count = |begin: &str, end: &str| {
                let wanted = |line: &&str| line.starts_with(begin) && line.ends_with(end);
                text.lines().filter(wanted).count()
            };
            assert_eq!(count("peerwatch_state{", " 1"), 6);
            assert_eq!(count("peerwatch_state{", ""), 36);
            assert_eq!(count("peerwatch_blocked_by{", " 1"), 6);
            assert_eq!(count("peerwatch_blocked_by{", ""), 60);
            assert_eq!(count("peerwatch_hook_attached{", ""), 23);
        }
    }

    #[test]
    fn a_scrape_is_as_large_as_a_daemons() {
        let text = scrape(1, 1_800_000_000);
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!((850..1000).contains(&series), "{series}");
    }
}
