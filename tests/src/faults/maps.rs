//! Kernel maps without room.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Map, MapData, PerCpuHashMap, PerCpuValues};
use monitor_common::counter::Count;
use monitor_common::drop::{DropKey, Group, MAX_DROP_KEYS};

use super::floods::{data_packet, frame};
use super::{Row, counters, listed, risen, sum};
use crate::daemon::Daemon;
use crate::expect::Family;
use crate::lab::{GATEWAY, Lab, Net};
use crate::packet::Protocol;
use crate::scrape::Counts;

pub(super) const ROWS: &[Row] = &[Row {
    name: "map of drop counters full",
    injected: "4,096 keys written into the map through bpf(2)",
    expected: "what has a key is counted, the rest is map_full_total",
    long: false,
    run: drops_full,
}];

const NAMES: [&str; 2] = ["packets_total", "map_full_total"];

/// The daemon's map of drop counters: of all that it has open, the one of this shape.
fn drops(daemon: &Daemon) -> Result<PerCpuHashMap<MapData, DropKey, Count>> {
    let folder = format!("/proc/{}/fdinfo", daemon.pid());
    // BPF_MAP_TYPE_PERCPU_HASH of linux/bpf.h.
    let shape = [("map_type", 5), ("key_size", 8), ("value_size", 16)];
    for entry in std::fs::read_dir(&folder).context(folder)? {
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        let value = |key: &str| -> Option<u32> {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line?.trim().parse().ok()
        };
        let fits = shape
            .iter()
            .all(|(key, wanted)| value(key) == Some(*wanted));
        if let (true, Some(id)) = (fits, value("map_id")) {
            return Ok(Map::PerCpuHashMap(MapData::from_id(id)?).try_into()?);
        }
    }
    anyhow::bail!("no map of this shape")
}

fn drops_full() -> Result<String> {
    let mut lab = Lab::create()?;
    lab.gw.nft(
        "table inet flood { chain it { type filter hook input priority 0; \
         udp dport 443 drop; tcp dport 7680 drop; }; }",
    )?;
    let send = |protocol, port, count| {
        let packet = data_packet(protocol, Family::V4, (Net::Lan, GATEWAY), port);
        lab.lan.blast(&[frame(&lab, &packet)], count)
    };
    let before = counters(&lab.daemon, &NAMES)?;
    let tcp = |rises: &Counts| sum(rises, &["packets_total", "protocol=\"tcp\""]);
    let udp = |rises: &Counts| sum(rises, &["packets_total", "protocol=\"udp\""]);
    let full = |rises: &Counts| sum(rises, &["map_full_total", "map=\"drops\""]);
    send(Protocol::Tcp, 7680, 10)?;
    risen(
        &lab.daemon,
        &NAMES,
        &before,
        Duration::from_secs(5),
        |rises| tcp(rises) >= 10,
    )?;

    let mut map = drops(&lab.daemon)?;
    let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
    let mut written = 0;
    for reason in 0..MAX_DROP_KEYS {
        // Nothing that is shown, and no reason that a kernel has.
        let key = DropKey {
            slot: 0,
            group: Group::Ignored.code(),
            class: 0,
            reason: 0x7000_0000 + reason,
        };
        let zeros = PerCpuValues::try_from(vec![Count::default(); cpus])?;
        if map.insert(key, zeros, 0).is_err() {
            break;
        }
        written += 1;
    }
    ensure!(written < MAX_DROP_KEYS, "the map is not full");
    send(Protocol::Tcp, 7680, 20)?;
    send(Protocol::Udp, 443, 50)?;
    let rises = risen(
        &lab.daemon,
        &NAMES,
        &before,
        Duration::from_secs(5),
        |rises| tcp(rises) >= 30 && full(rises) >= 50,
    )?;
    ensure!(
        (tcp(&rises), udp(&rises), full(&rises)) == (30, 0, 50),
        "{}",
        listed(&rises)
    );
    lab.daemon.stop()?;
    Ok(format!(
        "with a key: 30 of 30 counted; without: 50 sent, map_full_total {}",
        full(&rises)
    ))
}
