//! What is done first: all that takes more power than the daemon needs afterwards, and then giving up that
//! power. There is no second thread yet, since each has its own capabilities.

use std::net::TcpListener;

use tracing::{debug, info, warn};

use super::RunError;
use crate::bpf::features::{Feature, Features, LEFT_OUT};
use crate::bpf::kernel::{BtfFileError, Kernel};
use crate::bpf::runs::Statistics;
use crate::cgroup::Root;
use crate::config::Config;
use crate::http;
use crate::instance::Instance;
use crate::{preflight, privileges, selftest};

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
    /// Whether the self-test passed (`CAP_SYS_ADMIN`, for its namespaces); `None` where none is wanted.
    pub(super) self_tested: Option<bool>,
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
        let self_tested = config
            .self_test
            .then(|| self_test(&kernel, &features, &cgroup));
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
            self_tested,
            _instance: instance,
        })
    }
}

/// Tests itself, in threads that have ended then; says how that went.
fn self_test(kernel: &Kernel, features: &Features, cgroup: &Root) -> bool {
    let test = selftest::run(kernel, features, cgroup);
    if test.passed() {
        info!("{}", test.summary());
    } else {
        warn!("{}; `peerwatch doctor` says more", test.summary());
    }
    test.passed()
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
///
/// # Errors
///
/// Where a file with BTF is named and cannot be used.
pub(crate) fn look(config: &Config) -> Result<(Kernel, Features), BtfFileError> {
    let mut kernel = Kernel::read(config.btf.as_deref())?;
    if config.without.contains(&Feature::KernelBtf) {
        kernel = Kernel::unknown(LEFT_OUT.to_owned());
    }
    let features = Features::probe(&kernel, &config.kept.bpffs, &config.without);
    kernel.restrict(&features);
    Ok((kernel, features))
}

/// The same, with a word on what is left out.
fn kernel(config: &Config) -> Result<(Kernel, Features), RunError> {
    if !config.without.is_empty() {
        let names = config.without.iter().map(|feature| feature.row().name);
        let names: Vec<&str> = names.collect();
        warn!(
            "PEERWATCH_WITHOUT leaves out {}: an aid for tests, with which less may be seen",
            names.join(", ")
        );
    }
    let (kernel, features) = look(config)?;
    features.log();
    Ok((kernel, features))
}
