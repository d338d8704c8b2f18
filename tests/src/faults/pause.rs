//! A daemon that does not run for a minute, while packets and attempts go on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{Row, counters, listed, risen, sum};
use crate::attempts::act::{ANSWER, Act, ONCE, Seen, Target, Way};
use crate::attempts::lab::{Lab, Slot};
use crate::expect::{Expected, Family};
use crate::lab::{Net, mac};
use crate::packet::{Packet, Protocol, flags};
use crate::scrape::rise;
use crate::send::FrameSender;

pub(super) const ROWS: &[Row] = &[Row {
    name: "stopped for 60 s",
    injected: "SIGSTOP, 60 s of data and of attempts that end in three ways, SIGCONT",
    expected: "packets = sent; each attempt with its outcome; ready",
    long: false,
    run: stopped,
}];

/// How long it does not run.
const STOPPED: Duration = Duration::from_mins(1);
/// Packets of one moment.
const BURST: u64 = 500;
/// Attempts of one moment, of each kind.
const ATTEMPTS: u64 = 2;

const NAMES: [&str; 3] = ["attempts_total", "attempts_lost_total", "packets_total"];

/// What was done while it stood still.
#[derive(Default)]
struct Done {
    packets: u64,
    attempts: u64,
}

/// A moment: some of everything.
fn moment(
    acts: &[Act<'_>; 3],
    sender: &FrameSender,
    data: &[Vec<u8>],
    done: &mut Done,
) -> Result<()> {
    let [open, dropped, refused] = acts;
    open.connect(ATTEMPTS, ANSWER, Seen::Open)?;
    refused.connect(ATTEMPTS, ANSWER, Seen::Refused)?;
    // Given up before the SYN is repeated.
    dropped.connect(ATTEMPTS, ONCE, Seen::Silence)?;
    done.attempts += ATTEMPTS;
    done.packets += sender.blast(data, BURST)?.offered;
    Ok(())
}

fn stopped() -> Result<String> {
    let lab = Lab::create()?;
    let slots: Vec<Slot> = (0..4).map(Slot::new).collect();
    let act = |slot| Act::new(&lab, slot, Way::Forwarded, Family::V4, Target::Server);
    let acts = [act(&slots[0])?, act(&slots[1])?, act(&slots[2])?];
    acts[0].listen()?;
    let rule = format!("{} drop", acts[1].syn());
    acts[1].rule(&lab.gw, "type filter hook forward priority 0", &rule)?;
    let sender = FrameSender::open(&lab.client, "eth0")?;
    let mut packet = Packet::new(
        Protocol::Tcp,
        (acts[0].spoofed(3), 30_000),
        (acts[0].target, slots[3].port),
    );
    packet.tcp_flags = flags::ACK;
    let data = [sender.frame(mac(Net::Lan, 1), &packet.ip())];

    let before = counters(&lab.daemon, &NAMES)?;
    lab.daemon.signal(Signal::SIGSTOP)?;
    let end = Instant::now() + STOPPED;
    let mut done = Done::default();
    let mut result = Ok(());
    while Instant::now() < end && result.is_ok() {
        result = moment(&acts, &sender, &data, &mut done);
    }
    lab.daemon.signal(Signal::SIGCONT)?;
    result?;

    let mut expected = Expected::nothing();
    acts[0].expect(&mut expected, "established", "none", done.attempts);
    acts[1].expect(&mut expected, "dropped", "local_firewall", done.attempts);
    acts[2].expect(&mut expected, "refused", "remote_host", done.attempts);
    let of_data = format!("traffic=\"{}\"", slots[3].traffic);
    let load = |rises: &_| sum(rises, &["packets_total", "forwarded", "request", &of_data]);
    risen(
        &lab.daemon,
        &NAMES,
        &before,
        Duration::from_secs(15),
        |rises| expected.reached_by(rises) && load(rises) >= done.packets,
    )?;
    // What is counted once too often shows.
    std::thread::sleep(Duration::from_millis(1500));
    let all = rise(&before, &counters(&lab.daemon, &NAMES)?)?;
    let mut attempts = all.clone();
    attempts.retain(|series, _| series.metric() != "peerwatch_packets_total");
    let difference = expected.difference(&attempts);
    ensure!(
        difference.is_none() && load(&all) == done.packets,
        "{} packets were sent\n{}{}",
        done.packets,
        difference.unwrap_or_default(),
        listed(&all)
    );
    let (status, why) = lab.daemon.get("/readyz")?;
    ensure!(status == 200, "/readyz: {status}: {why}");
    drop(acts);
    let Done { packets, attempts } = done;
    Ok(format!(
        "stopped {} s; sent {packets}, counted {}; {attempts} of {attempts} established, dropped, refused; ready",
        STOPPED.as_secs(),
        load(&all)
    ))
}
