//! The one error of the configuration: its text is the one sentence that a user reads.

use std::io;
use std::path::PathBuf;

use crate::privileges::hint;

/// Why there is no configuration. Each sentence names the thing and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable of the environment has a value that its option does not take.
    #[error("{variable} in the environment: {problem}")]
    Environment {
        /// The variable's name.
        variable: &'static str,
        /// What is wrong, and the way out.
        problem: String,
    },
    /// The file can't be read.
    #[error(
        "can't read {}: {cause}{}; give another file with --config", path.display(), hint(cause)
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says. Part of the sentence, so it is no source.
        cause: io::Error,
    },
    /// There is something wrong in the file.
    #[error("{}:{line}:{column}: {}{problem}", path.display(), prefix(key.as_ref()))]
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The key, with those of the tables that it is in; `None` where the problem names it, or
        /// where the text is no TOML.
        key: Option<String>,
        /// What is wrong, and the way out.
        problem: String,
    },
    /// An interface is named that does not exist.
    #[error(
        "interface \"{name}\" does not exist (there are: {known}); name one of these, or give a \
         glob like \"{name}*\" for interfaces that come later"
    )]
    UnknownInterface {
        /// Its name.
        name: String,
        /// Those that exist, as a list for people.
        known: String,
    },
    /// There is no file to check.
    #[error("there is no {}; name the file with --config", path.display())]
    NoFile {
        /// The file that is looked for when none is named.
        path: PathBuf,
    },
}

fn prefix(key: Option<&String>) -> String {
    key.map(|key| format!("{key}: ")).unwrap_or_default()
}

impl ConfigError {
    /// Whether it lies in how the process was called, as a bad flag does, and not in what it found.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Environment { .. })
    }
}
