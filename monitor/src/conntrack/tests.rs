use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;

use nix::sched::CloneFlags;

use super::*;
use crate::netns::tests::isolated;

/// Linux 6.18 with two CPUs.
const TEXT: &str = "\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop \
icmp_error  expect_new expect_create expect_delete search_restart
00000003  00000000 00000000 00000000 00000007 00000000 00000000 00000000 00000000 00000000 0000000a \
00000002 00000000  00000000 00000000 00000000 00000000
00000003  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 ffffffff \
00000001 00000000  00000000 00000000 00000000 00000000
";

#[test]
fn statistics_are_added_up_over_all_cpus() {
    assert_eq!(statistics(TEXT), Some((0x1_0000_0009, 3)));
    let older = "entries searched early_drop drop\n1 2 3 4\n";
    assert_eq!(statistics(older), Some((4, 3)), "by name");
}

#[test]
fn what_is_not_there_is_not_zero() {
    assert_eq!(statistics(""), None);
    assert_eq!(statistics("entries drop\n1 2\n"), None);
    assert_eq!(statistics("drop early_drop\n1\n"), None, "a short line");
    assert_eq!(statistics("drop early_drop\n1 x\n"), None);
    for length in 0..TEXT.len() {
        statistics(&TEXT[..length]);
    }
}

#[test]
fn the_table_is_that_of_the_thread_s_namespace() {
    isolated(CloneFlags::CLONE_NEWNET, || {
        let run = |program: &str, arguments: &[&str]| {
            let status = Command::new(program).args(arguments).status();
            let status = status.unwrap_or_else(|error| {
                panic!("{program} is needed (`cargo xtask test` installs it): {error}")
            });
            assert!(status.success(), "{program} {arguments:?}");
        };
        // Connections are followed where a rule asks for their state.
        let rules = "add table ip t; add chain ip t c { type filter hook output priority 0; }; \
                     add rule ip t c ct state new accept";
        run("nft", &[rules]);
        run("ip", &["link", "set", "lo", "up"]);
        let before = read().expect("the kernel follows connections");
        assert_eq!(before.entries, 0);
        assert!(before.limit > 0);
        assert_eq!((before.drops, before.evictions), (Some(0), Some(0)));

        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for port in [7680, 3544] {
            socket.send_to(b"x", (Ipv4Addr::LOCALHOST, port)).unwrap();
        }
        let after = read().expect("it still does");
        assert_eq!(
            after,
            Conntrack {
                entries: 2,
                ..before
            }
        );
        let elsewhere = isolated(CloneFlags::CLONE_NEWNET, read).unwrap();
        assert_eq!(elsewhere.map(|table| table.entries), Some(0));
    });
}
