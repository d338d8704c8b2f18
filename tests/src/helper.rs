//! The test binary as a child process: for sockets that must belong to a process in a cgroup of its
//! own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::bpf::DenyingCgroup;
use crate::netns::NetNs;
use crate::packet::Protocol;
use crate::send::{connects_here, datagrams_here};

/// Tells the test binary to be a helper, and which.
const VARIABLE: &str = "PEERWATCH_TEST_HELPER";

/// What a helper does.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// Holds a listening socket.
    Listen,
    /// Sends this many datagrams or SYNs when told to.
    Send(u64),
}

/// A helper process; ends on drop.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Helper {
    /// Starts it in a namespace and a cgroup and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it can't start or can't open its socket.
    pub fn start(
        netns: &NetNs,
        cgroup: &DenyingCgroup,
        task: Task,
        protocol: Protocol,
        address: SocketAddr,
    ) -> Result<Self> {
        let words = match task {
            Task::Listen => format!("listen {} {address} 0", protocol.name()),
            Task::Send(count) => format!("send {} {address} {count}", protocol.name()),
        };
        let procs = std::ffi::CString::new(cgroup.procs().into_os_string().into_encoded_bytes())?;
        let mut command = netns.command(std::env::current_exe()?)?;
        // SAFETY: between fork and exec only open(2), write(2) and close(2) are called, on a path
        // that was made before the fork.
        unsafe {
            command.pre_exec(move || {
                let fd = libc::open(procs.as_ptr(), libc::O_WRONLY);
                let written = libc::write(fd, c"0".as_ptr().cast(), 1);
                let result = if written == 1 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                };
                libc::close(fd);
                result
            });
        }
        command
            .env(VARIABLE, words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no stdout")?;
        let this = Self { child, stdin };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the helper said {line:?}");
        Ok(this)
    }

    /// Lets it do its task to the end.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn finish(mut self) -> Result<()> {
        // End of input is the word to go.
        self.stdin = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "the helper ended with {status}");
        Ok(())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.stdin = None;
        if let Err(error) = self.child.wait() {
            eprintln!("cannot wait for a helper: {error}");
        }
    }
}

/// Does a helper's work when this process was started as one: `true` then, and the process should
/// end.
///
/// # Errors
///
/// When the work fails.
pub fn run_as_helper() -> Result<bool> {
    let Ok(words) = std::env::var(VARIABLE) else {
        return Ok(false);
    };
    let words: Vec<&str> = words.split(' ').collect();
    let [task, protocol, address, count] = words[..] else {
        bail!("bad words {words:?}")
    };
    let address: SocketAddr = address.parse()?;
    let count: u64 = count.parse()?;
    match (task, protocol) {
        ("listen", "tcp") => {
            let _socket = TcpListener::bind(address)?;
            ready_and_wait()?;
        }
        ("listen", "udp") => {
            let _socket = UdpSocket::bind(address)?;
            ready_and_wait()?;
        }
        ("send", "tcp") => {
            ready_and_wait()?;
            connects_here(address, count)?;
        }
        ("send", "udp") => {
            ready_and_wait()?;
            datagrams_here(address, crate::case::PAYLOAD, count)?;
        }
        _ => bail!("bad words {words:?}"),
    }
    Ok(true)
}

fn ready_and_wait() -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(b"ready\n")?;
    stdout.flush()?;
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    Ok(())
}
