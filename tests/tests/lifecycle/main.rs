//! The real binary as its host sees it: how it starts, refuses, reloads and ends, what it writes and
//! serves, and that nothing of it stays. Needs root; each test has namespaces of its own.
//!
//! `PEERWATCH_BIN` names the binary, else it is the one beside this test.

mod attached;
mod bad_input;
mod degraded;
mod demo;
mod diagnostics;
mod harmless;
mod hostile;
mod interfaces;
mod metrics;
mod packet_log;
mod privileges;
mod protected;
mod rate_limit;
mod reload;
mod service;
mod signals;
mod site;
