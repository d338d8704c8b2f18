//! From one daemon to the next: what is counted and followed while none runs, by real packets.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::ProgramInfo;

use crate::attempts::lab::Lab;
use crate::daemon::{Start, binary};
use crate::netns::{TempDir, keep, run, unique_prefix};
use crate::scrape::{Counts, Series, parse_values};

mod cost;
pub mod ends;
pub mod kills;
pub mod load;
pub mod places;
pub mod tampered;

/// A test: its name, and what it does.
pub type Trial = (&'static str, fn() -> Result<()>);

/// All of them.
#[must_use]
pub fn trials() -> Vec<Trial> {
    [
        kills::TRIALS,
        ends::TRIALS,
        places::TRIALS,
        tampered::TRIALS,
        cost::TRIALS,
    ]
    .concat()
}

/// Those that differ from kernel to kernel.
pub const OF_KERNELS: &[Trial] = &[
    ("restarts/killed", || {
        kills::killed(&[], crate::expect::Family::V4)
    }),
    ("restarts/swapped", kills::swapped),
    ("restarts/uninstall", || ends::uninstall(&[])),
];

/// Whether this is a virtual machine with another kernel, where everything takes its time.
pub(crate) fn in_vm() -> bool {
    std::env::var_os("PEERWATCH_VM").is_some()
}

/// A lab with a BPF file system and a folder of its own for what outlasts its daemons.
#[derive(Debug)]
pub struct Rig {
    /// The lab.
    pub lab: Lab,
    /// Where the BPF file system is.
    pub bpffs: PathBuf,
    /// Where the state file is.
    pub state: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
    _mount: Mount,
}

/// The traffics of a rig: one for each thing that the load does, and one that nobody uses.
pub const TRAFFICS: &str = r#"builtin_traffics = false
log_packets = "none"
[[traffic]]
name = "passed"
ports = ["udp/7701", "tcp/7701"]
[[traffic]]
name = "barred"
ports = ["udp/7702", "tcp/7702"]
[[traffic]]
name = "unused"
ports = ["tcp/7703"]
"#;

/// A BPF file system of its own.
#[derive(Debug)]
pub struct Mount {
    /// Where it is.
    pub path: PathBuf,
    _folder: TempDir,
}

impl Mount {
    /// Mounts one, with these options.
    ///
    /// # Errors
    ///
    /// When that fails.
    pub fn new(options: &str) -> Result<Self> {
        let folder = TempDir::create(&format!("{}bpf", unique_prefix()))?;
        let path = folder.path().join("bpf");
        std::fs::create_dir(&path)?;
        run(Command::new("mount")
            .args(["-t", "bpf", "-o", options, "bpf"])
            .arg(&path))?;
        Ok(Self {
            path,
            _folder: folder,
        })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if keep() {
            return;
        }
        // What is pinned goes with it.
        if let Err(error) = run(Command::new("umount").arg(&self.path)) {
            eprintln!("{error:#}");
        }
    }
}

impl Rig {
    /// Makes one, its daemon running.
    ///
    /// # Errors
    ///
    /// When something of it can't be made.
    pub fn create(environment: &[(&'static str, &'static str)], flags: &[&str]) -> Result<Self> {
        let mount = Mount::new("mode=0700")?;
        let bpffs = mount.path.clone();
        let state = bpffs.with_file_name("state");
        let texts = [&bpffs, &state].map(|path| path.display().to_string());
        let flags = [&["--bpffs", &texts[0], "--state-dir", &texts[1]], flags].concat();
        let lab = Lab::create_as(
            TRAFFICS,
            &Start {
                flags: &flags,
                environment,
                ..Start::default()
            },
        )?;
        Ok(Self {
            lab,
            bpffs,
            state,
            environment: environment.to_vec(),
            _mount: mount,
        })
    }

    /// Starts the next daemon, with more flags.
    ///
    /// # Errors
    ///
    /// When it does not get ready.
    pub fn start(&mut self, flags: &[&str]) -> Result<()> {
        self.start_as(flags, true)
    }

    /// The same; whether it is waited for.
    ///
    /// # Errors
    ///
    /// When it can't be started.
    pub fn start_as(&mut self, flags: &[&str], awaited: bool) -> Result<()> {
        let texts = [&self.bpffs, &self.state].map(|path| path.display().to_string());
        let flags = [&["--bpffs", &texts[0], "--state-dir", &texts[1]], flags].concat();
        let environment = self.environment.clone();
        self.lab.start(&Start {
            flags: &flags,
            environment: &environment,
            awaited,
            ..Start::default()
        })
    }

    /// Runs `peerwatch uninstall`; what it printed.
    ///
    /// # Errors
    ///
    /// When it fails, with what it said.
    pub fn uninstall(&self) -> Result<String> {
        let mut command = self.lab.gw.command(binary()?)?;
        command.env_remove("PEERWATCH_BPFFS").arg("uninstall");
        command.arg("--bpffs").arg(&self.bpffs);
        command.arg("--state-dir").arg(&self.state);
        run(&mut command)
    }

    /// Runs a line of a shell in the gateway; what it printed.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn shell(&self, line: &str) -> Result<String> {
        run(self.lab.gw.command("sh")?.args(["-c", line]))
    }

    /// What is pinned: paths below the BPF file system.
    ///
    /// # Errors
    ///
    /// When `find` fails.
    pub fn pinned(&self) -> Result<Vec<String>> {
        let text = run(Command::new("find").arg(&self.bpffs).args(["-type", "f"]))?;
        let found = text.lines().map(str::to_owned);
        // The kernel's own (`bpf_preload`).
        Ok(found.filter(|path| path.contains("/peerwatch/")).collect())
    }

    /// The numbers of the kernel's programs that are pinned.
    ///
    /// # Errors
    ///
    /// When one can't be asked.
    pub fn programs(&self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        for path in self.pinned()? {
            if path.contains("/program_") {
                found.push(ProgramInfo::from_pin(&path)?.id());
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// A gauge with one label, by the label's value.
    ///
    /// # Errors
    ///
    /// When there is no scrape.
    pub fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let (status, body) = self.lab.daemon.get("/metrics")?;
        ensure!(status == 200, "/metrics: {status}");
        let values = parse_values::<f64>(&body, &[name])?;
        let series = Series::new(&format!("peerwatch_{name}"), labels);
        values
            .get(&series)
            .copied()
            .with_context(|| series.to_string())
    }
}

/// The value of a series.
#[must_use]
pub fn value(counts: &Counts, metric: &str, labels: &[(&str, &str)]) -> u64 {
    counts
        .get(&Series::new(metric, labels))
        .copied()
        .unwrap_or(0)
}

/// Whether no counter went back.
///
/// # Errors
///
/// The first that did.
pub fn not_less(before: &Counts, after: &Counts) -> Result<()> {
    for (series, count) in before {
        match after.get(series) {
            Some(now) if now < count => bail!("{series} went back from {count} to {now}"),
            None if *count > 0 => bail!("{series} was {count} and is gone"),
            _ => {}
        }
    }
    Ok(())
}
