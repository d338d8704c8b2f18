//! Programs that others go on with by a tail call: the kernel's verifier takes each by itself.

use aya::Ebpf;
use aya::maps::{MapError, ProgramArray};
use aya::programs::ProgramFd;
use monitor_common::attempt::hook;
use monitor_common::drop::next;

/// One of them, and where those that go on with it look for it.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) name: &'static str,
    map: &'static str,
    index: u32,
    from: &'static [&'static str],
    /// Whether those are of no use without it. Without any other, attempts are not followed.
    pub(super) is_needed: bool,
}

const fn follow(
    name: &'static str,
    map: &'static str,
    index: u32,
    from: &'static [&'static str],
) -> Next {
    Next {
        name,
        map,
        index,
        from,
        is_needed: false,
    }
}

const fn decide(name: &'static str, from: &'static [&'static str]) -> Next {
    Next {
        name,
        map: "DROP_NEXT",
        index: next::DECIDE,
        from,
        is_needed: true,
    }
}

/// What that of the loopback device goes on with. Without it, an attempt that a rule of the output hook
/// rejects counts as dropped.
pub(super) const LOOPBACK: &str = "follow_loopback";

const EGRESS: &[&str] = &["egress_ethernet", "egress_other"];
const INGRESS: &[&str] = &["ingress_ethernet", "ingress_other"];

const ALL: &[Next] = &[
    decide("decide", &[super::TP_BTF]),
    decide("decide_raw", &[super::RAW_TP]),
    follow("follow_drop", "DROP_NEXT", next::FOLLOW, &[super::TP_BTF]),
    follow(
        "follow_drop_raw",
        "DROP_NEXT",
        next::FOLLOW,
        &[super::RAW_TP],
    ),
    follow(
        "follow_delivery",
        "CGROUP_NEXT",
        hook::DELIVER,
        &["deliver"],
    ),
    follow("follow_egress", "TC_NEXT", hook::EGRESS, EGRESS),
    follow(LOOPBACK, "TC_NEXT", hook::LOOPBACK, &[super::LOOPBACK]),
    follow("follow_ingress", "TC_NEXT", hook::INGRESS, INGRESS),
];

/// The names of all of them.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|next| next.name)
}

impl Next {
    /// Those that a program goes on with.
    pub(super) fn of(program: &str) -> impl Iterator<Item = &'static Self> {
        ALL.iter().filter(move |next| next.from.contains(&program))
    }

    /// Puts the loaded program where the others look for it.
    pub(super) fn put(&self, ebpf: &mut Ebpf) -> Result<(), MapError> {
        let program = ebpf
            .program(self.name)
            .and_then(|program| program.fd().ok());
        let program = program.and_then(|program| program.try_clone().ok());
        let program: ProgramFd = program.ok_or(MapError::ElementNotFound)?;
        let map = ebpf.map_mut(self.map).ok_or(MapError::ElementNotFound)?;
        ProgramArray::try_from(map)?.set(self.index, &program, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_programs_share_a_place_on_one_kernel() {
        for (at, one) in ALL.iter().enumerate() {
            for other in &ALL[at + 1..] {
                let same = (one.map, one.index) == (other.map, other.index);
                let raw = [one, other].map(|next| next.name.ends_with("_raw"));
                assert!(!same || raw[0] != raw[1], "{} and {}", one.name, other.name);
            }
        }
    }
}
