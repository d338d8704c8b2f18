//! peerwatch.
