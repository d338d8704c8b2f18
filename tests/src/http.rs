//! HTTP as bytes: what a client of the metrics really gets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::netns::NetNs;
use crate::wait::{DEADLINE, scaled};
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
    let deadline = scaled(DEADLINE)?;
    let mut stream = host.run(|| {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Ok(TcpStream::connect_timeout(&address, deadline)?)
    })?;
    stream.set_read_timeout(Some(deadline))?;
    // In one piece: who gets a bad first line may answer and close before it has read the rest.
    let request =
        format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("no end of the HTTP head")?;
    let head = String::from_utf8(bytes[..end].to_vec())?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let mut body = bytes.split_off(end + 4);
    if head
        .to_ascii_lowercase()
        .contains("\r\ntransfer-encoding: chunked")
    {
        body = join(&body)?;
    }
    Ok(Answer { status, head, body })
}

/// Puts the chunks of a body together (RFC 9112, section 7.1).
fn join(mut chunks: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|pair| pair == b"\r\n");
        let end = end.context("a chunk without a length")?;
        let length = std::str::from_utf8(&chunks[..end])?;
        let length =
            usize::from_str_radix(length.split(';').next().unwrap_or_default().trim(), 16)?;
        if length == 0 {
            return Ok(body);
        }
        let data = chunks.get(end + 2..end + 2 + length);
        body.extend(data.context("a chunk that is cut off")?);
        chunks = chunks
            .get(end + 2 + length + 2..)
            .context("no next chunk")?;
    }
}

/// A text as a part of a query string (RFC 3986, section 2.1).
#[must_use]
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Whether a daemon of this host, at this port, says that it is ready.
#[must_use]
pub fn is_ready(host: &NetNs, port: u16) -> bool {
    request(host, port, "GET /readyz", "").is_ok_and(|answer| answer.status == 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(
            join(b"3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n").unwrap(),
            b"abcde"
        );
        for bad in [&b"3\r\nab"[..], b"", b"zz\r\n"] {
            assert!(join(bad).is_err());
        }
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode("a{b=\"c\"} > 1"), "a%7Bb%3D%22c%22%7D%20%3E%201");
    }
}
