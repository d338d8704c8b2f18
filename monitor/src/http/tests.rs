//! Against real sockets on the loopback device.

mod limits;
mod pages;
mod protected;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::activity::Limits;
use super::server::serve_within;
use super::{HttpError, Protection, Site, Web, bind, describe, exposure};

/// Longer than anything here takes, short enough to notice a hang.
const DEADLINE: Duration = Duration::from_secs(20);

/// A site whose answers the test sets.
struct Fake {
    metrics: Mutex<Result<String, String>>,
    status: Mutex<Result<String, String>>,
    ready: Mutex<Result<(), String>>,
    /// Locked by a test that wants a scrape to take as long as it likes.
    gate: Mutex<()>,
    running: AtomicU32,
    most_running: AtomicU32,
    scrapes: AtomicU32,
    /// Whether the last status had peers.
    peers: Mutex<Option<bool>>,
}

impl Site for Fake {
    fn metrics(&self) -> Result<String, String> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        self.scrapes.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock().unwrap());
        self.running.fetch_sub(1, Ordering::SeqCst);
        let metrics = self.metrics.lock().unwrap().clone();
        assert!(metrics != Err("panic".to_owned()), "asked to panic");
        metrics
    }

    fn status(&self, peers: bool) -> Result<String, String> {
        *self.peers.lock().unwrap() = Some(peers);
        self.status.lock().unwrap().clone()
    }

    fn ready(&self) -> Result<(), String> {
        self.ready.lock().unwrap().clone()
    }
}

/// Makes scrapes of a site wait until the function that it gives is called.
async fn hold_scrapes(site: &Arc<Fake>) -> impl FnOnce() {
    let site = Arc::clone(site);
    let (opened, open) = std::sync::mpsc::channel::<()>();
    let (locked, wait) = oneshot::channel();
    let keeper = std::thread::spawn(move || {
        let gate = site.gate.lock().unwrap();
        locked.send(()).unwrap();
        open.recv().unwrap();
        drop(gate);
    });
    wait.await.unwrap();
    move || {
        opened.send(()).unwrap();
        keeper.join().unwrap();
    }
}

struct Server {
    address: SocketAddr,
    site: Arc<Fake>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), HttpError>>,
}

fn start(limits: Limits) -> Server {
    start_with(limits, Web::open(None).unwrap())
}

fn start_with(limits: Limits, web: Web) -> Server {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let site = Arc::new(Fake {
        metrics: Mutex::new(Ok("# TYPE a counter\na 1\n".repeat(2000))),
        status: Mutex::new(Ok("{\"version\":1}\n".to_owned())),
        ready: Mutex::new(Ok(())),
        gate: Mutex::new(()),
        running: AtomicU32::new(0),
        most_running: AtomicU32::new(0),
        scrapes: AtomicU32::new(0),
        peers: Mutex::new(None),
    });
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { stopped.await.unwrap() };
    let shown = Arc::clone(&site) as Arc<dyn Site>;
    let task = tokio::spawn(serve_within(
        limits,
        listener,
        shown,
        Arc::new(web),
        shutdown,
    ));
    Server {
        address,
        site,
        stop,
        task,
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    async fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n");
        split(&self.send(request.as_bytes()).await)
    }
}

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    match read.expect("the server closes in time") {
        // A reset after the answer is the server closing with bytes of ours unread.
        Ok(_) => answer,
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => answer,
        Err(error) => panic!("{error}"),
    }
}

/// Head and body.
fn split(answer: &[u8]) -> (String, Vec<u8>) {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    (head, answer[end..].to_vec())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_bad_address_is_explained() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let text = bind(address).unwrap_err().to_string();
    let port = address.port();
    assert_eq!(
        text,
        format!(
            "127.0.0.1:{port} is in use by another program; choose another address with --listen, \
             or find that program with `ss -ltnp 'sport = :{port}'`"
        )
    );
    // RFC 5737: an address for documentation, nobody's.
    let text = bind("192.0.2.1:9680".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "192.0.2.1:9680 is not an address of this host; choose one of `ip address` with --listen, \
         or 0.0.0.0:9680 for all of them"
    );
}

#[test]
fn the_ipv6_wildcard_takes_ipv4() {
    let listener = bind("[::]:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
}

#[test]
fn the_first_line_says_who_can_reach_it() {
    let open = Protection::default();
    let tls = Protection { tls: true, ..open };
    let users = Protection { users: true, ..tls };
    let certificates = Protection {
        certificates: true,
        ..tls
    };
    for (address, protection, wanted) in [
        (
            "127.0.0.1:9680",
            open,
            "http://127.0.0.1:9680/metrics (this host only; --listen [::]:9680 for others)",
        ),
        (
            "[::1]:80",
            users,
            "https://[::1]:80/metrics (this host only with a password; --listen [::]:80 for others)",
        ),
        (
            "[::]:9680",
            open,
            "http://[::]:9680/metrics (anyone who can reach this host)",
        ),
        (
            "10.0.0.1:9680",
            tls,
            "https://10.0.0.1:9680/metrics (anyone who can reach this host)",
        ),
        (
            "10.0.0.1:9680",
            users,
            "https://10.0.0.1:9680/metrics (with a password)",
        ),
        (
            "10.0.0.1:9680",
            certificates,
            "https://10.0.0.1:9680/metrics (with a certificate)",
        ),
    ] {
        let line = describe(address.parse().unwrap(), protection);
        assert_eq!(line, format!("metrics on {wanted}"));
    }
}

#[test]
fn an_open_door_is_warned_of() {
    let of = |address: &str, tls, users| {
        let protection = Protection {
            tls,
            users,
            certificates: false,
        };
        exposure(address.parse().unwrap(), protection)
    };
    assert_eq!(of("127.0.0.1:1", false, false), None);
    assert_eq!(of("[::1]:1", false, true), None);
    assert_eq!(of("[::]:1", true, true), None);
    let open = of("[::]:1", true, false).unwrap();
    assert!(open.starts_with("everybody who can reach [::]:1 can read the metrics"));
    let clear = of("10.0.0.1:1", false, true).unwrap();
    assert!(clear.starts_with("passwords for 10.0.0.1:1 go over the network in clear"));
}
