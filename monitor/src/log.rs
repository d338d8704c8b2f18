//! The packet log: one line on stdout for a packet that the kernel programs report.
//!
//! Diagnostics of the daemon itself are not here: they go to stderr.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::time::Duration;

use serde::Serialize;

mod attempt;
mod packet;
mod state;
#[cfg(test)]
mod tests;
pub(crate) mod time;

pub use packet::Packet;
pub use state::{StateLine, change_before};

/// How a line looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// For people: words in a fixed order, separated by single spaces.
    Text,
    /// For machines: a JSON object, with the same keys on every line of a kind.
    Json,
}

/// The rate limit that the kernel programs apply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateLimit {
    /// Packets a second.
    pub per_second: u32,
    /// How many may come at once.
    pub burst: u32,
}

/// Names for the numbers in a packet event.
pub trait Names {
    /// Name of the traffic with an index; `None` where the configuration has none.
    fn traffic(&self, index: u8) -> Option<String>;
    /// Name of the interface with an index; `None` where it is gone.
    fn interface(&self, index: u32) -> Option<String>;
    /// Name of a drop reason of this kernel.
    fn reason(&self, reason: u32) -> String;
}

/// Stdout for an [`EventLog`]: without a buffer, so that a line is written whole or known to be torn.
///
/// # Errors
///
/// When stdout is closed, or no file descriptor is left.
pub fn stdout() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Writes the log.
///
/// Writing blocks as long as the reader of the stream does: call it where that harms nothing else.
/// Errors never end anything: a line that cannot be written is counted, and the next one is tried.
#[derive(Debug)]
pub struct EventLog<W> {
    format: Format,
    out: W,
    /// The line in the making; kept to save allocations.
    line: Vec<u8>,
    /// Part of a line is in the stream, without its end.
    torn: bool,
    write_errors: u64,
    last_error: Option<io::Error>,
}

/// The line of a packet, as it stands in JSON. Consumers rely on the keys.
#[derive(Serialize)]
struct PacketLine<'a> {
    time: &'a str,
    verdict: &'static str,
    traffic: &'a str,
    direction: &'static str,
    flow: &'static str,
    protocol: &'static str,
    family: &'static str,
    source: String,
    source_port: u16,
    destination: String,
    destination_port: u16,
    /// `null` where it was on none when it was dropped.
    interface: Option<&'a str>,
    /// `null` for an allowed packet, as the class.
    reason: Option<&'a str>,
    class: Option<&'static str>,
    /// Bytes of the IP packet.
    length: u32,
    /// Packets on the wire.
    segments: u32,
    /// `null` for UDP.
    tcp_flags: Option<&'a str>,
}

/// The line that stands for packets without one.
#[derive(Serialize)]
struct SuppressedLine<'a> {
    time: &'a str,
    suppressed: u64,
    interval_seconds: f64,
    limit_per_second: u32,
    burst: u32,
}

impl<W: Write + Send> EventLog<W> {
    /// A log that writes to `out`, which should have no buffer of its own ([`stdout`]).
    pub fn new(format: Format, out: W) -> Self {
        Self {
            format,
            out,
            line: Vec::with_capacity(512),
            torn: false,
            write_errors: 0,
            last_error: None,
        }
    }

    /// How many lines could not be written, because the reader is gone or the disk is full.
    pub fn write_errors(&self) -> u64 {
        self.write_errors
    }

    /// Why the last of these lines could not be written.
    pub fn last_error(&self) -> Option<&io::Error> {
        self.last_error.as_ref()
    }

    /// Writes the line of a packet, with the time of the packet by the wall clock.
    pub fn packet(&mut self, packet: &Packet, names: &dyn Names) {
        let time = time::rfc3339(time::wall(packet.time));
        let series = &packet.series;
        let traffic = names
            .traffic(series.traffic)
            .unwrap_or_else(|| format!("traffic#{}", series.traffic));
        let interface = packet.interface.map(|index| {
            let index = index.get();
            names
                .interface(index)
                .unwrap_or_else(|| format!("interface#{index}"))
        });
        let reason = packet.dropped.map(|(reason, _)| names.reason(reason));
        let class = packet.dropped.map(|(_, class)| class.as_str());
        let flags = packet.tcp_flags.map(packet::flag_letters);
        if self.format == Format::Json {
            return self.json(&PacketLine {
                time: &time,
                verdict: packet.verdict.as_str(),
                traffic: &traffic,
                direction: series.direction.as_str(),
                flow: series.flow.as_str(),
                protocol: series.protocol.as_str(),
                family: series.family.as_str(),
                source: packet.source.ip().to_string(),
                source_port: packet.source.port(),
                destination: packet.destination.ip().to_string(),
                destination_port: packet.destination.port(),
                interface: interface.as_deref(),
                reason: reason.as_deref(),
                class,
                length: packet.length,
                segments: packet.segments,
                tcp_flags: flags.as_deref(),
            });
        }
        let mut words: Vec<Cow<'_, str>> = vec![
            time.into(),
            packet.verdict.as_str().into(),
            printable(&traffic),
            series.direction.as_str().into(),
            series.protocol.as_str().into(),
            packet.source.to_string().into(),
            ">".into(),
            packet.destination.to_string().into(),
            interface.as_deref().map_or("-".into(), printable),
        ];
        words.extend(reason.as_deref().map(printable));
        words.extend(class.map(Cow::from));
        words.push(format!("{} bytes", packet.length).into());
        if packet.segments > 1 {
            words.push(format!("in {} packets", packet.segments).into());
        }
        words.extend(flags.map(|flags| {
            if flags.is_empty() {
                "none".into()
            } else {
                flags.into()
            }
        }));
        self.text(&words.join(" "));
    }

    /// Writes the line for packets that the rate limit kept out of the log during the last `interval`.
    pub fn suppressed(&mut self, count: u64, interval: Duration, limit: RateLimit) {
        let time = time::rfc3339(time::now());
        let RateLimit { per_second, burst } = limit;
        match self.format {
            Format::Json => self.json(&SuppressedLine {
                time: &time,
                suppressed: count,
                interval_seconds: interval.as_secs_f64(),
                limit_per_second: per_second,
                burst,
            }),
            Format::Text => {
                let events = if count == 1 { "event" } else { "events" };
                self.text(&format!(
                    "{time} {count} packet {events} suppressed in the last {} s (rate limit \
                     {per_second}/s, burst {burst})",
                    interval.as_secs_f64(),
                ));
            }
        }
    }

    fn text(&mut self, line: &str) {
        self.line.clear();
        self.line.extend_from_slice(line.as_bytes());
        self.write();
    }

    fn json<T: Serialize>(&mut self, line: &T) {
        self.line.clear();
        match serde_json::to_writer(&mut self.line, line) {
            Ok(()) => self.write(),
            Err(error) => self.failed(error.into()),
        }
    }

    fn failed(&mut self, error: io::Error) {
        self.write_errors += 1;
        self.last_error = Some(error);
    }

    /// Writes the line and its end, in one write where the stream takes it.
    fn write(&mut self) {
        if self.torn {
            // What is there of the last line must not become the beginning of this one.
            self.line.insert(0, b'\n');
        }
        self.line.push(b'\n');
        let mut rest = self.line.as_slice();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(written) if written > 0 => {
                    rest = rest.get(written..).unwrap_or_default();
                    self.torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) => return self.failed(io::ErrorKind::WriteZero.into()),
                Err(error) => return self.failed(error),
            }
        }
    }
}

/// A name with nothing in it that could move the cursor or begin a line of its own: whoever may name an
/// interface must not be able to write the log.
fn printable(name: &str) -> Cow<'_, str> {
    if name.chars().all(|c| !c.is_control() && !c.is_whitespace()) {
        name.into()
    } else {
        name.escape_default().to_string().into()
    }
}
