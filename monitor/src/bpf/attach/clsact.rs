//! The queueing discipline `clsact`, which carries the programs where there is no TCX.

use aya::programs::tc::{self, TcError};
use aya::programs::{ProgramError, TcAttachType};

use crate::bpf::load;

/// Makes sure that there is a `clsact` without filters of ours. Gives whether it is ours to remove.
pub(super) fn add(interface: &str, attach_type: TcAttachType) -> Result<bool, ProgramError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => Ok(true),
        Err(TcError::AlreadyAttached) => Ok(remove_stale(interface, attach_type)),
        Err(TcError::NetlinkError(error)) if is_exists(&error) => {
            Ok(remove_stale(interface, attach_type))
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes filters that a peerwatch left when it was killed: unlike links, they outlive their process,
/// and there is one peerwatch in a network namespace. Gives whether there were any: then the `clsact`
/// that they were on was added by it, too.
fn remove_stale(interface: &str, attach_type: TcAttachType) -> bool {
    let removed = load::of_interfaces()
        .filter(|name| tc::qdisc_detach_program(interface, attach_type, name).is_ok());
    removed.count() > 0
}

fn is_exists(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(io) = this.downcast_ref::<std::io::Error>() {
            return io.raw_os_error() == Some(libc::EEXIST);
        }
        error = this.source();
    }
    false
}
