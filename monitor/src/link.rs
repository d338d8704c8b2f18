//! Interfaces and addresses of this network namespace, followed through rtnetlink: a full dump first,
//! then changes as the kernel tells them. Nothing is polled.
//!
//! [`LinkWatcher`] owns the socket; what is known and what changed is the state machine in `table`.

mod list;
mod message;
mod table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

pub(crate) use list::list_of;
pub use list::{Xdp, XdpMode, list};
use message::{Body, Frame, RTM_GETADDR, RTM_GETLINK};
use table::LinkTable;

/// What the frames of an interface begin with, from its hardware type (`ARPHRD_*` in
/// `include/uapi/linux/if_arp.h`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkType {
    /// An Ethernet header.
    Ethernet,
    /// The IP header: tunnels, tun devices, PPP, cellular modems. These are the types for which the
    /// kernel itself says so (`dev_is_mac_header_xmit`).
    NoHeader,
    /// The loopback interface (with an Ethernet header).
    Loopback,
    /// Something else, by its number.
    Other(u16),
}

/// Hardware types that the `libc` crate does not have.
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_IP6GRE: u16 = 823;

impl LinkType {
    /// The type of a hardware type's number.
    #[must_use]
    pub const fn from_arphrd(number: u16) -> Self {
        match number {
            libc::ARPHRD_ETHER => Self::Ethernet,
            libc::ARPHRD_LOOPBACK => Self::Loopback,
            libc::ARPHRD_TUNNEL
            | libc::ARPHRD_TUNNEL6
            | libc::ARPHRD_SIT
            | libc::ARPHRD_IPGRE
            | ARPHRD_IP6GRE
            | ARPHRD_RAWIP
            | libc::ARPHRD_PPP
            | libc::ARPHRD_VOID
            | libc::ARPHRD_NONE => Self::NoHeader,
            other => Self::Other(other),
        }
    }
}

/// An interface, as far as it matters where packets are counted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Its index, never 0.
    pub index: u32,
    /// Its name; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// What its frames begin with.
    pub kind: LinkType,
    /// Index of the interface that it is enslaved to.
    pub master: Option<u32>,
    /// As what it is enslaved: `bridge`, `bond`, `team`, `vrf` (`IFLA_INFO_SLAVE_KIND`).
    pub slave_kind: Option<String>,
    /// What it is, where it is no hardware: `veth`, `vlan`, `tun`, `bridge` … (`IFLA_INFO_KIND`).
    pub info_kind: Option<String>,
    /// Index of the interface that it lies on, as a VLAN does (`IFLA_LINK`). `None` where that is in
    /// another namespace, whose indexes mean nothing here, and for one end of a pair, such as veth.
    pub lower: Option<u32>,
    /// Whether it is a VLAN's device that writes its tag into the frame, instead of leaving that to the
    /// device below (`ip link … type vlan reorder_hdr off`).
    pub writes_tag: bool,
}

/// A change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LinkEvent {
    /// An interface is new, or something of it changed: with a known index, it replaces what was said
    /// of that interface before, its name included.
    Link(Interface),
    /// An interface is gone from this namespace.
    Gone {
        /// Its index.
        index: u32,
    },
    /// This host has an address that it had on no interface before; broadcast addresses too.
    AddressAdded(IpAddr),
    /// The last interface that had this address has it no more.
    AddressRemoved(IpAddr),
    /// Everything that exists has been told: after the first dump, and after each that was needed
    /// because changes were missed.
    Synced,
}

/// Why interfaces can't be watched.
#[derive(Debug, thiserror::Error)]
#[error("can't watch network interfaces through netlink: {0}")]
pub struct LinkError(io::Error);

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// Room for one datagram, bytes: the kernel makes them no longer than 32 KiB in dumps
/// (`netlink_dump`), and notifications of an interface are far shorter.
const DATAGRAM: usize = 64 * 1024;

/// Room for the changes that arrive while the daemon is busy, bytes. The kernel takes what
/// `net.core.rmem_max` allows; beyond that, changes are missed and everything is read again.
const RECEIVE_BUFFER: libc::c_int = 1024 * 1024;

/// How long to wait after a failure that a new socket may not mend at once.
const RETRY: Duration = Duration::from_secs(1);

/// What is asked of the kernel at the moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Links,
    Addresses,
    /// Nothing; notifications arrive.
    Watching,
}

/// A socket, and where its dump stands.
#[derive(Debug)]
struct Connection {
    socket: AsyncFd<Socket>,
    /// The address that the kernel gave to the socket: answers to our requests carry it.
    port: u32,
    sequence: u32,
    stage: Stage,
    interrupted: bool,
}

impl Connection {
    fn open(receive_buffer: libc::c_int) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.set_rx_buf_sz(receive_buffer)?;
        // Joined before the dump, so that no change falls between the two.
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        let mut address = SocketAddr::new(0, 0);
        socket.get_address(&mut address)?;
        let mut connection = Self {
            // SAFETY: the socket owns its descriptor, which stays the same and open until it is
            // dropped; `AsyncFd` owns the socket, and deregisters it before.
            socket: unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?,
            port: address.port_number(),
            sequence: 0,
            stage: Stage::Links,
            interrupted: false,
        };
        connection.request(Stage::Links)?;
        Ok(connection)
    }

    /// Asks for a dump.
    fn request(&mut self, stage: Stage) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.stage = stage;
        let kind = if stage == Stage::Addresses {
            RTM_GETADDR
        } else {
            RTM_GETLINK
        };
        let request = message::dump_request(kind, self.sequence);
        self.socket
            .get_ref()
            .send_to(&request, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    fn answers(&self, frame: &Frame) -> bool {
        frame.port == self.port && frame.sequence == self.sequence
    }
}

/// Tells the interfaces and addresses of the network namespace in which it was made.
///
/// It opens its socket anew when changes were missed, in the namespace of the thread that polls it:
/// use it where no thread of the runtime changes its namespace.
#[derive(Debug)]
pub struct LinkWatcher {
    connection: Option<Connection>,
    /// When to open the next connection.
    retry: Option<Instant>,
    receive_buffer: libc::c_int,
    datagram: Vec<u8>,
    table: LinkTable,
    events: VecDeque<LinkEvent>,
}

impl LinkWatcher {
    /// Opens a socket and asks for everything; call it in a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`LinkError`] where the kernel gives no socket or refuses the request.
    pub fn new() -> Result<Self, LinkError> {
        Self::with_receive_buffer(RECEIVE_BUFFER)
    }

    fn with_receive_buffer(receive_buffer: libc::c_int) -> Result<Self, LinkError> {
        let mut watcher = Self {
            connection: None,
            retry: None,
            receive_buffer,
            datagram: Vec::with_capacity(DATAGRAM),
            table: LinkTable::default(),
            events: VecDeque::new(),
        };
        watcher.connect().map_err(LinkError)?;
        Ok(watcher)
    }

    /// The interfaces that have been told and are not gone.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.table.interfaces()
    }

    /// The addresses that have been told and are not removed.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.table.addresses()
    }

    /// The next change; waits for one. Nothing is lost when the future is dropped.
    ///
    /// It does not fail: where changes were missed or the socket broke, it reads everything again and
    /// tells what differs.
    pub async fn next(&mut self) -> LinkEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if let Err(error) = self.step().await {
                self.connection = None;
                if error.raw_os_error() == Some(libc::ENOBUFS) {
                    tracing::info!("changes of interfaces came too fast; reading all again");
                } else {
                    tracing::warn!(%error, "lost sight of network interfaces; trying again");
                    self.retry = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    fn connect(&mut self) -> io::Result<()> {
        self.connection = Some(Connection::open(self.receive_buffer)?);
        self.table.begin_dump();
        Ok(())
    }

    /// Takes one datagram, or opens the connection.
    async fn step(&mut self) -> io::Result<()> {
        let Some(connection) = &mut self.connection else {
            if let Some(at) = self.retry {
                sleep_until(at).await;
                self.retry = None;
            }
            return self.connect();
        };
        let datagram = &mut self.datagram;
        let receive = |socket: &Socket| {
            datagram.clear();
            // With MSG_TRUNC the length is that of the datagram, whether it fitted or not.
            socket.recv_from(datagram, libc::MSG_TRUNC)
        };
        let (length, sender) = connection
            .socket
            .async_io(Interest::READABLE, receive)
            .await?;
        if sender.port_number() != 0 {
            // Any process may write to a netlink socket; only the kernel has this address.
            return Ok(());
        }
        if length > self.datagram.len() {
            return Err(io::Error::other(format!(
                "a message of {length} bytes does not fit"
            )));
        }
        for frame in message::decode(&self.datagram) {
            if !connection.answers(&frame) {
                if let Body::Message(message) = frame.body {
                    // Answers to an earlier request of ours are stale, notifications are not.
                    if frame.port != connection.port {
                        self.table.apply(message, &mut self.events);
                    }
                }
                continue;
            }
            connection.interrupted |= frame.interrupted;
            match frame.body {
                Body::Message(message) => self.table.apply_dumped(message, &mut self.events),
                Body::Failed(error) => return Err(io::Error::from_raw_os_error(error)),
                Body::Done => end_of_dump(connection, &mut self.table, &mut self.events)?,
                Body::Other => {}
            }
        }
        Ok(())
    }
}

/// Takes datagrams in turn, as answers to a dump first and as notifications behind it. Gives the changes, and
/// what is known then.
pub(crate) fn replay<'a>(
    dump: impl Iterator<Item = &'a [u8]>,
    notifications: impl Iterator<Item = &'a [u8]>,
) -> (Vec<LinkEvent>, Vec<Interface>, Vec<IpAddr>) {
    let (mut table, mut events) = (LinkTable::default(), VecDeque::new());
    table.begin_dump();
    for frame in dump.flat_map(message::decode) {
        if let Body::Message(message) = frame.body {
            table.apply_dumped(message, &mut events);
        }
    }
    table.end_dump(&mut events);
    for frame in notifications.flat_map(message::decode) {
        if let Body::Message(message) = frame.body {
            table.apply(message, &mut events);
        }
    }
    let interfaces = table.interfaces().cloned().collect();
    let addresses = table.addresses().collect();
    (events.into(), interfaces, addresses)
}

/// Asks for what comes next. A dump that changes interrupted may have left out what did not change, so
/// it is made again.
fn end_of_dump(
    connection: &mut Connection,
    table: &mut LinkTable,
    events: &mut VecDeque<LinkEvent>,
) -> io::Result<()> {
    if std::mem::take(&mut connection.interrupted) {
        table.begin_dump();
        return connection.request(Stage::Links);
    }
    match connection.stage {
        Stage::Links => connection.request(Stage::Addresses),
        Stage::Addresses => {
            connection.stage = Stage::Watching;
            table.end_dump(events);
            Ok(())
        }
        Stage::Watching => Ok(()),
    }
}
