//! TCP throughput: a connection over a veth pair, both ends of it on one CPU.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use monitor_tests::netns::NetNs;

/// Bytes in one turn.
const BYTES: usize = 64 << 20;
/// Bytes of one write.
const CHUNK: usize = 128 << 10;

/// Nanoseconds for each KiB that the client sends to a port of the gateway.
pub(crate) fn turn(client: &NetNs, gateway: &NetNs, port: u16) -> Result<f64> {
    let at = SocketAddr::from(([10, 9, 1, 1], port));
    let listener = gateway.run(|| Ok(TcpListener::bind(at)?))?;
    let mut sender = client
        .run(|| TcpStream::connect_timeout(&at, Duration::from_secs(5)).context("connecting"))?;
    let (mut receiver, _) = listener.accept()?;
    let start = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(move || -> Result<()> {
            let chunk = vec![0; CHUNK];
            for _ in 0..BYTES / CHUNK {
                sender.write_all(&chunk)?;
            }
            Ok(())
        });
        let mut buffer = vec![0; CHUNK];
        while receiver.read(&mut buffer)? > 0 {}
        sending
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let kibibytes = f64::from(u32::try_from(BYTES >> 10)?);
    Ok(start.elapsed().as_secs_f64() * 1e9 / kibibytes)
}
