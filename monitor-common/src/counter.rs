//! Packet and byte counters, and the slot that names one series of them.
//!
//! The allowed side lives in a per-CPU array with one entry a slot: the index is computed, so the
//! pass path needs no hash lookup.

use crate::traffic::MAX_TRAFFICS;
use crate::{Direction, Family, Flow, Protocol};

/// Packets and bytes of one series on one CPU.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Count {
    /// Packets on the wire: a coalesced one counts as the segments that it stands for.
    pub packets: u64,
    /// Bytes of the IP packets, header and payload; headers of a coalesced one count once.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Count>() == 16);

const PROTOCOLS: u32 = 2;
const FAMILIES: u32 = 2;
const DIRECTIONS: u32 = 3;
const FLOWS: u32 = 2;

/// How many slots there are: traffics × protocols × families × directions × flows.
pub const SLOTS: u32 = MAX_TRAFFICS as u32 * PROTOCOLS * FAMILIES * DIRECTIONS * FLOWS;

/// Index of the counters of one traffic, protocol, family, direction and flow.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct Slot(pub u16);

/// What a [`Slot`] stands for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Series {
    /// Index of the traffic in the daemon's configuration, below [`MAX_TRAFFICS`].
    pub traffic: u8,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address family.
    pub family: Family,
    /// Direction, seen from this host.
    pub direction: Direction,
    /// Request or reply.
    pub flow: Flow,
}

impl Slot {
    /// The slot of a series, from codes: `traffic` is an index below [`MAX_TRAFFICS`], the others are
    /// codes of the enums of this crate. A code out of range gives a slot that is out of range.
    #[inline(always)]
    #[must_use]
    pub const fn from_codes(
        traffic: u32,
        protocol: u32,
        family: u32,
        direction: u32,
        flow: u32,
    ) -> u32 {
        (((traffic * PROTOCOLS + protocol) * FAMILIES + family) * DIRECTIONS + direction) * FLOWS
            + flow
    }

    /// The slot of a series.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "SLOTS is far below 65,536")]
    pub const fn of(series: &Series) -> Self {
        Self(Self::from_codes(
            series.traffic as u32,
            series.protocol as u32,
            series.family as u32,
            series.direction as u32,
            series.flow as u32,
        ) as u16)
    }

    /// The series of a slot; `None` where the slot is out of range.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each remainder is below 256"
    )]
    pub const fn series(self) -> Option<Series> {
        let slot = self.0 as u32;
        if slot >= SLOTS {
            return None;
        }
        let flow = slot % FLOWS;
        let rest = slot / FLOWS;
        let direction = rest % DIRECTIONS;
        let rest = rest / DIRECTIONS;
        let family = rest % FAMILIES;
        let rest = rest / FAMILIES;
        let protocol = rest % PROTOCOLS;
        let traffic = rest / PROTOCOLS;
        match (
            Protocol::from_code(protocol as u8),
            Family::from_code(family as u8),
            Direction::from_code(direction as u8),
            Flow::from_code(flow as u8),
        ) {
            (Some(protocol), Some(family), Some(direction), Some(flow)) => Some(Series {
                traffic: traffic as u8,
                protocol,
                family,
                direction,
                flow,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_names_one_series_and_back() {
        for slot in 0..SLOTS {
            let slot = Slot(u16::try_from(slot).unwrap());
            let series = slot.series().unwrap();
            assert_eq!(Slot::of(&series), slot);
            assert!(series.traffic < MAX_TRAFFICS);
        }
        assert_eq!(Slot(u16::try_from(SLOTS).unwrap()).series(), None);
    }
}
