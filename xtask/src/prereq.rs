//! What must be on the machine before set-up can do anything, all of it looked at before anything
//! is changed.

use std::{fmt, path::Path};

use crate::cmd::{Privilege, find_program};

/// The kernel's own type information, where every field offset comes from.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What was looked at.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "five independent findings, not a state"
)]
pub(crate) struct Found {
    /// rustup is on PATH.
    pub(crate) rustup: bool,
    /// cargo is on PATH (it may run us by its absolute path, but the toolchains need it too).
    pub(crate) cargo: bool,
    /// A C compiler is on PATH, by the name that rustc links with.
    pub(crate) cc: bool,
    /// Root is at hand where the task needs it.
    pub(crate) root: bool,
    /// The running kernel has BTF.
    pub(crate) btf: bool,
}

/// One thing that is missing.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Missing {
    /// Its name.
    what: &'static str,
    /// What needs it.
    why: &'static str,
    /// How to get it.
    how: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    {}", self.what, self.why, self.how)
    }
}

impl Found {
    /// Looks at this machine. `needs_root` says whether the task does anything as root.
    pub(crate) fn here(needs_root: bool) -> Self {
        Self {
            rustup: find_program("rustup").is_some(),
            cargo: find_program("cargo").is_some(),
            cc: find_program("cc").is_some(),
            root: !needs_root || Privilege::find() != Privilege::None,
            btf: Path::new(BTF).exists(),
        }
    }

    /// Everything that is missing, in the order in which one would mend it.
    pub(crate) fn missing(self) -> Vec<Missing> {
        [
            (
                self.rustup,
                Missing {
                    what: "rustup",
                    why: "it selects the pinned compiler, and the one for the BPF target",
                    how: "install it from https://rustup.rs, then `rustup toolchain install`",
                },
            ),
            (
                self.cargo,
                Missing {
                    what: "cargo",
                    why: "it builds everything",
                    how: "comes with rustup: put ~/.cargo/bin on PATH",
                },
            ),
            (
                self.cc,
                Missing {
                    what: "a C compiler (cc)",
                    why: "rustc links with it, and a part of the TLS library is C",
                    how: "Debian, Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc",
                },
            ),
            (
                self.root,
                Missing {
                    what: "root or sudo",
                    why: "kernel programs, network namespaces and packages need root; the build \
                          itself does not",
                    how: "run as root, or install sudo and allow yourself to use it",
                },
            ),
            (
                self.btf,
                Missing {
                    what: "BTF, /sys/kernel/btf/vmlinux",
                    why: "the daemon takes the offsets of the running kernel's structs from it",
                    how: "run a kernel built with CONFIG_DEBUG_INFO_BTF=y (distributions' are); \
                          in a container, mount /sys",
                },
            ),
        ]
        .into_iter()
        .filter_map(|(found, missing)| (!found).then_some(missing))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Found = Found {
        rustup: true,
        cargo: true,
        cc: true,
        root: true,
        btf: true,
    };

    fn names(found: Found) -> Vec<&'static str> {
        found.missing().iter().map(|missing| missing.what).collect()
    }

    #[test]
    fn nothing_is_missing_when_all_is_there() {
        assert_eq!(names(ALL), [""; 0]);
    }

    #[test]
    fn each_missing_thing_is_named_alone() {
        assert_eq!(
            names(Found {
                rustup: false,
                ..ALL
            }),
            ["rustup"]
        );
        assert_eq!(
            names(Found {
                cargo: false,
                ..ALL
            }),
            ["cargo"]
        );
        assert_eq!(names(Found { cc: false, ..ALL }), ["a C compiler (cc)"]);
        assert_eq!(names(Found { root: false, ..ALL }), ["root or sudo"]);
        assert_eq!(
            names(Found { btf: false, ..ALL }),
            ["BTF, /sys/kernel/btf/vmlinux"]
        );
    }

    #[test]
    fn everything_missing_is_listed_at_once() {
        let none = Found {
            rustup: false,
            cargo: false,
            cc: false,
            root: false,
            btf: false,
        };
        assert_eq!(none.missing().len(), 5);
    }
}
