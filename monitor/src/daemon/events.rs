//! The packet log and the kernel programs' own diagnostics, out of their ring buffers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use monitor_common::event::loss;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::states::Changed;
use crate::attempt::{Finished, Outcome};
use crate::config::{BpfLog, Config, LogFormat};
use crate::log::{self, EventLog, Format, Names, Packet, RateLimit, StateLine};
use crate::metrics::Source;

/// How many lines may wait for a reader of the log that is slower than the packets.
const WAITING: usize = 1024;

/// How long a stuck reader of the log may hold up the end.
const LAST_LINES: Duration = Duration::from_millis(500);

/// What goes to the thread that writes.
enum Line {
    Packet(Box<Packet>, PacketNames),
    Suppressed(u64, Duration),
    Attempt(Box<Finished>, PacketNames),
    AttemptsSuppressed(u64, Duration),
    State(Box<StateLine>),
}

/// The names of one packet, looked up when it came: later they may be others'.
struct PacketNames {
    traffic: Option<String>,
    interface: Option<String>,
    reason: String,
}

impl Names for PacketNames {
    fn traffic(&self, _: u8) -> Option<String> {
        self.traffic.clone()
    }

    fn interface(&self, _: u32) -> Option<String> {
        self.interface.clone()
    }

    fn reason(&self, _: u32) -> String {
        self.reason.clone()
    }
}

/// Reads packet events and hands them to a thread that writes them: standard output may block, and
/// nothing else must wait for it.
pub(super) struct PacketLog {
    ring: AsyncFd<RingBuf<MapData>>,
    lines: Option<mpsc::Sender<Line>>,
    writer: tokio::task::JoinHandle<()>,
    /// Lines that could not be written.
    unwritten: Arc<AtomicU64>,
    suppressed: u64,
    lost: u64,
    attempts: Bucket,
    attempts_suppressed: u64,
}

/// The rate limit of lines that the daemon itself makes: a bucket of as many as may come at once.
struct Bucket {
    per_second: f64,
    burst: f64,
    left: f64,
    filled: Instant,
}

impl Bucket {
    fn new(limit: RateLimit) -> Self {
        Self {
            per_second: f64::from(limit.per_second),
            burst: f64::from(limit.burst),
            left: f64::from(limit.burst),
            filled: Instant::now(),
        }
    }

    /// Whether one more may come now.
    fn take(&mut self) -> bool {
        let passed = self.filled.elapsed().as_secs_f64();
        self.filled = Instant::now();
        self.left = (self.left + passed * self.per_second).min(self.burst);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

pub(super) fn take_ring(ebpf: &mut Ebpf, name: &str) -> io::Result<RingBuf<MapData>> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| io::Error::other(format!("the kernel programs have no map {name}")))?;
    RingBuf::try_from(map).map_err(io::Error::other)
}

impl PacketLog {
    pub(super) fn new(ebpf: &mut Ebpf, config: &Config) -> io::Result<Self> {
        let ring = take_ring(ebpf, "EVENTS")?;
        // SAFETY: a ring buffer keeps the descriptor of its map open for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        let format = match config.log_format {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
        };
        let limit = RateLimit {
            per_second: config.log_rate,
            burst: config.log_burst,
        };
        let log = EventLog::new(format, log::stdout()?);
        let (lines, waiting) = mpsc::channel(WAITING);
        let unwritten = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&unwritten);
        let writer = tokio::task::spawn_blocking(move || write(log, waiting, limit, &count));
        Ok(Self {
            ring,
            lines: Some(lines),
            writer,
            unwritten,
            suppressed: 0,
            lost: 0,
            attempts: Bucket::new(limit),
            attempts_suppressed: 0,
        })
    }

    /// What was held back or lost before this daemon was said by another one.
    pub(super) const fn begin(&mut self, losses: &[u64; loss::LEN as usize]) {
        self.suppressed = losses[loss::LOG_SUPPRESSED as usize];
        self.lost = losses[loss::EVENT_LOST as usize];
    }

    /// How many lines could not be written: the disk is full, or nobody reads any more. It rises later, too.
    pub(super) fn unwritten(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.unwritten)
    }

    /// Waits until there are events.
    pub(super) async fn ready(&mut self) {
        match self.ring.readable_mut().await {
            // The next `drain` empties the ring, so what comes after it signals again.
            Ok(mut guard) => guard.clear_ready(),
            // The runtime is ending.
            Err(_) => std::future::pending().await,
        }
    }

    /// Reads every event that is there.
    pub(super) fn drain(&mut self, source: &Source) {
        let traffics = source.traffics();
        while let Some(record) = self.ring.get_mut().next() {
            let Some(packet) = Packet::from_bytes(&record) else {
                continue;
            };
            let names = PacketNames {
                traffic: traffics
                    .get(packet.series.traffic)
                    .map(|traffic| traffic.name.clone()),
                interface: packet
                    .interface
                    .and_then(|index| source.interface_name(index.get())),
                reason: packet
                    .dropped
                    .map(|(reason, _)| source.reason_name(reason))
                    .unwrap_or_default(),
            };
            send(
                self.lines.as_ref(),
                Line::Packet(Box::new(packet), names),
                source,
            );
        }
    }

    /// Writes a line for each attempt that failed, as far as the rate goes.
    pub(super) fn attempts(&mut self, finished: &[Finished], source: &Source) {
        let failed = |finished: &&Finished| finished.outcome != Outcome::Established;
        let traffics = source.traffics();
        for finished in finished.iter().filter(failed) {
            if !self.attempts.take() {
                self.attempts_suppressed += 1;
                source.attempt_suppressed();
                continue;
            }
            let names = PacketNames {
                traffic: traffics
                    .get(finished.traffic)
                    .map(|traffic| traffic.name.clone()),
                interface: None,
                reason: finished
                    .reason
                    .map(|reason| source.reason_name(reason))
                    .unwrap_or_default(),
            };
            let line = Line::Attempt(Box::new(finished.clone()), names);
            send(self.lines.as_ref(), line, source);
        }
    }

    /// Writes the line of a state that changed.
    pub(super) fn state(&self, changed: &Changed, source: &Source) {
        let line = StateLine::new(
            &changed.traffic.name,
            changed.direction,
            changed.before,
            &changed.now,
            &source.firewall().changes,
        );
        send(self.lines.as_ref(), Line::State(Box::new(line)), source);
    }

    /// Says what was held back or lost since the last time.
    pub(super) fn report(&mut self, losses: &[u64; loss::LEN as usize], interval: Duration) {
        if self.attempts_suppressed > 0
            && let Some(lines) = &self.lines
        {
            let line = Line::AttemptsSuppressed(self.attempts_suppressed, interval);
            if lines.try_send(line).is_ok() {
                self.attempts_suppressed = 0;
            }
        }
        let suppressed = losses[loss::LOG_SUPPRESSED as usize];
        if suppressed > self.suppressed
            && let Some(lines) = &self.lines
        {
            let line = Line::Suppressed(suppressed - self.suppressed, interval);
            // Where there is no room for the line, the next one says it all.
            if lines.try_send(line).is_ok() {
                self.suppressed = suppressed;
            }
        }
        let lost = losses[loss::EVENT_LOST as usize];
        if lost > self.lost {
            warn!(
                "{} packet events were lost: the ring buffer was full",
                lost - self.lost
            );
            self.lost = lost;
        }
    }

    /// Writes what is waiting, unless the reader of the log is stuck.
    pub(super) async fn finish(mut self) {
        self.lines = None;
        if tokio::time::timeout(LAST_LINES, self.writer).await.is_err() {
            warn!("the reader of the packet log does not read: its last lines are lost");
        }
    }
}

/// Writes lines as they come, until no more can come. Says once when that fails, and once when it works
/// again.
fn write<W: io::Write + Send>(
    mut log: EventLog<W>,
    mut waiting: mpsc::Receiver<Line>,
    limit: RateLimit,
    unwritten: &AtomicU64,
) {
    let mut fails = false;
    while let Some(line) = waiting.blocking_recv() {
        let before = log.write_errors();
        match line {
            Line::Packet(packet, names) => log.packet(&packet, &names),
            Line::Suppressed(count, interval) => log.suppressed(count, interval, limit),
            Line::Attempt(finished, names) => log.attempt(&finished, &names),
            Line::State(line) => log.state(&line),
            Line::AttemptsSuppressed(count, interval) => log.attempts_suppressed(count, interval),
        }
        let now = log.write_errors();
        unwritten.store(now, Ordering::Relaxed);
        if (now > before) != fails {
            fails = !fails;
            match log.last_error() {
                Some(error) if fails => {
                    warn!("lines of the packet log cannot be written and are lost: {error}");
                }
                _ => info!("the packet log is written again; {now} lines were lost so far"),
            }
        }
    }
    if log.write_errors() > 0 {
        warn!(
            "{} lines of the packet log could not be written",
            log.write_errors()
        );
    }
}

/// Hands a line to the writer; one that finds no room is counted.
fn send(lines: Option<&mpsc::Sender<Line>>, line: Line, source: &Source) {
    if let Some(lines) = lines
        && lines.try_send(line).is_err()
    {
        source.line_lost();
    }
}

/// What the kernel programs log themselves.
pub(super) struct Diagnostics(AsyncFd<EbpfLogger<&'static dyn ::log::Log>>);

impl Diagnostics {
    /// `None` where they log nothing.
    pub(super) fn new(ebpf: &mut Ebpf, level: BpfLog) -> io::Result<Option<Self>> {
        if level.aya_level() == 0 {
            return Ok(None);
        }
        let logger = EbpfLogger::init(ebpf).map_err(io::Error::other)?;
        // SAFETY: a logger owns its ring buffer, which keeps the descriptor open.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        Ok(Some(Self(logger.map_err(io::Error::from)?)))
    }

    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return self.0.get_mut().flush(),
                guard = self.0.readable_mut() => match guard {
                    Ok(mut guard) => {
                        guard.clear_ready();
                        guard.get_inner_mut().flush();
                    }
                    Err(_) => return,
                },
            }
        }
    }
}
