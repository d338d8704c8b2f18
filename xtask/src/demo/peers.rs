//! Hosts that talk: threads inside their namespaces, with ordinary sockets.

use std::{
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
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

use super::{
    namespace::Namespace,
    sites::{Hosts, server},
    teredo,
};

/// What one side of a conversation says: a request or a chunk.
const MESSAGE: [u8; 600] = [0x5a; 600];
/// How long anybody waits for the other side of a connection.
const PATIENCE: Duration = Duration::from_millis(1200);
/// How long a client waits for the first answer. Real ones are less hasty, and more.
const FIRST: Duration = Duration::from_millis(200);
/// How long a client that was answered waits before it asks the next.
const PAUSE: Duration = Duration::from_secs(1);
/// The same where it was not: sooner, so that what is blocked is soon half of all attempts.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Protocol {
    Tcp,
    Teredo,
}

/// What talkers got to hear.
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
    heard: Arc<Answers>,
}

impl Peers {
    /// Starts them all.
    ///
    /// # Errors
    ///
    /// When a server gets no socket.
    pub(super) fn start(hosts: &Hosts) -> Result<Self> {
        use Protocol::{Tcp, Teredo};
        let (stopped, stop) = io::pipe()?;
        let mut this = Self {
            stop: Some(stop),
            threads: Vec::new(),
            heard: Arc::default(),
        };
        let stopped = Arc::new(stopped);
        let own = hosts.peers.iter().map(|peer| (&peer.host, Tcp, 7680));
        for (host, protocol, port) in own.chain([
            (&hosts.server, Tcp, 443),
            (&hosts.server, Teredo, 3544),
            (&hosts.gateway, Tcp, 443),
        ]) {
            this.serve(host, protocol, port, &stopped)
                .with_context(|| format!("port {port} in {}", host.name()))?;
        }
        let counted = Arc::clone(&this.heard);
        for peer in &hosts.peers {
            // Peers of one site need no gateway.
            let others = hosts.peers.iter().filter(|other| other.site != peer.site);
            let others = others.map(|other| (other.address, 7680).into()).collect();
            let server = |port| vec![SocketAddr::from((server(), port))];
            for (protocol, to, answers) in [
                (Tcp, others, Arc::clone(&counted)),
                (Teredo, server(3544), Arc::default()),
                (Tcp, server(443), Arc::default()),
            ] {
                this.talk(&peer.host, protocol, to, answers, &stopped)?;
            }
        }
        // What the gateway itself receives and sends.
        if let Some(peer) = hosts.peers.first() {
            let gateway = (Hosts::gateway_at(peer.site), 443).into();
            let to_gateway = (&peer.host, vec![gateway]);
            let to_peer = (&hosts.gateway, vec![(peer.address, 7680).into()]);
            for (host, to) in [to_gateway, to_peer] {
                this.talk(host, Tcp, to, Arc::default(), &stopped)?;
            }
        }
        Ok(this)
    }

    /// One line: what the peers themselves got to hear on the port that is blocked first.
    pub(super) fn summary(&self) -> String {
        format!(
            "the peers' own account of tcp/7680: {} connections answered, {} not",
            self.heard.came.load(Ordering::Relaxed),
            self.heard.missing.load(Ordering::Relaxed)
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
            Protocol::Teredo => {
                let socket = host.run(|| Ok(UdpSocket::bind(address)?))?;
                socket.set_nonblocking(true)?;
                std::thread::spawn(move || {
                    let mut buffer = [0; 2048];
                    while wait(&stopped, Some(socket.as_fd()), None) {
                        if let Ok((length, from)) = socket.recv_from(&mut buffer)
                            && let Some(answer) = teredo::answer(&buffer[..length])
                        {
                            socket.send_to(&answer, from).unwrap_or_default();
                        }
                    }
                })
            }
        };
        self.threads.push(thread);
        Ok(())
    }

    /// Starts a client that asks one after the other.
    fn talk(
        &mut self,
        host: &Namespace,
        protocol: Protocol,
        to: Vec<SocketAddr>,
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
            let mut pause = PAUSE_AFTER_FAILURE;
            for to in to.into_iter().cycle() {
                if !wait(&stopped, None, Some(pause)) {
                    return;
                }
                let heard = match protocol {
                    Protocol::Tcp => ask_by_tcp(to),
                    Protocol::Teredo => ask_by_teredo(to),
                };
                let counter;
                (counter, pause) = match heard {
                    Ok(()) => (&answers.came, PAUSE),
                    Err(_) => (&answers.missing, PAUSE_AFTER_FAILURE),
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
    let mut stream = TcpStream::connect_timeout(&to, FIRST)?;
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

/// A client's side: one solicitation, of a new socket and so an attempt of its own.
fn ask_by_teredo(to: SocketAddr) -> io::Result<()> {
    let nonce = teredo::nonce();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(FIRST))?;
    socket.send(&teredo::solicitation(nonce))?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    if teredo::answers(&buffer[..length], nonce) {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
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
