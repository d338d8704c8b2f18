//! One attachment: taken over from the daemon before, given another program, or made.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::programs::tc::SchedClassifierLink;
use monitor_common::traffic::PortTable;
use tracing::{debug, warn};

use crate::bpf::pins::put;
use crate::bpf::sys::{self, link, object};

/// How an attachment came about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum How {
    /// It was there, with this program.
    Kept,
    /// It was there, and got this program; no packet went by in between.
    Swapped,
    /// It was there, and had to go before this one: for so long nothing was counted.
    Replaced(Duration),
    /// Nothing was there.
    New,
}

/// Where a program is to be attached.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// To `kfree_skb`.
    Tracepoint {
        /// Where the program does not know it by itself.
        name: Option<&'a CStr>,
        /// The tables of ports of programs before.
        ports: Vec<OwnedFd>,
    },
    /// To an open cgroup, by the kernel's number of the hook.
    Cgroup(BorrowedFd<'a>, u32),
    /// To an interface by TCX: its index, and the number of the hook.
    Interface(u32, u32),
}

/// What holds a program where it is attached.
#[derive(Debug)]
pub(super) enum Link {
    /// A link, which ends with its last descriptor and pin. Whoever looks at it meanwhile shares it.
    Held(Arc<OwnedFd>),
    /// A filter of `clsact`, whose drop removes it.
    Filter(SchedClassifierLink),
}

impl Place<'_> {
    fn attach(&self, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        match self {
            Self::Tracepoint { name, .. } => sys::attach_tracepoint(&program, *name),
            Self::Cgroup(cgroup, hook) => link::attach_cgroup(&program, cgroup, *hook),
            Self::Interface(index, hook) => link::attach_first(&program, *index, *hook),
        }
    }

    /// Whether a link is one of this place, and not cut off from it.
    fn is_of(&self, held: link::Held) -> bool {
        match (self, held.place) {
            (Self::Tracepoint { .. }, None) => true,
            (Self::Cgroup(..), Some(cgroup)) => cgroup != 0,
            (Self::Interface(index, _), Some(place)) => place == u64::from(*index),
            _ => false,
        }
    }
}

/// Attaches a program; `pin` is where its link is pinned, or is to be.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    place: &Place<'_>,
    pin: Option<&Path>,
) -> io::Result<(OwnedFd, How)> {
    let Some(pin) = pin else {
        return Ok((place.attach(program)?, How::New));
    };
    let mut how = How::New;
    let mut since = None;
    if let Ok(old) = object::get(pin) {
        let held = link::held(&old)?;
        if place.is_of(held) {
            if held.program == object::program_id(&program)? {
                return Ok((old, How::Kept));
            }
            if let Place::Tracepoint { ports, .. } = place {
                // That of a tracepoint cannot be given another program, and the kernel lets the old one run
                // some milliseconds longer. Without ports it counts nothing.
                since = Some(Instant::now());
                for ports in ports {
                    object::write_cell(ports, &vec![0; size_of::<PortTable>()])?;
                }
            } else if link::update(&old, &program).is_ok() {
                return Ok((old, How::Swapped));
            } else {
                since = Some(Instant::now());
            }
        }
        fs::remove_file(pin)?;
    }
    let link = place.attach(program)?;
    if let Some(since) = since {
        how = How::Replaced(since.elapsed());
    }
    if let Err(error) = put(&link, pin) {
        warn!("what is attached now ends with this daemon: {error}");
    }
    Ok((link, how))
}

impl Link {
    /// Detaches at once, also while somebody looks at the link.
    pub(super) fn end(self) {
        if let Self::Held(held) = &self
            && let Err(error) = link::detach(held)
        {
            // Gone with its interface, or else it goes with its last holder.
            debug!("a link was not detached by itself: {error}");
        }
    }

    /// Leaves a filter where it is.
    pub(super) fn leave(self) {
        if let Self::Filter(filter) = self {
            // Its drop would remove it; there is nothing else in it.
            std::mem::forget(filter);
        }
    }
}

/// Whether a link was cut off from its place; where the kernel does not say, it was not.
pub(super) fn is_cut_off(held: &impl AsFd) -> bool {
    link::held(held).is_ok_and(|held| held.place == Some(0))
}
