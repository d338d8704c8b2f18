//! peerwatch.

pub mod btf;
pub mod drop;
pub mod kallsyms;
