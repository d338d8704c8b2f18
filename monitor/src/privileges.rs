//! Least privilege for a daemon that was started with more than it needs, as by root: capabilities(7), and
//! the attribute `no_new_privs`.
//!
//! Capabilities belong to a thread, and a new one has those of the thread that made it. So they are given up
//! while there is only one: before the runtime makes others.

use std::io;
use std::path::Path;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use tracing::{debug, warn};

/// What the daemon needs as long as it runs: docs/service.md says of each what for.
const NEEDED: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYSLOG);

/// What is kept of a permitted set. `CAP_SYS_ADMIN` stands for `CAP_BPF` and `CAP_PERFMON` where one of them is
/// missing, as in containers whose runtime does not know them.
fn kept(permitted: CapabilitySet) -> CapabilitySet {
    let split = CapabilitySet::BPF.union(CapabilitySet::PERFMON);
    let instead = if permitted.contains(split) {
        CapabilitySet::empty()
    } else {
        CapabilitySet::SYS_ADMIN
    };
    permitted.intersection(NEEDED.union(instead))
}

/// The capabilities of a set by the bits that the kernel has: `1 << 12` is `CAP_NET_ADMIN`.
fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS)
        .map(|bit| CapabilitySet::from_bits_retain(1 << bit))
        .filter(move |one| set.contains(*one))
}

/// The names of a set, as a list for people.
fn names(set: CapabilitySet) -> String {
    let names: Vec<String> = each(set)
        .map(|one| match one.iter_names().next() {
            Some((name, _)) => format!("CAP_{name}"),
            None => format!("capability {}", one.bits().trailing_zeros()),
        })
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// Gives up all capabilities but those that the daemon needs, for the calling thread and all that it makes
/// afterwards, and that programs that it might start could get any. What cannot be given up stays, with a
/// warning that names it: a daemon with too much power still answers what it is there for.
pub fn give_up() {
    // First: without CAP_SYS_ADMIN a filter of system calls may only be set with it, and the rest takes none.
    let no_new = set_no_new_privs(true);
    if let Err(error) = &no_new {
        warn!("programs with more privileges could still be started (no_new_privs: {error})");
    }
    if let Err(error) = clear_ambient_capability_set() {
        warn!("the ambient capabilities stay: {error}");
    }
    let before = match capabilities(None) {
        Ok(before) => before,
        Err(error) => {
            warn!("all capabilities stay, since they cannot be read: {error}");
            return;
        }
    };
    let keep = kept(before.permitted);
    // While CAP_SETPCAP is still there, which this takes.
    bound(
        keep,
        before.effective.contains(CapabilitySet::SETPCAP),
        no_new.is_ok(),
    );
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    match set_capabilities(None, sets) {
        Ok(()) => debug!("capabilities from now on: {}", names(keep)),
        Err(error) => warn!(
            "these capabilities stay: {}: {error}",
            names(before.permitted.difference(keep).union(before.inheritable))
        ),
    }
}

/// Takes all but `keep` out of the bounding set: what a program that is started could get at most.
fn bound(keep: CapabilitySet, may: bool, no_new: bool) {
    // The kernel says EINVAL of a number that it does not know: there are no more.
    let bounding = each(CapabilitySet::all())
        .map_while(|one| Some((one, capability_is_in_bounding_set(one).ok()?)))
        .filter_map(|(one, is_in)| is_in.then_some(one));
    let superfluous: CapabilitySet = bounding.filter(|one| !keep.contains(*one)).collect();
    if superfluous.is_empty() {
        return;
    }
    if !may && no_new {
        // As of a user whom a file's capabilities were given to. Nothing can be got out of it any more.
        return debug!("the bounding set stays, which takes CAP_SETPCAP to change");
    }
    let mut stay = CapabilitySet::empty();
    let mut why = None;
    for one in each(superfluous) {
        if let Err(error) = remove_capability_from_bounding_set(one) {
            stay |= one;
            why = Some(error);
        }
    }
    if let Some(error) = why {
        warn!(
            "these capabilities stay in the bounding set: {}: {error}",
            names(stay)
        );
    }
}

/// What to add to a sentence about a file or folder that could not be reached: why root cannot, where that is
/// the reason; else nothing.
#[must_use]
pub fn hint(error: &io::Error) -> &'static str {
    let over_others = CapabilitySet::DAC_OVERRIDE;
    let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
    let is_weak_root = || {
        let now = capabilities(None);
        nix::unistd::geteuid().is_root()
            && now.is_ok_and(|now| !now.effective.contains(over_others))
    };
    if is_denied && is_weak_root() {
        " (it, or a folder above it, belongs to another user, and peerwatch gives up root's power over \
         others' files when it starts: make root its owner)"
    } else {
        ""
    }
}

/// Warns of a file that was read with all of root's power and that a reload will not be able to read.
pub fn check_readable_again(path: &Path) {
    if let Err(error) = std::fs::File::open(path) {
        warn!(
            "SIGHUP will not read {} again: {error}{}",
            path.display(),
            hint(&error)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_stays_and_nothing_else() {
        assert_eq!(kept(CapabilitySet::all()), NEEDED);
        assert_eq!(
            kept(CapabilitySet::empty()),
            CapabilitySet::empty(),
            "nothing comes from nowhere"
        );
        let old = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
        assert_eq!(kept(old | CapabilitySet::SETUID), old);
        assert_eq!(kept(old | CapabilitySet::BPF), old | CapabilitySet::BPF);
    }

    #[test]
    fn capabilities_are_named() {
        assert_eq!(
            names(NEEDED),
            "CAP_NET_ADMIN, CAP_SYSLOG, CAP_PERFMON, CAP_BPF"
        );
        let unknown = CapabilitySet::from_bits_retain(1 << 63);
        assert_eq!(names(unknown), "capability 63");
        assert_eq!(names(CapabilitySet::empty()), "none");
    }

    /// In a thread of its own, which ends with it: capabilities are those of a thread.
    #[test]
    fn a_thread_has_no_more_than_it_needs_afterwards() {
        let root = nix::unistd::geteuid().is_root();
        std::thread::spawn(move || {
            give_up();
            give_up();
            let now = capabilities(None).unwrap();
            assert!(NEEDED.contains(now.permitted), "{now:?}");
            assert_eq!(now.permitted, now.effective);
            assert!(now.inheritable.is_empty());
            assert!(rustix::thread::no_new_privs().unwrap());
            let of_child = std::thread::spawn(|| capabilities(None).unwrap());
            assert_eq!(of_child.join().unwrap(), now);
            let denied = io::Error::from(io::ErrorKind::PermissionDenied);
            assert_eq!(hint(&denied).contains("make root its owner"), root);
            assert_eq!(hint(&io::Error::from(io::ErrorKind::NotFound)), "");
        })
        .join()
        .unwrap();
    }
}
