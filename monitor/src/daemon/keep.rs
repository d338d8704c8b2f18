//! What outlasts the daemon: it finds what one before left, and leaves the same.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::bpf::attach::Hooks;
use crate::bpf::load::{Kept, Loaded};
use crate::bpf::pins::Pins;
use crate::config::{Config, Keep};
use crate::metrics::Source;
use crate::netns;
use crate::privileges::hint;
use crate::saved::file::{self, Fault};
use crate::saved::{Saved, SavedRef};
use crate::traffic::Traffics;

use super::RunError;

/// The pins of this network namespace; `None` where nothing is to be pinned, or can be.
pub(super) fn pins(keep: &Keep, inum: u32) -> Option<Pins> {
    let cookie = netns::cookie();
    if keep.ephemeral {
        if let Some(before) = Pins::find(&keep.bpffs, inum, cookie) {
            info!(
                "what a daemon before left is removed ({})",
                before.folder().display()
            );
            if let Err(error) = before.remove() {
                warn!("it cannot be removed: {error}");
            }
        }
        return None;
    }
    let own = Pins::find(&keep.bpffs, inum, cookie);
    let own = own.as_ref().map(Pins::folder);
    for other in Pins::all(&keep.bpffs) {
        // This one is there, whatever somebody did to its loopback device.
        if own != Some(other.folder()) && other.is_orphan() {
            info!(
                "its network namespace is gone: {} is removed",
                other.folder().display()
            );
            if let Err(error) = other.remove() {
                warn!("it cannot be removed: {error}");
            }
            if let Some(name) = other.folder().file_name() {
                let state = keep.state_dir.join(name).with_extension("state");
                if let Err(error) = file::remove(&state) {
                    warn!("{}: {error}", state.display());
                }
            }
        }
    }
    match Pins::open(&keep.bpffs, inum, cookie) {
        Ok(pins) => Some(pins),
        Err(error) => {
            warn!("nothing counts while no daemon runs, and a restart begins at 0: {error}");
            None
        }
    }
}

/// The state file, and what is in it. Neither where nothing is to be kept.
pub(super) fn store(keep: &Keep, inum: u32) -> (Option<Store>, Option<Saved>) {
    let path = file::path(&keep.state_dir, inum, netns::cookie());
    if keep.ephemeral {
        if let Err(error) = file::remove(&path) {
            warn!("{}: {error}", path.display());
        }
        return (None, None);
    }
    let opened = file::boot().and_then(|boot| {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&keep.state_dir)?;
        Ok((boot, file::read(&path)?))
    });
    let (boot, bytes) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            warn!(
                "attempts and states begin anew with each start: {}: {error}{}",
                path.display(),
                hint(&error)
            );
            return (None, None);
        }
    };
    let saved = bytes.and_then(|bytes| {
        let content = match file::decode(&boot, &bytes) {
            Ok(content) => Saved::from_bytes(content).map_err(|_| Fault::Damaged),
            // Nothing is wrong with it.
            Err(Fault::Boot) => return None,
            Err(fault) => Err(fault),
        };
        content.map_err(|fault| set_aside(&path, &fault)).ok()
    });
    (Some(Store::new(path, boot)), saved)
}

/// Moves a state file aside that cannot be used.
fn set_aside(path: &Path, why: &dyn Display) {
    let moved = match file::set_aside(path) {
        Ok(aside) => format!("it is {} now", aside.display()),
        Err(error) => format!("it cannot be moved aside: {error}"),
    };
    error!(
        "the state file {} is not used, as {why}; {moved}. Attempts and states begin anew",
        path.display()
    );
}

/// Gives the traffics the indexes that their counters are under already. Gives what was saved back, where it
/// is of the same counters.
pub(super) fn adopt_traffics(
    config: &mut Config,
    loaded: &Loaded,
    saved: Option<Saved>,
) -> Result<Option<Saved>, RunError> {
    let kept = loaded.kept.as_ref().map_or(&[][..], Kept::traffics_before);
    let agrees = |saved: &Saved| {
        let mut all = saved.traffics.iter().chain(kept);
        let mut known: BTreeMap<u8, &str> = BTreeMap::new();
        all.all(|(index, name)| {
            known
                .insert(*index, name)
                .is_none_or(|before| before == name)
        })
    };
    let saved = saved.filter(|saved| {
        let agrees = agrees(saved);
        if !agrees {
            error!("what was saved is of other traffics: attempts and states begin anew");
        }
        agrees
    });
    let of_saved = saved
        .as_ref()
        .map_or(&[][..], |saved| saved.traffics.as_slice());
    let names: BTreeMap<u8, String> = kept.iter().chain(of_saved).cloned().collect();
    let names: Vec<(u8, String)> = names.into_iter().collect();
    config.traffics = Traffics::known(&names)
        .merge_reload(config.traffics.clone())
        .map_err(RunError::Traffics)?;
    Ok(saved)
}

/// Writes the state file.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    boot: String,
    /// When it was written last.
    last: Option<Instant>,
    /// What that took.
    took: Duration,
    /// Whether the last time failed: said once.
    failed: bool,
}

/// How often it is written where nothing happens: it also says when the daemon was last alive.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// It is not written more often than so many times what it takes: in a flood, that is a twentieth of a core.
const SHARE: u32 = 20;

impl Store {
    const fn new(path: PathBuf, boot: String) -> Self {
        Self {
            path,
            boot,
            last: None,
            took: Duration::ZERO,
            failed: false,
        }
    }

    /// Whether it is to be written now.
    pub(super) fn is_due(&self, is_news: bool, must: bool) -> bool {
        let since = self.last.map(|last| last.elapsed());
        let due = |since: Duration| {
            since >= HEARTBEAT || (is_news && since >= self.took.saturating_mul(SHARE))
        };
        must || since.is_none_or(due)
    }

    /// Writes it.
    pub(super) fn write(&mut self, saved: &SavedRef<'_>) {
        let begin = Instant::now();
        let content = saved.to_bytes().map_err(io::Error::other);
        let written = content
            .and_then(|content| file::write(&self.path, &file::encode(&self.boot, &content)));
        self.last = Some(Instant::now());
        self.took = begin.elapsed();
        match &written {
            Ok(()) if self.failed => info!("{} is written again", self.path.display()),
            Err(error) if !self.failed => warn!(
                "{}: {error}; what happens from now on is forgotten at a restart",
                self.path.display()
            ),
            _ => {}
        }
        self.failed = written.is_err();
    }
}

/// Notes whose the counters are, once everything is attached that can be.
pub(super) fn commit(hooks: &mut Hooks, traffics: &Traffics, source: &Source) {
    let before = hooks.kept().and_then(Kept::drop_program_before);
    if let Some(before) = before
        && let Err(error) = source.take_missed(&before)
    {
        warn!("{error}");
    }
    if let Some(kept) = hooks.kept() {
        for (name, _) in hooks.loaded().programs() {
            if let Some(before) = kept.program_before(name) {
                source.take_runs(name, &before);
            }
        }
    }
    if let Err(error) = hooks.commit(traffics.owners()) {
        error!("the next daemon may have to begin at 0: {error}");
    }
}
