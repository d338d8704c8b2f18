//! Connections: accepted, encrypted, limited, closed.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::access::Caller;
use super::activity::{Activity, Limits, Phase, Watched};
use super::answer::Answers;
use super::connections::Connections;
use super::group::Group;
use super::web::{Shown, Web};
use super::{HttpError, Site};

/// The most that is kept of a request's headers, bytes.
const HEADER_BYTES: usize = 16 * 1024;

/// How many connections are accepted before others have their turn.
const BATCH: usize = 256;

/// How long accepting pauses when the kernel has no more sockets or memory for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a connection is looked at, at least.
const LOOK: Duration = Duration::from_secs(1);

/// Serves a site on a socket of [`super::bind`] until `shutdown` is ready; then closes what is idle at
/// once, and what is still answering after a second at the latest.
///
/// At most 128 connections are open, and 32 more that wait for their first answer. The next one takes the place of
/// another: of the client that has most, and of its own the one that is of least use. So a scraper is served however
/// many others do nothing.
///
/// # Errors
///
/// When the socket cannot be registered with the runtime. What clients do is never an error.
pub async fn serve(
    listener: StdListener,
    site: Arc<dyn Site>,
    web: Arc<Web>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), HttpError> {
    serve_within(Limits::default(), listener, site, web, shutdown).await
}

pub(super) async fn serve_within(
    limits: Limits,
    listener: StdListener,
    site: Arc<dyn Site>,
    web: Arc<Web>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), HttpError> {
    // SAFETY: a listener owns its descriptor, which stays the same and open until it is dropped.
    let listener = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }
        .map_err(|error| HttpError::Watch(error.into()))?;
    let answers = Arc::new(Answers::new(site, web, limits.answer));
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
            ready = listener.readable() => {
                let mut ready = ready.map_err(HttpError::Watch)?;
                let (mut new, end) = accept(ready.get_inner(), limits);
                connections.make_room(&mut new, limits.connections);
                for ((stream, from), activity, group) in new {
                    // Fails where descriptors or memory are short; then its client is closed.
                    let Ok(stream) = TcpStream::from_std(stream) else { continue };
                    let (answers, seen) = (Arc::clone(&answers), Arc::clone(&activity));
                    let task = connection(stream, from, answers, seen, closed.clone());
                    connections.add(task, activity, group);
                }
                match end {
                    None => short = false,
                    Some(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        short = false;
                        ready.clear_ready();
                    }
                    Some(error) => {
                        if !short {
                            tracing::warn!("the metrics socket takes no connections: {error}");
                        }
                        short = true;
                        let fewer = connections.len().saturating_sub(1);
                        connections.make_room(&mut Vec::<Accepted>::new(), fewer);
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
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

/// A connection that is not served yet.
type Accepted = ((StdStream, SocketAddr), Arc<Activity>, Group);

/// Takes what waits to be accepted, up to [`BATCH`], and says why there is no more. It is done at once, before
/// any of it costs more: who waits behind thousands of others that say nothing must not wait long.
fn accept(listener: &StdListener, limits: Limits) -> (Vec<Accepted>, Option<io::Error>) {
    let mut new = Vec::new();
    for _ in 0..BATCH {
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            // The client was gone before we took it.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => continue,
            Err(error) => return (new, Some(error)),
        };
        if stream.set_nonblocking(true).is_err() {
            continue;
        }
        let activity = Arc::new(Activity::new(limits, Phase::Greeting));
        // A request that is there already tells a client that waited from those who want nothing.
        if stream.peek(&mut [0]).is_ok_and(|length| length > 0) {
            activity.received();
        }
        new.push(((stream, from), activity, Group::of(from.ip())));
    }
    (new, None)
}

/// What the server sends to a client that sends these bytes and no more, whatever time it takes; at most so many
/// bytes. Call it in a runtime with time.
pub(crate) async fn replay(request: Vec<u8>, site: Arc<dyn Site>, most: usize) -> Vec<u8> {
    let limits = Limits::default();
    // Without a file there is nothing that could be wrong with it.
    let Ok(web) = Web::open(None) else {
        return Vec::new();
    };
    let shown = Shown {
        demand: Arc::clone(&web.current().demand),
        chain: Vec::new(),
    };
    let answers = Arc::new(Answers::new(site, Arc::new(web), limits.answer));
    let caller = Caller {
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        shown,
    };
    let (client, server) = tokio::io::duplex(most);
    let (_closing, closed) = watch::channel(false);
    let activity = Arc::new(Activity::new(limits, Phase::Asking));
    let (mut from_server, mut to_server) = tokio::io::split(client);
    let send = async move {
        // It may have hung up.
        drop(to_server.write_all(&request).await);
        drop(to_server.shutdown().await);
    };
    let mut answer = Vec::new();
    let receive = async { drop(from_server.read_to_end(&mut answer).await) };
    tokio::join!(
        http(server, caller, answers, activity, closed),
        send,
        receive
    );
    answer
}

/// Serves one connection until the client, a limit or the shutdown ends it.
async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    answers: Arc<Answers>,
    activity: Arc<Activity>,
    mut closed: watch::Receiver<bool>,
) {
    tokio::select! {
        // An error shows again when it is read.
        _ = stream.readable() => activity.received(),
        () = sleep_until(activity.deadline()) => return,
        _ = closed.changed() => return,
    }
    // Who says nothing costs next to nothing: no look at the files, no buffers, no room for all that follows.
    Box::pin(greeted(stream, from, answers, activity, closed)).await;
}

/// Serves one connection whose client has said something.
async fn greeted(
    stream: TcpStream,
    from: SocketAddr,
    answers: Arc<Answers>,
    activity: Arc<Activity>,
    mut closed: watch::Receiver<bool>,
) {
    let settings = answers.web().current();
    let mut caller = Caller {
        address: from.ip(),
        shown: Shown {
            demand: Arc::clone(&settings.demand),
            chain: Vec::new(),
        },
    };
    let config = settings.tls.clone();
    // Not for as long as the connection is open: there may be others by then.
    drop(settings);
    let Some(config) = config else {
        activity.set(Phase::Asking);
        return http(stream, caller, answers, activity, closed).await;
    };
    let stream = tokio::select! {
        // An error is the client's: it hung up, or it speaks no TLS that is good enough.
        accepted = TlsAcceptor::from(config).accept(stream) => match accepted {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!("no TLS with {from}: {error}"),
        },
        () = sleep_until(activity.deadline()) => return,
        _ = closed.changed() => return,
    };
    if let Some(chain) = stream.get_ref().1.peer_certificates() {
        caller.shown.chain = chain.iter().map(|one| one.clone().into_owned()).collect();
    }
    activity.set(Phase::Asking);
    http(stream, caller, answers, activity, closed).await;
}

/// Serves the requests of one connection.
async fn http<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    caller: Caller,
    answers: Arc<Answers>,
    activity: Arc<Activity>,
    mut closed: watch::Receiver<bool>,
) {
    let service = service_fn(|request| {
        activity.set(Phase::Answering);
        let (answers, activity, caller) = (&answers, &activity, &caller);
        async move {
            let (answer, known) = answers.answer(&request, caller).await;
            activity.answered(known);
            Ok::<_, Infallible>(answer)
        }
    });
    let watched = Watched::new(stream, Arc::clone(&activity));
    let connection = http1::Builder::new()
        .max_buf_size(HEADER_BYTES)
        // The time-outs are ours: hyper's one for headers also runs between requests, so its 10 s
        // would take every scraper's connection away.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(watched), service);
    let mut connection = pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            // An error is the client's: it hung up or sent what is no request.
            _ = connection.as_mut() => return,
            () = sleep_until(activity.deadline().min(Instant::now() + LOOK)) => {
                // It moves, either way, with what the connection does meanwhile.
                if activity.deadline() <= Instant::now() {
                    return;
                }
            }
            _ = closed.changed(), if !closing => {
                if activity.rank().phase == Phase::Asking {
                    return;
                }
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
