//! The daemon in the gateway: start, scrape, stop.

use std::{
    env,
    io::{BufRead as _, BufReader, Read, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

use super::namespace::{Entrance, Namespace};
use crate::cmd;

/// Its default address, in the gateway's namespace.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9680);
/// How long a scrape may take.
const SCRAPE: Duration = Duration::from_secs(5);
/// How long it may take to detach and end.
const STOP: Duration = Duration::from_secs(5);
/// How many lines of each stream are kept.
const KEPT: usize = 20;

/// A running `peerwatch run`; stopped on drop, as a service manager would.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    gateway: Entrance,
    packets: Lines,
    diagnostics: Lines,
}

impl Daemon {
    /// Starts it, as a user would without a configuration.
    ///
    /// # Errors
    ///
    /// When it does not start. Whether it gets ready is for [`Daemon::is_ready`].
    pub(super) fn start(gateway: &Namespace, binary: &Path) -> Result<Self> {
        let mut command = Command::new(binary);
        command
            // Not the file that this machine may have: the demo is the same everywhere.
            .args(["run", "--config", "/dev/null"])
            .env_remove("LD_LIBRARY_PATH")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C goes to a whole process group. The daemon is ours to stop.
            .process_group(0);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("PEERWATCH_") {
                command.env_remove(name);
            }
        }
        let mut child = gateway.run(|| {
            // The thread's blocked signals would be inherited, and the daemon needs them.
            SigSet::empty().thread_set_mask()?;
            command
                .spawn()
                .with_context(|| format!("cannot start `{}`", cmd::display(&command)))
        })?;
        let packets = Lines::read(child.stdout.take());
        let diagnostics = Lines::read(child.stderr.take());
        Ok(Self {
            child,
            gateway: gateway.entrance()?,
            packets,
            diagnostics,
        })
    }

    /// Whether its hooks are attached.
    ///
    /// # Errors
    ///
    /// When it has ended, with what it said.
    pub(super) fn is_ready(&mut self) -> Result<bool> {
        if let Some(status) = self.child.try_wait()? {
            self.diagnostics.finish();
            bail!("the daemon ended: {status}\n{}", self.errors());
        }
        Ok(matches!(self.get("/readyz"), Ok((200, _))))
    }

    /// A scrape.
    ///
    /// # Errors
    ///
    /// When it has ended or does not answer, with what it said.
    pub(super) fn metrics(&mut self) -> Result<String> {
        match self.get("/metrics") {
            Ok((200, body)) => Ok(body),
            Ok((status, body)) => bail!("the daemon answers a scrape by {status}: {body}"),
            Err(error) => {
                // Where it has ended, that is the better story.
                self.is_ready()?;
                Err(error).with_context(|| format!("no scrape\n{}", self.errors()))
            }
        }
    }

    /// The last line of its packet log.
    pub(super) fn last_packet(&self) -> Option<String> {
        self.packets.all().pop()
    }

    /// What it said on standard error.
    pub(super) fn errors(&self) -> String {
        self.diagnostics.all().join("\n")
    }

    fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = self
            .gateway
            .run(|| Ok(TcpStream::connect_timeout(&ADDRESS, SCRAPE)?))?;
        stream.set_read_timeout(Some(SCRAPE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP head")?;
        let status = head.split(' ').nth(1).context("no HTTP status")?;
        Ok((status.parse()?, body.to_owned()))
    }

    fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        let deadline = Instant::now() + STOP;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                bail!("it did not end within {} s and was killed", STOP.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("the daemon of the demo: {error:#}");
        }
        self.packets.finish();
        self.diagnostics.finish();
    }
}

/// The last lines of a stream, read by a thread so that the writer never waits.
#[derive(Debug)]
struct Lines {
    kept: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    fn read(stream: Option<impl Read + Send + 'static>) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let mine = Arc::clone(&kept);
        let thread = stream.map(|stream| {
            thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n') {
                    let Ok(line) = line else { return };
                    let mut kept = mine.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() == KEPT {
                        kept.remove(0);
                    }
                    kept.push(String::from_utf8_lossy(&line).into_owned());
                }
            })
        });
        Self { kept, thread }
    }

    fn all(&self) -> Vec<String> {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads to the end; the writer has ended.
    fn finish(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the reader of the daemon's output panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let text = (0..50).map(|line| line.to_string()).collect::<Vec<_>>();
        let text = text.join("\n");
        let mut lines = Lines::read(Some(std::io::Cursor::new(text)));
        lines.finish();
        let kept = lines.all();
        assert_eq!((kept.len(), kept[0].as_str()), (KEPT, "30"));
        assert_eq!(kept.last().unwrap(), "49");
    }
}
