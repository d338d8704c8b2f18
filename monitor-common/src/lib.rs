//! What peerwatch's kernel programs and its daemon share: map keys and values, event records, and
//! the packet parser.
//!
//! Everything that crosses between kernel and user space is `#[repr(C)]`, made of integers only,
//! with explicit padding and a size that is asserted at compile time. Codes become enums in one
//! decoding function that can fail.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "runs in kernel programs too: a call costs there, and older verifiers follow none"
)]

pub mod attempt;
pub mod counter;
pub mod drop;
pub mod event;
pub mod interface;
pub mod packet;
pub mod teredo;
pub mod traffic;
#[cfg(feature = "user")]
mod user;

/// Defines codes that cross the kernel boundary as `u8`: an enum, `ALL`, `code` and a `from_code`
/// that refuses unknown ones.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $code:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[cfg_attr(feature = "user", derive(serde::Deserialize, serde::Serialize))]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant = $code,)+ }

        impl $name {
            /// Every value, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code that crosses the kernel boundary.
            #[inline]
            #[must_use]
            pub const fn code(self) -> u8 { self as u8 }

            /// The value of a code; `None` for a code that no kernel program of this version writes.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// The name in metrics and logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}
pub(crate) use codes;

codes! {
    /// The transport protocols that peerwatch watches.
    Protocol {
        /// RFC 9293.
        Tcp = 0 => "tcp",
        /// RFC 768.
        Udp = 1 => "udp",
    }
}

codes! {
    /// The address families.
    Family {
        /// RFC 791.
        Ipv4 = 0 => "ipv4",
        /// RFC 8200.
        Ipv6 = 1 => "ipv6",
    }
}

codes! {
    /// Where a packet goes, seen from this host.
    Direction {
        /// To a socket of this host.
        Inbound = 0 => "inbound",
        /// Made by this host.
        Outbound = 1 => "outbound",
        /// Routed or bridged through this host.
        Forwarded = 2 => "forwarded",
    }
}

codes! {
    /// Which end of the traffic's port a packet comes from.
    Flow {
        /// The destination port is the traffic's (also when both are).
        Request = 0 => "request",
        /// The source port is the traffic's, the destination port is not.
        Reply = 1 => "reply",
    }
}

codes! {
    /// What became of a packet, after the last hook that could have dropped it.
    Verdict {
        /// It passed every hook.
        Allowed = 0 => "allowed",
        /// The kernel freed it before its verdict point.
        Dropped = 1 => "dropped",
    }
}
