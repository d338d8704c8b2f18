//! The queueing discipline `clsact`, which carries the programs where there is no TCX.

use std::io;

use aya::programs::links::Link as _;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use tracing::warn;

use super::filters::{self, Filter};
use super::link::How;
use crate::bpf::load;

/// Names of programs are cut off there by kernels (`BPF_OBJ_NAME_LEN`, with the zero at its end).
const NAME: usize = 15;

/// Where filters go before those of others: the lowest number runs first.
const PRIORITY: u16 = 1;

/// Where filters are on an interface.
pub(super) const SIDES: [TcAttachType; 2] = [TcAttachType::Ingress, TcAttachType::Egress];

/// A filter that is in place.
pub(super) struct Placed {
    pub(super) link: SchedClassifierLink,
    pub(super) how: How,
    /// Whether the `clsact` is ours to remove: it was not there, or had filters of ours.
    pub(super) own: bool,
}

/// Puts a program on an interface, whose index and name are given: there is one filter of ours then. One that
/// a peerwatch left (unlike links, filters outlive their process) stays, or gets the new program.
pub(super) fn place(
    program: &mut SchedClassifier,
    id: u32,
    (index, interface): (u32, &str),
    attach_type: TcAttachType,
) -> Result<Placed, ProgramError> {
    let added = match tc::qdisc_add_clsact(interface) {
        Ok(()) => true,
        Err(TcError::AlreadyAttached) => false,
        Err(TcError::NetlinkError(error)) if is_exists(&error) => false,
        Err(error) => return Err(error.into()),
    };
    let there = filters::list(index, attach_type).map_err(TcError::IoError)?;
    let mut ours = there
        .into_iter()
        .filter(|filter| filter.program == id || is_ours(filter));
    let link_of = |filter: &Filter| {
        let (priority, handle) = (filter.priority, filter.handle.into());
        SchedClassifierLink::attached(interface, attach_type, priority, handle, None)
            .map_err(|error| ProgramError::from(TcError::IoError(error)))
    };
    let first = ours.next();
    let own = added || first.is_some();
    let (link, how) = match first {
        Some(filter) if filter.program == id => (link_of(&filter)?, How::Kept),
        Some(filter) => {
            let id = program.attach_to_link(link_of(&filter)?)?;
            (program.take_link(id)?, How::Swapped)
        }
        None => {
            let options = TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                ..NlOptions::default()
            });
            let id = program.attach_with_options(interface, attach_type, options)?;
            (program.take_link(id)?, How::New)
        }
    };
    for filter in ours {
        // Its drop would do the same, and keep an error to itself.
        let detached = link_of(&filter).and_then(SchedClassifierLink::detach);
        if let Err(error) = detached {
            // The one that is in place stays there.
            warn!("a second filter stays on {interface}, and counts as well: {error}");
        }
    }
    Ok(Placed { link, how, own })
}

/// Whether a filter is one of ours, by its name.
fn is_ours(filter: &Filter) -> bool {
    let cut = |name: &str| {
        name.as_bytes().get(..NAME).unwrap_or(name.as_bytes()) == {
            let name = filter.name.as_bytes();
            name.get(..NAME).unwrap_or(name)
        }
    };
    load::of_interfaces().any(cut)
}

/// Whether the program with this number is on the interface.
pub(super) fn holds(index: u32, attach_type: TcAttachType, id: u32) -> io::Result<bool> {
    let there = filters::list(index, attach_type)?;
    Ok(there.iter().any(|filter| filter.program == id))
}

/// Removes the filters of ours from these sides of an interface; whether there were any.
pub(super) fn clear(index: u32, interface: &str, sides: &[TcAttachType]) -> io::Result<bool> {
    let mut any = false;
    for &attach_type in sides {
        for filter in filters::list(index, attach_type)?
            .iter()
            .filter(|filter| is_ours(filter))
        {
            let (priority, handle) = (filter.priority, filter.handle.into());
            SchedClassifierLink::attached(interface, attach_type, priority, handle, None)?
                .detach()
                .map_err(io::Error::other)?;
            any = true;
        }
    }
    Ok(any)
}

fn is_exists(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(io) = this.downcast_ref::<io::Error>() {
            return io.raw_os_error() == Some(libc::EEXIST);
        }
        error = this.source();
    }
    false
}
