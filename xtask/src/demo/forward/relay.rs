//! One connection that is passed on: two sockets, and what waits to be written to each.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags},
};
use socket2::{Domain, Socket, Type};

/// How many bytes of one way are kept: who reads slowly slows down who writes.
const KEPT: usize = 16 * 1024;
/// How often one connection goes on before others do.
const TURNS: usize = 8;

/// A connection; both of its sockets close on drop.
#[derive(Debug)]
pub(super) struct Relay {
    client: TcpStream,
    server: TcpStream,
    /// What the client said, and the server did.
    up: Way,
    down: Way,
    last: Instant,
}

impl Relay {
    /// Begins to connect the client with an address, which is reached from the namespace of this thread.
    ///
    /// # Errors
    ///
    /// When there is no socket, or it is refused at once.
    pub(super) fn begin(client: TcpStream, to: SocketAddr, now: Instant) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        let server = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        server.set_nonblocking(true)?;
        match server.connect(&to.into()) {
            // Until then it takes nothing and gives nothing.
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                return Err(error);
            }
            _ => {}
        }
        Ok(Self {
            client,
            server: server.into(),
            up: Way::default(),
            down: Way::default(),
            last: now,
        })
    }

    /// Its sockets, with what can go on there; those where nothing can are not among them.
    pub(super) fn waits_for(&self) -> impl Iterator<Item = PollFd<'_>> {
        let client = events(&self.up, &self.down);
        let server = events(&self.down, &self.up);
        [(&self.client, client), (&self.server, server)]
            .into_iter()
            .filter(|(_, events)| !events.is_empty())
            .map(|(socket, events)| PollFd::new(socket.as_fd(), events))
    }

    /// Goes on as far as it can; false when it is over.
    pub(super) fn go_on(&mut self, now: Instant) -> bool {
        self.last = now;
        let up = self.up.go_on(&self.client, &self.server);
        let down = self.down.go_on(&self.server, &self.client);
        up.is_ok() && down.is_ok() && !(self.up.is_over && self.down.is_over)
    }

    /// How long nothing was said.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }
}

/// What a socket is waited for: what comes from it, and what goes to it.
fn events(from: &Way, to: &Way) -> PollFlags {
    let mut events = PollFlags::empty();
    if from.bytes.is_empty() && !from.is_over {
        events |= PollFlags::POLLIN;
    }
    if !to.bytes.is_empty() {
        events |= PollFlags::POLLOUT;
    }
    events
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Way {
    /// Read and not yet written.
    bytes: Vec<u8>,
    /// The end was read and passed on.
    is_over: bool,
}

impl Way {
    /// Reads and writes until one of the sockets wants to wait.
    fn go_on(&mut self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let turns = if self.is_over { 0 } else { TURNS };
        for _ in 0..turns {
            while !self.bytes.is_empty() {
                let Some(written) = unless_it_waits(to.write(&self.bytes))? else {
                    return Ok(());
                };
                self.bytes.drain(..written);
            }
            let mut buffer = [0; KEPT];
            let Some(read) = unless_it_waits(from.read(&mut buffer))? else {
                return Ok(());
            };
            if read == 0 {
                self.is_over = true;
                return to.shutdown(Shutdown::Write);
            }
            self.bytes.extend_from_slice(&buffer[..read]);
        }
        Ok(())
    }
}

/// None where the socket would wait.
fn unless_it_waits(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// However much comes before the end: a way that is not over waits for something.
    #[test]
    fn the_end_is_passed_on_behind_all_that_came_before() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        for turns in 0..=TURNS + 1 {
            let mut client = TcpStream::connect(address).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let now = Instant::now();
            let mut relay = Relay::begin(accepted, address, now).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let said = vec![7; turns * KEPT];
            client.write_all(&said).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let reader = std::thread::spawn(move || {
                let mut heard = Vec::new();
                server.read_to_end(&mut heard).map(|_| heard.len())
            });
            while !relay.up.is_over {
                assert!(
                    !events(&relay.up, &Way::default()).is_empty() || !relay.up.bytes.is_empty()
                );
                assert!(relay.go_on(now));
            }
            assert_eq!(reader.join().unwrap().unwrap(), said.len());
        }
    }
}
