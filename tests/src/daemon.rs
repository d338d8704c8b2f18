//! The real binary, run in a namespace, and scrapes of it.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::expect::COMPARED;
use crate::netns::NetNs;
use crate::scrape::{Counts, parse};
use crate::wait::{DEADLINE, scaled, until};

/// Where the daemon listens, inside its namespace.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9680);

/// Loading and attaching; two labs start side by side on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How a daemon is started.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Flags of `peerwatch run`.
    pub flags: &'a [&'a str],
    /// Variables of its environment.
    pub environment: &'a [(&'a str, &'a str)],
    /// Words of a program that starts it; none for itself.
    pub wrapper: &'a [&'a str],
    /// Files that are empty for it, in a mount namespace of its own.
    pub hidden: &'a [&'a str],
    /// Where its standard output goes; none for a file in the folder of the lab.
    pub stdout: Option<&'a Path>,
    /// Whether it has to become ready: without some hook it serves, and never is.
    pub ready: bool,
    /// Whether anything is waited for at all.
    pub awaited: bool,
}

impl Default for Start<'_> {
    fn default() -> Self {
        Self {
            flags: &[],
            environment: &[],
            wrapper: &[],
            hidden: &[],
            stdout: None,
            ready: true,
            awaited: true,
        }
    }
}

/// Makes a command's process see these files empty: `/dev/null` lies over them, in a mount namespace of
/// its own.
///
/// # Errors
///
/// When a path has a zero byte.
pub fn hide(command: &mut Command, paths: &[&str]) -> Result<()> {
    let over: Vec<_> = paths.iter().map(|path| ("/dev/null", *path)).collect();
    lay_over(command, &over)
}

/// Makes a command's process see one path where another one is, in a mount namespace of its own: what is
/// seen, and where.
///
/// # Errors
///
/// When a path has a zero byte.
pub fn lay_over(command: &mut Command, paths: &[(&str, &str)]) -> Result<()> {
    let paths: Vec<(CString, CString)> = paths
        .iter()
        .map(|(source, target)| Ok((CString::new(*source)?, CString::new(*target)?)))
        .collect::<Result<_>>()?;
    let mount = |source: &CStr, target: &CStr, flags| {
        // SAFETY: the strings live through the call; there are no other arguments in memory.
        let result = unsafe {
            let (none, data) = (std::ptr::null(), std::ptr::null());
            libc::mount(source.as_ptr(), target.as_ptr(), none, flags, data)
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: between fork and exec only unshare(2) and mount(2) are called, which are async-signal-safe,
    // on strings that were made before the fork.
    unsafe {
        command.pre_exec(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)?;
            paths
                .iter()
                .try_for_each(|(source, target)| mount(source, target, libc::MS_BIND))
        });
    }
    Ok(())
}

/// A running `peerwatch run`; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    netns: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Daemon {
    /// Starts it in a namespace and waits until it is ready. Its output goes to files in `directory`.
    ///
    /// # Errors
    ///
    /// When there is no binary, or it ends or is not ready in time: with what it wrote to stderr.
    pub fn start(netns: &NetNs, directory: &Path) -> Result<Self> {
        Self::start_with(netns, directory, &[])
    }

    /// The same with more flags of `peerwatch run`.
    ///
    /// # Errors
    ///
    /// As [`Daemon::start`].
    pub fn start_with(netns: &NetNs, directory: &Path, flags: &[&str]) -> Result<Self> {
        let start = Start {
            flags,
            ..Start::default()
        };
        Self::start_as(netns, directory, &start)
    }

    /// The same in any way.
    ///
    /// # Errors
    ///
    /// As [`Daemon::start`].
    pub fn start_as(netns: &NetNs, directory: &Path, start: &Start<'_>) -> Result<Self> {
        let stdout = start
            .stdout
            .map_or_else(|| directory.join("stdout"), Path::to_path_buf);
        let stderr = directory.join("stderr");
        let mut words: Vec<OsString> = start.wrapper.iter().map(Into::into).collect();
        words.push(binary()?.into_os_string());
        let mut command = netns.command(&words[0])?;
        command.args(&words[1..]).arg("run").args(start.flags);
        for (name, _) in std::env::vars_os() {
            // The user's own settings must not change what is tested.
            if name.to_string_lossy().starts_with("PEERWATCH_") {
                command.env_remove(name);
            }
        }
        if !start.flags.contains(&"--bpffs") {
            // The host's own pins and files are nobody's business here.
            command.env("PEERWATCH_EPHEMERAL", "1");
        }
        command.envs(start.environment.iter().copied());
        if !start.hidden.is_empty() {
            hide(&mut command, start.hidden)?;
        }
        command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let path = format!("/run/netns/{}", netns.name());
        let mut this = Self {
            child,
            netns: path,
            stdout,
            stderr,
        };
        if !start.awaited {
            return Ok(this);
        }
        let path = if start.ready { "/readyz" } else { "/healthz" };
        until("the daemon is ready", START_DEADLINE, || {
            if let Some(status) = this.child.try_wait()? {
                bail!("the daemon ended: {status}: {}", this.errors());
            }
            Ok(this.get(path).ok().filter(|(status, _)| *status == 200))
        })
        .with_context(|| this.errors())?;
        Ok(this)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stderr so far.
    #[must_use]
    pub fn errors(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_else(|error| error.to_string())
    }

    /// What it wrote to stdout so far: the packet log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap_or_else(|error| error.to_string())
    }

    /// Fetches a path: the status and the body.
    ///
    /// # Errors
    ///
    /// When it doesn't answer, or not as HTTP.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let namespace = File::open(&self.netns)?;
        let deadline = scaled(DEADLINE)?;
        let mut stream = std::thread::scope(|scope| {
            let connect = scope.spawn(move || -> Result<TcpStream> {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(TcpStream::connect_timeout(&LISTEN, deadline)?)
            });
            connect
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        stream.set_read_timeout(Some(deadline))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {LISTEN}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .with_context(|| format!("GET {path}"))?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("no end of the HTTP head")?;
        let status = head
            .split_whitespace()
            .nth(1)
            .context("no HTTP status")?
            .parse()?;
        ensure!(
            !head.to_ascii_lowercase().contains("transfer-encoding"),
            "an encoded answer to a plain request: {head}"
        );
        Ok((status, body.to_owned()))
    }

    /// One scrape: the counters that tests compare.
    ///
    /// # Errors
    ///
    /// When it fails or is not of the text format.
    pub fn scrape(&self) -> Result<Counts> {
        self.scrape_of(&COMPARED)
    }

    /// One scrape: the counters with these names, without prefix.
    ///
    /// # Errors
    ///
    /// As [`Daemon::scrape`].
    pub fn scrape_of(&self, names: &[&str]) -> Result<Counts> {
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "/metrics: {status}: {body}");
        parse(&body, names)
    }

    /// Scrapes until two in a row agree.
    ///
    /// # Errors
    ///
    /// When a scrape fails or the counters don't come to rest.
    pub fn settled(&self) -> Result<Counts> {
        let mut last = self.scrape()?;
        until("the counters rest", DEADLINE, || {
            // Far longer than a packet takes through the lab.
            std::thread::sleep(Duration::from_millis(10));
            let now = self.scrape()?;
            if now == last {
                return Ok(Some(now));
            }
            last = now;
            Ok(None)
        })
    }

    /// Ends it as nobody should: it can do nothing about it.
    ///
    /// # Errors
    ///
    /// When it has ended before.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the daemon had ended before: {status}: {}", self.errors());
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Finds its namespace through its process from now on: the name may go.
    pub fn find_by_process(&mut self) {
        self.netns = format!("/proc/{}/ns/net", self.pid());
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?)
    }

    /// Ends it as a service manager would.
    ///
    /// # Errors
    ///
    /// When it does not end in time, or not with exit code 0.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the daemon had ended before: {status}: {}", self.errors());
        }
        self.signal(Signal::SIGTERM)?;
        let status = until("the daemon ends", DEADLINE, || Ok(self.child.try_wait()?))?;
        ensure!(
            status.code() == Some(0),
            "the daemon ended with {status}: {}",
            self.errors()
        );
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) || crate::netns::keep() {
            return;
        }
        // It may end between the question and the signal; then there is nothing to do.
        if self.child.kill().is_ok()
            && let Err(error) = self.child.wait()
        {
            eprintln!("cannot wait for the daemon: {error}");
        }
    }
}

/// The binary under test: `PEERWATCH_BIN`, or the newest beside the test binary.
///
/// # Errors
///
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PEERWATCH_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    // target/<profile>/deps/<test binary>
    let target = here
        .ancestors()
        .nth(3)
        .context("the test binary is in no target directory")?;
    ["release", "debug"]
        .map(|profile| target.join(profile).join("peerwatch"))
        .into_iter()
        .filter(|path| path.is_file())
        .max_by_key(|path| {
            path.metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
        })
        .with_context(|| format!("no peerwatch in {}; build it first", target.display()))
}
