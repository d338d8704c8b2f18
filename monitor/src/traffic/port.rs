//! A port of one protocol, as users write it.

use std::fmt;
use std::str::FromStr;

use monitor_common::Protocol;

/// One port of one protocol, written `tcp/7680`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// The port number in host byte order, never 0.
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.as_str(), self.number)
    }
}

/// Why a text is not a [`Port`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PortError {
    /// The text has no `/`.
    #[error("\"{0}\" names no protocol; write a port like \"tcp/7680\"")]
    NoProtocol(String),
    /// The protocol is not one that is watched.
    #[error("\"{0}\" is neither tcp nor udp; write a port like \"tcp/7680\"")]
    Protocol(String),
    /// The number is missing, 0, or too large.
    #[error("\"{0}\" has no port from 1 to 65535; write a port like \"tcp/7680\"")]
    Number(String),
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (protocol, number) = text
            .split_once('/')
            .ok_or_else(|| PortError::NoProtocol(text.into()))?;
        let protocol = Protocol::ALL
            .iter()
            .copied()
            .find(|p| p.as_str() == protocol)
            .ok_or_else(|| PortError::Protocol(text.into()))?;
        // The digits are checked because the standard parser takes "+80".
        let number = Some(number)
            .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|n| n.parse().ok())
            .filter(|n| *n != 0)
            .ok_or_else(|| PortError::Number(text.into()))?;
        Ok(Self { protocol, number })
    }
}
