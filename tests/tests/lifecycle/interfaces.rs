//! Which interfaces are watched, and those that come and go.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context, Result, ensure};
use monitor_tests::daemon::Daemon;
use monitor_tests::scrape::{Counts, Series, parse};
use monitor_tests::wait::{DEADLINE, until};

use crate::site::{HERE, Site, all_packets, datagrams, packets};

/// The hooks of interfaces: what `hook_attached` says of each.
fn hooks(daemon: &Daemon) -> Result<Counts> {
    let (_, body) = daemon.get("/metrics")?;
    let mut counts = parse(&body, &["hook_attached"])?;
    // What rules answer is looked for on the loopback device, always.
    counts.retain(|series, _| {
        let series = series.to_string();
        !series.contains("interface=\"\"") && !series.contains("interface=\"lo\"")
    });
    Ok(counts)
}

fn hook(interface: &str, hook: &str) -> Series {
    let labels = [("interface", interface), ("hook", hook)];
    Series::new("peerwatch_hook_attached", &labels)
}

/// Every interface of these, and no other, has both hooks.
fn watched(interfaces: &[&str]) -> Counts {
    let both = interfaces
        .iter()
        .flat_map(|interface| ["ingress", "egress"].map(|name| (hook(interface, name), 1)));
    both.collect()
}

fn through(counts: &Counts, interface: &str, direction: &str, verdict: &str) -> Option<u64> {
    let labels = [
        ("interface", interface),
        ("direction", direction),
        ("verdict", verdict),
    ];
    let series = Series::new("peerwatch_interface_packets_total", &labels);
    counts.get(&series).copied()
}

/// Names in the label `interface` of `interface_packets_total`.
fn names(counts: &Counts) -> BTreeSet<String> {
    let series = counts.keys().map(ToString::to_string);
    series
        .filter(|series| series.starts_with("peerwatch_interface_packets_total"))
        .filter_map(|series| {
            let (_, rest) = series.split_once("interface=\"")?;
            Some(rest.split('"').next()?.to_owned())
        })
        .collect()
}

/// The address of the other host on one of the links.
const fn there(net: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, net, 2)
}

#[test]
fn only_wanted_interfaces_are_hooked_and_counted() -> Result<()> {
    let site = Site::create()?;
    site.link("lan1", "eth1", 2)?;
    site.link("wan0", "eth2", 3)?;
    let flags = ["--interface", "lan*", "--exclude-interface", "*1"];
    let daemon = site.daemon(&flags)?;
    ensure!(
        hooks(&daemon)? == watched(&["lan0"]),
        "{:?}",
        hooks(&daemon)?
    );

    // Allowed, both ways, on the interfaces that are not watched ...
    for net in [2, 3] {
        datagrams(&site.host, (there(net), 443), 4)?;
        let socket = site
            .host
            .run(|| Ok(UdpSocket::bind((Ipv4Addr::new(10, 77, net, 1), 3544))?))?;
        datagrams(&site.peer, (Ipv4Addr::new(10, 77, net, 1), 3544), 4)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        for _ in 0..4 {
            socket.recv(&mut [0; 64]).context("delivery")?;
        }
    }
    // ... and dropped.
    site.drop_input("udp dport 443")?;
    for net in [2, 3] {
        datagrams(&site.peer, (Ipv4Addr::new(10, 77, net, 1), 443), 4)?;
    }
    // By the output hook such a packet is on no device: where it would go decides.
    site.host.nft(
        "add chain inet lifecycle output { type filter hook output priority 0; }\n\
         add rule inet lifecycle output udp dport 3544 drop",
    )?;
    for net in [2, 3] {
        let sent = site.host.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            Ok(socket.send_to(&[0], (there(net), 3544)))
        })?;
        ensure!(sent.is_err(), "the firewall let it pass");
    }
    // What comes after them on the one that is watched: when this is counted, they have been seen.
    datagrams(&site.peer, (HERE, 443), 3)?;
    datagrams(&site.host, (there(1), 443), 5)?;
    until("the watched interface counts", DEADLINE, || {
        let counts = daemon.scrape()?;
        let seen = packets(&counts, "https", "inbound", "dropped") >= 3
            && packets(&counts, "https", "outbound", "allowed") >= 5;
        Ok(seen.then_some(()))
    })?;
    let counts = daemon.settled()?;
    ensure!(all_packets(&counts) == 8, "others were counted: {counts:?}");
    ensure!(
        names(&counts) == ["lan0", "none", "other"].map(str::to_owned).into(),
        "{:?}",
        names(&counts)
    );
    ensure!(
        through(&counts, "lan0", "outbound", "allowed") == Some(5)
            && through(&counts, "lan0", "inbound", "dropped") == Some(3),
        "{counts:?}"
    );
    Ok(())
}

#[test]
fn an_interface_that_comes_is_hooked_and_one_that_goes_leaves_its_counts() -> Result<()> {
    let site = Site::create()?;
    let daemon = site.daemon(&[])?;
    ensure!(hooks(&daemon)? == watched(&["lan0"]), "at first");
    datagrams(&site.host, (there(1), 443), 2)?;

    site.link("new0", "eth9", 9)?;
    until("new0 is watched", DEADLINE, || {
        Ok((hooks(&daemon)? == watched(&["lan0", "new0"])).then_some(()))
    })?;
    datagrams(&site.host, (there(9), 443), 7)?;
    let counts = daemon.settled()?;
    ensure!(all_packets(&counts) == 9, "{counts:?}");
    ensure!(
        through(&counts, "new0", "outbound", "allowed") == Some(7)
            && through(&counts, "other", "outbound", "allowed") == Some(0),
        "{counts:?}"
    );

    site.host.ip("link del new0")?;
    until("new0 is forgotten", DEADLINE, || {
        let gone = hooks(&daemon)? == watched(&["lan0"])
            && names(&daemon.scrape()?) == ["lan0", "none", "other"].map(str::to_owned).into();
        Ok(gone.then_some(()))
    })?;
    let counts = daemon.settled()?;
    ensure!(
        all_packets(&counts) == 9
            && through(&counts, "lan0", "outbound", "allowed") == Some(2)
            && through(&counts, "other", "outbound", "allowed") == Some(7),
        "{counts:?}"
    );
    let (_, body) = daemon.get("/metrics")?;
    ensure!(!body.contains("new0"), "a series of new0 is left");

    // Of the same name, but another one: it begins at 0.
    site.link("new0", "eth9", 9)?;
    until("the second new0 is watched", DEADLINE, || {
        Ok((hooks(&daemon)? == watched(&["lan0", "new0"])).then_some(()))
    })?;
    let counts = daemon.settled()?;
    ensure!(
        all_packets(&counts) == 9
            && through(&counts, "new0", "outbound", "allowed") == Some(0)
            && through(&counts, "other", "outbound", "allowed") == Some(7),
        "{counts:?}"
    );
    Ok(())
}

#[test]
fn an_interface_that_is_renamed_is_followed() -> Result<()> {
    let site = Site::create()?;
    let daemon = site.daemon(&["--interface", "lan*"])?;
    datagrams(&site.host, (there(1), 443), 2)?;
    ensure!(all_packets(&daemon.settled()?) == 2, "before");
    // Out of the glob: not watched any more ...
    site.host
        .ip_batch("link set lan0 down\nlink set lan0 name out0\nlink set out0 up\n")?;
    until("out0 is not watched", DEADLINE, || {
        Ok(hooks(&daemon)?.is_empty().then_some(()))
    })?;
    // ... and in again.
    site.host
        .ip_batch("link set out0 down\nlink set out0 name lan7\nlink set lan7 up\n")?;
    until("lan7 is watched", DEADLINE, || {
        Ok((hooks(&daemon)? == watched(&["lan7"])).then_some(()))
    })?;
    site.host
        .ip("neigh replace 10.77.1.2 lladdr 02:77:00:00:01:02 nud permanent dev lan7")?;
    datagrams(&site.host, (there(1), 443), 3)?;
    let counts = daemon.settled()?;
    ensure!(
        all_packets(&counts) == 5 && through(&counts, "lan7", "outbound", "allowed") == Some(5),
        "{counts:?}"
    );
    Ok(())
}
