//! What is done first: all that takes more power than the daemon needs afterwards, and then giving up that
//! power. There is no second thread yet, since each has its own capabilities.

use std::net::TcpListener;

use tracing::{debug, warn};

use super::RunError;
use crate::bpf::features::{Feature, Features, LEFT_OUT};
use crate::bpf::kernel::Kernel;
use crate::bpf::runs::Statistics;
use crate::cgroup::Root;
use crate::config::Config;
use crate::http;
use crate::instance::Instance;
use crate::{preflight, privileges};

/// What was had with the power that the process was started with. Nothing is attached yet.
#[derive(Debug)]
pub struct Early {
    /// Maybe on a port below 1024 (`CAP_NET_BIND_SERVICE`).
    pub(super) listener: TcpListener,
    /// Maybe checked against the BTF that only bpf(2) gives (`CAP_SYS_ADMIN`), and of a file that is another
    /// user's (`CAP_DAC_READ_SEARCH`).
    pub(super) kernel: Kernel,
    pub(super) features: Features,
    /// The kernel's statistics of programs, where they are wanted (`CAP_SYS_ADMIN`).
    pub(super) statistics: Option<Statistics>,
    /// Maybe through a private mount (`CAP_SYS_ADMIN`).
    pub(super) cgroup: Root,
    /// The place of the one daemon of this network namespace.
    _instance: Instance,
}

impl Early {
    /// Makes sure that the daemon may run, takes what it takes privileges to have, and gives them up. Call it
    /// while the process has one thread.
    ///
    /// # Errors
    ///
    /// What keeps the daemon from starting.
    pub fn begin(config: &Config) -> Result<Self, RunError> {
        preflight::check()?;
        let instance = Instance::claim()?;
        let listener = http::bind(config.listen)?;
        // CAP_SYS_RESOURCE, where the hard limit is to rise too.
        if let Err(error) = preflight::raise_locked_memory() {
            debug!("the limit of locked memory stays as it is: {error}");
        }
        if let Err(error) = preflight::raise_open_files() {
            debug!("the limit of open files stays as it is: {error}");
        }
        let (kernel, features) = kernel(config)?;
        let cgroup = Root::find();
        let statistics = statistics(config);
        privileges::give_up();
        if let Some(path) = &config.config_path {
            privileges::check_readable_again(path);
        }
        Ok(Self {
            listener,
            kernel,
            features,
            statistics,
            cgroup,
            _instance: instance,
        })
    }
}

/// Turns the kernel's statistics of programs on, where they are wanted.
fn statistics(config: &Config) -> Option<Statistics> {
    if !config.bpf_stats {
        return None;
    }
    match Statistics::enable() {
        Ok(statistics) => Some(statistics),
        Err(error) => {
            warn!(
                "the kernel does not time its programs (--bpf-stats, needs CAP_SYS_ADMIN): {error}"
            );
            None
        }
    }
}

/// What is known of the kernel, and what it offers.
fn kernel(config: &Config) -> Result<(Kernel, Features), RunError> {
    let mut kernel = Kernel::read(config.btf.as_deref())?;
    if config.without.contains(&Feature::KernelBtf) {
        kernel = Kernel::unknown(LEFT_OUT.to_owned());
    }
    if !config.without.is_empty() {
        let names = config.without.iter().map(|feature| feature.row().name);
        let names: Vec<&str> = names.collect();
        warn!(
            "PEERWATCH_WITHOUT leaves out {}: an aid for tests, with which less may be seen",
            names.join(", ")
        );
    }
    let features = Features::probe(&kernel, &config.kept.bpffs, &config.without);
    features.log();
    kernel.restrict(&features);
    Ok((kernel, features))
}
