//! peerwatch.

pub mod btf;
pub mod kallsyms;
