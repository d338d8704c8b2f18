//! The socket on which `nf_tables` tells of transactions.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::message::{self, Body};
use super::transaction::Transactions;
use super::{Change, Moment};

/// Group 7, `NFNLGRP_NFTABLES`, as a bit.
const GROUPS: u32 = 1 << 6;

/// Room for one datagram, bytes: the kernel fills 8 KiB at most (`NLMSG_GOODSIZE`).
const DATAGRAM: usize = 64 * 1024;

/// Room for the messages that arrive while the daemon is busy, bytes. Each element of a set is a
/// message of its own, and a list of 100,000 addresses comes at once. It is taken only while messages
/// wait. Beyond it, messages are missed, which the numbers of the transactions show.
pub(super) const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;

/// How long to wait after a failure that a new socket may not mend at once.
const RETRY: Duration = Duration::from_secs(1);

/// How long to wait where the kernel has no such sockets: each try makes it look for a module.
const RETRY_ABSENT: Duration = Duration::from_mins(1);

#[derive(Debug)]
struct Connection {
    socket: AsyncFd<Socket>,
    /// The address that the kernel gave to the socket: answers to our requests carry it.
    port: u32,
    /// Messages were missed; what the socket still holds is to be read before anything is asked, since
    /// the kernel puts nothing into a socket that overflowed until it is empty (`netlink_overrun`).
    overrun: bool,
}

impl Connection {
    fn open(receive_buffer: usize) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.set_non_blocking(true)?;
        set_receive_buffer(&socket, receive_buffer)?;
        // Joined before the number is asked for, so that no transaction falls between the two.
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        let mut address = SocketAddr::new(0, 0);
        socket.get_address(&mut address)?;
        let connection = Self {
            // SAFETY: the socket owns its descriptor, which stays the same and open until it is
            // dropped; `AsyncFd` owns the socket, and deregisters it before.
            socket: unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?,
            port: address.port_number(),
            overrun: false,
        };
        connection.ask()?;
        Ok(connection)
    }

    /// Asks for the number of the last transaction.
    fn ask(&self) -> io::Result<()> {
        let request = message::generation_request();
        self.socket
            .get_ref()
            .send_to(&request, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    /// Takes one datagram into the buffer, and gives its length and sender.
    async fn receive(&mut self, datagram: &mut Vec<u8>) -> io::Result<(usize, SocketAddr)> {
        let mut receive = |socket: &Socket| {
            datagram.clear();
            // With MSG_TRUNC the length is that of the datagram, whether it fitted or not.
            socket.recv_from(datagram, libc::MSG_TRUNC)
        };
        if self.overrun {
            match receive(self.socket.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.overrun = false;
                    self.ask()?;
                }
                other => return other,
            }
        }
        self.socket.async_io(Interest::READABLE, receive).await
    }
}

/// Takes `CAP_NET_ADMIN` in the first user namespace; without, the kernel gives what
/// `net.core.rmem_max` allows.
fn set_receive_buffer(socket: &Socket, size: usize) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed from the socket, which outlives the borrowing.
    let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    match setsockopt(&descriptor, sockopt::RcvBufForce, &size) {
        Err(Errno::EPERM) => Ok(setsockopt(&descriptor, sockopt::RcvBuf, &size)?),
        other => Ok(other?),
    }
}

/// Follows the transactions of the network namespace in which it was made.
#[derive(Debug)]
pub(super) struct Nftables {
    connection: Option<Connection>,
    /// When to open the next connection.
    retry: Option<Instant>,
    receive_buffer: usize,
    datagram: Vec<u8>,
    transactions: Transactions,
}

impl Nftables {
    /// Opens a socket, where the kernel has such sockets.
    pub(super) fn new(receive_buffer: usize) -> io::Result<Self> {
        let mut nftables = Self {
            connection: None,
            retry: None,
            receive_buffer,
            datagram: Vec::with_capacity(DATAGRAM),
            transactions: Transactions::default(),
        };
        match Connection::open(receive_buffer) {
            Ok(connection) => nftables.connection = Some(connection),
            Err(error) if absent(&error) => {
                tracing::info!("this kernel has no nftables, so changes of its rules are not told");
                nftables.retry = Some(Instant::now() + RETRY_ABSENT);
            }
            Err(error) => return Err(error),
        }
        Ok(nftables)
    }

    /// Waits for one datagram, or until the connection can be opened. Nothing is lost when the future
    /// is dropped.
    pub(super) async fn step(&mut self, changes: &mut impl Extend<Change>) {
        let Err(error) = self.try_step(changes).await else {
            return;
        };
        if let Some(connection) = &mut self.connection
            && error.raw_os_error() == Some(libc::ENOBUFS)
        {
            tracing::info!("changes of the firewall's rules came too fast; some may be missed");
            connection.overrun = true;
            return;
        }
        self.connection = None;
        let wait = if absent(&error) {
            RETRY_ABSENT
        } else {
            tracing::warn!(%error, "lost sight of the firewall's rules; trying again");
            RETRY
        };
        self.retry = Some(Instant::now() + wait);
    }

    async fn try_step(&mut self, changes: &mut impl Extend<Change>) -> io::Result<()> {
        let Some(connection) = &mut self.connection else {
            if let Some(at) = self.retry {
                sleep_until(at).await;
                self.retry = None;
            }
            self.connection = Some(Connection::open(self.receive_buffer)?);
            return Ok(());
        };
        let (length, sender) = connection.receive(&mut self.datagram).await?;
        if sender.port_number() != 0 {
            // Any process may write to a netlink socket; only the kernel has this address.
            return Ok(());
        }
        if length > self.datagram.len() {
            return Err(io::Error::other(format!(
                "a message of {length} bytes does not fit"
            )));
        }
        let now = Moment::now();
        for frame in message::decode(&self.datagram) {
            if frame.port != connection.port {
                self.transactions.apply(frame, now, changes);
            } else if let Body::Generation { id: Some(id), .. } = frame.body {
                changes.extend(self.transactions.compare(id, now));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Nftables {
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }
}

fn absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPROTONOSUPPORT)
}
