//! The library behind the `peerwatch` binary.

pub mod cli;
pub mod cmd {
    //! One file per subcommand.
    pub mod check_config;
}
pub mod config;
pub mod diagnostics;
pub mod link;
pub mod traffic;
