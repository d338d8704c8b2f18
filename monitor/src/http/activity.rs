//! What a connection does, since when, and how long it may.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What a client may use up. docs/http.md has them for users.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once; a quarter as many more may wait for their first answer.
    pub(super) connections: usize,
    /// From the connection to its first byte, and to the end of the TLS handshake where there is one.
    pub(super) handshake: Duration,
    /// For a request's headers, from its first byte; for those of the first request behind TLS, from the end of
    /// the handshake.
    pub(super) request: Duration,
    /// For an answer to be made, the check of its password included. Prometheus gives up after 10 s by default.
    pub(super) answer: Duration,
    /// For the client to take an answer.
    pub(super) send: Duration,
    /// From an answer to the first byte of the next request. Above the usual scrape intervals, so that a
    /// scraper keeps its connection.
    pub(super) idle: Duration,
    /// From the shutdown until connections that are still answering are cut.
    pub(super) grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            handshake: Duration::from_secs(5),
            request: Duration::from_secs(10),
            answer: Duration::from_secs(10),
            send: Duration::from_secs(30),
            idle: Duration::from_mins(2),
            grace: Duration::from_secs(1),
        }
    }
}

/// What an answer is worth: who asks no more often than that is never ahead of others.
const EACH: Duration = Duration::from_secs(1);

/// What a connection is at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// The TLS handshake.
    Greeting,
    /// A request has begun, or the first one may.
    Asking,
    /// The answer is being made.
    Answering,
    /// The answer is being sent.
    Sending,
    /// Between requests.
    Idle,
}

/// What a connection does, and since when.
#[derive(Debug)]
pub(super) struct Activity {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// Whether it had an answer that not everybody gets: that to a whole request of somebody who may ask.
    known: bool,
    /// Whether anything came at all.
    spoke: bool,
    /// Until when its answers last, one [`EACH`]; `None` before the first one.
    sated: Option<Instant>,
    /// Whether bytes came before the last answer was sent.
    more: bool,
}

/// What decides which connection has to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rank {
    pub(super) phase: Phase,
    pub(super) since: Instant,
    pub(super) known: bool,
    pub(super) spoke: bool,
    pub(super) sated: Option<Instant>,
}

impl Activity {
    pub(super) fn new(limits: Limits, phase: Phase) -> Self {
        Self {
            limits,
            state: Mutex::new(State {
                phase,
                since: Instant::now(),
                known: false,
                spoke: false,
                sated: None,
                more: false,
            }),
        }
    }

    pub(super) fn rank(&self) -> Rank {
        let State {
            phase,
            since,
            known,
            spoke,
            sated,
            ..
        } = *self.lock();
        Rank {
            phase,
            since,
            known,
            spoke,
            sated,
        }
    }

    /// When the connection is closed if nothing happens.
    pub(super) fn deadline(&self) -> Instant {
        let State { phase, since, .. } = *self.lock();
        since
            + match phase {
                Phase::Greeting => self.limits.handshake,
                Phase::Asking => self.limits.request,
                // The answer's own limit comes first, and says so to the client.
                Phase::Answering => self.limits.answer.saturating_mul(2),
                Phase::Sending => self.limits.send,
                Phase::Idle => self.limits.idle,
            }
    }

    pub(super) fn set(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = phase;
        state.since = Instant::now();
        state.more = false;
    }

    /// The answer is made; whether it is one for somebody who may ask.
    pub(super) fn answered(&self, known: bool) {
        let mut state = self.lock();
        let now = Instant::now();
        state.phase = Phase::Sending;
        state.since = now;
        state.known |= known;
        // Not by a clock that each answer sets back: who asks without a pause would look like who has just come.
        state.sated = Some(state.sated.map_or(now, |until| until.max(now)) + EACH);
    }

    /// Bytes came.
    pub(super) fn received(&self) {
        let mut state = self.lock();
        state.spoke = true;
        match state.phase {
            Phase::Idle => {
                state.phase = Phase::Asking;
                state.since = Instant::now();
            }
            Phase::Answering | Phase::Sending => state.more = true,
            Phase::Greeting | Phase::Asking => {}
        }
    }

    /// All that was written is sent.
    fn flushed(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Sending {
            state.phase = if state.more {
                Phase::Asking
            } else {
                Phase::Idle
            };
            state.since = Instant::now();
            state.more = false;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that tells an [`Activity`] what passes through it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) const fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.received();
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        if matches!(poll, Poll::Ready(Ok(()))) {
            self.activity.flushed();
        }
        poll
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
