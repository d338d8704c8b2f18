//! What outlasts the daemon, and where.

use std::path::PathBuf;

use super::file::File;
use super::options::{folder, switch};
use super::{ConfigError, Environment};
use crate::bpf::pins::DEFAULT_MOUNT;
use crate::cli::RunFlags;

/// Where attempts and states are kept, unless something else is said. What is there is of one boot only, so a
/// file system in memory suits it.
pub const DEFAULT_STATE_DIR: &str = "/run/peerwatch";

/// What outlasts the daemon, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Keep {
    /// A BPF file system: kernel programs are pinned there, and go on.
    pub bpffs: PathBuf,
    /// Folder of the state file.
    pub state_dir: PathBuf,
    /// Nothing outlasts it.
    pub ephemeral: bool,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            bpffs: DEFAULT_MOUNT.into(),
            state_dir: DEFAULT_STATE_DIR.into(),
            ephemeral: false,
        }
    }
}

impl Keep {
    /// Merges the layers.
    pub(super) fn merge(
        flags: &RunFlags,
        env: &Environment,
        file: &File,
    ) -> Result<Self, ConfigError> {
        let keys = &file.keys;
        let default = Self::default();
        let env_value = env.value("PEERWATCH_BPFFS", folder)?;
        let file_value = file.value("bpffs", keys.bpffs.as_ref(), folder)?;
        let bpffs = flags.bpffs.clone().or(env_value).or(file_value);
        let env_value = env.value("PEERWATCH_STATE_DIR", folder)?;
        let file_value = file.value("state_dir", keys.state_dir.as_ref(), folder)?;
        let state_dir = flags.state_dir.clone().or(env_value).or(file_value);
        let env_value = env.value("PEERWATCH_EPHEMERAL", switch)?;
        let ephemeral = flags.ephemeral.or(env_value).or(keys.ephemeral);
        Ok(Self {
            bpffs: bpffs.unwrap_or(default.bpffs),
            state_dir: state_dir.unwrap_or(default.state_dir),
            ephemeral: ephemeral.unwrap_or(false),
        })
    }
}
