//! Whether an address belongs to this host.

use monitor_common::Family;
use monitor_common::packet::{Address4, Address6, Reader};

use crate::maps::LOCAL_ADDRESSES;

/// Whether the packet's destination is an address of this host, or a broadcast or multicast one.
/// `network` is the offset of the IP header.
#[inline(always)]
pub(crate) fn is_destination<R: Reader>(reader: &R, family: u32, network: u32) -> bool {
    let mut key = [0_u8; 16];
    if family == Family::Ipv4 as u32 {
        let Some(address) = reader.get::<Address4>(network + 16) else {
            return false;
        };
        let bytes = address.bytes();
        // Multicast and reserved, with the limited broadcast (RFC 5771, RFC 919).
        if bytes[0] >= 224 {
            return true;
        }
        key[10] = 0xff;
        key[11] = 0xff;
        key[12] = bytes[0];
        key[13] = bytes[1];
        key[14] = bytes[2];
        key[15] = bytes[3];
    } else {
        let Some(address) = reader.get::<Address6>(network + 24) else {
            return false;
        };
        key = address.bytes();
        if key[0] == 0xff {
            return true;
        }
    }
    // SAFETY: the value is not looked at.
    unsafe { LOCAL_ADDRESSES.get(key) }.is_some()
}
