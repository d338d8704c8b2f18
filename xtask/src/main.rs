//! Set-up, run, test, check, vm tests, bench and demo of peerwatch.

fn main() {}
