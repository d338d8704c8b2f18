//! Against the kernel, each test in a network namespace of its own thread.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;

use nix::sched::CloneFlags;
use tokio::time::timeout;

use super::*;
use crate::netns::tests::isolated;

const DEADLINE: Duration = Duration::from_secs(20);
/// How often iptables-legacy is looked at here.
const OFTEN: Duration = Duration::from_millis(50);

/// Runs a test in a new network namespace, which ends with the thread.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    isolated(CloneFlags::CLONE_NEWNET, || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
}

/// Runs a program in this thread's namespace.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{program} is needed (`cargo xtask test` installs it): {error}")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// One transaction.
fn nft(commands: &str) {
    run("nft", &[commands]);
}

async fn next(watcher: &mut RulesetWatcher) -> Change {
    timeout(DEADLINE, watcher.next())
        .await
        .expect("a change before the deadline")
}

/// The changes up to that of the table `marker`, which this adds and deletes.
async fn up_to_marker(watcher: &mut RulesetWatcher) -> Vec<Change> {
    nft("add table netdev marker");
    nft("delete table netdev marker");
    let mut changes = Vec::new();
    let mut markers = 0;
    while markers < 2 {
        let change = next(watcher).await;
        if names(&change) == ["netdev marker"] {
            markers += 1;
        } else {
            changes.push(change);
        }
    }
    changes
}

/// The kinds of the changes that a transaction causes, all of the table `inet t` and by nft.
async fn kinds(watcher: &mut RulesetWatcher, commands: &str) -> Vec<Kind> {
    nft(commands);
    let changes = up_to_marker(watcher).await;
    for change in &changes {
        assert_eq!(names(change), ["inet t"], "{commands}");
        assert_eq!(change.backend, Backend::Nftables);
        let by = change.by.as_ref().expect("the kernel says who it was");
        assert_eq!(by.name, "nft");
        assert!(by.pid > 1);
    }
    changes.into_iter().map(|change| change.kind).collect()
}

fn names(change: &Change) -> Vec<String> {
    change.tables.iter().map(ToString::to_string).collect()
}

#[test]
fn transactions_are_told_by_kind_with_table_and_process() {
    use Kind::{Rules, Sets};
    in_namespace(|| async {
        let before = Moment::now();
        let mut watcher = RulesetWatcher::new().unwrap();
        let cases: &[(&str, &[Kind])] = &[
            ("add table inet t", &[Rules]),
            ("add table inet t", &[]),
            ("add chain inet t c", &[Rules]),
            ("add set inet t s { type inet_service; }", &[Sets]),
            ("add element inet t s { 80, 443 }", &[Sets]),
            ("add element inet t s { 80 }", &[]),
            ("add rule inet t c tcp dport 7680 drop", &[Rules]),
            ("add rule inet t c tcp dport @s accept", &[Rules]),
            (
                "add rule inet t c tcp dport { 1, 2 } drop; add element inet t s { 81 }",
                &[Rules, Sets],
            ),
            ("delete element inet t s { 80 }", &[Sets]),
            ("flush set inet t s", &[Sets]),
            ("flush set inet t s", &[]),
            ("add counter inet t n", &[Rules]),
            ("reset counters", &[]),
            ("list ruleset", &[]),
            ("delete rule inet t c handle 3", &[Rules]),
            ("flush ruleset", &[Rules, Sets]),
            ("flush ruleset", &[]),
        ];
        for (commands, expected) in cases {
            // The number that nft gave to the first rule is not known beforehand.
            let commands = commands.replace("handle 3", &format!("handle {}", first_handle()));
            assert_eq!(
                kinds(&mut watcher, &commands).await,
                *expected,
                "{commands}"
            );
        }
        nft("add table inet t");
        let change = next(&mut watcher).await;
        let after = Moment::now();
        assert!((before.at..=after.at).contains(&change.at));
        assert!((before.monotonic..=after.monotonic).contains(&change.monotonic));
    });
}

/// The handle of the first rule that drops port 7680, or 0.
fn first_handle() -> String {
    let output = Command::new("nft")
        .args(["-a", "list", "ruleset"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .find(|line| line.contains("dport 7680 drop"))
        .and_then(|line| line.rsplit(' ').next())
        .unwrap_or("0")
        .to_owned()
}

#[test]
fn a_rule_that_is_only_tried_out_is_not_told() {
    in_namespace(|| async {
        let mut watcher = RulesetWatcher::new().unwrap();
        run("nft", &["--check", "add table inet t"]);
        let status = Command::new("nft")
            .args(["add table inet t; add rule inet t nowhere drop"])
            .output()
            .unwrap()
            .status;
        assert!(!status.success(), "there is no such chain");
        assert_eq!(up_to_marker(&mut watcher).await, []);
    });
}

#[test]
fn iptables_of_the_new_kind_are_told_as_nftables() {
    in_namespace(|| async {
        let mut watcher = RulesetWatcher::new().unwrap();
        let rule = ["-A", "INPUT", "-p", "tcp", "--dport", "7680", "-j", "DROP"];
        run("iptables-nft", &rule);
        let change = next(&mut watcher).await;
        assert_eq!(
            (change.kind, change.backend),
            (Kind::Rules, Backend::Nftables)
        );
        assert_eq!(names(&change), ["ip filter"]);
        let by = change.by.expect("the kernel says who it was");
        assert_eq!(by.name, "iptables-nft");
    });
}

#[test]
fn another_namespace_is_not_told() {
    in_namespace(|| async {
        let mut watcher = RulesetWatcher::new().unwrap();
        isolated(CloneFlags::CLONE_NEWNET, || {
            nft("add table inet elsewhere");
            run("iptables-legacy", &["-P", "INPUT", "DROP"]);
        });
        assert_eq!(up_to_marker(&mut watcher).await, []);
        assert_eq!(watcher.legacy.look(), None);
    });
}

#[test]
fn missed_changes_are_one_change() {
    in_namespace(|| async {
        // Room for a few messages.
        let mut watcher = RulesetWatcher::with(8192, legacy::INTERVAL).unwrap();
        nft("add table inet first");
        assert_eq!(names(&next(&mut watcher).await), ["inet first"]);

        // Nobody reads while this happens.
        for n in 0..60 {
            nft(&format!("add table inet t{n}"));
        }
        let mut changes = Vec::new();
        loop {
            changes.push(next(&mut watcher).await);
            if changes.last().is_some_and(|change| change.by.is_none()) {
                break;
            }
        }
        assert!(changes.len() < 60, "some were missed: {changes:?}");
        let lost = changes.pop().unwrap();
        assert_eq!((lost.kind, lost.tables), (Kind::Rules, Vec::new()));
        for (n, change) in changes.iter().enumerate() {
            assert_eq!(names(change), [format!("inet t{n}")], "what came in time");
        }
        // And changes are told as before.
        nft("add table inet later");
        let change = next(&mut watcher).await;
        assert_eq!(names(&change), ["inet later"]);
        assert!(change.by.is_some());
    });
}

#[test]
fn a_long_list_is_told_as_what_it_is() {
    in_namespace(|| async {
        let mut watcher = RulesetWatcher::new().unwrap();
        nft("add table inet t; add set inet t s { type ipv4_addr; }");
        for kind in Kind::ALL {
            assert_eq!(next(&mut watcher).await.kind, kind);
        }
        let mut list = "add element inet t s {".to_owned();
        for n in 0..50_000 {
            write!(list, " {},", Ipv4Addr::from_bits(n << 8)).unwrap();
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, list + " }").unwrap();
        // Nobody reads while this happens.
        run("nft", &["-f", file.path().to_str().unwrap()]);
        let change = next(&mut watcher).await;
        assert_eq!(change.kind, Kind::Sets);
        assert!(change.by.is_some());
    });
}

#[test]
fn a_lost_connection_is_made_again() {
    in_namespace(|| async {
        let mut watcher = RulesetWatcher::new().unwrap();
        assert_eq!(up_to_marker(&mut watcher).await, []);
        watcher.nftables.disconnect();
        assert_eq!(up_to_marker_once_connected(&mut watcher).await, []);

        watcher.nftables.disconnect();
        nft("add table inet t");
        let change = next(&mut watcher).await;
        assert_eq!(
            (change.kind, change.by, change.tables),
            (Kind::Rules, None, Vec::new())
        );
        assert_eq!(up_to_marker(&mut watcher).await, []);
    });
}

/// As [`up_to_marker`], after the watcher had time to connect and found nothing.
async fn up_to_marker_once_connected(watcher: &mut RulesetWatcher) -> Vec<Change> {
    let nothing = timeout(Duration::from_millis(200), watcher.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    up_to_marker(watcher).await
}

#[test]
fn rules_of_iptables_legacy_are_noticed() {
    in_namespace(|| async {
        let rule = |how| ["-t", "filter", how, "INPUT", "-p", "udp", "-j", "DROP"];
        run("iptables-legacy", &rule("-A"));
        let mut watcher = RulesetWatcher::with(nftables::RECEIVE_BUFFER, OFTEN).unwrap();
        let nothing = timeout(OFTEN * 4, watcher.next()).await;
        assert!(nothing.is_err(), "it was there before: {nothing:?}");

        for (program, arguments, table) in [
            ("iptables-legacy", &rule("-A")[..], "ip filter"),
            ("iptables-legacy", &rule("-D"), "ip filter"),
            ("ip6tables-legacy", &["-P", "FORWARD", "DROP"], "ip6 filter"),
            ("ip6tables-legacy", &["-t", "nat", "-N", "chain"], "ip6 nat"),
            ("iptables-legacy", &["-F"], "ip filter"),
        ] {
            run(program, arguments);
            let change = next(&mut watcher).await;
            assert_eq!(names(&change), [table], "{program} {arguments:?}");
            assert_eq!((change.kind, change.by), (Kind::Rules, None));
            assert_eq!(change.backend, Backend::IptablesLegacy);
        }

        // To look at it, which makes the table, is no change, nor is what packets count.
        run("iptables-legacy", &["-t", "mangle", "-L"]);
        run("iptables-legacy", &["-A", "OUTPUT", "-j", "ACCEPT"]);
        assert_eq!(names(&next(&mut watcher).await), ["ip filter"]);
        run("ip", &["link", "set", "lo", "up"]);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", "127.0.0.1:9").unwrap();
        let nothing = timeout(OFTEN * 4, watcher.next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    });
}

#[test]
fn no_table_of_iptables_is_made_by_looking() {
    in_namespace(|| async {
        let mut watcher = RulesetWatcher::with(nftables::RECEIVE_BUFFER, OFTEN).unwrap();
        let nothing = timeout(OFTEN * 4, watcher.next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        for path in ["ip_tables_names", "ip6_tables_names"] {
            let names = std::fs::read_to_string(format!("/proc/thread-self/net/{path}"));
            assert_eq!(names.unwrap_or_default(), "", "{path}");
        }
    });
}
