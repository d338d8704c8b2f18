//! The ways through the gateway, the targets beyond it, and what a client sees.

use std::io::{self, ErrorKind};
use std::net::TcpStream;

use anyhow::{Result, bail};

/// How an attempt goes through the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// From the client to the gateway.
    Inbound,
    /// From the gateway to the server.
    Outbound,
    /// From the client to the server.
    Forwarded,
    /// The same with the gateway's address as its source.
    Masquerade,
    /// From the client to a port of the gateway, that is another port of the server.
    Dnat,
}

impl Way {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Inbound,
        Self::Outbound,
        Self::Forwarded,
        Self::Masquerade,
        Self::Dnat,
    ];
    /// Those that go on beyond the gateway.
    pub const BEYOND: &'static [Self] = &[
        Self::Outbound,
        Self::Forwarded,
        Self::Masquerade,
        Self::Dnat,
    ];
    /// Those that are routed.
    pub const ROUTED: &'static [Self] = &[Self::Forwarded, Self::Masquerade, Self::Dnat];

    /// Its part of a test's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Forwarded => "forwarded",
            Self::Masquerade => "masquerade",
            Self::Dnat => "dnat",
        }
    }

    /// The label `direction`.
    #[must_use]
    pub const fn direction(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            _ => "forwarded",
        }
    }
}

/// Whom a scene tries to reach beyond the gateway.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Target {
    /// The server, by an address that no other scene uses.
    #[default]
    Server,
    /// Nobody, in a network of the gateway.
    MissingNeighbour,
    /// Nobody, in a network of the router.
    MissingBeyond,
    /// Somebody to whom the gateway has no route.
    Nowhere,
    /// Somebody to whom the gateway's route forbids the way.
    Forbidden,
}

/// What a client sees of its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    /// It is there.
    Open,
    /// It was refused.
    Refused,
    /// Nothing.
    Silence,
    /// That there is no way.
    Unreachable,
}

impl Seen {
    pub(super) fn of(result: &io::Result<TcpStream>) -> Result<Self> {
        let Err(error) = result else {
            return Ok(Self::Open);
        };
        Ok(match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut => Self::Silence,
            ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied => Self::Unreachable,
            _ => bail!("the client sees {error}"),
        })
    }
}
