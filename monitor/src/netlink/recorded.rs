//! Answers that somebody else made, in place of the kernel's, and what the kernel's were: for tests.

use std::io;

use super::channel::{Channel, Kernel};
use super::request::Request;
use super::{NLMSG_DONE, messages};

/// Datagrams, one after another, whatever is asked for. Behind the last one each answer is empty.
pub(crate) struct Recorded<I> {
    datagrams: I,
    sequence: u32,
    now: Vec<u8>,
}

impl<I> Recorded<I> {
    pub(crate) const fn new(datagrams: I) -> Self {
        Self {
            datagrams,
            sequence: 0,
            now: Vec::new(),
        }
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Channel for Recorded<I> {
    fn renew(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        self.sequence = messages(requests).next().map_or(0, |one| one.sequence);
        Ok(())
    }

    fn receive(&mut self) -> io::Result<&[u8]> {
        self.now = match self.datagrams.next() {
            Some(datagram) => datagram.to_vec(),
            None => Request::new(NLMSG_DONE, 0, self.sequence)
                .raw(&[0; 4])
                .finish(),
        };
        Ok(&self.now)
    }
}

/// The kernel, with all that it said.
pub(crate) struct Recorder {
    kernel: Kernel,
    pub(crate) heard: Vec<Vec<u8>>,
}

impl Recorder {
    pub(crate) const fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            heard: Vec::new(),
        }
    }
}

impl Channel for Recorder {
    fn renew(&mut self) -> io::Result<()> {
        self.kernel.renew()
    }

    fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        self.kernel.send(requests)
    }

    fn receive(&mut self) -> io::Result<&[u8]> {
        let datagram = self.kernel.receive()?;
        self.heard.push(datagram.to_vec());
        Ok(datagram)
    }
}
