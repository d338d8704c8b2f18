//! What must be there before anything is attached.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use thiserror::Error;

/// What is missing, in one sentence with the way out.
#[derive(Debug, Error)]
pub enum PreflightError {
    /// Capabilities (capabilities(7)).
    #[error(
        "peerwatch needs {} to load its kernel programs, and this process lacks {}; run it as root, \
         for example through sudo", needed_names(), .0.join(", ")
    )]
    Capabilities(Vec<&'static str>),
    /// The process's own status could not be read.
    #[error("the capabilities of this process could not be read from {path}: {source}")]
    Status {
        /// The file.
        path: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Capabilities by their bit (linux/capability.h), and what stands for them on older kernels.
const NEEDED: &[(u32, &str)] = &[(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// Includes `CAP_PERFMON` and `CAP_BPF`, which were split off it in 5.8.
const CAP_SYS_ADMIN: u32 = 21;

fn needed_names() -> String {
    let names: Vec<&str> = NEEDED.iter().map(|(_, name)| *name).collect();
    names.join(", ")
}

/// The needed capabilities that an effective set lacks.
fn missing(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    NEEDED
        .iter()
        .filter(|(bit, _)| !(has(*bit) || *bit > 37 && has(CAP_SYS_ADMIN)))
        .map(|(_, name)| *name)
        .collect()
}

/// The effective capabilities out of `/proc/self/status`.
pub(crate) fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

/// Checks the capabilities of this process.
///
/// # Errors
///
/// What is missing.
pub fn check() -> Result<(), PreflightError> {
    let path = "/proc/self/status";
    let status =
        std::fs::read_to_string(path).map_err(|source| PreflightError::Status { path, source })?;
    let missing = missing(effective(&status));
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PreflightError::Capabilities(missing))
    }
}

/// Lets this process lock as much memory as it wants: before Linux 5.11 programs and maps are charged to
/// `RLIMIT_MEMLOCK`, whose default refuses them with EPERM. Where the hard limit may not be raised, the
/// soft one rises to it.
///
/// # Errors
///
/// What the kernel said; newer kernels do without.
pub fn raise_locked_memory() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).or_else(|_| {
        let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
        setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)
    })
}

/// Lets this process open as many files as its hard limit allows: each interface takes two descriptors, and the
/// usual soft limit of 1,024 would be reached with some 450 of them.
///
/// # Errors
///
/// What the kernel said; then the soft limit stays.
pub fn raise_open_files() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_locked_memory_is_at_the_hard_one_afterwards() {
        raise_locked_memory().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        assert_eq!(soft, hard);
    }

    #[test]
    fn the_limit_of_open_files_is_at_the_hard_one_afterwards() {
        raise_open_files().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }

    #[test]
    fn each_missing_capability_is_named() {
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(missing(1 << 12 | 1 << 39), ["CAP_PERFMON"]);
        assert!(missing(1 << 12 | 1 << 21).is_empty());
        assert!(missing(u64::MAX).is_empty());
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000001000\n"), 1 << 12);
        let text = PreflightError::Capabilities(missing(1 << 12)).to_string();
        assert!(text.contains("lacks CAP_PERFMON, CAP_BPF"), "{text}");
    }
}
