//! Network namespaces that are removed with their guard, and what is left of runs that were killed.
//!
//! Names carry the process id of the test run (`pw<pid>x<n><role>`), so that runs never share one and
//! what a killed run left can be told from what a living one uses.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where `ip netns` keeps its namespaces.
const NETNS_DIR: &str = "/run/netns";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// True when the user asked to keep labs (`PEERWATCH_KEEP_LAB=1`) to look into them.
#[must_use]
pub fn keep() -> bool {
    std::env::var_os("PEERWATCH_KEEP_LAB").is_some_and(|value| value == "1")
}

/// A prefix for the names of one lab: unique among living processes.
#[must_use]
pub fn unique_prefix() -> String {
    format!(
        "pw{}x{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A named network namespace with its loopback up; deleted on drop.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    path: PathBuf,
}

impl NetNs {
    /// Creates the namespace.
    ///
    /// # Errors
    ///
    /// When `ip` can't create it: no root, or the name exists.
    pub fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let path = Path::new(NETNS_DIR).join(name);
        let this = Self {
            name: name.to_owned(),
            path,
        };
        this.ip("link set lo up")?;
        Ok(this)
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside the namespace. Sockets that it opens stay there.
    ///
    /// # Errors
    ///
    /// When the namespace can't be entered, or what `work` returns; a panic of `work` goes on here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.open()?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).context("setns")?;
                work()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command that will run inside the namespace. Unlike `ip netns exec` it keeps the mounts, so
    /// that cgroup2 and bpffs are where they were.
    ///
    /// # Errors
    ///
    /// When the namespace is gone.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let file = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe, on a
        // descriptor that the closure owns.
        unsafe {
            command.pre_exec(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?));
        }
        Ok(command)
    }

    /// Runs a command line (split at blanks) inside the namespace and returns its output.
    ///
    /// # Errors
    ///
    /// When it can't run or fails; the error holds what it wrote to stderr.
    pub fn sh(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("empty command line")?;
        run(self.command(program)?.args(words))
    }

    /// Runs `ip` with these words inside the namespace.
    ///
    /// # Errors
    ///
    /// As [`NetNs::sh`].
    pub fn ip(&self, line: &str) -> Result<()> {
        run(Command::new("ip")
            .args(["-n", &self.name])
            .args(line.split_whitespace()))
        .map(drop)
    }

    /// Runs several `ip` lines in one go.
    ///
    /// # Errors
    ///
    /// When one of them fails.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        feed(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            lines,
        )
    }

    /// Loads nftables rules.
    ///
    /// # Errors
    ///
    /// When `nft` refuses them.
    pub fn nft(&self, rules: &str) -> Result<()> {
        feed(self.command("nft")?.args(["-f", "-"]), rules).with_context(|| rules.to_owned())
    }

    /// Sets a sysctl below `/proc/sys/net` of the namespace, dots or slashes between the parts.
    ///
    /// # Errors
    ///
    /// When the kernel has no such sysctl or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(move || fs::write(&path, value).with_context(|| format!("{path} = {value}")))
    }

    /// Index of an interface.
    ///
    /// # Errors
    ///
    /// When there is no such interface.
    pub fn ifindex(&self, interface: &str) -> Result<u32> {
        self.read_sysfs_like(interface, "ifindex")?
            .trim()
            .parse()
            .context("ifindex")
    }

    /// MAC address of an interface.
    ///
    /// # Errors
    ///
    /// When there is no such interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let text = self.read_sysfs_like(interface, "address")?;
        let mut mac = [0; 6];
        let mut parts = text.trim().split(':');
        for byte in &mut mac {
            let part = parts
                .next()
                .with_context(|| format!("short MAC address {text}"))?;
            *byte = u8::from_str_radix(part, 16)?;
        }
        Ok(mac)
    }

    /// One attribute of an interface. `/sys/class/net` shows the namespace that mounted sysfs, so it
    /// is asked from `ip` instead.
    fn read_sysfs_like(&self, interface: &str, what: &str) -> Result<String> {
        let text =
            run(Command::new("ip").args(["-n", &self.name, "-o", "link", "show", interface]))?;
        let found = match what {
            "ifindex" => text.split(':').next(),
            _ => text
                .split_whitespace()
                .skip_while(|word| *word != "link/ether")
                .nth(1),
        };
        found
            .map(str::to_owned)
            .with_context(|| format!("no {what} of {interface} in {text}"))
    }

    fn open(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("namespace {}", self.name))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if keep() {
            eprintln!("kept: nsenter --net={} bash", self.path.display());
            return;
        }
        if let Err(error) = delete(&self.name) {
            eprintln!("cannot delete namespace {}: {error:#}", self.name);
        }
    }
}

/// Runs a command to its end and returns its output.
///
/// # Errors
///
/// When it can't start, or fails: with its stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command with `input` as its stdin.
fn feed(command: &mut Command, input: &str) -> Result<()> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn delete(name: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "del", name])).map(drop)
}

/// The process that owns a name of ours (`pw<pid>x…`), if it is one.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("pw")?.split_once('x')?.0.parse().ok()
}

fn is_orphan(name: &str) -> bool {
    owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// Removes what test runs that were killed left: processes in their namespaces, the namespaces,
/// their cgroups and directories. What belongs to a living process stays.
///
/// # Errors
///
/// When something of a dead run can't be removed.
pub fn remove_leftovers() -> Result<()> {
    for name in names_in(Path::new(NETNS_DIR))
        .into_iter()
        .filter(|name| is_orphan(name))
    {
        let pids = run(Command::new("ip").args(["netns", "pids", &name]))?;
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => bail!("cannot end process {pid} of {name}: {error}"),
            }
        }
        delete(&name)?;
    }
    let temp = std::env::temp_dir();
    for name in names_in(&temp).into_iter().filter(|name| is_orphan(name)) {
        fs::remove_dir_all(temp.join(&name)).with_context(|| name.clone())?;
    }
    if let Ok(root) = crate::bpf::cgroup_root() {
        for name in names_in(&root).into_iter().filter(|name| is_orphan(name)) {
            fs::remove_dir(root.join(&name)).with_context(|| name.clone())?;
        }
    }
    Ok(())
}

/// What this process and its children mount from now on, nobody else sees. Call it before there are threads.
///
/// # Errors
///
/// When the kernel refuses.
pub fn hide_mounts() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    run(Command::new("mount").args(["--make-rprivate", "/"])).map(drop)
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// A directory for the files of one lab, removed on drop.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Creates it below the system's directory for temporary files.
    ///
    /// # Errors
    ///
    /// When it exists or can't be created.
    pub fn create(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if keep() {
            eprintln!("kept: {}", self.0.display());
        } else if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_runs_are_orphans() {
        assert!(!is_orphan(&unique_prefix()));
        // Above the largest pid_max of 64-bit kernels (4,194,304).
        assert!(is_orphan("pw4194305x0gw"));
        assert!(!is_orphan("pwdemo"));
        assert!(!is_orphan("other"));
    }
}
