//! peerwatch.

pub mod http;
