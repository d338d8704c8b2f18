//! How the states of traffics are decided, as a file says it.

use std::time::Duration;

use monitor_common::Direction;

use super::*;
use crate::state::Thresholds;
use crate::traffic::Expect;

#[test]
fn a_built_in_traffic_is_watched_otherwise_without_its_ports() {
    let fixture = Fixture::new(
        "[[traffic]]\nname = \"https\"\nstate_directions = [\"inbound\", \"outbound\", \"inbound\"]\n\
         expect = \"closed\"\nwindow = \"1h\"\nhold = \"7d\"\nrecovery = \"1m\"\n\
         blocked_failures = 10\nblocked_percent = 90\nblocked_spread = \"2m\"\n\
         failing_attempts = 4\ndegraded_attempts = 100\ndegraded_percent = 20\nlost_percent = 0\n\
         [[traffic]]\nname = \"cache_http\"\nports = [\"tcp/80\"]\nstate_directions = []\n",
    );
    let traffics = fixture.config().unwrap().traffics;
    assert_eq!(
        summary(&traffics)[2..],
        ["2 https tcp/443 udp/443", "3 cache_http tcp/80"]
    );
    let watches: Vec<_> = traffics.iter().map(|traffic| &traffic.watch).collect();
    assert_eq!(watches[..2], [&Watch::default(), &Watch::default()]);
    assert!(!watches[0].has_state(Direction::Inbound) && watches[0].has_state(Direction::Outbound));
    let minutes = Duration::from_mins;
    assert_eq!(
        *watches[2],
        Watch {
            directions: vec![Direction::Inbound, Direction::Outbound],
            expect: Expect::Closed,
            thresholds: Thresholds {
                window: minutes(60),
                hold: minutes(7 * 24 * 60),
                recovery: minutes(1),
                blocked_failures: 10,
                blocked_percent: 90,
                blocked_spread: minutes(2),
                failing_attempts: 4,
                degraded_attempts: 100,
                degraded_percent: 20,
                lost_percent: 0,
            },
        }
    );
    assert_eq!(watches[3].directions, []);
    assert_eq!(watches[3].thresholds, Thresholds::default());
}

#[test]
fn a_reload_takes_over_thresholds_and_tells_of_a_new_number_of_attempts() {
    let fixture = Fixture::new("[[traffic]]\nname = \"a\"\nports = [\"tcp/1\"]\n");
    let first = fixture.config().unwrap();
    fixture.write(
        "max_attempts = 2048\n[[traffic]]\nname = \"b\"\nports = [\"tcp/2\"]\nwindow = \"1m\"\n\
         [[traffic]]\nname = \"do_peer\"\nexpect = \"closed\"\n\
         [[traffic]]\nname = \"a\"\nports = [\"tcp/1\"]\nwindow = \"2m\"\n",
    );
    let second = first.reload_from().unwrap();
    assert_eq!(first.changed_keys(&second), ["max_attempts"]);
    let windows: Vec<_> = second
        .traffics
        .iter()
        .map(|traffic| {
            let window = traffic.watch.thresholds.window.as_secs();
            (traffic.index, traffic.name.as_str(), window)
        })
        .collect();
    assert_eq!(
        windows,
        [
            (0, "do_peer", 900),
            (1, "teredo", 900),
            (2, "https", 900),
            (3, "a", 120),
            (4, "b", 60)
        ]
    );
    assert_eq!(second.traffics.get(0).unwrap().watch.expect, Expect::Closed);
}

#[test]
fn a_bad_threshold_is_named_by_its_line() {
    for (line, expected) in [
        (
            "state_directions = [\"outbound\", \"in\"]",
            "33: traffic.state_directions: \"in\" is none of inbound, outbound, forwarded",
        ),
        (
            "expect = \"shut\"",
            "10: traffic.expect: \"shut\" is none of open, closed",
        ),
        (
            "window = \"15\"",
            "10: traffic.window: \"15\" is no time; write a number with s, m, h or d, like \"90s\" or \
             \"15m\"",
        ),
        (
            "window = \"59s\"",
            "10: traffic.window: 59s is not from 1m to 1d",
        ),
        (
            "window = 900",
            "10: traffic.window: invalid type: integer `900`, expected a string",
        ),
        (
            "hold = \"10m\"",
            "8: traffic.hold: 10m is shorter than the window of 15m; make it as long at least",
        ),
        (
            "hold = \"31d\"",
            "8: traffic.hold: 31d is not from 1m to 30d",
        ),
        (
            "recovery = \"0s\"",
            "12: traffic.recovery: 0s is not from 1s to 1h",
        ),
        (
            "recovery = \"15m\"",
            "12: traffic.recovery: 15m is not shorter than the window of 15m; make it shorter",
        ),
        (
            "blocked_spread = \"1h\"",
            "18: traffic.blocked_spread: 1h is not shorter than the window of 15m; make it shorter",
        ),
        (
            "blocked_failures = 1",
            "20: traffic.blocked_failures: 1 is not from 2 to 1000000",
        ),
        (
            "blocked_percent = 101",
            "19: traffic.blocked_percent: 101 is not from 1 to 100",
        ),
        (
            "failing_attempts = 0",
            "20: traffic.failing_attempts: 0 is not from 2 to 1000000",
        ),
        (
            "degraded_attempts = -5",
            "21: traffic.degraded_attempts: -5 is not from 2 to 1000000",
        ),
        (
            "degraded_percent = 0",
            "20: traffic.degraded_percent: 0 is not from 1 to 100",
        ),
        (
            "lost_percent = 101",
            "16: traffic.lost_percent: 101 is not from 0 to 100",
        ),
    ] {
        assert_eq!(
            Fixture::new(&format!("[[traffic]]\nname = \"do_peer\"\n{line}\n")).sentence(),
            format!("peerwatch.toml:3:{expected}")
        );
    }
}
