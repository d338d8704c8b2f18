//! Where requests go and answers come from: the kernel, or in tests what it once said.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

/// Room for one datagram, bytes: the kernel fills 32 KiB at most (`netlink_dump`).
const DATAGRAM: usize = 64 * 1024;

/// Something that answers requests by datagrams.
pub(crate) trait Channel {
    /// Begins: what is left of an earlier answer comes no more.
    fn renew(&mut self) -> io::Result<()>;

    /// Sends requests.
    fn send(&mut self, requests: &[u8]) -> io::Result<()>;

    /// Waits for a datagram of the answer.
    fn receive(&mut self) -> io::Result<&[u8]>;
}

/// The kernel, in the network namespace of the thread that begins.
pub(crate) struct Kernel {
    protocol: isize,
    patience: Duration,
    socket: Option<Socket>,
    datagram: Vec<u8>,
}

impl Kernel {
    /// For a protocol of netlink; each datagram of an answer may take so long.
    pub(crate) fn new(protocol: isize, patience: Duration) -> Self {
        Self {
            protocol,
            patience,
            socket: None,
            datagram: Vec::with_capacity(DATAGRAM),
        }
    }
}

impl Channel for Kernel {
    fn renew(&mut self) -> io::Result<()> {
        let mut socket = Socket::new(self.protocol)?;
        socket.bind_auto()?;
        SockRef::from(&socket).set_read_timeout(Some(self.patience))?;
        self.socket = Some(socket);
        Ok(())
    }

    fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        socket.send_to(requests, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<&[u8]> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        loop {
            self.datagram.clear();
            // With MSG_TRUNC the length is that of the datagram, whether it fitted or not.
            match socket.recv_from(&mut self.datagram, libc::MSG_TRUNC) {
                // Any process may write to a netlink socket; only the kernel has this address.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((length, _)) if length > self.datagram.len() => {
                    return Err(io::Error::other(format!(
                        "a message of {length} bytes does not fit"
                    )));
                }
                Ok(_) => return Ok(&self.datagram),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
    }
}
