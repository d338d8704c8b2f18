//! The library behind the `peerwatch` binary.

pub mod bpf;
pub mod btf;
pub mod cli;
pub mod cmd {
    //! One file per subcommand.
    pub mod check_config;
}
pub mod config;
pub mod diagnostics;
pub mod drop;
pub mod kallsyms;
pub mod link;
pub mod metrics;
pub mod preflight;
pub mod traffic;
