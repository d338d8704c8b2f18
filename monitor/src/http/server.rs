//! Connections: accepted, limited, closed.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer::Answers;
use super::{HttpError, Site};

/// What a client may use up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once.
    pub(super) connections: usize,
    /// From the connection to the end of its first request's headers.
    pub(super) first_request: Duration,
    /// From an answer to the end of the next request's headers, the time that the client takes to read
    /// the answer included. Above the usual scrape intervals, so that a scraper keeps its connection.
    pub(super) idle: Duration,
    /// For an answer with metrics or the status. Prometheus gives up after 10 s by default.
    pub(super) answer: Duration,
    /// From the shutdown until connections that are still answering are cut.
    pub(super) grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            first_request: Duration::from_secs(10),
            idle: Duration::from_mins(2),
            answer: Duration::from_secs(10),
            grace: Duration::from_secs(1),
        }
    }
}

/// The most that is kept of a request's headers, bytes.
const HEADER_BYTES: usize = 16 * 1024;

/// How long accepting pauses when the kernel has no more sockets or memory for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a site on a socket of [`super::bind`] until `shutdown` is ready; then closes what is idle at
/// once, and what is still answering after a second at the latest.
///
/// At most 64 connections are open. The next one takes the place of the one that has done nothing for
/// longest, so that a scraper is served however many others do nothing.
///
/// # Errors
///
/// When the socket cannot be registered with the runtime. What clients do is never an error.
pub async fn serve(
    listener: StdListener,
    site: Arc<dyn Site>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), HttpError> {
    serve_within(Limits::default(), listener, site, shutdown).await
}

pub(super) async fn serve_within(
    limits: Limits,
    listener: StdListener,
    site: Arc<dyn Site>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), HttpError> {
    let listener = TcpListener::from_std(listener).map_err(HttpError::Watch)?;
    let answers = Arc::new(Answers::new(site, limits.answer));
    let (closing, closed) = watch::channel(false);
    let mut connections = Connections::default();
    let mut shutdown = pin!(shutdown);
    // One line in the log for one shortage, however often accepting fails meanwhile.
    let mut short = false;
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    short = false;
                    connections.make_room(limits.connections);
                    let activity = Arc::new(Activity::new(limits));
                    let task = connection(
                        stream,
                        Arc::clone(&answers),
                        Arc::clone(&activity),
                        closed.clone(),
                    );
                    connections.add(task, activity);
                }
                // The client was gone before we took it.
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                Err(error) => {
                    if !short {
                        tracing::warn!("the metrics socket takes no connections: {error}");
                    }
                    short = true;
                    connections.make_room(connections.open.len());
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    closing.send_replace(true);
    let all_closed = async { while connections.tasks.join_next().await.is_some() {} };
    if timeout(limits.grace, all_closed).await.is_err() {
        connections.tasks.shutdown().await;
    }
    Ok(())
}

/// The open connections.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: Vec<(AbortHandle, Arc<Activity>)>,
}

impl Connections {
    fn add(&mut self, task: impl Future<Output = ()> + Send + 'static, activity: Arc<Activity>) {
        let handle = self.tasks.spawn(task);
        self.open.push((handle, activity));
    }

    /// Closes connections until there are fewer than `limit`: those without a request first, of them
    /// the one that has waited longest.
    fn make_room(&mut self, limit: usize) {
        self.open.retain(|(handle, _)| !handle.is_finished());
        while !self.open.is_empty() && self.open.len() >= limit {
            let oldest = self
                .open
                .iter()
                .enumerate()
                .min_by_key(|(_, (_, activity))| activity.rank())
                .map_or(0, |(index, _)| index);
            self.open.swap_remove(oldest).0.abort();
        }
    }
}

/// What a connection does, and since when.
struct Activity {
    limits: Limits,
    now: Mutex<(Phase, Instant)>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Phase {
    /// No request yet.
    New,
    /// Between requests, or writing an answer.
    Idle,
    /// Finding an answer.
    Busy,
}

impl Activity {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            now: Mutex::new((Phase::New, Instant::now())),
        }
    }

    fn get(&self) -> (Phase, Instant) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Instant::now());
    }

    /// The lowest is closed first.
    fn rank(&self) -> (bool, Instant) {
        let (phase, since) = self.get();
        (phase == Phase::Busy, since)
    }

    /// When the connection is closed if nothing happens.
    fn deadline(&self) -> Instant {
        let (phase, since) = self.get();
        since
            + match phase {
                Phase::New => self.limits.first_request,
                Phase::Idle | Phase::Busy => self.limits.idle,
            }
    }
}

/// What the server sends to a client that sends these bytes and no more, whatever time it takes; at most so many
/// bytes. Call it in a runtime with time.
pub(crate) async fn replay(request: Vec<u8>, site: Arc<dyn Site>, most: usize) -> Vec<u8> {
    let limits = Limits::default();
    let answers = Arc::new(Answers::new(site, limits.answer));
    let (client, server) = tokio::io::duplex(most);
    let (_closing, closed) = watch::channel(false);
    let activity = Arc::new(Activity::new(limits));
    let (mut from_server, mut to_server) = tokio::io::split(client);
    let send = async move {
        // It may have hung up.
        drop(to_server.write_all(&request).await);
        drop(to_server.shutdown().await);
    };
    let mut answer = Vec::new();
    let receive = async { drop(from_server.read_to_end(&mut answer).await) };
    tokio::join!(connection(server, answers, activity, closed), send, receive);
    answer
}

/// Serves one connection until the client, a limit or the shutdown ends it.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: Arc<Answers>,
    activity: Arc<Activity>,
    mut closed: watch::Receiver<bool>,
) {
    let service = service_fn(|request| {
        activity.set(Phase::Busy);
        let (answers, activity) = (&answers, &activity);
        async move {
            let answer = answers.answer(&request).await;
            activity.set(Phase::Idle);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(HEADER_BYTES)
        // The time-outs are ours: hyper's one for headers also runs between requests, so its 10 s
        // would take every scraper's connection away.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            // An error is the client's: it hung up or sent what is no request.
            _ = connection.as_mut() => return,
            () = sleep_until(activity.deadline()) => {
                // Work may have been done since the deadline was set.
                if activity.deadline() <= Instant::now() {
                    return;
                }
            }
            _ = closed.changed(), if !closing => {
                if activity.get().0 == Phase::New {
                    return;
                }
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
