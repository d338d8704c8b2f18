//! The hosts of the demo: network namespaces that carry this process's number in their names.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::cmd::{self, find_program};

/// Where `ip netns` keeps its namespaces.
const DIRECTORY: &str = "/run/netns";
/// What the names begin with, before the process id.
const PREFIX: &str = "pwdemo";

/// The programs that the demo starts. Root's PATH may lack their folder.
#[derive(Debug)]
pub(super) struct Tools {
    ip: PathBuf,
    nft: PathBuf,
}

impl Tools {
    /// Finds them.
    ///
    /// # Errors
    ///
    /// Naming those that are missing.
    pub(super) fn find() -> Result<Self> {
        match (find_program("ip"), find_program("nft")) {
            (Some(ip), Some(nft)) => Ok(Self { ip, nft }),
            (ip, nft) => {
                let missing: Vec<_> = [("ip", ip), ("nft", nft)]
                    .into_iter()
                    .filter_map(|(name, path)| path.is_none().then_some(name))
                    .collect();
                bail!("{} not found", missing.join(" and "))
            }
        }
    }

    /// Runs `ip` with these words.
    ///
    /// # Errors
    ///
    /// When it refuses.
    pub(super) fn ip(&self, words: &str) -> Result<String> {
        cmd::output(Command::new(&self.ip).args(words.split_whitespace()))
    }
}

/// A named network namespace, deleted on drop.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
    ip: PathBuf,
}

impl Namespace {
    /// Makes it; `role` ends its name.
    ///
    /// # Errors
    ///
    /// When `ip` refuses: this needs root.
    pub(super) fn create(role: &str, tools: &Tools) -> Result<Self> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        tools.ip(&format!("netns add {name}"))?;
        let this = Self {
            name,
            ip: tools.ip.clone(),
        };
        tools.ip(&format!("-n {} link set lo up", this.name))?;
        Ok(this)
    }

    /// Its name, as `ip netns` shows it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Does `work` on a thread inside the namespace. Sockets that it opens stay there, and so do
    /// processes that it starts.
    ///
    /// # Errors
    ///
    /// When the namespace can't be entered, or what `work` returns.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.entrance()?.run(work)
    }

    /// A way in for a thread that lives longer.
    ///
    /// # Errors
    ///
    /// When the namespace is gone.
    pub(super) fn entrance(&self) -> Result<Entrance> {
        let path = Path::new(DIRECTORY).join(&self.name);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        Ok(Entrance(file))
    }

    /// Changes the firewall of the namespace.
    ///
    /// # Errors
    ///
    /// When `nft` refuses.
    pub(super) fn nft(&self, tools: &Tools, commands: &str) -> Result<()> {
        self.run(|| {
            let mut nft = Command::new(&tools.nft)
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("nft does not start")?;
            let mut stdin = nft.stdin.take().context("no pipe to nft")?;
            stdin.write_all(commands.replace("; add", "\nadd").as_bytes())?;
            drop(stdin);
            let output = nft.wait_with_output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                bail!("nft refused `{commands}`: {}", said.trim());
            }
            Ok(())
        })
    }
}

/// A way into a namespace.
#[derive(Debug)]
pub(super) struct Entrance(File);

impl Entrance {
    /// Moves the calling thread, and no other, into the namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: this needs root.
    pub(super) fn enter(&self) -> Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("setns")
    }

    /// As [`Namespace::run`].
    ///
    /// # Errors
    ///
    /// As [`Namespace::run`].
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                self.enter()?;
                work()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deleted = cmd::output(Command::new(&self.ip).args(["netns", "del", &self.name]));
        if let Err(error) = deleted {
            eprintln!(
                "the network namespace {} could not be removed: {error:#}",
                self.name
            );
        }
    }
}

/// Whether a name is that of a demo whose process is gone.
fn is_leftover(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok())
        .is_some_and(|pid| !runs(pid))
}

/// Whether there is a process with this number.
pub(super) fn runs(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Removes what killed demos left: the processes in their namespaces, and these.
///
/// # Errors
///
/// When something can't be removed.
pub(super) fn remove_leftovers(tools: &Tools) -> Result<()> {
    // The folder is not there before the first namespace is.
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Ok(());
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| is_leftover(name)) else {
            continue;
        };
        let pids = tools.ip(&format!("netns pids {name}"))?;
        for pid in pids.split_whitespace() {
            match kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => bail!("cannot end process {pid} of {name}: {error}"),
            }
        }
        tools.ip(&format!("netns del {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_demos_of_dead_processes_are_leftovers() {
        assert!(!is_leftover(&format!(
            "{PREFIX}{}-peer",
            std::process::id()
        )));
        // Above the largest pid_max of 64-bit kernels (4,194,304).
        assert!(is_leftover("pwdemo4194305-gateway"));
        assert!(!is_leftover("pwdemo-gateway"));
        assert!(!is_leftover("pw4194305x0gw"));
        assert!(!is_leftover("other"));
    }
}
