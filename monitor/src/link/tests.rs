//! Against the kernel, each test in a network namespace of its own thread.

use std::fmt::Write;
use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use tokio::time::timeout;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a test in a new network namespace, which ends with the thread.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: network namespaces need root");
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    };
    std::thread::spawn(run).join().unwrap();
}

/// Runs lines of `ip` commands in this thread's namespace.
fn ip(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "ip: {lines}");
}

async fn next(watcher: &mut LinkWatcher) -> LinkEvent {
    timeout(DEADLINE, watcher.next())
        .await
        .expect("an event before the deadline")
}

/// The events up to and with the first that fits.
async fn until(watcher: &mut LinkWatcher, fits: impl Fn(&LinkEvent) -> bool) -> Vec<LinkEvent> {
    let mut events = Vec::new();
    loop {
        events.push(next(watcher).await);
        if events.last().is_some_and(&fits) {
            return events;
        }
    }
}

/// The events that `ip` commands cause, without IPv6: its addresses come in their own time. A bridge
/// that is added after them marks the end.
async fn caused_by(watcher: &mut LinkWatcher, lines: &str) -> Vec<LinkEvent> {
    ip(&format!("{lines}\nlink add marker type bridge"));
    let is_marker =
        |event: &LinkEvent| matches!(event, LinkEvent::Link(link) if link.name == "marker");
    let mut events = until(watcher, is_marker).await;
    events.pop();
    ip("link del marker");
    until(watcher, |event| matches!(event, LinkEvent::Gone { .. })).await;
    events.retain(|event| {
        !matches!(event, LinkEvent::AddressAdded(ip) | LinkEvent::AddressRemoved(ip) if ip.is_ipv6())
    });
    events
}

async fn synced() -> LinkWatcher {
    let mut watcher = LinkWatcher::new().unwrap();
    until(&mut watcher, |event| *event == LinkEvent::Synced).await;
    watcher
}

fn named(watcher: &LinkWatcher, name: &str) -> Interface {
    watcher
        .interfaces()
        .find(|link| link.name == name)
        .expect(name)
        .clone()
}

fn added(ip: &str) -> LinkEvent {
    LinkEvent::AddressAdded(ip.parse().unwrap())
}

fn removed(ip: &str) -> LinkEvent {
    LinkEvent::AddressRemoved(ip.parse().unwrap())
}

#[test]
fn what_exists_comes_before_synced() {
    in_namespace(|| async {
        ip("link add one type veth peer name two\naddr add 10.0.0.1/24 dev one");
        let mut watcher = LinkWatcher::new().unwrap();
        let events = until(&mut watcher, |event| *event == LinkEvent::Synced).await;
        let names: Vec<_> = watcher
            .interfaces()
            .map(|link| link.name.as_str())
            .collect();
        assert!(names.contains(&"lo") && names.contains(&"one") && names.contains(&"two"));
        assert_eq!(named(&watcher, "lo").kind, LinkType::Loopback);
        for name in names {
            assert!(
                events.contains(&LinkEvent::Link(named(&watcher, name))),
                "{name}"
            );
        }
        assert!(events.contains(&added("10.0.0.1")) && events.contains(&added("10.0.0.255")));
        assert_eq!(watcher.addresses().count(), 2);
    });
}

#[test]
fn interfaces_come_change_and_go() {
    in_namespace(|| async {
        let mut watcher = synced().await;
        let events = caused_by(&mut watcher, "link add one type veth peer name two").await;
        let (one, two) = (named(&watcher, "one"), named(&watcher, "two"));
        assert!(events.contains(&LinkEvent::Link(one.clone())));
        assert!(events.contains(&LinkEvent::Link(two.clone())));
        assert_eq!(
            (one.kind, one.info_kind.as_deref()),
            (LinkType::Ethernet, Some("veth"))
        );
        assert_eq!(
            (one.lower, two.lower),
            (None, None),
            "a pair has no lower end"
        );
        caused_by(&mut watcher, "link add link two name upper type macvlan").await;
        assert_eq!(named(&watcher, "upper").lower, Some(two.index));
        caused_by(&mut watcher, "link del upper").await;

        let events = caused_by(&mut watcher, "link set one name renamed").await;
        let renamed = Interface {
            name: "renamed".into(),
            ..one.clone()
        };
        assert_eq!(events, [LinkEvent::Link(renamed)]);

        caused_by(
            &mut watcher,
            "link add bridge0 type bridge\nlink set two master bridge0",
        )
        .await;
        let bridge = named(&watcher, "bridge0");
        let port = named(&watcher, "two");
        assert_eq!(bridge.info_kind.as_deref(), Some("bridge"));
        assert_eq!(
            (port.master, port.slave_kind.as_deref()),
            (Some(bridge.index), Some("bridge"))
        );

        let events = caused_by(&mut watcher, "link set two nomaster").await;
        assert!(
            !events
                .iter()
                .any(|event| matches!(event, LinkEvent::Gone { .. })),
            "leaving a bridge is not the end of an interface: {events:?}"
        );
        assert_eq!(named(&watcher, "two"), two);

        let events = caused_by(&mut watcher, "tuntap add mode tun name tunnel").await;
        let tunnel = named(&watcher, "tunnel");
        assert_eq!(
            (tunnel.kind, tunnel.info_kind.as_deref()),
            (LinkType::NoHeader, Some("tun"))
        );
        assert_eq!(events, [LinkEvent::Link(tunnel)]);

        let events = caused_by(&mut watcher, "link del renamed").await;
        for index in [one.index, two.index] {
            assert!(events.contains(&LinkEvent::Gone { index }), "{events:?}");
        }
    });
}

#[test]
fn a_lower_interface_in_another_namespace_has_no_index_here() {
    in_namespace(|| async {
        let mut watcher = synced().await;
        let here = format!(
            "/proc/{}/task/{}/ns/net",
            std::process::id(),
            nix::unistd::gettid()
        );
        let script = format!(
            "ip link add below type veth peer name other && ip link add link below name upper type \
             macvlan && ip link set upper netns {here} && cat"
        );
        // It waits for its input to end, because its namespace, and what is below, end with it.
        let mut elsewhere = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let events = until(&mut watcher, |event| matches!(event, LinkEvent::Link(_))).await;
        let upper = named(&watcher, "upper");
        assert_eq!(
            (upper.info_kind.as_deref(), upper.lower),
            (Some("macvlan"), None)
        );
        assert_eq!(events, [LinkEvent::Link(upper.clone())]);
        drop(elsewhere.stdin.take());
        assert!(elsewhere.wait().unwrap().success());
        until(&mut watcher, |event| {
            *event == LinkEvent::Gone { index: upper.index }
        })
        .await;
    });
}

#[test]
fn an_address_is_told_once_for_all_interfaces() {
    in_namespace(|| async {
        let mut watcher = synced().await;
        caused_by(&mut watcher, "link add one type veth peer name two").await;
        assert_eq!(
            caused_by(&mut watcher, "addr add 10.9.0.1/24 brd 10.9.0.99 dev one").await,
            [added("10.9.0.1"), added("10.9.0.99"), added("10.9.0.255")]
        );
        assert_eq!(
            caused_by(&mut watcher, "addr add 10.9.0.1/24 dev two").await,
            []
        );
        assert_eq!(
            caused_by(&mut watcher, "addr del 10.9.0.1/24 dev one").await,
            [removed("10.9.0.99")]
        );
        assert_eq!(
            caused_by(&mut watcher, "addr del 10.9.0.1/24 dev two").await,
            [removed("10.9.0.1"), removed("10.9.0.255")]
        );
        ip("addr add fd00::1/64 dev one nodad");
        until(&mut watcher, |event| *event == added("fd00::1")).await;
        ip("link del one");
        until(&mut watcher, |event| *event == removed("fd00::1")).await;
    });
}

#[test]
fn missed_changes_are_made_up_for() {
    in_namespace(|| async {
        // The kernel makes this a few kilobytes, one message or two.
        let mut watcher = LinkWatcher::with_receive_buffer(1).unwrap();
        until(&mut watcher, |event| *event == LinkEvent::Synced).await;
        ip("link add one type veth peer name two\naddr add 10.0.0.1/24 dev one");
        until(&mut watcher, |event| *event == added("10.0.0.255")).await;
        let index = named(&watcher, "one").index;

        // Nobody reads while this happens.
        let mut lines = "link del one\n".to_owned();
        for n in 0..100 {
            writeln!(lines, "link add a{n} type veth peer name b{n}").unwrap();
        }
        ip(&lines);
        let events = until(&mut watcher, |event| *event == LinkEvent::Synced).await;
        assert!(events.contains(&LinkEvent::Gone { index }), "{events:?}");
        assert!(events.contains(&removed("10.0.0.1")) && events.contains(&removed("10.0.0.255")));
        for n in 0..100 {
            named(&watcher, &format!("a{n}"));
            named(&watcher, &format!("b{n}"));
        }
        let names = watcher.interfaces().map(|link| &link.name);
        assert_eq!(
            names
                .filter(|name| ["one", "two"].contains(&name.as_str()))
                .count(),
            0
        );
        // And changes are told as before.
        caused_by(&mut watcher, "link set a0 name later").await;
        named(&watcher, "later");
    });
}

#[test]
fn a_lost_connection_is_made_again() {
    in_namespace(|| async {
        let mut watcher = synced().await;
        caused_by(&mut watcher, "link add one type veth peer name two").await;
        let one = named(&watcher, "one").index;
        watcher.connection = None;
        ip("link del one\nlink add three type veth peer name four");
        let events = until(&mut watcher, |event| *event == LinkEvent::Synced).await;
        assert!(
            events.contains(&LinkEvent::Gone { index: one }),
            "{events:?}"
        );
        assert!(events.contains(&LinkEvent::Link(named(&watcher, "three"))));
    });
}

#[test]
fn an_interrupted_dump_is_made_again() {
    in_namespace(|| async {
        let mut watcher = LinkWatcher::new().unwrap();
        watcher.connection.as_mut().unwrap().interrupted = true;
        until(&mut watcher, |event| *event == LinkEvent::Synced).await;
        let connection = watcher.connection.as_ref().unwrap();
        assert_eq!(connection.sequence, 3, "links, links again, addresses");
        assert_eq!(connection.stage, Stage::Watching);
        assert_eq!(named(&watcher, "lo").kind, LinkType::Loopback);
    });
}
