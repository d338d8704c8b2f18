//! The library behind the `peerwatch` binary.

pub mod attempt;
pub mod bpf;
pub mod btf;
pub mod cgroup;
pub mod cli;
pub mod cmd {
    //! One file per subcommand.
    pub mod check_config;
    pub mod doctor;
    pub mod status;
    pub mod uninstall;
}
pub mod config;
pub mod conntrack;
pub mod daemon;
pub mod diagnostics;
pub mod doctor;
pub mod drop;
pub mod firewall;
#[doc(hidden)]
pub mod fuzz;
pub mod heap;
pub mod http;
pub mod instance;
pub mod kallsyms;
pub mod limits;
pub mod link;
pub mod log;
pub mod metrics;
pub mod neighbour;
mod netlink;
pub mod netns;
pub mod preflight;
pub mod privileges;
pub mod ruleset;
pub mod saved;
pub mod selftest;
pub mod service;
pub mod state;
pub mod status;
pub mod teredo;
pub mod traffic;
