//! The machine, and what this process may do on it.

use std::fs;
use std::path::Path;

use nix::sys::utsname::uname;
use serde::Serialize;

use super::finding::{Finding, Weight};
use crate::bpf::kernel::Kernel;
use crate::kallsyms::{KALLSYMS, Kallsyms};
use crate::preflight::{self, PreflightError};
use crate::{cgroup, netns};

/// What the doctor sees of the machine.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Host {
    /// The kernel's release, as `uname -r` says it.
    pub release: String,
    /// The machine, as `uname -m` says it.
    pub machine: String,
    /// The distribution's own name (`PRETTY_NAME` of os-release(5)); in a container, that of the container.
    pub distribution: Option<String>,
    /// The mode of the kernel's lockdown (`kernel_lockdown(7)`), as far as it is shown.
    pub lockdown: Option<String>,
    /// Capabilities that the daemon needs and this process lacks.
    pub missing_capabilities: Vec<&'static str>,
    /// Where the kernel's BTF is, or why there is none.
    pub btf: Result<String, String>,
    /// The number of this network namespace, the one that is watched.
    pub network_namespace: Option<u32>,
    /// Whether that is the one of the machine's first process; `None` where that may not be asked.
    pub is_host_namespace: Option<bool>,
    /// Where the root of the cgroups is, or why there is none.
    pub cgroup_root: Result<String, String>,
    /// Whether the addresses of the kernel's functions are shown, or why not.
    pub symbols: Result<(), String>,
}

impl Host {
    /// Looks at it.
    pub(super) fn look(kernel: &Kernel, bpffs: &Path, findings: &mut Vec<Finding>) -> Self {
        let names = uname().ok();
        let name = |of: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            let name = names.as_ref().map(|names| of(names).to_string_lossy());
            name.map_or_else(String::new, std::borrow::Cow::into_owned)
        };
        let missing_capabilities = match preflight::check() {
            Err(PreflightError::Capabilities(missing)) => missing,
            _ => Vec::new(),
        };
        let network_namespace = netns::inum().ok();
        let first = fs::read_link("/proc/1/ns/net").ok();
        let first = first.and_then(|link| inside_brackets(link.to_str()?));
        let symbols = Kallsyms::read(KALLSYMS).map(drop);
        let host = Self {
            release: name(|names| names.release()),
            machine: name(|names| names.machine()),
            distribution: distribution(),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown")
                .ok()
                .and_then(|text| chosen(&text)),
            missing_capabilities,
            btf: kernel.btf.clone().map(|path| path.display().to_string()),
            network_namespace,
            is_host_namespace: first.map(|first| Some(first) == network_namespace),
            cgroup_root: cgroup::open_root()
                .map(|root| root.path)
                .map_err(|error| error.to_string()),
            symbols: symbols.map_err(|error| error.to_string()),
        };
        host.find(bpffs, findings);
        host
    }

    /// Whether programs can be loaded at all.
    pub(super) fn can_load(&self) -> bool {
        self.missing_capabilities.is_empty()
    }

    fn find(&self, bpffs: &Path, findings: &mut Vec<Finding>) {
        if !self.can_load() {
            findings.push(Finding {
                id: "capabilities",
                weight: Weight::CannotWork,
                what: format!("this process lacks {}", self.missing_capabilities.join(", ")),
                effect: "kernel programs cannot be loaded, and what follows is known in part only".to_owned(),
                hint: Some(
                    "run it as root, for example through sudo; a service needs AmbientCapabilities= as in docs/service.md"
                        .to_owned(),
                ),
            });
        }
        if let Err(why) = &self.symbols
            && self.can_load()
        {
            findings.push(Finding {
                id: "symbols_hidden",
                weight: Weight::Limited,
                what: why.clone(),
                effect: "a drop without a reason of its own has class \"unspecified\", and some losses after the verdict \
                         count as drops"
                    .to_owned(),
                hint: Some(
                    "set sysctl kernel.kptr_restrict to 0 or 1, and give the process CAP_SYSLOG".to_owned(),
                ),
            });
        }
        if self.is_host_namespace == Some(false) {
            findings.push(Finding {
                id: "own_network_namespace",
                weight: Weight::Note,
                what: "this is not the network namespace of the machine's first process".to_owned(),
                effect: "only packets of this one are counted, and only its interfaces and rules are shown here".to_owned(),
                hint: Some("for the host itself: nsenter --net=/proc/1/ns/net peerwatch doctor".to_owned()),
            });
        }
        if !bpffs.exists() {
            findings.push(Finding {
                id: "no_bpf_file_system",
                weight: Weight::Note,
                what: format!("there is no {}", bpffs.display()),
                effect: "a restart begins at 0".to_owned(),
                hint: Some(format!("mount -t bpf -o mode=0700 bpf {}", bpffs.display())),
            });
        }
    }
}

/// `PRETTY_NAME` of os-release(5).
fn distribution() -> Option<String> {
    let paths = ["/etc/os-release", "/usr/lib/os-release"];
    let text = paths
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())?;
    pretty_name(&text)
}

pub(super) fn pretty_name(text: &str) -> Option<String> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?;
    let value = value.trim_matches(['"', '\'']).trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// What stands in brackets: `none [integrity] confidentiality`.
pub(super) fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (chosen, _) = rest.split_once(']')?;
    Some(chosen.to_owned())
}

/// The number of a namespace: `net:[4026531840]`.
fn inside_brackets(link: &str) -> Option<u32> {
    chosen(link)?.parse().ok()
}
