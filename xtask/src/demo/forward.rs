//! From the loopback device of this machine to that of the gateway: a browser here reads what is there, and
//! nothing of this machine's network is changed.
//!
//! One thread does it all. Its sockets that listen were made out here and stay here; it has entered the
//! gateway's namespace, so those that it connects are there.

mod relay;

use std::{
    io::{self, PipeReader, PipeWriter},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsFd as _,
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::namespace::Entrance;
use relay::Relay;

/// How many connections there are at most; one more ends the one that has been silent for longest.
const MOST: usize = 128;
/// How long a connection may be silent. Browsers keep some open for the next page.
const SILENCE: Duration = Duration::from_mins(2);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A forwarder; it ends on drop, and all its connections with it.
#[derive(Debug)]
pub(super) struct Forwarder {
    addresses: Vec<SocketAddr>,
    /// Closing it is the word to stop.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Listens here for each of these ports of the gateway, on the same one where it is free.
    ///
    /// # Errors
    ///
    /// When no port is free, or the namespace can't be entered.
    pub(super) fn start(gateway: Entrance, ports: &[u16]) -> Result<Self> {
        let mut ways = Vec::new();
        for port in ports {
            ways.push(Way::open(*port)?);
        }
        let addresses = ways.iter().map(Way::address).collect::<Result<_>>()?;
        let (stopped, stop) = io::pipe()?;
        let (entered, enters) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let result = gateway.enter();
            let is_in = result.is_ok();
            // Whoever waits for it is there until it comes.
            entered.send(result).unwrap_or_default();
            if is_in && let Err(error) = forward(&ways, &stopped) {
                eprintln!("the forwarder of the demo ended: {error}");
            }
        });
        let this = Self {
            addresses,
            stop: Some(stop),
            thread: Some(thread),
        };
        enters.recv().context("the forwarder does not start")??;
        Ok(this)
    }

    /// Where it listens for one of the ports, in their order.
    pub(super) fn address(&self, index: usize) -> Option<SocketAddr> {
        self.addresses.get(index).copied()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the forwarder of the demo panicked");
        }
    }
}

/// A listening socket, and where its connections go.
#[derive(Debug)]
struct Way {
    listener: TcpListener,
    to: SocketAddr,
}

impl Way {
    fn open(port: u16) -> Result<Self> {
        let here = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = here(port)
            .or_else(|_| here(0))
            .context("no port is free on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let to = (Ipv4Addr::LOCALHOST, port).into();
        Ok(Self { listener, to })
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }
}

/// Forwards until it is stopped. Connections that fail are their own matter.
fn forward(ways: &[Way], stopped: &PipeReader) -> io::Result<()> {
    let mut relays: Vec<Relay> = Vec::new();
    loop {
        let mut polled = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        polled.extend(
            ways.iter()
                .map(|way| PollFd::new(way.listener.as_fd(), PollFlags::POLLIN)),
        );
        // What waits for nothing is left out: its end would be reported again and again.
        let mut owners = Vec::new();
        for (index, relay) in relays.iter().enumerate() {
            for fd in relay.waits_for() {
                polled.push(fd);
                owners.push(index);
            }
        }
        let timeout = if relays.is_empty() {
            PollTimeout::NONE
        } else {
            PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX)
        };
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut called = polled.iter().map(|fd| fd.any() != Some(false));
        if called.next() == Some(true) {
            return Ok(());
        }
        let callers: Vec<bool> = called.by_ref().take(ways.len()).collect();
        let mut moved = vec![false; relays.len()];
        for (owner, is_called) in owners.into_iter().zip(called) {
            moved[owner] |= is_called;
        }
        let now = Instant::now();
        let mut moved = moved.into_iter();
        relays.retain_mut(|relay| {
            let goes_on = moved.next() != Some(true) || relay.go_on(now);
            goes_on && relay.silent_for(now) < SILENCE
        });
        for (way, _) in ways.iter().zip(callers).filter(|(_, called)| *called) {
            if relays.len() >= MOST {
                end_the_most_silent(&mut relays, now);
            }
            match way.listener.accept() {
                Ok((client, _)) => relays.extend(Relay::begin(client, way.to, now).ok()),
                // Out of descriptors, which would be so again at once.
                Err(error) if error.raw_os_error().is_some_and(is_shortage) => {
                    end_the_most_silent(&mut relays, now);
                }
                Err(_) => {}
            }
        }
    }
}

/// Whether an error says that there are no more descriptors, or no memory.
fn is_shortage(error: i32) -> bool {
    [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM].contains(&Errno::from_raw(error))
}

fn end_the_most_silent(relays: &mut Vec<Relay>, now: Instant) {
    let silent = relays.iter().enumerate();
    let silent = silent.max_by_key(|(_, relay)| relay.silent_for(now));
    if let Some(index) = silent.map(|(index, _)| index) {
        relays.swap_remove(index);
    }
}

#[cfg(test)]
mod tests;
