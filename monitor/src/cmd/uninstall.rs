//! `peerwatch uninstall`: removes everything that daemons left.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::bpf::attach::{clear_filters, remove_clsact};
use crate::bpf::pins::{Pins, PinsError};
use crate::cli::{RunFlags, UninstallFlags};
use crate::config::{Config, ConfigError, Keep, Sources};
use crate::instance::{Instance, InstanceError};
use crate::netns;
use crate::saved;

/// Why something may still be there.
#[derive(Debug, Error)]
pub enum UninstallError {
    /// The configuration says where things are.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A daemon would go on without what it rests on.
    #[error("peerwatch runs (process {}); stop it first", .0.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))]
    Runs(Vec<u32>),
    /// The same, in this network namespace.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// A pin.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// A file, an interface.
    #[error("{what}: {source}")]
    Io {
        /// What was removed or read.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Removes everything. Gives a line for each thing that was there.
///
/// # Errors
///
/// What could not be removed.
pub fn uninstall(flags: &UninstallFlags) -> Result<Vec<String>, UninstallError> {
    let sources = Sources::new(RunFlags {
        bpffs: flags.bpffs.clone(),
        state_dir: flags.state_dir.clone(),
        ..RunFlags::default()
    });
    let Keep {
        bpffs, state_dir, ..
    } = Config::new(sources)?.kept;
    let all = Pins::all(&bpffs);
    let mut namespaces: BTreeSet<u32> = all.iter().filter_map(Pins::namespace).collect();
    namespaces.extend(netns::inum());
    let running = running(&namespaces);
    if !running.is_empty() {
        return Err(UninstallError::Runs(running));
    }
    // However it is called, and wherever it runs: none of this namespace starts meanwhile.
    let _instance = Instance::claim()?;
    let mut lines = Vec::new();
    for pins in all {
        pins.remove()?;
        lines.push(format!("removed {}", pins.folder().display()));
    }
    lines.extend(filters()?);
    for file in files(&state_dir) {
        fs::remove_file(&file).map_err(io_error(&file.display()))?;
        lines.push(format!("removed {}", file.display()));
    }
    // It may have things of others in it, or be a service manager's.
    if fs::remove_dir(&state_dir).is_ok() {
        lines.push(format!("removed {}", state_dir.display()));
    }
    if lines.is_empty() {
        lines.push(format!(
            "nothing of peerwatch is in {}, in {}, or on an interface here",
            bpffs.display(),
            state_dir.display()
        ));
    }
    Ok(lines)
}

fn io_error(what: &impl ToString) -> impl Fn(io::Error) -> UninstallError {
    let what = what.to_string();
    move |source| UninstallError::Io {
        what: what.clone(),
        source,
    }
}

/// Removes filters of `clsact` from all interfaces of this network namespace, and those that were added for
/// them.
fn filters() -> Result<Vec<String>, UninstallError> {
    let interfaces =
        nix::net::if_::if_nameindex().map_err(|error| io_error(&"interfaces")(error.into()))?;
    let mut lines = Vec::new();
    let mut cleared = BTreeSet::new();
    for interface in &interfaces {
        let name = interface.name().to_string_lossy();
        if clear_filters(interface.index(), &name).map_err(io_error(&name))? {
            cleared.insert(interface.index());
            lines.push(format!("removed filters of {name}"));
        }
    }
    remove_clsact(&cleared);
    Ok(lines)
}

/// The state files in a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| saved::file::is_ours(path)).collect()
}

/// The daemons that run in one of these network namespaces.
fn running(namespaces: &BTreeSet<u32>) -> Vec<u32> {
    let processes = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_daemon = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        let name = arguments.next().unwrap_or_default();
        let is_ours = name.rsplit(|byte| *byte == b'/').next() == Some(b"peerwatch")
            && arguments.next() == Some(b"run");
        let namespace = fs::metadata(format!("/proc/{pid}/ns/net")).map(|found| found.ino());
        let namespace = namespace.ok().and_then(|number| u32::try_from(number).ok());
        is_ours && namespace.is_some_and(|number| namespaces.contains(&number))
    };
    numbers.filter(is_daemon).collect()
}
