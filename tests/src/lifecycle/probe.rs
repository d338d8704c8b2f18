//! Counters that are not the daemon's.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};

use crate::expect::Family;
use crate::kernel;
use crate::lab::{GATEWAY, Lab, Net, PEER, address};
use crate::netns::NetNs;

/// An nft counter in a chain of its own; removed on drop.
#[derive(Debug)]
pub(super) struct Counter<'a> {
    netns: &'a NetNs,
    family: &'static str,
    table: String,
}

impl<'a> Counter<'a> {
    /// Counts what matches at a hook.
    pub(super) fn add(
        netns: &'a NetNs,
        family: &'static str,
        name: &str,
        chain: &str,
        matching: &str,
    ) -> Result<Self> {
        let table = format!("probe_{name}");
        netns.nft(&format!(
            "table {family} {table} {{ counter seen {{ }}; chain it {{ type {chain}; \
             {matching} counter name seen; }}; }}"
        ))?;
        Ok(Self {
            netns,
            family,
            table,
        })
    }

    /// Packets so far. A coalesced one counts once.
    pub(super) fn packets(&self) -> Result<u64> {
        let text = self.netns.sh(&format!(
            "nft list counter {} {} seen",
            self.family, self.table
        ))?;
        let mut words = text
            .split_whitespace()
            .skip_while(|word| *word != "packets");
        words
            .nth(1)
            .context("no packets in nft's output")?
            .parse()
            .context("packets")
    }
}

impl Drop for Counter<'_> {
    fn drop(&mut self) {
        if let Err(error) = self
            .netns
            .nft(&format!("delete table {} {}", self.family, self.table))
        {
            eprintln!("{error:#}");
        }
    }
}

/// Frames that an interface has sent, without those of `ICMPv6` (but see [`without_arp`]): after segmentation, so packets on the
/// wire when the device itself does not segment.
pub(super) fn frames_sent(netns: &NetNs, interface: &str) -> Result<u64> {
    let devices = netns.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
    let line = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))
        .with_context(|| format!("no {interface}"))?;
    let sent: u64 = line
        .split_whitespace()
        .nth(9)
        .context("no column of sent packets")?
        .parse()?;
    let path = format!("/proc/thread-self/net/dev_snmp6/{interface}");
    let statistics = netns.run(|| Ok(std::fs::read_to_string(path)?))?;
    let icmp: u64 = statistics
        .lines()
        .find_map(|line| line.strip_prefix("Icmp6OutMsgs"))
        .context("no Icmp6OutMsgs")?
        .trim()
        .parse()?;
    Ok(sent - icmp)
}

/// Neither gateway nor peer asks the other for its link address by ARP from now on: the frames would count
/// as packets in [`frames_sent`], which cannot tell them apart. It stays so, as the lab was made: an entry that
/// ages would have to be asked for in the middle of another test, and a busy machine may answer too late.
pub(super) fn without_arp(lab: &Lab) -> Result<()> {
    let ends = [
        (&lab.gw, "lan0", PEER, lab.peer.mac("eth0")?),
        (&lab.peer, "eth0", GATEWAY, lab.gw.mac("lan0")?),
    ];
    for (host, interface, other, mac) in ends {
        let other = address(Family::V4, Net::Lan, other);
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        host.sh(&format!(
            "ip neigh replace {other} lladdr {mac} dev {interface} nud permanent"
        ))?;
    }
    Ok(())
}

/// Segments that a TCP socket has sent and received, by the kernel's own account
/// (`tcpi_segs_out` and `tcpi_segs_in` in `linux/tcp.h`).
pub(super) fn segments(socket: &impl AsRawFd) -> Result<(u32, u32)> {
    const SEGS_OUT: usize = 136;
    let mut info = [0_u8; 144];
    let mut len = 144;
    // SAFETY: the buffer is as long as said, and both live across the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    ensure!(
        result == 0 && len == 144,
        "TCP_INFO: {}",
        std::io::Error::last_os_error()
    );
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok((word(SEGS_OUT), word(SEGS_OUT + 4)))
}

/// Fails when this many packets came in nearly as many pieces: then nothing was coalesced.
pub(super) fn coalesced(packets: u64, pieces: u64) -> Result<()> {
    ensure!(
        pieces * 2 < packets,
        "{packets} packets in {pieces} pieces: hardly coalesced"
    );
    Ok(())
}

/// The same for what `lan0` should have coalesced: pairs of devices do so since Linux 5.13, and before only
/// for an XDP program.
pub(super) fn coalesced_by_receiver(packets: u64, pieces: u64) -> Result<()> {
    if kernel::is_at_least(5, 13) {
        coalesced(packets, pieces)
    } else {
        Ok(())
    }
}
