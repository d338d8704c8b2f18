//! Attempts that are repeated, carry data, come by the hundreds, or meet a full queue.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Socket, Type};

use super::act::{ANSWER, Act, ONCE, Seen, Way};
use super::pool::Place;
use super::{Scene, scene};
use crate::expect::{Expected, Family};
use crate::wait::until;

/// Attempts at once.
const MANY: u64 = 1000;
/// Attempts at a listener whose queue is full.
const OVERLOAD: u64 = 20;

/// The scenes.
#[must_use]
pub fn scenes() -> Vec<Scene> {
    vec![
        scene("repeated_for_40_s", &[Way::Forwarded], forty).place(Place::Unproven),
        scene("opens_later", &[Way::Outbound, Way::Forwarded], opens_later),
        scene("queue_full", &[Way::Inbound], queue_full),
        scene("thousand", &[Way::Forwarded], thousand).families(&[Family::V4]),
        scene(
            "syn_with_data/established",
            &[Way::Inbound, Way::Outbound, Way::Forwarded],
            data_taken,
        ),
        scene(
            "syn_with_data/refused",
            &[Way::Inbound, Way::Outbound, Way::Forwarded],
            data_refused,
        ),
    ]
}

const INPUT: &str = "type filter hook input priority 0";

/// The same SYN for 40 s, after which it had been judged for long.
fn forty(act: &Act<'_>) -> Result<Expected> {
    act.rule(act.host(), INPUT, &format!("{} drop", act.syn()))?;
    act.connect(1, Duration::from_secs(40), Seen::Silence)?;
    Ok(act.only("unanswered", "unknown", 1))
}

/// Silent until the SYN came for the third time.
fn opens_later(act: &Act<'_>) -> Result<Expected> {
    act.listen()?;
    let table = act.table(act.host(), INPUT, &format!("{} counter drop", act.syn()))?;
    let host = act.host();
    std::thread::scope(|scope| {
        let door = scope.spawn(|| -> Result<()> {
            let waited = until("three SYNs", Duration::from_secs(15), || {
                std::thread::sleep(Duration::from_millis(50));
                let rules = host.sh(&format!("nft list table {table}"))?;
                let count = rules.split_once("counter packets ").context("no counter")?;
                let count: u64 = count.1.split(' ').next().unwrap_or_default().parse()?;
                Ok((count >= 3).then_some(()))
            });
            host.nft(&format!("delete table {table}"))?;
            waited
        });
        let connected = act.connect(1, Duration::from_secs(20), Seen::Open);
        let opened = door
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        connected.and(opened)
    })?;
    Ok(act.only("established", "none", 1))
}

/// A listener of the gateway that never accepts: two connections wait, more are not let in.
fn queue_full(act: &Act<'_>) -> Result<Expected> {
    let listener = act.listener(1)?;
    act.hold(listener);
    // One more than the backlog; one after the other, so that none is half open when the queue is full.
    act.connect(1, ANSWER, Seen::Open)?;
    act.connect(1, ANSWER, Seen::Open)?;
    act.connect(OVERLOAD, ONCE, Seen::Silence)?;
    let mut expected = act.only("established", "none", 2);
    act.expect(&mut expected, "unanswered", "local_overload", OVERLOAD);
    Ok(expected)
}

fn thousand(act: &Act<'_>) -> Result<Expected> {
    act.listen()?;
    let to = act.destination();
    let sockets = act.from().run(|| {
        (0..MANY)
            .map(|_| -> Result<Socket> {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                match socket.connect(&to.into()) {
                    Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error)?,
                    _ => Ok(socket),
                }
            })
            .collect::<Result<Vec<_>>>()
    })?;
    act.hold(sockets);
    Ok(act.only("established", "none", MANY))
}

/// Sends data in the SYN (TCP Fast Open); whether the other side took it.
fn send_with_data(act: &Act<'_>) -> Result<io::Result<bool>> {
    /// `linux/tcp.h`: the SYN-ACK acknowledged the data in the SYN.
    const TCPI_OPT_SYN_DATA: u8 = 32;
    /// `TCP_SYN_SENT`
    const WAITING: u8 = 2;
    let to = act.destination();
    act.from().run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_write_timeout(Some(ANSWER))?;
        let sent =
            socket.send_to_with_flags(b"some words to begin with", &to.into(), libc::MSG_FASTOPEN);
        if let Err(error) = sent {
            return Ok(Err(error));
        }
        // Sent with the SYN it returns before the answer is there.
        let info = until("an answer", ANSWER, || {
            // SAFETY: tcp_info is plain data, all zeros are a valid value.
            let mut info: libc::tcp_info = unsafe { zeroed() };
            let mut length = u32::try_from(size_of::<libc::tcp_info>())?;
            // SAFETY: the pointers live across the call, the length is that of the buffer.
            let result = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_TCP,
                    libc::TCP_INFO,
                    (&raw mut info).cast(),
                    &raw mut length,
                )
            };
            ensure!(result == 0, "TCP_INFO: {}", io::Error::last_os_error());
            Ok((info.tcpi_state != WAITING).then_some(info))
        })?;
        if let Some(error) = socket.take_error()? {
            return Ok(Err(error));
        }
        act.hold(socket);
        Ok(Ok(info.tcpi_options & TCPI_OPT_SYN_DATA != 0))
    })
}

fn data_taken(act: &Act<'_>) -> Result<Expected> {
    act.listen()?;
    let taken = send_with_data(act)?.context("sending with the SYN")?;
    ensure!(taken, "the data in the SYN was not acknowledged");
    Ok(act.only("established", "none", 1))
}

fn data_refused(act: &Act<'_>) -> Result<Expected> {
    let result = send_with_data(act)?;
    ensure!(
        matches!(&result, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused),
        "the client sees {result:?}"
    );
    let by = if act.way == Way::Inbound {
        "local_host"
    } else {
        "remote_host"
    };
    Ok(act.only("refused", by, 1))
}
