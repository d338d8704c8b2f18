//! Attaching the programs, and keeping each interface attached as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use aya::Ebpf;
use aya::programs::cgroup_skb::CgroupSkbLink;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError};
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, LinkOrder, ProgramError,
    SchedClassifier, TcAttachType, tc,
};
use thiserror::Error;

use super::Hook;

/// How a hook is attached, as in the label `mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// BTF tracepoint.
    TpBtf,
    /// Link on a cgroup.
    CgroupLink,
    /// TCX link (6.6 and later).
    Tcx,
    /// Filter on the queueing discipline `clsact`.
    Clsact,
}

impl Mode {
    /// The name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::CgroupLink => "cgroup_link",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// A hook that could not be attached.
#[derive(Debug, Error)]
#[error("{hook} {place}could not be attached: {why}", hook = .hook.as_str())]
pub struct AttachError {
    /// The hook.
    pub hook: Hook,
    /// Where, with a space behind it; empty for the host.
    pub place: String,
    /// What the kernel said.
    pub why: String,
}

/// One hook that is wanted: attached in some mode, or not, and why.
pub type HookState = Result<Mode, String>;

/// What is attached where: the hook and the interface, empty where it has none.
pub type HookStates = BTreeMap<(Hook, String), HookState>;

/// The states, as metrics and readiness read them.
#[derive(Clone, Debug, Default)]
pub struct SharedStates(Arc<Mutex<HookStates>>);

impl SharedStates {
    /// A copy of the states now.
    #[must_use]
    pub fn get(&self) -> HookStates {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, hook: Hook, interface: &str, state: HookState) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert((hook, interface.to_owned()), state);
    }

    fn remove_interface(&self, interface: &str) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.retain(|(_, name), _| name != interface);
    }
}

/// How the programs see an interface. Two that are equal need no new attachment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Whether its frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Whether arriving fragments are counted here: not on the ports of a bridge or bond, whose packets
    /// arrive again on the device above.
    pub ingress: bool,
}

#[derive(Debug)]
struct Interface {
    wanted: Wanted,
    /// Held for their drop, which detaches.
    _links: Vec<SchedClassifierLink>,
    /// Whether every hook that is wanted is attached.
    complete: bool,
}

/// The attached programs.
#[derive(Debug)]
pub struct Hooks {
    ebpf: Ebpf,
    refused: BTreeMap<Hook, String>,
    drop_link: Option<BtfTracePointLink>,
    deliver_link: Option<CgroupSkbLink>,
    interfaces: BTreeMap<u32, Interface>,
    /// Decided by the first interface: TCX where the kernel has it.
    tc_mode: Option<Mode>,
    /// Interfaces whose `clsact` is ours.
    own_clsact: BTreeSet<u32>,
    states: SharedStates,
}

impl Hooks {
    /// Takes over a loaded object. Its hooks without a program are reported as such.
    #[must_use]
    pub fn new(loaded: super::load::Loaded) -> Self {
        let states = SharedStates::default();
        for hook in [Hook::Drop, Hook::Deliver] {
            let why = loaded.refused.get(&hook).cloned();
            let why = why.unwrap_or_else(|| "not attached yet".to_owned());
            states.set(hook, "", Err(why));
        }
        Self {
            ebpf: loaded.ebpf,
            refused: loaded.refused,
            drop_link: None,
            deliver_link: None,
            interfaces: BTreeMap::new(),
            tc_mode: None,
            own_clsact: BTreeSet::new(),
            states,
        }
    }

    /// What is attached, now and later.
    #[must_use]
    pub fn states(&self) -> SharedStates {
        self.states.clone()
    }

    fn host_hook(
        &mut self,
        hook: Hook,
        mode: Mode,
        result: Result<(), String>,
    ) -> Result<(), AttachError> {
        match result {
            Ok(()) => {
                self.states.set(hook, "", Ok(mode));
                Ok(())
            }
            Err(why) => {
                self.states.set(hook, "", Err(why.clone()));
                Err(AttachError {
                    hook,
                    place: String::new(),
                    why,
                })
            }
        }
    }

    /// Attaches to `kfree_skb`.
    ///
    /// # Errors
    ///
    /// Where the program was not loaded, or the kernel refuses.
    pub fn attach_drop(&mut self) -> Result<(), AttachError> {
        let result = match self.refused.get(&Hook::Drop) {
            Some(why) => Err(why.clone()),
            None => attach_drop(&mut self.ebpf)
                .map(|link| self.drop_link = Some(link))
                .map_err(|error| error.to_string()),
        };
        self.host_hook(Hook::Drop, Mode::TpBtf, result)
    }

    /// Attaches to the root cgroup; `root` is its open directory, or why there is none.
    ///
    /// # Errors
    ///
    /// Where there is no root, the program was not loaded, or the kernel refuses.
    pub fn attach_deliver(&mut self, root: Result<impl AsFd, String>) -> Result<(), AttachError> {
        let result = match (self.refused.get(&Hook::Deliver), root) {
            (Some(why), _) => Err(why.clone()),
            (None, Err(why)) => Err(why),
            (None, Ok(root)) => attach_deliver(&mut self.ebpf, root)
                .map(|link| self.deliver_link = Some(link))
                .map_err(|error| error.to_string()),
        };
        self.host_hook(Hook::Deliver, Mode::CgroupLink, result)
    }

    /// Attaches an interface as it should be, which may mean to detach it first. Nothing happens where
    /// it is already.
    ///
    /// # Errors
    ///
    /// The first hook that failed. The others are attached all the same.
    pub fn attach_interface(&mut self, index: u32, wanted: Wanted) -> Result<(), AttachError> {
        if let Some(interface) = self.interfaces.get_mut(&index)
            && interface.complete
        {
            if interface.wanted == wanted {
                return Ok(());
            }
            let renamed = interface.wanted.name != wanted.name
                && interface.wanted.ethernet == wanted.ethernet
                && interface.wanted.ingress == wanted.ingress;
            if renamed {
                // The programs stay: attachments go by index.
                self.states.remove_interface(&interface.wanted.name);
                if let Some(mode) = self.tc_mode {
                    self.states.set(Hook::Egress, &wanted.name, Ok(mode));
                    if wanted.ingress {
                        self.states.set(Hook::Ingress, &wanted.name, Ok(mode));
                    }
                }
                interface.wanted = wanted;
                return Ok(());
            }
        }
        self.detach_interface(index);
        // Attaching goes by name, and names move: a device may have been renamed since it was told of.
        let found = nix::net::if_::if_nametoindex(wanted.name.as_str());
        if found != Ok(index) {
            return Err(AttachError {
                hook: Hook::Egress,
                place: format!("of {} ", wanted.name),
                why: "the name belongs to no interface, or to another one by now".to_owned(),
            });
        }
        let mut hooks = vec![(Hook::Egress, TcAttachType::Egress)];
        if wanted.ingress {
            hooks.push((Hook::Ingress, TcAttachType::Ingress));
        }
        let mut links = Vec::new();
        let mut first_error = None;
        for (hook, attach_type) in hooks {
            match self.attach_tc(index, &wanted, hook, attach_type) {
                Ok((link, mode)) => {
                    links.push(link);
                    self.states.set(hook, &wanted.name, Ok(mode));
                }
                Err(why) => {
                    self.states.set(hook, &wanted.name, Err(why.clone()));
                    first_error.get_or_insert(AttachError {
                        hook,
                        place: format!("of {} ", wanted.name),
                        why,
                    });
                }
            }
        }
        self.interfaces.insert(
            index,
            Interface {
                wanted,
                _links: links,
                complete: first_error.is_none(),
            },
        );
        first_error.map_or(Ok(()), Err)
    }

    /// The interfaces of which some hook could not be attached.
    #[must_use]
    pub fn incomplete(&self) -> Vec<u32> {
        let incomplete = self.interfaces.iter().filter(|(_, i)| !i.complete);
        incomplete.map(|(index, _)| *index).collect()
    }

    /// Detaches an interface, or forgets one that is gone.
    pub fn detach_interface(&mut self, index: u32) {
        if let Some(interface) = self.interfaces.remove(&index) {
            self.states.remove_interface(&interface.wanted.name);
        }
    }

    /// Detaches everything. Gives the interfaces whose `clsact` was added here and is to be removed.
    #[must_use]
    pub fn detach_all(self) -> BTreeSet<u32> {
        let Self {
            ebpf,
            drop_link,
            deliver_link,
            interfaces,
            own_clsact,
            ..
        } = self;
        drop(interfaces);
        drop((drop_link, deliver_link, ebpf));
        own_clsact
    }

    fn attach_tc(
        &mut self,
        index: u32,
        wanted: &Wanted,
        hook: Hook,
        attach_type: TcAttachType,
    ) -> Result<(SchedClassifierLink, Mode), String> {
        if let Some(why) = self.refused.get(&hook) {
            return Err(why.clone());
        }
        let name = match (hook, wanted.ethernet) {
            (Hook::Ingress, true) => "ingress_ethernet",
            (Hook::Ingress, false) => "ingress_other",
            (_, true) => "egress_ethernet",
            (_, false) => "egress_other",
        };
        let program = self.ebpf.program_mut(name);
        let program: &mut SchedClassifier = program
            .ok_or_else(|| format!("the kernel programs have no program {name}"))?
            .try_into()
            .map_err(|error: ProgramError| error.to_string())?;
        if self.tc_mode != Some(Mode::Clsact) {
            // First in the chain: a program ahead of ours that ends it would hide packets from us.
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            match program.attach_with_options(&wanted.name, attach_type, options) {
                Ok(id) => {
                    self.tc_mode = Some(Mode::Tcx);
                    let link = program.take_link(id).map_err(|error| error.to_string())?;
                    return Ok((link, Mode::Tcx));
                }
                // EINVAL: a kernel without TCX. Where it has worked before, the reason is another.
                Err(error) if self.tc_mode.is_some() || !is_unsupported(&error) => {
                    return Err(describe(&error));
                }
                Err(_) => {}
            }
        }
        let own = match tc::qdisc_add_clsact(&wanted.name) {
            Ok(()) => true,
            Err(TcError::AlreadyAttached) => remove_stale(&wanted.name, attach_type),
            Err(TcError::NetlinkError(error)) if is_exists(&error) => {
                remove_stale(&wanted.name, attach_type)
            }
            Err(error) => return Err(error.to_string()),
        };
        if own {
            self.own_clsact.insert(index);
        }
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: 1,
            ..NlOptions::default()
        });
        let id = program
            .attach_with_options(&wanted.name, attach_type, options)
            .map_err(|error| describe(&error))?;
        self.tc_mode = Some(Mode::Clsact);
        let link = program.take_link(id).map_err(|error| error.to_string())?;
        Ok((link, Mode::Clsact))
    }
}

/// Removes filters that a peerwatch left when it was killed: unlike links, they outlive their process,
/// and there is one peerwatch in a network namespace. Gives whether there were any: then the `clsact`
/// that they were on was added by it, too.
fn remove_stale(interface: &str, attach_type: TcAttachType) -> bool {
    let names = [
        "egress_ethernet",
        "egress_other",
        "ingress_ethernet",
        "ingress_other",
    ];
    let removed = names
        .iter()
        .filter(|name| tc::qdisc_detach_program(interface, attach_type, name).is_ok());
    removed.count() > 0
}

fn attach_drop(ebpf: &mut Ebpf) -> Result<BtfTracePointLink, ProgramError> {
    let program = ebpf.program_mut("kfree_skb");
    let program: &mut BtfTracePoint = program.ok_or(ProgramError::NotLoaded)?.try_into()?;
    let id = program.attach()?;
    program.take_link(id)
}

fn attach_deliver(ebpf: &mut Ebpf, root: impl AsFd) -> Result<CgroupSkbLink, ProgramError> {
    let program = ebpf.program_mut("deliver");
    let program: &mut CgroupSkb = program.ok_or(ProgramError::NotLoaded)?.try_into()?;
    // `Single` means no flags: links stand beside others anyway, and refuse the flag for it.
    let id = program.attach(root, CgroupSkbAttachType::Ingress, CgroupAttachMode::Single)?;
    program.take_link(id)
}

fn describe(error: &ProgramError) -> String {
    match error {
        ProgramError::SyscallError(error) => format!("{}: {}", error.call, error.io_error),
        other => other.to_string(),
    }
}

fn is_unsupported(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error)
        if matches!(error.io_error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)))
}

fn is_exists(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(io) = this.downcast_ref::<std::io::Error>() {
            return io.raw_os_error() == Some(libc::EEXIST);
        }
        error = this.source();
    }
    false
}
