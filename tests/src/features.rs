//! What the daemon says that this kernel offers, against evidence that is not the daemon's: the release
//! in which a feature came, files, and mount tables. So a kernel that should have a feature cannot
//! claim not to, nor the other way round.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::daemon::{Daemon, Start};
use crate::kernel::is_at_least;
use crate::netns::{NetNs, TempDir, unique_prefix};
use crate::restarts::Mount;

/// The trial of this file.
pub const TRIALS: &[OwnLab] = &[("features/claims", claims)];

/// Name of a trial, and what it does: it makes its own lab.
pub type OwnLab = (&'static str, fn() -> Result<()>);

/// Where kernels show their BTF.
pub(crate) const BTF: &str = "/sys/kernel/btf/vmlinux";

type Release = (u32, u32);

/// What tells whether a kernel has a feature.
#[derive(Clone, Copy)]
enum Evidence {
    /// It is not there up to the first release, and is from the second one on. In between, nothing was
    /// looked up.
    Since(Release, Release),
    /// The same, and it is read out of the kernel's BTF.
    InBtfSince(Release, Release),
    /// Something of this machine; `None` where it says nothing.
    Seen(fn() -> Result<Option<bool>>),
}

use Evidence::{InBtfSince, Seen, Since};

const EVIDENCE: [(&str, Evidence); 16] = [
    ("kernel_btf", Seen(|| Ok(Some(Path::new(BTF).exists())))),
    ("drop_reasons", InBtfSince((5, 16), (5, 17))),
    ("receiving_socket", InBtfSince((6, 10), (6, 11))),
    ("reason_subsystems", InBtfSince((6, 3), (6, 4))),
    ("tp_btf", InBtfSince((5, 4), (5, 5))),
    ("tcx", Since((6, 5), (6, 6))),
    ("cgroup_ingress", Since((4, 9), (4, 10))),
    ("cgroup_root", Seen(cgroup_root)),
    ("ring_buffer", Since((5, 7), (5, 8))),
    ("netns_cookie_cgroup", Since((6, 12), (6, 18))),
    ("netns_cookie_tc", Since((6, 12), (6, 18))),
    ("kernel_reads", Seen(|| Ok(Some(!is_locked_down()?)))),
    ("head_reads", InBtfSince((6, 12), (6, 18))),
    ("map_batch", Since((5, 5), (5, 6))),
    // The test gives the daemon a BPF file system.
    ("link_pinning", Since((5, 6), (5, 7))),
    ("statistics", Since((5, 7), (5, 8))),
];

/// Where file systems of a type are mounted.
fn mounts(kind: &'static str) -> Result<impl Iterator<Item = String>> {
    let table = std::fs::read_to_string("/proc/thread-self/mounts")?;
    let points: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let point = words.next()?;
            (words.next()? == kind).then(|| point.to_owned())
        })
        .collect();
    Ok(points.into_iter())
}

/// The first directory of a cgroup v2 hierarchy has inode 1; one that is not mounted may be had all the
/// same.
fn cgroup_root() -> Result<Option<bool>> {
    for point in mounts("cgroup2")? {
        if std::fs::metadata(&point)?.ino() == 1 {
            return Ok(Some(true));
        }
    }
    Ok(None)
}

/// Whether the kernel keeps its memory to itself: `lockdown=confidentiality` on its command line.
pub(crate) fn is_locked_down() -> Result<bool> {
    Ok(std::fs::read_to_string("/proc/cmdline")?.contains("lockdown=confidentiality"))
}

impl Evidence {
    /// Whether the feature has to be there; `None` where that is not known.
    fn verdict(self) -> Result<Option<bool>> {
        // The first release is the last one without the feature: the next of its line may have it.
        let by_release = |(major, minor): Release, present: Release| {
            if is_at_least(present.0, present.1) {
                Some(true)
            } else {
                (!is_at_least(major, minor + 1)).then_some(false)
            }
        };
        match self {
            InBtfSince(..) if !Path::new(BTF).exists() => Ok(Some(false)),
            Since(absent, present) | InBtfSince(absent, present) => Ok(by_release(absent, present)),
            Seen(look) => look(),
        }
    }
}

/// The claims in what a daemon wrote with `--log-level debug`: by name, available, or why it is missing or
/// not known.
pub(crate) fn claimed(log: &str) -> Result<BTreeMap<String, Result<(), String>>> {
    let mut claims = BTreeMap::new();
    for line in log.lines() {
        let Some((_, claim)) = line.split_once(" feature ") else {
            continue;
        };
        let (name, state) = claim.split_once(": ").with_context(|| line.to_owned())?;
        let state = if state == "available" {
            Ok(())
        } else {
            let why = state
                .strip_prefix("missing (")
                .or_else(|| state.strip_prefix("unknown ("));
            let (why, without) = why
                .and_then(|why| why.split_once("); without it: "))
                .with_context(|| line.to_owned())?;
            ensure!(!without.is_empty(), "{line}");
            Err(why.to_owned())
        };
        let before = claims.insert(name.to_owned(), state);
        ensure!(before.is_none(), "twice: {line}");
    }
    Ok(claims)
}

/// Every claim of a running daemon has its evidence.
fn claims() -> Result<()> {
    let prefix = unique_prefix();
    let temp = TempDir::create(&prefix)?;
    let host = NetNs::create(&format!("{prefix}host"))?;
    let mount = Mount::new("mode=0700")?;
    let bpffs = mount.path.display().to_string();
    let flags = [
        "--config",
        "/dev/null",
        "--log-level",
        "debug",
        "--ephemeral",
        "--bpffs",
        &bpffs,
    ];
    let start = Start {
        flags: &flags,
        ..Start::default()
    };
    let mut daemon = Daemon::start_as(&host, temp.path(), &start)?;
    let claims = claimed(&daemon.errors())?;
    daemon.stop()?;
    let told: Vec<&str> = claims.keys().map(String::as_str).collect();
    let mut known = EVIDENCE.map(|(name, _)| name);
    known.sort_unstable();
    ensure!(
        told == known,
        "claimed: {told:?}, of which there is evidence: {known:?}"
    );
    let mut wrong = Vec::new();
    for (name, evidence) in EVIDENCE {
        let claim = &claims[name];
        if let Some(there) = evidence.verdict()?
            && there != claim.is_ok()
        {
            wrong.push(format!(
                "{name} is {}there: {claim:?}",
                if there { "" } else { "not " }
            ));
        }
    }
    ensure!(
        wrong.is_empty(),
        "on {}: {}",
        std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        wrong.join("; ")
    );
    let left: Vec<_> = std::fs::read_dir(&mount.path)?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name.to_string_lossy().starts_with("peerwatch-probe"))
        .collect();
    ensure!(left.is_empty(), "left in {bpffs}: {left:?}");
    Ok(())
}
