//! HTTP as bytes: what a client of the metrics really gets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::netns::NetNs;
use crate::wait::DEADLINE;
use anyhow::{Context, Result};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    head: String,
    /// What comes behind the head.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as text.
    ///
    /// # Errors
    ///
    /// When it is no UTF-8.
    pub fn text(&self) -> Result<&str> {
        Ok(std::str::from_utf8(&self.body)?)
    }
}

/// Sends a request, its first line and more header lines, to a port of a host's loopback.
///
/// # Errors
///
/// When nobody answers, or not as HTTP.
pub fn request(host: &NetNs, port: u16, line: &str, headers: &str) -> Result<Answer> {
    let mut stream = host.run(|| {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Ok(TcpStream::connect_timeout(&address, DEADLINE)?)
    })?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("no end of the HTTP head")?;
    let head = String::from_utf8(bytes[..end].to_vec())?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer {
        status,
        head,
        body: bytes.split_off(end + 4),
    })
}

/// Whether a daemon of this host, at this port, says that it is ready.
#[must_use]
pub fn is_ready(host: &NetNs, port: u16) -> bool {
    request(host, port, "GET /readyz", "").is_ok_and(|answer| answer.status == 200)
}
