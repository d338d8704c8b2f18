//! peerwatch.
fn main() {}
