//! What must not be counted: other namespaces, the loopback, frames for somebody else; and a capture
//! beside the daemon, which must not change a count.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{BOTH, HTTPS, Trial, compare};
use crate::case::PAYLOAD;
use crate::expect::{Expected, Family};
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address, mac, quiet};
use crate::netns::{NetNs, unique_prefix};
use crate::packet::{Packet, Protocol};
use crate::rows;
use crate::scrape::rise;
use crate::send::{send_connects, send_datagrams};
use crate::undo::Undo;
use crate::wait::{DEADLINE, until};

pub(super) const TRIALS: &[Trial] = &[
    Trial {
        name: "nothing/another_namespace",
        families: BOTH,
        run: another_namespace,
    },
    Trial {
        name: "nothing/loopback",
        families: BOTH,
        run: loopback,
    },
    Trial {
        name: "nothing/promiscuous_foreign_frames",
        families: BOTH,
        run: promiscuous,
    },
    Trial {
        name: "unchanged/tcpdump_beside",
        families: BOTH,
        run: tcpdump_beside,
    },
];

/// Compares with nothing at all, after `work`.
fn counts_nothing(lab: &Lab, what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = lab.daemon.settled()?;
    work()?;
    compare(
        what,
        &Expected::nothing(),
        &rise(&before, &lab.daemon.settled()?)?,
    )?;
    // The daemon was not merely deaf.
    let heard = rows::all()
        .into_iter()
        .find(|row| row.name() == "forwarded/allowed/udp443/ipv4");
    heard.context("no such row")?.run(lab)
}

/// Delivered, refused and dropped packets of a pair of namespaces that are not the daemon's.
fn another_namespace(lab: &Lab, family: Family) -> Result<()> {
    const COUNT: u64 = 10;
    let prefix = unique_prefix();
    let other = NetNs::create(&format!("{prefix}other"))?;
    let sender = NetNs::create(&format!("{prefix}sender"))?;
    quiet(&other)?;
    quiet(&sender)?;
    let (here, there) = match family {
        Family::V4 => ("192.0.2.1/24", "192.0.2.2/24"),
        Family::V6 => ("2001:db8::1/64", "2001:db8::2/64"),
    };
    let nodad = if family == Family::V6 { "nodad" } else { "" };
    other.ip_batch(&format!(
        "link add veth0 type veth peer name veth0 netns {}\nlink set veth0 up\n\
         address add {here} dev veth0 {nodad}\n",
        sender.name()
    ))?;
    sender.ip_batch(&format!(
        "link set veth0 up\naddress add {there} dev veth0 {nodad}\n"
    ))?;
    let own = here.split('/').next().unwrap_or_default().parse()?;
    let at = |port| SocketAddr::new(own, port);
    counts_nothing(lab, "another namespace", || {
        // Delivered: a whole connection, and datagrams.
        let listener = other.run(|| Ok(TcpListener::bind(at(HTTPS))?))?;
        let socket = other.run(|| Ok(UdpSocket::bind(at(HTTPS))?))?;
        socket.set_read_timeout(Some(DEADLINE))?;
        let stream =
            sender.run(|| Ok(std::net::TcpStream::connect_timeout(&at(HTTPS), DEADLINE)?))?;
        drop((listener.accept()?, stream));
        send_datagrams(&sender, at(HTTPS), PAYLOAD, COUNT)?;
        for _ in 0..COUNT {
            socket.recv(&mut [0; 64])?;
        }
        // Refused.
        send_connects(&sender, at(7680), COUNT)?;
        send_datagrams(&sender, at(3544), PAYLOAD, COUNT)?;
        // Dropped by a firewall, on the way in and on the way out.
        other.nft(
            "table inet wall { chain into { type filter hook input priority 0; policy drop; }\n \
             chain out { type filter hook output priority 0; policy drop; }\n }",
        )?;
        send_datagrams(&sender, at(HTTPS), PAYLOAD, COUNT)?;
        send_connects(&sender, at(7680), COUNT)?;
        let peer = there.split('/').next().unwrap_or_default().parse()?;
        send_datagrams(&other, SocketAddr::new(peer, HTTPS), PAYLOAD, COUNT)
    })
}

/// The host talks to itself.
fn loopback(lab: &Lab, family: Family) -> Result<()> {
    const COUNT: u64 = 10;
    counts_nothing(lab, "loopback", || {
        for to in [
            Lab::socket(family, Net::Lan, GATEWAY, HTTPS),
            SocketAddr::new(
                match family {
                    Family::V4 => std::net::Ipv4Addr::LOCALHOST.into(),
                    Family::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
                },
                HTTPS,
            ),
        ] {
            // Refused, then delivered.
            send_datagrams(&lab.gw, to, PAYLOAD, COUNT)?;
            send_connects(&lab.gw, to, COUNT)?;
            let socket = lab.gw.run(|| Ok(UdpSocket::bind(to)?))?;
            socket.set_read_timeout(Some(DEADLINE))?;
            send_datagrams(&lab.gw, to, PAYLOAD, COUNT)?;
            for _ in 0..COUNT {
                socket.recv(&mut [0; 64])?;
            }
            let listener = lab.gw.run(|| Ok(TcpListener::bind(to)?))?;
            let stream = lab
                .gw
                .run(|| Ok(std::net::TcpStream::connect_timeout(&to, DEADLINE)?))?;
            drop((listener.accept()?, stream));
        }
        Ok(())
    })
}

/// Frames with somebody else's link address reach a promiscuous interface and are nobody's.
fn promiscuous(lab: &Lab, family: Family) -> Result<()> {
    const COUNT: u64 = 10;
    let mut undo = Undo::new();
    lab.gw.ip("link set lan0 promisc on")?;
    undo.push(|| lab.gw.ip("link set lan0 promisc off"));
    let chain = "filter hook ingress device lan0 priority -400";
    let seen = super::probe::Counter::add(&lab.gw, "netdev", "foreign", chain, "th dport 443")?;
    counts_nothing(lab, "foreign frames", || {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (net, host) in [(Net::Lan, GATEWAY), (Net::Wan, SERVER), (Net::Bridge, PEER)] {
                for _ in 0..COUNT {
                    let source = (address(family, Net::Lan, PEER), lab.port());
                    let packet = Packet::new(protocol, source, (address(family, net, host), HTTPS));
                    lab.lan.send(mac(Net::Other, 77), &packet.ip())?;
                }
            }
        }
        until("the frames come in", DEADLINE, || {
            Ok((seen.packets()? == 6 * COUNT).then_some(()))
        })
    })?;
    drop(seen);
    undo.finish()
}

/// Rows with a capture on every interface.
fn tcpdump_beside(lab: &Lab, family: Family) -> Result<()> {
    let mut captures = Captures::start(&lab.gw, &["any", "lan0", "wan0"])?;
    let wanted = [
        "inbound/allowed/",
        "inbound/nft_input_drop/",
        "inbound/no_listener/",
        "outbound/allowed/",
        "outbound/nft_postrouting_drop/",
        "forwarded/allowed/",
        "forwarded/nft_forward_drop/",
        "forwarded/tcx_egress_behind/",
    ];
    let rows = rows::all().into_iter().filter(|row| {
        row.family == family && wanted.iter().any(|name| row.name().starts_with(name))
    });
    let mut done = 0;
    for row in rows {
        row.run(lab)?;
        done += 1;
    }
    ensure!(done == 4 * wanted.len(), "{done} rows");
    captures.stop()
}

/// Running tcpdumps; they are ended on drop.
struct Captures(Vec<Child>);

impl Captures {
    fn start(netns: &NetNs, interfaces: &[&str]) -> Result<Self> {
        let mut captures = Self(Vec::new());
        for interface in interfaces {
            let mut command = netns.command("tcpdump")?;
            command
                .args(["-n", "-i", interface, "-w", "/dev/null"])
                .stderr(Stdio::piped());
            captures.0.push(command.spawn().context("tcpdump")?);
        }
        for capture in &mut captures.0 {
            let stderr = capture.stderr.as_mut().context("no stderr")?;
            // One byte at a time: what comes later belongs to `stop`.
            let mut line = String::new();
            let mut reader = BufReader::with_capacity(1, stderr);
            while !line.contains("listening on") {
                line.clear();
                if reader.read_line(&mut line)? == 0 {
                    bail!("tcpdump ended");
                }
            }
        }
        Ok(captures)
    }

    /// Ends them; each must have captured packets.
    fn stop(&mut self) -> Result<()> {
        for mut capture in self.0.drain(..) {
            kill(Pid::from_raw(i32::try_from(capture.id())?), Signal::SIGINT)?;
            let stderr = capture.stderr.take().context("no stderr")?;
            let summary = std::io::read_to_string(stderr)?;
            capture.wait()?;
            let captured: u64 = summary
                .lines()
                .find_map(|line| line.strip_suffix(" packets captured"))
                .with_context(|| summary.clone())?
                .parse()?;
            ensure!(captured > 50, "only {captured} packets captured");
        }
        Ok(())
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        for capture in &mut self.0 {
            if capture.kill().is_ok()
                && let Err(error) = capture.wait()
            {
                eprintln!("cannot wait for tcpdump: {error}");
            }
        }
    }
}
