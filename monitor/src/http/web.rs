//! The web configuration: TLS, users and headers out of a file in the format of Prometheus's exporter-toolkit.
//!
//! Every new connection, and every request, looks whether the files have changed. A change that cannot be used
//! leaves all as it was, and is told once; a file that could not be read is tried again. A connection that is open
//! and would have to show something else now has one more answer at most.

mod demand;
mod file;
mod gate;
#[cfg(test)]
pub(super) mod tests;
mod tls;
mod users;
mod yaml;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{HeaderName, HeaderValue};
use rustls::ServerConfig;

use crate::privileges::hint;
use demand::Demand;
pub(super) use demand::{Shown, Standing};
use file::{Fault, WebFile};
pub(super) use gate::Gate;
use tls::Tls;
pub(super) use users::{Users, Verdict};

/// Why a web configuration cannot be used: one sentence that names the file and the way out.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The file can't be read.
    #[error(
        "can't read {}: {cause}{}; give another file with --web-config", path.display(), hint(cause)
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says. Part of the sentence, so it is no source.
        cause: io::Error,
    },
    /// There is something wrong in the file, or in one that it names.
    #[error("{}:{line}: {}{problem}", path.display(), prefix(key))]
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key, with those that it is in; empty where the problem names it.
        key: String,
        /// What is wrong, and the way out.
        problem: String,
    },
    /// The file would open what is closed; that takes a restart.
    #[error(
        "{}: {what} is gone from it, which counts only from the next start on",
        path.display()
    )]
    Opens {
        /// The file.
        path: PathBuf,
        /// The section that is gone.
        what: &'static str,
    },
    /// The kernel gives no random bytes.
    #[error("the kernel gives no random bytes, which passwords need")]
    Random,
}

fn prefix(key: &str) -> String {
    if key.is_empty() {
        String::new()
    } else {
        format!("{key}: ")
    }
}

/// Who may ask, for the line that says where metrics are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Protection {
    /// Whether connections are encrypted.
    pub tls: bool,
    /// Whether a password is asked for.
    pub users: bool,
    /// Whether each client must have a certificate.
    pub certificates: bool,
}

/// A configuration in force.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Stays the same one as long as it asks for the same.
    pub(super) demand: Arc<Demand>,
    pub(super) users: Arc<Users>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// The web configuration, as it is now.
#[derive(Debug)]
pub struct Web {
    /// None without one.
    path: Option<PathBuf>,
    now: Mutex<Now>,
    pub(super) gate: Arc<Gate>,
}

#[derive(Debug)]
struct Now {
    settings: Arc<Settings>,
    stamps: Stamps,
    /// When files are read again that have not changed: something could not be read the last time.
    again: Option<Instant>,
    /// What was said of the last reading, if it failed.
    said: Option<String>,
}

/// How long a file that could not be read is left alone: there may be many requests, each of which looks.
const PAUSE: Duration = Duration::from_secs(1);

/// What tells one version of a file from another, for each file that was read.
type Stamps = Vec<(PathBuf, Option<Stamp>)>;

/// What a reading came across.
#[derive(Debug, Default)]
struct Look {
    /// Of each file that was looked at, also where it failed.
    stamps: Stamps,
    /// Whether something could not be read, so that the same files may be good the next time: descriptors or
    /// memory were short, say.
    unread: bool,
}

/// Device, inode, size, and the times of the last change of contents and of the inode, in nanoseconds.
type Stamp = (u64, u64, u64, i128, i128);

fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    let time = |seconds: i64, nanoseconds: i64| {
        i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
    };
    let changed = time(data.mtime(), data.mtime_nsec());
    let inode = time(data.ctime(), data.ctime_nsec());
    Some((data.dev(), data.ino(), data.size(), changed, inode))
}

impl Web {
    /// Reads a file and all that it names; without one, everything is open.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn open(path: Option<&Path>) -> Result<Self, WebError> {
        let mut look = Look::default();
        let settings = match path {
            Some(path) => load(path, &mut look)?,
            None => Settings::new(WebFile::default(), None)?,
        };
        Ok(Self {
            path: path.map(Path::to_owned),
            now: Mutex::new(Now {
                settings: Arc::new(settings),
                stamps: look.stamps,
                again: None,
                said: None,
            }),
            gate: Arc::default(),
        })
    }

    /// Who may ask.
    #[must_use]
    pub fn protection(&self) -> Protection {
        let settings = self.lock().settings.clone();
        Protection {
            tls: settings.tls.is_some(),
            users: !settings.users.is_empty(),
            certificates: settings.demand.certificates(),
        }
    }

    /// The configuration after a look at the files.
    pub(super) fn current(&self) -> Arc<Settings> {
        let mut now = self.lock();
        let Some(path) = &self.path else {
            return Arc::clone(&now.settings);
        };
        let same = now.stamps.iter().all(|(path, old)| stamp(path) == *old);
        if same && now.again.is_none_or(|again| Instant::now() < again) {
            return Arc::clone(&now.settings);
        }
        let mut look = Look::default();
        match load(path, &mut look).and_then(|new| now.settings.may_become(new, path)) {
            Ok(new) => {
                tracing::info!("{} was read again", path.display());
                now.settings = Arc::new(new);
                now.said = None;
            }
            Err(error) => {
                let said = error.to_string();
                if now.said.as_ref() != Some(&said) {
                    tracing::error!("TLS and users stay as they were: {said}");
                }
                now.said = Some(said);
            }
        }
        now.again = look.unread.then(|| Instant::now() + PAUSE);
        // Those of a bad one too, so that it is read once. A file that it no longer reaches counts further.
        for (path, _) in std::mem::take(&mut now.stamps) {
            if !look.stamps.iter().any(|(known, _)| *known == path) {
                let new = stamp(&path);
                look.stamps.push((path, new));
            }
        }
        now.stamps = look.stamps;
        Arc::clone(&now.settings)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the text of a file says, without the files that it names: whether it has each of its three sections; or
/// the line, the key and the problem.
pub(crate) fn understand(text: &str) -> Result<[bool; 3], (usize, String, String)> {
    let file = WebFile::parse(text, Path::new("/"))
        .map_err(|fault| (fault.line, fault.key, fault.problem))?;
    Ok([
        file.tls.is_some(),
        !file.headers.is_empty(),
        !file.users.is_empty(),
    ])
}

/// Reads a file and all that it names.
fn load(path: &Path, look: &mut Look) -> Result<Settings, WebError> {
    // Before it is read: a change in between shows at the next look.
    look.stamps.push((path.to_owned(), stamp(path)));
    let bytes = tls::read(path).map_err(|cause| {
        look.unread = true;
        WebError::Read {
            path: path.to_owned(),
            cause,
        }
    })?;
    let fault = |fault: Fault| WebError::File {
        path: path.to_owned(),
        line: fault.line,
        key: fault.key,
        problem: fault.problem,
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| fault(Fault::new(1, "", "this is no UTF-8; write it in UTF-8")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let file = WebFile::parse(&text, folder).map_err(fault)?;
    let mut tls = None;
    if let Some(keys) = &file.tls {
        look.stamps.extend(tls::files(keys).into_iter().map(|path| {
            let stamp = stamp(&path);
            (path, stamp)
        }));
        tls = Some(tls::build(keys).map_err(|error| {
            look.unread = error.unread;
            fault(error)
        })?);
    }
    // Random bytes are all that it may lack.
    Settings::new(file, tls).inspect_err(|_| look.unread = true)
}

impl Settings {
    fn new(file: WebFile, tls: Option<Tls>) -> Result<Self, WebError> {
        Ok(Self {
            demand: Arc::new(Demand::new(tls.as_ref().map(|tls| tls.clients.clone()))),
            tls: tls.map(|tls| tls.config),
            users: Arc::new(Users::new(file.users).map_err(|_| WebError::Random)?),
            headers: file.headers,
        })
    }

    /// Checks that a new file opens nothing: one that is being written may be read when it is still empty.
    /// Each user who stays the same is known further.
    fn may_become(&self, mut new: Self, path: &Path) -> Result<Self, WebError> {
        new.users = Arc::new(new.users.after(&self.users));
        if new.demand.is(&self.demand) {
            new.demand = Arc::clone(&self.demand);
        }
        let gone = [
            (self.tls.is_some() && new.tls.is_none(), "tls_server_config"),
            (
                !self.users.is_empty() && new.users.is_empty(),
                "basic_auth_users",
            ),
            (
                self.demand.certificates() && !new.demand.certificates(),
                "client_auth_type",
            ),
        ];
        match gone.into_iter().find(|(gone, _)| *gone) {
            Some((_, what)) => Err(WebError::Opens {
                path: path.to_owned(),
                what,
            }),
            None => Ok(new),
        }
    }
}
