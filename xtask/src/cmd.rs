//! Starting other programs, with errors that name them.

use std::{
    env,
    ffi::OsStr,
    fs, io, iter,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

/// How something is done as root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Privilege {
    /// This process is root.
    Root,
    /// It is not, but there is sudo.
    Sudo,
    /// Neither.
    None,
}

impl Privilege {
    /// What this process can do.
    pub(crate) fn find() -> Self {
        if geteuid().is_root() {
            Self::Root
        } else if find_program("sudo").is_some() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// A command that runs as root; without root and sudo it will fail as the kernel sees fit.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Root | Self::None => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("--").arg(program);
                command
            }
        }
    }
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where a program is. Looks in the system folders too: an ordinary user's PATH often lacks them,
/// and root's, through sudo, does not.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// Runs a command to its end, its output going where ours goes.
///
/// # Errors
///
/// When it does not start or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", display(command));
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed on standard output.
///
/// # Errors
///
/// When it does not start, does not succeed (with what it said on standard error), or prints
/// something that is no text.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed: {}\n{}",
            display(command),
            output.status,
            stderr.trim_end()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a command and kills it when it takes longer than `limit`; then `None` is returned.
///
/// # Errors
///
/// When it does not start or cannot be killed.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Makes a symbolic link, in place of one that is there and points elsewhere.
///
/// # Errors
///
/// When something else is there, or the folder cannot be written.
pub(crate) fn replace_link(target: &Path, link: &Path) -> Result<()> {
    match fs::read_link(link) {
        Ok(now) if now == target => return Ok(()),
        Ok(_) => fs::remove_file(link)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("{} is no link", link.display())),
    }
    symlink(target, link).with_context(|| format!("cannot make the link {}", link.display()))
}

/// A command as one would type it.
pub(crate) fn display(command: &Command) -> String {
    let words = iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word with quotes where a shell wants them.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_killed() {
        let start = Instant::now();
        let status = run_within(Command::new("sleep").arg("60"), Duration::from_millis(50));
        assert_eq!(status.unwrap(), None);
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_command_in_time_returns_its_status() {
        let status = run_within(&mut Command::new("false"), Duration::from_secs(30)).unwrap();
        assert_eq!(status.and_then(|status| status.code()), Some(1));
    }

    #[test]
    fn failure_names_the_command_and_what_it_said() {
        let mut command = Command::new("sh");
        let error = output(command.args(["-c", "echo no luck >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c 'echo no luck >&2; exit 3'"), "{text}");
        assert!(text.ends_with("no luck"), "{text}");
    }
}
