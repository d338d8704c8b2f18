//! `peerwatch doctor`: what will be seen on this host, and what will not.

use thiserror::Error;

use crate::bpf::kernel::BtfFileError;
use crate::cli::{DoctorFlags, RunFlags};
use crate::config::{Config, ConfigError, Sources};
use crate::doctor;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum DoctorError {
    /// The configuration says what is watched.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file with BTF.
    #[error(transparent)]
    Btf(#[from] BtfFileError),
    /// The report has no form in JSON.
    #[error("the report could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The exit code of a call that could not be answered.
pub const NO_REPORT: u8 = 2;

/// Looks at the host. Gives what to print, and the exit code: 0 fine, 1 limited, 2 cannot work.
///
/// # Errors
///
/// What keeps the report from being made.
pub fn doctor(flags: &DoctorFlags) -> Result<(String, u8), DoctorError> {
    let config = Config::new(Sources::new(RunFlags {
        config: flags.config.clone(),
        btf: flags.btf.clone(),
        bpffs: flags.bpffs.clone(),
        ..RunFlags::default()
    }))?;
    let report = doctor::examine(&config, flags.self_test)?;
    let text = if flags.json {
        report.json()?
    } else {
        report.text()
    };
    Ok((text, report.exit_code()))
}
