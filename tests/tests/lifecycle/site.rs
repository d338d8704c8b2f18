//! Two hosts, a link between them, and the binary in one of them.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use monitor_tests::daemon::{Daemon, binary};
use monitor_tests::lab::quiet;
use monitor_tests::netns::{NetNs, TempDir, remove_leftovers, unique_prefix};
use monitor_tests::scrape::{Counts, Series};
use monitor_tests::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The host with the daemon, on `lan0`.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// The other one, on its `eth0`.
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
/// Payload of a datagram here.
pub(crate) const PAYLOAD: usize = 16;
/// Bytes of its IP packet.
pub(crate) const LENGTH: u64 = 20 + 8 + PAYLOAD as u64;
/// How long starting, or refusing to, may take on a busy machine.
pub(crate) const START: Duration = Duration::from_secs(30);

/// The hosts and a directory for files. Dropped in this order, after what runs in them.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) host: NetNs,
    pub(crate) peer: NetNs,
    pub(crate) temp: TempDir,
}

impl Site {
    /// Makes two quiet hosts, `lan0` with [`HERE`] and `eth0` with [`THERE`].
    pub(crate) fn create() -> Result<Self> {
        static LEFTOVERS: OnceLock<Result<(), String>> = OnceLock::new();
        ensure!(
            nix::unistd::geteuid().is_root(),
            "these tests need root: run `cargo xtask test`"
        );
        LEFTOVERS
            .get_or_init(|| remove_leftovers().map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(anyhow::Error::msg)?;
        let prefix = unique_prefix();
        let temp = TempDir::create(&prefix)?;
        let host = NetNs::create(&format!("{prefix}host"))?;
        let peer = NetNs::create(&format!("{prefix}peer"))?;
        quiet(&host)?;
        quiet(&peer)?;
        let site = Self { host, peer, temp };
        site.link("lan0", "eth0", 1)?;
        Ok(site)
    }

    /// Joins the hosts by one more link, 10.77.`net`.1 and .2, neighbours known.
    pub(crate) fn link(&self, here: &str, there: &str, net: u8) -> Result<()> {
        let mac = |host: u8| format!("02:77:00:00:{net:02x}:{host:02x}");
        self.host.ip_batch(&format!(
            "link add {here} address {} type veth peer name {there} address {} netns {}\n\
             address add 10.77.{net}.1/24 dev {here}\n\
             link set {here} up\n\
             neigh replace 10.77.{net}.2 lladdr {} nud permanent dev {here}\n",
            mac(1),
            mac(2),
            self.peer.name(),
            mac(2),
        ))?;
        self.peer.ip_batch(&format!(
            "address add 10.77.{net}.2/24 dev {there}\n\
             link set {there} up\n\
             neigh replace 10.77.{net}.1 lladdr {} nud permanent dev {there}\n",
            mac(1)
        ))
    }

    /// Starts the daemon here and waits until it is ready.
    pub(crate) fn daemon(&self, flags: &[&str]) -> Result<Daemon> {
        // An empty file, so that one in /etc does not matter.
        let mut all = vec!["--config", "/dev/null"];
        if flags.contains(&"--config") {
            all.clear();
        }
        all.extend(flags);
        Daemon::start_with(&self.host, self.temp.path(), &all)
    }

    /// The packets of a firewall's input chain that match are dropped here.
    pub(crate) fn drop_input(&self, matching: &str) -> Result<()> {
        self.host.nft(&format!(
            "table inet lifecycle {{ chain input {{ \
             type filter hook input priority 0; {matching} drop; }}; }}"
        ))
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.temp.path().join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

/// Sends datagrams from one socket of a host; returns its address.
pub(crate) fn datagrams(from: &NetNs, to: (Ipv4Addr, u16), count: u64) -> Result<SocketAddr> {
    from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for _ in 0..count {
            // Not connected: an ICMP error must not become an error of the next one.
            socket.send_to(&[0x5a; PAYLOAD], to)?;
        }
        let port = socket.local_addr()?.port();
        socket.connect(to)?;
        Ok((socket.local_addr()?.ip(), port).into())
    })
}

/// A count of `packets_total`, UDP requests over IPv4.
pub(crate) fn packets(counts: &Counts, traffic: &str, direction: &str, verdict: &str) -> u64 {
    let series = packets_series(traffic, direction, verdict);
    counts.get(&series).copied().unwrap_or(0)
}

/// The series of [`packets`].
pub(crate) fn packets_series(traffic: &str, direction: &str, verdict: &str) -> Series {
    Series::new(
        "peerwatch_packets_total",
        &[
            ("traffic", traffic),
            ("protocol", "udp"),
            ("family", "ipv4"),
            ("direction", direction),
            ("flow", "request"),
            ("verdict", verdict),
        ],
    )
}

/// All packets of `packets_total`.
pub(crate) fn all_packets(counts: &Counts) -> u64 {
    let packets = counts
        .iter()
        .filter(|(series, _)| series.metric() == "peerwatch_packets_total");
    packets.map(|(_, count)| count).sum()
}

/// A command with the binary in a host, without the user's own settings.
pub(crate) fn command(host: &NetNs, arguments: &[&str]) -> Result<Command> {
    wrapped(host, &[], arguments)
}

/// The same, started by another program: its words come first.
pub(crate) fn wrapped(host: &NetNs, wrapper: &[&str], arguments: &[&str]) -> Result<Command> {
    let binary = binary()?;
    let mut command = match wrapper {
        [] => host.command(binary)?,
        [program, words @ ..] => {
            let mut command = host.command(program)?;
            command.args(words).arg(binary);
            command
        }
    };
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PEERWATCH_") {
            command.env_remove(name);
        }
    }
    // The host's own pins and files are nobody's business here.
    command.env("PEERWATCH_EPHEMERAL", "1");
    Ok(command)
}

/// How a process ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A process with its output in files; killed on drop.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts it; `name` is that of its files in the site's directory.
    pub(crate) fn start(mut command: Command, site: &Site, name: &str) -> Result<Self> {
        let stdout = site.temp.path().join(format!("{name}.stdout"));
        let stderr = site.temp.path().join(format!("{name}.stderr"));
        command
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Self {
            child,
            stdout,
            stderr,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stderr(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.stderr)?)
    }

    /// Waits until `condition` holds; an error when the process ends before.
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        until(what, START, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", self.stderr()?);
            }
            Ok(condition()?.then_some(()))
        })
        .with_context(|| self.stderr().unwrap_or_default())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?)
    }

    /// Waits for its end.
    pub(crate) fn outcome(mut self) -> Result<Outcome> {
        let status = until("the process ends", START, || Ok(self.child.try_wait()?))
            .with_context(|| self.stderr().unwrap_or_default())?;
        Ok(Outcome {
            code: status.code(),
            stdout: std::fs::read_to_string(&self.stdout)?,
            stderr: self.stderr()?,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It may end between the question and the signal; then there is nothing to do.
        if self.child.kill().is_ok()
            && let Err(error) = self.child.wait()
        {
            eprintln!("cannot wait for process {}: {error}", self.pid());
        }
    }
}
