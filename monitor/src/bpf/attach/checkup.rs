//! Whether what was attached still is. The kernel tells only who waits for its lock of all network devices
//! (`rtnl_mutex`: `tcx_link_fill_info`, `tc_dump_tfilter`), which others may hold for seconds: so this can be
//! done beside the daemon's work, on a thread of its own.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Weak};

use aya::programs::TcAttachType;
use tracing::warn;

use super::link::{Link, is_cut_off};
use super::{Hooks, Wanted, clsact};
use crate::bpf::Hook;
use crate::bpf::sys::object::program_id;

/// What is to be looked at.
#[derive(Debug)]
pub struct Checkup(Vec<Attached>);

/// What somebody else has taken off.
#[derive(Debug, Default)]
pub struct Lost(Vec<(Hook, Option<u32>)>);

/// One attachment.
#[derive(Debug)]
struct Attached {
    hook: Hook,
    /// The interface that it belongs to: its index and name.
    interface: Option<(u32, String)>,
    by: By,
}

/// How it is attached.
#[derive(Debug)]
enum By {
    /// Not held for longer than the look takes: a link that the daemon lets go of meanwhile must end, or it would
    /// count beside the one that takes its place.
    Link(Weak<OwnedFd>),
    /// A filter of `clsact` with this program.
    Filter(TcAttachType, u32),
}

impl Checkup {
    /// Looks. It may wait for the kernel.
    #[must_use]
    pub fn run(self) -> Lost {
        let lost = self.0.into_iter().filter(Attached::is_lost);
        let places = lost.map(|lost| (lost.hook, lost.interface.map(|(index, _)| index)));
        Lost(places.collect())
    }
}

impl Attached {
    /// Whether it is gone, though what it belongs to is there.
    fn is_lost(&self) -> bool {
        let index = self.interface.as_ref().map_or(0, |(index, _)| *index);
        let gone = match &self.by {
            By::Link(link) => link.upgrade().is_some_and(|link| is_cut_off(&link.as_fd())),
            // Where it cannot be asked, it may well be there.
            By::Filter(side, program) => {
                matches!(clsact::holds(index, *side, *program), Ok(false))
            }
        };
        gone && self
            .interface
            .as_ref()
            .is_none_or(|(index, name)| nix::net::if_::if_nametoindex(name.as_str()) == Ok(*index))
    }
}

impl Hooks {
    /// What is attached by now and could be taken off by others.
    #[must_use]
    pub fn checkup(&self) -> Checkup {
        let mut all = Vec::new();
        for (index, interface) in &self.interfaces {
            for (hook, side) in interface.wanted.hooks() {
                all.extend(self.attached(*index, *hook, *side));
            }
        }
        all.extend(self.attached_to_host());
        Checkup(all)
    }

    fn attached(&self, index: u32, hook: Hook, side: TcAttachType) -> Option<Attached> {
        let interface = self.interfaces.get(&index)?;
        let by = match interface.links.get(&hook)? {
            Link::Held(link) => By::Link(Arc::downgrade(link)),
            Link::Filter(_) => {
                let program = self.loaded.program(interface.wanted.program(hook))?;
                By::Filter(side, program_id(&program).ok()?)
            }
        };
        Some(Attached {
            hook,
            interface: Some((index, interface.wanted.name.clone())),
            by,
        })
    }

    /// Nobody can take a tracepoint off, but a cgroup can.
    fn attached_to_host(&self) -> Option<Attached> {
        let Link::Held(link) = self.deliver_link.as_ref()? else {
            return None;
        };
        Some(Attached {
            hook: Hook::Deliver,
            interface: None,
            by: By::Link(Arc::downgrade(link)),
        })
    }

    /// Attaches again what was lost, and still is. Gives hook and interface of each.
    pub fn attach_again(&mut self, lost: Lost) -> Vec<(Hook, String)> {
        let mut again = Vec::new();
        for (hook, index) in lost.0 {
            let Some(index) = index else {
                if self.attached_to_host().is_some_and(|host| host.is_lost()) {
                    self.deliver_link = None;
                    again.push((hook, String::new()));
                }
                continue;
            };
            let Some(wanted) = self.lost_of(index, hook) else {
                continue;
            };
            if let Some(interface) = self.interfaces.get_mut(&index)
                && let Some(link) = interface.links.remove(&hook)
            {
                // What stands in the place of a filter is not ours to remove.
                link.leave();
            }
            let name = wanted.name.clone();
            match self.attach_interface(index, wanted) {
                Ok(()) => {
                    self.states.note_reattached(hook);
                    again.push((hook, name));
                }
                Err(error) => warn!("{error}"),
            }
        }
        again
    }

    /// What is wanted of an interface that has lost a hook: since it was looked at, it may have gone, or come
    /// back.
    fn lost_of(&self, index: u32, hook: Hook) -> Option<Wanted> {
        let wanted = &self.interfaces.get(&index)?.wanted;
        let (_, side) = wanted.hooks().iter().find(|(one, _)| *one == hook)?;
        let attached = self.attached(index, hook, *side)?;
        attached.is_lost().then(|| wanted.clone())
    }
}
