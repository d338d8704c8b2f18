//! `peerwatch check-config`: says whether a file is good before a daemon reads it.

use std::path::Path;

use crate::cli::CheckConfigFlags;
use crate::config::{Config, ConfigError, Environment};
use crate::http::{Web, WebError};

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The file itself, or there is none.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file of its `web_config`.
    #[error(transparent)]
    Web(#[from] WebError),
}

/// Checks the file that the flag, the environment, or else the default names, and that of its `web_config`.
/// Returns the line to print for a good one: `FILE: ok (3 traffics, 4 ports)`.
///
/// # Errors
///
/// The sentence for a bad file, or for none.
pub fn check_config(
    flags: &CheckConfigFlags,
    environment: &Environment,
    default_file: &Path,
) -> Result<String, CheckError> {
    let (path, config) = Config::check_file(flags.config.as_deref(), environment, default_file)?;
    Web::open(config.web_config.as_deref())?;
    Ok(format!(
        "{}: ok ({}, {})",
        path.display(),
        plural(config.traffics.len(), "traffic"),
        plural(config.traffics.port_count(), "port")
    ))
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
