//! The port table: which traffic a port belongs to.

/// The most traffics that a configuration may name.
pub const MAX_TRAFFICS: u8 = 16;

/// The most ports that a configuration may name, all traffics together.
pub const MAX_PORTS: usize = 64;

/// The value of a port that no traffic names. Others are the traffic's index + 1.
pub const UNWATCHED: u8 = 0;

/// The table from port to traffic, one byte a port.
///
/// It is indexed by the port **in network byte order**, as it is loaded from the packet: that saves
/// the swap on the path of every packet, and a 16-bit load needs no bounds check.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PortTable {
    /// TCP ports.
    pub tcp: [u8; 65536],
    /// UDP ports.
    pub udp: [u8; 65536],
}

const _: () = assert!(size_of::<PortTable>() == 131_072);
