//! All hosts behind one port: `/17/metrics` is what host 17 says.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};

use crate::host;

/// How many answer at a time.
const WORKERS: usize = 4;

/// Begins to serve, for as long as the process runs; returns the port.
///
/// # Errors
///
/// When no port is to be had.
pub(crate) fn start() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port on loopback")?;
    let port = listener.local_addr()?.port();
    for _ in 0..WORKERS {
        let listener = listener.try_clone()?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is its own matter.
                answer(stream).unwrap_or_default();
            }
        });
    }
    Ok(port)
}

/// Reads one request and answers it.
fn answer(stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let number = first.split('/').nth(1).and_then(|text| text.parse().ok());
    let (status, body) = match number {
        Some(number) if host::answers(number) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            ("200 OK", host::scrape(number, now))
        }
        Some(_) => ("503 Service Unavailable", String::new()),
        None => ("404 Not Found", String::new()),
    };
    write!(
        reader.get_mut(),
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}
