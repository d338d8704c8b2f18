//! What is measured on this host and what is not: said once, and tried again where it can become
//! possible. No hook that is missing ends the daemon.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Interval;
use tracing::{debug, error, info, warn};

use super::interfaces::Interfaces;
use crate::bpf::Hook;
use crate::bpf::attach::{AttachError, Checkup, Hooks, Lost};
use crate::bpf::features::{Feature, Features};
use crate::bpf::kernel::Kernel;
use crate::bpf::load::{Cause, LOOPBACK, Loaded};
use crate::cgroup::Root;
use crate::metrics::Source;

/// Says what this kernel does not let us see, each in one sentence.
pub(super) fn say(kernel: &Kernel, features: &Features, loaded: &Loaded) {
    if let Err(why) = &kernel.btf {
        warn!("{}", without_btf(why, loaded));
    } else {
        if let Some(why) = &kernel.unchecked {
            warn!(
                "the file of --btf could not be checked against the running kernel ({why}): with the BTF \
                 of another kernel, what is counted would be wrong"
            );
        }
        if !kernel.facts.has_reason {
            warn!(
                "this kernel gives no reason for a drop: classes come from the place that dropped the \
                 packet, and the label reason is \"unavailable\""
            );
        }
        if let Some(why) = features.why_missing(Feature::TpBtf) {
            info!(
                "this kernel has no BTF tracepoints ({why}): drops are seen through a raw tracepoint, \
                 which costs more for each freed packet"
            );
        }
    }
    for (program, hook) in loaded.programs() {
        let Some(refusal) = loaded.refused.get(program) else {
            continue;
        };
        let again = match refusal.cause {
            // Said above, for all programs together.
            Cause::NoBtf => continue,
            Cause::Kernel => "",
            Cause::Passing => " (tried again every 10 s)",
        };
        let partly = if loaded.refusal(hook).is_some() {
            ""
        } else if program == LOOPBACK {
            " where a rule of the output hook rejects attempts: they count as dropped"
        } else if program.ends_with("_other") {
            " on interfaces without an Ethernet header"
        } else {
            " on interfaces with an Ethernet header"
        };
        error!("{}{partly}{again}: {}", hook.purpose(), refusal.why);
    }
    say_unfollowed(loaded);
}

/// Says why attempts are not followed, where they are not.
fn say_unfollowed(loaded: &Loaded) {
    for (program, refusal) in &loaded.unfollowed {
        let what = if *program == "follow_loopback" {
            "attempts that a rule of the output hook rejects count as dropped"
        } else {
            "attempts are not followed, and there are no states"
        };
        let again = if refusal.cause == Cause::Passing {
            " (tried again every 10 s)"
        } else {
            ""
        };
        error!("{what}{again}: {}", refusal.why);
    }
}

fn without_btf(why: &str, loaded: &Loaded) -> String {
    let missing = |program: &str| {
        let refusal = loaded.refused.get(program);
        refusal.is_some_and(|refusal| refusal.cause == Cause::NoBtf)
    };
    let mut lost = vec![Hook::Drop.purpose()];
    if missing("deliver") {
        lost.push(Hook::Deliver.purpose());
    }
    if missing("egress_other") {
        lost.push(
            "packets that leave through interfaces without an Ethernet header are not measured",
        );
    }
    format!(
        "the kernel's BTF can't be read ({why}): {}; give the BTF of this kernel in a file with --btf FILE",
        lost.join(", ")
    )
}

/// Attaches everything. What fails is said, shows in `hook_attached`, and leaves its series out.
pub(super) fn attach(hooks: &mut Hooks, interfaces: &Interfaces, cgroup: &Root) {
    interfaces.attach_all(hooks);
    interfaces.clear_unwanted(hooks);
    for result in [attach_deliver(hooks, cgroup), hooks.attach_drop()] {
        // What has no program was said when the programs were loaded.
        if let Err(error) = result
            && !error.program
        {
            error!("{error}; {} (tried again every 10 s)", error.hook.purpose());
        }
    }
}

fn attach_deliver(hooks: &mut Hooks, cgroup: &Root) -> Result<(), AttachError> {
    let root = cgroup.open();
    let opened = root
        .as_ref()
        .map(|root| &root.dir)
        .map_err(ToString::to_string);
    hooks.attach_deliver(opened)
}

/// How often it is made sure that nobody has taken a program off.
const WATCH: Duration = Duration::from_millis(500);

/// What is to be looked at, and who is told what was found.
type Order = (Checkup, oneshot::Sender<Lost>);

/// Makes sure from time to time that what is attached stays so. The looking is done on a thread of its own: it waits
/// for a lock of the kernel that others may hold for long.
#[derive(Debug)]
pub(super) struct Watch {
    tick: Interval,
    look: Option<oneshot::Receiver<Lost>>,
    /// The thread ends with it.
    orders: mpsc::Sender<Order>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is time to look.
    Look,
    /// This was found.
    Found(Lost),
}

impl Watch {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses one.
    pub(super) fn begin() -> io::Result<Self> {
        let (orders, waiting) = mpsc::channel::<Order>();
        let name = "look".to_owned();
        std::thread::Builder::new().name(name).spawn(move || {
            for (checkup, found) in waiting {
                // Nobody listens any more where the daemon ends.
                if found.send(checkup.run()).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self {
            tick: super::every(WATCH),
            look: None,
            orders,
        })
    }

    /// Waits for the next turn; it may be given up at any time.
    pub(super) async fn turn(&mut self) -> Turn {
        let Some(look) = &mut self.look else {
            self.tick.tick().await;
            return Turn::Look;
        };
        let found = look.await;
        self.look = None;
        // The thread has ended, which it does only with the daemon.
        Turn::Found(found.unwrap_or_default())
    }

    /// Takes a turn.
    pub(super) fn take(&mut self, turn: Turn, hooks: &mut Hooks, cgroup: &Root) {
        match turn {
            Turn::Look => {
                let (found, look) = oneshot::channel();
                if self.orders.send((hooks.checkup(), found)).is_ok() {
                    self.look = Some(look);
                }
            }
            Turn::Found(lost) => attach_again(hooks, cgroup, lost),
        }
    }
}

/// Attaches again what somebody else has taken off.
fn attach_again(hooks: &mut Hooks, cgroup: &Root, lost: Lost) {
    for (hook, interface) in hooks.attach_again(lost) {
        let place = if interface.is_empty() { "" } else { " of " };
        warn!(
            "hook {}{place}{interface} was taken off by somebody else; it is attached again",
            hook.as_str()
        );
        if hook == Hook::Deliver {
            match attach_deliver(hooks, cgroup) {
                Ok(()) => hooks.is_attached_again(hook),
                Err(error) => error!("{error} (tried again every 10 s)"),
            }
        }
    }
}

/// Tries again what could not be loaded or attached, and may be possible now.
pub(super) fn retry(hooks: &mut Hooks, interfaces: &Interfaces, source: &Source, cgroup: &Root) {
    for program in hooks.load_again() {
        info!("the kernel takes the program {program} now");
        source.loaded(hooks.loaded());
    }
    source.with_attempts(|attempts| attempts.followed = hooks.loaded().follows_attempts());
    for hook in [Hook::Deliver, Hook::Drop] {
        if !hooks.can_attach(hook) {
            continue;
        }
        let result = match hook {
            Hook::Deliver => attach_deliver(hooks, cgroup),
            _ => hooks.attach_drop(),
        };
        match result {
            Ok(()) => info!("hook {} is attached now", hook.as_str()),
            // Said as an error when it happened first.
            Err(error) => debug!("{error}"),
        }
    }
    interfaces.retry(hooks);
}
