//! Ways to send: frames from the peer's interface, and packets that the gateway makes itself.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::NetNs;
use crate::packet::frame;

/// Bytes of a link address.
const ADDRESS: u32 = 20;
const _: () = assert!(size_of::<libc::sockaddr_ll>() == ADDRESS as usize);

/// How many frames the kernel gets at once.
const BATCH: usize = 64;

/// What became of many frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blast {
    /// Frames that were handed to the kernel.
    pub offered: u64,
    /// Of these, those for which a queue behind the interface had no room: dropped there.
    pub refused: u64,
    /// How long it took.
    pub took: Duration,
}

impl Blast {
    /// Frames a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 frames")]
    pub fn rate(&self) -> f64 {
        self.offered as f64 / self.took.as_secs_f64()
    }

    /// Two that were sent side by side.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        Self {
            offered: self.offered + other.offered,
            refused: self.refused + other.refused,
            took: self.took.max(other.took),
        }
    }
}

/// A packet socket on one interface of a namespace: writes whole frames, bypassing its stack.
#[derive(Debug)]
pub struct FrameSender {
    socket: Socket,
    ifindex: u32,
    source: [u8; 6],
}

impl FrameSender {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// When the interface is missing or the socket is refused.
    pub fn open(netns: &NetNs, interface: &str) -> Result<Self> {
        // Protocol 0: it only sends, so nothing is delivered to it.
        let socket = netns.run(|| Ok(Socket::new(Domain::PACKET, Type::RAW, None)?))?;
        let ifindex = netns.ifindex(interface)?;
        Ok(Self {
            socket,
            ifindex,
            source: netns.mac(interface)?,
        })
    }

    /// The frame of an IP packet to a link address.
    #[must_use]
    pub fn frame(&self, destination: [u8; 6], packet: &[u8]) -> Vec<u8> {
        frame(destination, self.source, packet)
    }

    /// Sends frames of [`FrameSender::frame`] as fast as the kernel takes them, one after the other and again
    /// from the first one, until there were `count`. Each counts once, whether a queue behind the interface
    /// took it or was full.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one for any other reason.
    pub fn blast(&self, frames: &[Vec<u8>], count: u64) -> Result<Blast> {
        let start = Instant::now();
        let mut address = self.address([0; 6])?;
        let mut parts: Vec<libc::iovec> = (0..BATCH.max(frames.len()))
            .zip(frames.iter().cycle())
            .map(|(_, frame)| libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: mmsghdr is plain data, all zeros are a valid value.
                let mut message: libc::mmsghdr = unsafe { zeroed() };
                message.msg_hdr.msg_name = (&raw mut address).cast();
                message.msg_hdr.msg_namelen = ADDRESS;
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let mut blast = Blast::default();
        let mut at = 0;
        while blast.offered < count {
            let left = usize::try_from(count - blast.offered)?;
            let batch = left.min(BATCH).min(messages.len() - at);
            let chunk = &mut messages[at..at + batch];
            // SAFETY: the messages point to frames, parts and an address that outlive the call.
            let sent = unsafe {
                let length = u32::try_from(chunk.len())?;
                libc::sendmmsg(self.socket.as_raw_fd(), chunk.as_mut_ptr(), length, 0)
            };
            let done = usize::try_from(sent).unwrap_or(0);
            if sent < 0 {
                let error = io::Error::last_os_error();
                ensure!(
                    error.raw_os_error() == Some(libc::ENOBUFS),
                    "sending frames: {error}"
                );
            }
            // The one behind the last that was sent was refused; the kernel says so only of the first.
            let refused = usize::from(done < batch);
            blast.refused += refused as u64;
            blast.offered += (done + refused) as u64;
            at = (at + done + refused) % messages.len();
        }
        blast.took = start.elapsed();
        Ok(blast)
    }

    fn address(&self, destination: [u8; 6]) -> Result<libc::sockaddr_ll> {
        // SAFETY: sockaddr_ll is plain data, all zeros are a valid value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_ifindex = i32::try_from(self.ifindex)?;
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&destination);
        Ok(address)
    }

    /// Sends one IP packet to a link address; whether the queue behind the interface took it. One that is full,
    /// as on a processor that is busy for long, drops it there.
    ///
    /// # Errors
    ///
    /// When the interface is down or the packet too long.
    pub fn offer(&self, destination: [u8; 6], packet: &[u8]) -> Result<bool> {
        let sent = self.send(destination, packet);
        let full = sent.as_ref().is_err_and(|error| {
            let error = error.downcast_ref::<io::Error>();
            error.and_then(io::Error::raw_os_error) == Some(libc::ENOBUFS)
        });
        if full { Ok(false) } else { sent.map(|()| true) }
    }

    /// Sends one IP packet to a link address.
    ///
    /// # Errors
    ///
    /// When the interface is down or the packet too long, or the queue behind it is full.
    pub fn send(&self, destination: [u8; 6], packet: &[u8]) -> Result<()> {
        let bytes = frame(destination, self.source, packet);
        let address = self.address(destination)?;
        // SAFETY: the buffer and the address live across the call, and their lengths are right.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const address).cast(),
                ADDRESS,
            )
        };
        if sent < 0 {
            let error = io::Error::last_os_error();
            return Err(error).with_context(|| format!("sending a frame of {} bytes", bytes.len()));
        }
        ensure!(
            usize::try_from(sent).ok() == Some(bytes.len()),
            "sent {sent} bytes of a frame of {}",
            bytes.len()
        );
        Ok(())
    }
}

/// Sends a packet whose IP header is in it from a namespace, through its stack: it passes the output
/// hooks as any packet that the host makes.
///
/// # Errors
///
/// When the kernel refuses it. That a firewall dropped it (`EPERM`) is no error.
pub fn send_made_here(netns: &NetNs, destination: IpAddr, packets: &[Vec<u8>]) -> Result<()> {
    netns.run(|| {
        let domain = if destination.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        };
        let raw = Some(Protocol::from(libc::IPPROTO_RAW));
        // IPPROTO_RAW implies that the header is included, in both families.
        let socket = Socket::new(domain, Type::RAW, raw)?;
        for packet in packets {
            let result = socket.send_to(packet, &SocketAddr::new(destination, 0).into());
            accept_refusal(result.map(drop)).context("raw socket")?;
        }
        Ok(())
    })
}

/// Sends datagrams of `payload` bytes from a socket of the namespace, each from its own socket.
///
/// # Errors
///
/// As [`send_made_here`].
pub fn send_datagrams(netns: &NetNs, to: SocketAddr, payload: usize, count: u64) -> Result<()> {
    netns.run(|| datagrams_here(to, payload, count))
}

/// [`send_datagrams`] from the namespace of this thread.
///
/// # Errors
///
/// As [`send_made_here`].
pub fn datagrams_here(to: SocketAddr, payload: usize, count: u64) -> Result<()> {
    for _ in 0..count {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
        accept_refusal(socket.send_to(&vec![0x5a; payload], &to.into()).map(drop))?;
    }
    Ok(())
}

/// Starts TCP connections, one SYN each, and gives each up before the SYN is repeated.
///
/// # Errors
///
/// As [`send_made_here`].
pub fn send_connects(netns: &NetNs, to: SocketAddr, count: u64) -> Result<()> {
    netns.run(|| connects_here(to, count))
}

/// [`send_connects`] from the namespace of this thread.
///
/// # Errors
///
/// As [`send_made_here`].
pub fn connects_here(to: SocketAddr, count: u64) -> Result<()> {
    for _ in 0..count {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // Closing a socket in SYN_SENT sends nothing.
        accept_refusal(socket.connect(&to.into()))?;
    }
    Ok(())
}

/// What a firewall, a reject or a route may answer to a sender is no failure of the test.
fn accept_refusal(result: io::Result<()>) -> Result<()> {
    let Err(error) = result else { return Ok(()) };
    let accepted = [
        libc::EINPROGRESS,
        libc::EPERM,
        libc::ECONNREFUSED,
        libc::EACCES,
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::ENOBUFS,
    ];
    match error.raw_os_error() {
        Some(code) if accepted.contains(&code) => Ok(()),
        _ => Err(error.into()),
    }
}
