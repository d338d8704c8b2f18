//! Attaching the programs, and keeping each interface attached as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use aya::programs::{ProgramError, TcAttachType};
use thiserror::Error;

mod checkup;
mod clsact;
mod filters;
mod keep;
mod link;
mod tc;

use super::Hook;
use super::features::{Feature, Features};
use super::load::{Kept, LOOPBACK, Loaded, Refusal, TP_BTF};
pub use super::state::{HookState, HookStates, Mode, SharedStates};
use super::sys;
pub use checkup::{Checkup, Lost};
pub(super) use filters::of_interface as filters_of;
pub use filters::remove_clsact;
pub use keep::clear_filters;
use link::{Link, Place};

/// The tracepoint, for a program that does not have it in itself.
const TRACEPOINT: &CStr = c"kfree_skb";

/// A hook that could not be attached.
#[derive(Debug, Error)]
#[error("{hook} {place}could not be attached: {why}", hook = .hook.as_str())]
pub struct AttachError {
    /// The hook.
    pub hook: Hook,
    /// Where, with a space behind it; empty for the host.
    pub place: String,
    /// What the kernel said.
    pub why: String,
    /// Whether it has no program: that was said when the programs were loaded.
    pub program: bool,
}

/// How the programs see an interface. Two that are equal need no new attachment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Whether it is the loopback device, where only the answers of this host's own rules are looked at.
    pub loopback: bool,
    /// Whether its frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Whether arriving packets are looked at here, for fragments, attempts and signs of life: not on the
    /// ports of a bridge or bond, whose packets arrive again on the device above.
    pub ingress: bool,
}

#[derive(Debug)]
struct Interface {
    wanted: Wanted,
    links: BTreeMap<Hook, Link>,
}

impl Wanted {
    fn hooks(&self) -> &'static [(Hook, TcAttachType)] {
        const BOTH: &[(Hook, TcAttachType)] = &[
            (Hook::Egress, TcAttachType::Egress),
            (Hook::Ingress, TcAttachType::Ingress),
        ];
        if self.ingress { BOTH } else { &BOTH[..1] }
    }

    /// The program of a hook for this interface.
    const fn program(&self, hook: Hook) -> &'static str {
        match (hook, self.ethernet) {
            _ if self.loopback => LOOPBACK,
            (Hook::Ingress, true) => "ingress_ethernet",
            (Hook::Ingress, false) => "ingress_other",
            (_, true) => "egress_ethernet",
            (_, false) => "egress_other",
        }
    }
}

/// The attached programs.
#[derive(Debug)]
pub struct Hooks {
    loaded: Loaded,
    drop_link: Option<Link>,
    deliver_link: Option<Link>,
    interfaces: BTreeMap<u32, Interface>,
    tc_mode: Mode,
    /// Interfaces whose `clsact` is ours.
    own_clsact: BTreeSet<u32>,
    states: SharedStates,
    /// While this daemon begins: when the one before was last alive, on the monotonic clock.
    down_since: Option<Duration>,
}

impl Hooks {
    /// Takes over a loaded object. Its hooks without a program are reported as such.
    #[must_use]
    pub fn new(loaded: Loaded, features: &Features) -> Self {
        let states = SharedStates::default();
        for hook in [Hook::Drop, Hook::Deliver] {
            states.set(hook, "", Err("not attached yet".to_owned()));
        }
        let this = Self {
            loaded,
            drop_link: None,
            deliver_link: None,
            interfaces: BTreeMap::new(),
            tc_mode: if features.has(Feature::Tcx) {
                Mode::Tcx
            } else {
                Mode::Clsact
            },
            own_clsact: BTreeSet::new(),
            states,
            down_since: None,
        };
        this.say_refused();
        this
    }

    /// Tells those who read the states which hooks have no program.
    fn say_refused(&self) {
        let mut refused = BTreeSet::new();
        for hook in Hook::ALL {
            if let Some(refusal) = self.loaded.refusal(hook) {
                refused.insert(hook);
                if matches!(hook, Hook::Drop | Hook::Deliver) {
                    self.states.set(hook, "", Err(refusal.why.clone()));
                }
            }
        }
        self.states.set_refused(refused);
    }

    /// What is attached, now and later.
    #[must_use]
    pub fn states(&self) -> SharedStates {
        self.states.clone()
    }

    /// The object and what of it is not loaded.
    #[must_use]
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Tries again to load the programs whose refusal may have passed. Gives those that are loaded now.
    pub fn load_again(&mut self) -> Vec<&'static str> {
        let loaded = self.loaded.load_again();
        self.say_refused();
        loaded
    }

    /// Whether a hook that belongs to no interface has a program and is not attached.
    #[must_use]
    pub fn can_attach(&self, hook: Hook) -> bool {
        let attached = match hook {
            Hook::Drop => self.drop_link.is_some(),
            _ => self.deliver_link.is_some(),
        };
        !attached && self.loaded.refusal(hook).is_none()
    }

    /// Attaches a program to what belongs to no interface.
    fn attach_host(
        &self,
        hook: Hook,
        program: Option<BorrowedFd<'_>>,
        place: &Place<'_>,
    ) -> Result<Link, Refused> {
        let program = program.ok_or_else(|| Refused::by_kernel(ProgramError::NotLoaded))?;
        let pin = self.pin(hook.as_str());
        let (link, how) = link::attach(program, place, pin.as_deref()).map_err(Refused::by_call)?;
        self.note(hook, how);
        Ok(Link::Held(link.into()))
    }

    fn host_hook(&self, hook: Hook, result: Result<Mode, Refused>) -> Result<(), AttachError> {
        let state = result.as_ref().map_err(|refused| refused.why.clone());
        self.states.set(hook, "", state.copied());
        result
            .map(drop)
            .map_err(|Refused { why, program }| AttachError {
                hook,
                place: String::new(),
                why,
                program,
            })
    }

    /// Attaches to `kfree_skb`.
    ///
    /// # Errors
    ///
    /// Where the program was not loaded, or the kernel refuses.
    pub fn attach_drop(&mut self) -> Result<(), AttachError> {
        let result = if let Some(refusal) = self.loaded.refusal(Hook::Drop) {
            Err(refusal.into())
        } else {
            let (name, mode) = if self.loaded.drop_program == TP_BTF {
                (None, Mode::TpBtf)
            } else {
                (Some(TRACEPOINT), Mode::RawTp)
            };
            let program = self.loaded.drop_fd();
            let kept = self.loaded.kept.as_ref();
            let ports = kept.map(Kept::ports_before).unwrap_or_default();
            self.attach_host(Hook::Drop, program, &Place::Tracepoint { name, ports })
                .map(|link| (link, mode))
        };
        let result = result.map(|(link, mode)| {
            self.drop_link = Some(link);
            mode
        });
        self.host_hook(Hook::Drop, result)
    }

    /// Attaches to the root cgroup; `root` is its open directory, or why there is none.
    ///
    /// # Errors
    ///
    /// Where there is no root, the program was not loaded, or the kernel refuses.
    pub fn attach_deliver(&mut self, root: Result<impl AsFd, String>) -> Result<(), AttachError> {
        let result = match (self.loaded.refusal(Hook::Deliver), root) {
            (Some(refusal), _) => Err(refusal.into()),
            (None, Err(why)) => Err(Refused {
                why,
                program: false,
            }),
            (None, Ok(root)) => {
                let place = Place::Cgroup(root.as_fd(), sys::BPF_CGROUP_INET_INGRESS);
                self.attach_host(Hook::Deliver, self.loaded.program("deliver"), &place)
            }
        };
        let result = result.map(|link| {
            self.deliver_link = Some(link);
            Mode::CgroupLink
        });
        self.host_hook(Hook::Deliver, result)
    }

    /// Attaches an interface as it should be, which may mean to detach it first. What is attached
    /// already stays: where a hook failed before, only that one is tried again.
    ///
    /// # Errors
    ///
    /// The first hook that failed. The others are attached all the same.
    pub fn attach_interface(&mut self, index: u32, wanted: Wanted) -> Result<(), AttachError> {
        let known = self.interfaces.get_mut(&index);
        let fits = known.filter(|known| {
            (
                known.wanted.loopback,
                known.wanted.ethernet,
                known.wanted.ingress,
            ) == (wanted.loopback, wanted.ethernet, wanted.ingress)
        });
        match fits {
            Some(known) if known.wanted.name == wanted.name => {}
            Some(known) => {
                // Renamed. The programs stay: attachments go by index.
                self.states.remove_interface(&known.wanted.name);
                for hook in known.links.keys() {
                    self.states.set(*hook, &wanted.name, Ok(self.tc_mode));
                }
                known.wanted = wanted.clone();
            }
            None => self.detach_interface(index),
        }
        let known = self.interfaces.get(&index);
        let attached = |hook| known.is_some_and(|known| known.links.contains_key(&hook));
        let hooks = wanted.hooks().iter().copied();
        let open: Vec<_> = hooks.filter(|(hook, _)| !attached(*hook)).collect();
        if open.is_empty() {
            return Ok(());
        }
        // Attaching goes by name, and names move: a device may have been renamed since it was told of.
        // Where the kernel can't be asked, as without a free descriptor, attaching fails too, and is tried
        // again.
        let moved = match nix::net::if_::if_nametoindex(wanted.name.as_str()) {
            Ok(found) => found != index,
            Err(error) => error == nix::errno::Errno::ENODEV,
        };
        if moved {
            return Err(AttachError {
                hook: Hook::Egress,
                place: format!("of {} ", wanted.name),
                why: "the name belongs to no interface, or to another one by now".to_owned(),
                program: false,
            });
        }
        let mut links = BTreeMap::new();
        let mut first_error = None;
        for (hook, attach_type) in open {
            match self.attach_tc(index, &wanted, hook, attach_type) {
                Ok((link, how)) => {
                    links.insert(hook, link);
                    self.note(hook, how);
                    self.states.set(hook, &wanted.name, Ok(self.tc_mode));
                }
                Err(Refused { why, program }) => {
                    self.states.set(hook, &wanted.name, Err(why.clone()));
                    first_error.get_or_insert(AttachError {
                        hook,
                        place: format!("of {} ", wanted.name),
                        why,
                        program,
                    });
                }
            }
        }
        let interface = self.interfaces.entry(index).or_insert_with(|| Interface {
            wanted,
            links: BTreeMap::new(),
        });
        interface.links.append(&mut links);
        first_error.map_or(Ok(()), Err)
    }

    /// The interfaces of which some hook is not attached and could be: its program is there.
    #[must_use]
    pub fn incomplete(&self) -> Vec<u32> {
        let could = |interface: &Interface, hook: Hook| {
            let program = interface.wanted.program(hook);
            !interface.links.contains_key(&hook) && !self.loaded.refused.contains_key(program)
        };
        let incomplete = self.interfaces.iter().filter(|(_, interface)| {
            let mut hooks = interface.wanted.hooks().iter();
            hooks.any(|(hook, _)| could(interface, *hook))
        });
        incomplete.map(|(index, _)| *index).collect()
    }
}

/// Why something was not attached.
struct Refused {
    why: String,
    /// See [`AttachError`].
    program: bool,
}

impl Refused {
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    fn by_call(error: std::io::Error) -> Self {
        Self {
            why: error.to_string(),
            program: false,
        }
    }

    fn by_kernel(error: ProgramError) -> Self {
        let why = match error {
            ProgramError::SyscallError(error) => format!("{}: {}", error.call, error.io_error),
            other => other.to_string(),
        };
        Self {
            why,
            program: false,
        }
    }
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Self {
        Self {
            why: refusal.why.clone(),
            program: true,
        }
    }
}
