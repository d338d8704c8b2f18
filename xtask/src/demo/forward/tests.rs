//! Against real sockets on the loopback device, without a namespace.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
};

use super::*;

/// How long anything may take, on a machine with other things to do.
const DEADLINE: Duration = Duration::from_mins(1);

/// A forwarder to a server that this process is.
struct Bench {
    address: SocketAddr,
    /// Its thread, by the kernel's number.
    number: i32,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Bench {
    fn to(server: SocketAddr) -> Self {
        let mut way = Way::open(0).unwrap();
        way.to = server;
        let address = way.address().unwrap();
        let (stopped, stop) = io::pipe().unwrap();
        let (says, said) = mpsc::channel();
        let thread = thread::spawn(move || {
            says.send(nix::unistd::gettid().as_raw()).unwrap();
            forward(&[way], &stopped)
        });
        Self {
            address,
            number: said.recv().unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// What the thread has used of a processor, in hundredths of a second (proc(5)).
    fn ticks(&self) -> u64 {
        let stat = format!("/proc/self/task/{}/stat", self.number);
        let stat = std::fs::read_to_string(stat).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields = fields.split(' ').skip(11).take(2);
        fields.map(|field| field.parse::<u64>().unwrap()).sum()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop = None;
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// A server that answers with what it was told, once it was told all.
fn repeater() -> SocketAddr {
    let listener = listener();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut told = Vec::new();
                if stream.read_to_end(&mut told).is_ok() {
                    stream.write_all(&told).unwrap_or_default();
                }
            });
        }
    });
    address
}

/// Says something, closes its half, and hears the same.
fn talk(mut stream: TcpStream, bytes: &[u8]) {
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert!(heard == bytes, "{} of {} bytes", heard.len(), bytes.len());
    });
}

/// Waits for the end of a connection, by a reset or without.
fn ends(mut stream: &TcpStream) {
    match stream.read(&mut [0]) {
        Ok(length) => assert_eq!(length, 0, "it goes on"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn both_ways_pass_and_the_end_of_one_is_not_that_of_the_other() {
    let bench = Bench::to(repeater());
    // Many times what is kept of a way.
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
    talk(bench.connect(), &bytes);
    talk(bench.connect(), b"short");
}

#[test]
fn a_client_that_reads_nothing_stops_no_other() {
    let listener = listener();
    let bench = Bench::to(listener.local_addr().unwrap());
    let slow = bench.connect();
    let (mut flood, _) = listener.accept().unwrap();
    flood.set_nonblocking(true).unwrap();
    let chunk = [7; 8 * 1024];
    let start = Instant::now();
    let mut full = 0;
    // Full for a while: nothing moves any more.
    while full < 20 {
        assert!(start.elapsed() < DEADLINE, "it takes all there is");
        if flood.write(&chunk).is_ok_and(|length| length > 0) {
            full = 0;
        } else {
            full += 1;
            thread::sleep(Duration::from_millis(5));
        }
    }
    let mut other = bench.connect();
    let (mut served, _) = listener.accept().unwrap();
    served.write_all(b"x").unwrap();
    other.read_exact(&mut [0]).unwrap();
    drop(slow);
}

#[test]
fn one_more_than_the_most_ends_the_most_silent() {
    let listener = listener();
    let bench = Bench::to(listener.local_addr().unwrap());
    let mut open = Vec::new();
    for _ in 0..MOST {
        let client = bench.connect();
        open.push((client, listener.accept().unwrap().0));
    }
    // All but the third say something.
    for (index, (client, server)) in open.iter_mut().enumerate() {
        if index != 2 {
            client.write_all(b"x").unwrap();
            server.read_exact(&mut [0]).unwrap();
        }
    }
    let mut last = bench.connect();
    let (mut served, _) = listener.accept().unwrap();
    served.write_all(b"y").unwrap();
    last.read_exact(&mut [0]).unwrap();
    ends(&open[2].0);
    let second = &mut open[1];
    second.0.write_all(b"x").unwrap();
    second.1.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_port_without_a_server_ends_the_connection() {
    let nobody = listener().local_addr().unwrap();
    let bench = Bench::to(nobody);
    ends(&bench.connect());
}

/// A client that said all, and is gone before it heard anything: its socket reports that for ever.
#[test]
fn a_half_open_connection_costs_no_time() {
    let listener = listener();
    let bench = Bench::to(listener.local_addr().unwrap());
    let client = bench.connect();
    let (mut server, _) = listener.accept().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    // Closed by a reset.
    let socket = socket2::SockRef::from(&client);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let before = bench.ticks();
    thread::sleep(Duration::from_millis(400));
    let spent = bench.ticks() - before;
    assert!(spent < 20, "{spent} hundredths of a second, of 40");
}

#[test]
fn a_port_that_is_taken_is_replaced() {
    let taken = listener();
    let port = taken.local_addr().unwrap().port();
    let way = Way::open(port).unwrap();
    assert_ne!(way.address().unwrap().port(), port);
    assert_eq!(way.to.port(), port);
}
