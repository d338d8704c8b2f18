//! The records as the daemon's map types take them.

use crate::attempt::{Attempt, AttemptKey};
use crate::counter::Count;
use crate::drop::{DropKey, Place, ReasonInfo};
use crate::interface::{InterfaceCount, InterfaceInfo};
use crate::traffic::PortTable;

macro_rules! pod {
    ($($record:ty),+) => {
        $(
            // SAFETY: `#[repr(C)]`, integers only, no implicit padding: any bytes are a value.
            unsafe impl aya::Pod for $record {}
        )+
    };
}

pod!(
    Attempt,
    AttemptKey,
    Count,
    DropKey,
    InterfaceCount,
    InterfaceInfo,
    Place,
    PortTable,
    ReasonInfo
);
