//! Hosts that talk: threads inside their namespaces, with ordinary sockets.

use std::{
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::namespace::{Hosts, Namespace};

/// What one side of a conversation says: a request or a chunk.
const MESSAGE: [u8; 600] = [0x5a; 600];
/// How long anybody waits for the other side.
const PATIENCE: Duration = Duration::from_millis(1200);

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 1, 1));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 2, 2));

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Protocol {
    Tcp,
    Udp,
}

/// What a talker got to hear.
#[derive(Debug, Default)]
struct Answers {
    came: AtomicU64,
    missing: AtomicU64,
}

/// All talkers and servers; they end on drop.
#[derive(Debug)]
pub(super) struct Peers {
    /// Closing it is the word to stop.
    stop: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
    peer: Arc<Answers>,
}

impl Peers {
    /// Starts them all.
    ///
    /// # Errors
    ///
    /// When a server gets no socket.
    pub(super) fn start(hosts: &Hosts) -> Result<Self> {
        use Protocol::{Tcp, Udp};
        let (stopped, stop) = io::pipe()?;
        let mut this = Self {
            stop: Some(stop),
            threads: Vec::new(),
            peer: Arc::default(),
        };
        let stopped = Arc::new(stopped);
        for (host, protocol, port) in [
            (&hosts.server, Tcp, 7680),
            (&hosts.server, Tcp, 443),
            (&hosts.server, Udp, 3544),
            (&hosts.gateway, Tcp, 443),
        ] {
            this.serve(host, protocol, port, &stopped)
                .with_context(|| format!("port {port} in {}", host.name()))?;
        }
        let peer = Arc::clone(&this.peer);
        for (host, protocol, to, pause, answers) in [
            (&hosts.peer, Tcp, (SERVER, 7680), 200, peer),
            (&hosts.peer, Udp, (SERVER, 3544), 300, Arc::default()),
            (&hosts.peer, Tcp, (SERVER, 443), 500, Arc::default()),
            // What the gateway itself receives and sends.
            (&hosts.peer, Tcp, (GATEWAY, 443), 1000, Arc::default()),
            (&hosts.gateway, Tcp, (SERVER, 7680), 1000, Arc::default()),
        ] {
            this.talk(
                host,
                protocol,
                to.into(),
                Duration::from_millis(pause),
                answers,
                &stopped,
            )?;
        }
        Ok(this)
    }

    /// One line: what the peer itself got to hear on the port that is blocked first.
    pub(super) fn summary(&self) -> String {
        format!(
            "the peer's own account of tcp/7680: {} connections answered, {} not",
            self.peer.came.load(Ordering::Relaxed),
            self.peer.missing.load(Ordering::Relaxed)
        )
    }

    fn serve(
        &mut self,
        host: &Namespace,
        protocol: Protocol,
        port: u16,
        stopped: &Arc<PipeReader>,
    ) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let stopped = Arc::clone(stopped);
        let thread = match protocol {
            Protocol::Tcp => {
                let listener = host.run(|| Ok(TcpListener::bind(address)?))?;
                listener.set_nonblocking(true)?;
                std::thread::spawn(move || {
                    while wait(&stopped, Some(listener.as_fd()), None) {
                        // A client that gave up is no matter.
                        if let Ok((stream, _)) = listener.accept() {
                            answer(stream).unwrap_or_default();
                        }
                    }
                })
            }
            Protocol::Udp => {
                let socket = host.run(|| Ok(UdpSocket::bind(address)?))?;
                socket.set_nonblocking(true)?;
                std::thread::spawn(move || {
                    let mut buffer = [0; 2048];
                    while wait(&stopped, Some(socket.as_fd()), None) {
                        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                            socket.send_to(&buffer[..length], from).unwrap_or_default();
                        }
                    }
                })
            }
        };
        self.threads.push(thread);
        Ok(())
    }

    fn talk(
        &mut self,
        host: &Namespace,
        protocol: Protocol,
        to: SocketAddr,
        pause: Duration,
        answers: Arc<Answers>,
        stopped: &Arc<PipeReader>,
    ) -> Result<()> {
        let stopped = Arc::clone(stopped);
        let enter = host.entrance()?;
        self.threads.push(std::thread::spawn(move || {
            if let Err(error) = enter.enter() {
                eprintln!("a talker could not begin: {error:#}");
                return;
            }
            while wait(&stopped, None, Some(pause)) {
                let heard = match protocol {
                    Protocol::Tcp => ask_by_tcp(to),
                    Protocol::Udp => ask_by_udp(to),
                };
                let counter = match heard {
                    Ok(()) => &answers.came,
                    Err(_) => &answers.missing,
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }));
        Ok(())
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a talker or server of the demo panicked");
            }
        }
    }
}

/// Waits for a socket or for a time; false once all is to stop.
fn wait(stopped: &PipeReader, socket: Option<BorrowedFd<'_>>, time: Option<Duration>) -> bool {
    let mut polled = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
    polled.extend(socket.map(|socket| PollFd::new(socket, PollFlags::POLLIN)));
    let timeout = time.map_or(PollTimeout::NONE, |time| {
        PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut polled, timeout) {
        Ok(_) => polled[0].any() != Some(true),
        Err(error) => error == Errno::EINTR,
    }
}

/// A server's side of a connection.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = [0; MESSAGE.len()];
    stream.read_exact(&mut request)?;
    stream.write_all(&MESSAGE)
}

/// A client's side: connect, ask, read the answer to its end.
fn ask_by_tcp(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&MESSAGE)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.len() == MESSAGE.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn ask_by_udp(to: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // A Teredo router solicitation is about as long.
    socket.send(&MESSAGE[..61])?;
    socket.recv(&mut [0; 2048]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_when_the_writer_is_gone() {
        let (stopped, stop) = io::pipe().unwrap();
        assert!(wait(&stopped, None, Some(Duration::ZERO)));
        drop(stop);
        assert!(!wait(&stopped, None, None));
    }

    #[test]
    fn a_served_connection_is_answered_and_a_closed_port_is_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || answer(listener.accept().unwrap().0));
        ask_by_tcp(address).unwrap();
        server.join().unwrap().unwrap();
        assert!(ask_by_tcp(address).is_err());
    }
}
