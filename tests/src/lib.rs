//! Labs of network namespaces and the tools that exact-count tests of peerwatch need.
//!
//! A [`lab::Lab`] is a gateway namespace with a running daemon, a peer on one side and a server on the
//! other. A row ([`rows::Row`]) sets a scene in it, sends packets, and compares what a real scrape
//! shows with what should be there. Everything needs root.

pub mod attempts;
pub mod bpf;
pub mod case;
pub mod daemon;
pub mod dashboards;
pub mod degraded;
pub mod doctor;
pub mod expect;
pub mod faults;
pub mod features;
pub mod fuzz;
pub mod helper;
pub mod http;
pub mod kernel;
pub mod lab;
pub mod lifecycle;
pub mod limit;
pub mod lockdown;
pub mod needs;
pub mod netlink;
pub mod netns;
pub mod packet;
pub mod pager;
pub mod pool;
pub mod process;
pub mod program;
pub mod promql;
pub mod queue;
pub mod restarts;
pub mod rows;
pub mod scenes;
pub mod scrape;
pub mod send;
pub mod states;
pub mod tun;
pub mod undo;
pub mod wait;
pub mod web;
