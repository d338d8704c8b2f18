//! peerwatch.

pub mod cgroup;
pub mod http;
pub mod instance;
pub mod log;
pub mod netns;
