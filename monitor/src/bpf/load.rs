//! Loading the programs, each on its own: what one kernel refuses takes away one hook, not the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use aya::programs::ProgramError;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use thiserror::Error;
use tracing::warn;

mod kept;
mod next;
mod one;
mod plan;
mod text;

use super::Hook;
use super::features::{Feature, Features};
use super::kernel::Kernel;
use super::pins::Pins;
pub use kept::Kept;
use next::Next;
use one::{cause, hopeless, load_one};
use plan::{digest, globals, reads_directly, refusal};
use text::{chain, excerpt};

/// Settings that are frozen into the programs.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Send dropped packets to the event log.
    pub log_dropped: bool,
    /// Send allowed packets to the event log.
    pub log_allowed: bool,
    /// Events a second that the log takes.
    pub log_rate: u32,
    /// Events that it takes at once.
    pub log_burst: u32,
    /// Inode number of the network namespace.
    pub netns_inum: u32,
    /// Its cookie, where the kernel has them.
    pub netns_cookie: Option<u64>,
    /// The most detailed level of the programs' own diagnostics (`aya_log::Level` as a number), 0 for
    /// none.
    pub diagnostics: u8,
    /// How many attempts are followed at once.
    pub max_attempts: u32,
    /// Ask the verifier for everything it has to say.
    pub verifier_log: bool,
}

/// The object as a whole could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Maps, BTF or relocations.
    #[error("the kernel refused the maps of the kernel programs: {}", chain(.0))]
    Object(Box<aya::EbpfError>),
}

/// Why a program is not loaded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// In one sentence.
    pub why: String,
    /// Whether it may be otherwise later.
    pub cause: Cause,
}

/// What keeps a program from being loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// The kernel's BTF cannot be had.
    NoBtf,
    /// Something of this kernel: a field that is missing, or the verifier's word. It stays so.
    Kernel,
    /// Memory, limits or permissions, which may change.
    Passing,
}

/// The loaded object: which programs are there, and why some are not.
#[derive(Debug)]
pub struct Loaded {
    /// The object. Programs that were taken over are not in it.
    pub ebpf: Ebpf,
    /// The programs that are loaded.
    programs: BTreeMap<&'static str, OwnedFd>,
    /// Name of the program that serves [`Hook::Drop`]: `kfree_skb`, or `kfree_skb_raw`.
    pub drop_program: &'static str,
    /// The programs that are not loaded.
    pub refused: BTreeMap<&'static str, Refusal>,
    /// Programs without which attempts are not followed to their end, and why they are not loaded.
    pub unfollowed: BTreeMap<&'static str, Refusal>,
    /// The programs that others go on with, and that are in place.
    in_place: BTreeSet<&'static str>,
    /// Where the kernel's BTF is.
    btf: Option<PathBuf>,
    verifier_log: bool,
    /// What goes on while no daemon runs; `None` where nothing does.
    pub kept: Option<Kept>,
}

/// The programs and the hook that each serves. Of the first two, one is loaded.
const PROGRAMS: &[(&str, Hook)] = &[
    (TP_BTF, Hook::Drop),
    (RAW_TP, Hook::Drop),
    ("deliver", Hook::Deliver),
    ("egress_ethernet", Hook::Egress),
    ("egress_other", Hook::Egress),
    (LOOPBACK, Hook::Egress),
    ("ingress_ethernet", Hook::Ingress),
    ("ingress_other", Hook::Ingress),
];

/// Those of them that are wanted with this drop program.
fn programs_with(drop_program: &'static str) -> impl Iterator<Item = (&'static str, Hook)> {
    let wanted = move |(name, hook): &(&str, Hook)| *hook != Hook::Drop || *name == drop_program;
    PROGRAMS.iter().copied().filter(wanted)
}

/// The names of all programs, those that others go on with too.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let first = PROGRAMS.iter().map(|(name, _)| *name);
    first.chain(next::names())
}

/// Whether a program is attached to `kfree_skb`; names of the kernel's are cut off after 15 bytes, which these are not.
pub(super) fn serves_drops(name: &str) -> bool {
    [TP_BTF, RAW_TP].contains(&name)
}

/// The programs that are attached to interfaces.
pub(super) fn of_interfaces() -> impl Iterator<Item = &'static str> {
    let programs = PROGRAMS.iter();
    let theirs = programs.filter(|(_, hook)| matches!(hook, Hook::Egress | Hook::Ingress));
    theirs.map(|(name, _)| *name)
}

/// The drop program as a BTF tracepoint, named after it.
pub(super) const TP_BTF: &str = "kfree_skb";
/// The program of the loopback device, which counts nothing.
pub const LOOPBACK: &str = "egress_loopback";

/// The drop program as a raw tracepoint.
pub(super) const RAW_TP: &str = "kfree_skb_raw";

/// Loads everything that this kernel takes. Where there are pins, what counted before goes on: see
/// [`super::pins`].
///
/// # Errors
///
/// Where not even the maps can be made.
pub fn load(
    kernel: &Kernel,
    features: &Features,
    settings: &Settings,
    pins: Option<Pins>,
) -> Result<Loaded, LoadError> {
    let loaded = load_as(kernel, features, settings, pins.clone())?;
    let refusal = loaded.refused.get(TP_BTF);
    let refusal = refusal.filter(|refusal| refusal.cause == Cause::Kernel);
    let Some(Refusal { why, .. }) = refusal.filter(|_| reads_directly(features)) else {
        return Ok(loaded);
    };
    // A probe of a few instructions says little of a program of thousands, and what is only quicker must not
    // cost the hook.
    warn!("the drop program reads the kernel's memory by calls, which takes longer: {why}");
    let features = features.without(Feature::HeadReads, why.clone());
    abandon(loaded.kept.as_ref());
    drop(loaded);
    load_as(kernel, &features, settings, pins)
}

/// Loads everything as these features tell.
fn load_as(
    kernel: &Kernel,
    features: &Features,
    settings: &Settings,
    pins: Option<Pins>,
) -> Result<Loaded, LoadError> {
    let has_cookie = settings.netns_cookie.is_some() && features.has(Feature::NetnsCookieCgroup);
    let drop_program = if features.has(Feature::TpBtf) {
        TP_BTF
    } else {
        RAW_TP
    };
    let names = || programs_with(drop_program).map(|(name, _)| name);
    let refusals = names().filter_map(|name| {
        let refusal = refusal(name, kernel, features, has_cookie)?;
        Some((name, refusal))
    });
    let refused: BTreeMap<_, _> = refusals.collect();
    let globals = globals(kernel, features, settings, has_cookie);
    let mut kept = Kept::find(pins, digest(&globals, settings, drop_program, &refused));

    // Before anything of a daemon before is taken: what cannot be pinned must not count into its maps, where its
    // own programs go on.
    let says = "counts begin at 0, and a restart begins anew, as nothing can be pinned";
    if let Some(Err(error)) = kept.as_mut().map(Kept::begin) {
        warn!("{says}: {error}");
        kept = None;
    }
    let make = |kept: Option<&Kept>| {
        let mut loader = EbpfLoader::new();
        // For relocations, of which the object has none.
        loader.btf(None);
        for (name, value) in &globals {
            loader.override_global(name, value.as_slice(), true);
        }
        loader.map_max_entries("ATTEMPTS", settings.max_attempts);
        let paths = kept.map(|kept| kept.maps(settings.max_attempts));
        for (name, path) in paths.iter().flatten() {
            loader.map_pin_path(name, path.as_path());
        }
        for (symbol, value) in kept.iter().flat_map(|kept| kept.cells()) {
            loader.override_global(symbol, value, true);
        }
        if settings.verifier_log {
            loader.verifier_log_level(VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS);
        }
        let object = loader.load(super::OBJECT);
        object.map_err(|error| LoadError::Object(Box::new(error)))
    };
    let mut ebpf = make(kept.as_ref()).inspect_err(|_| abandon(kept.as_ref()))?;
    if let Some(Err(error)) = kept.as_mut().map(|kept| kept.pin_maps(&ebpf)) {
        warn!("{says}: {error}");
        abandon(kept.take().as_ref());
        ebpf = make(None)?;
    }

    let mut all = Loaded {
        ebpf,
        programs: BTreeMap::new(),
        drop_program,
        refused,
        unfollowed: BTreeMap::new(),
        in_place: BTreeSet::new(),
        btf: kernel.btf.clone().ok(),
        verifier_log: settings.verifier_log,
        kept,
    };
    let names: Vec<&'static str> = names().collect();
    all.take_pinned(&names);
    all.load_missing(&names);
    Ok(all)
}

/// Removes what was begun to be pinned and is of no use.
fn abandon(kept: Option<&Kept>) {
    if let Some(half) = kept.and_then(Kept::half) {
        half.remove();
    }
}

impl Loaded {
    /// The programs that are wanted here, and their hooks.
    pub fn programs(&self) -> impl Iterator<Item = (&'static str, Hook)> + use<> {
        programs_with(self.drop_program)
    }

    /// A program that is loaded.
    pub(super) fn program(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.programs.get(name).map(AsFd::as_fd)
    }

    /// Those that are loaded.
    pub fn attachable(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let loaded = |(name, _)| Some((name, self.program(name)?));
        self.programs().filter_map(loaded)
    }

    /// The drop program, where it is loaded.
    #[must_use]
    pub fn drop_fd(&self) -> Option<BorrowedFd<'_>> {
        self.program(self.drop_program)
    }

    /// Takes the programs that a daemon of the same build left; those that go on with others are in place
    /// as well.
    fn take_pinned(&mut self, names: &[&'static str]) {
        let Some(kept) = &self.kept else { return };
        for &name in names {
            for next in Next::of(name) {
                if let Some(program) = kept.program(next.name) {
                    self.in_place.insert(next.name);
                    self.programs.insert(next.name, program);
                }
            }
            if let Some(program) = kept.program(name) {
                self.programs.insert(name, program);
            }
        }
    }

    /// Loads one program.
    fn load_one(&mut self, name: &'static str) -> Result<(), Refusal> {
        let loaded = load_one(&mut self.ebpf, name, self.btf.as_deref());
        let program = loaded.map_err(|error| self.describe(name, &error))?;
        self.programs.insert(name, program);
        Ok(())
    }

    /// Pins a program that is where it belongs: the next daemon takes it for that.
    fn pin_one(&self, name: &str) {
        if let Some(kept) = &self.kept
            && let Some(program) = self.programs.get(name)
            && let Err(error) = kept.pin_program(name, program)
        {
            warn!("while no daemon runs, {name} does not count: {error}");
        }
    }

    /// Those of them that count packets.
    fn measuring(&self) -> impl Iterator<Item = (&'static str, Hook)> + use<> {
        self.programs().filter(|(name, _)| *name != LOOPBACK)
    }

    /// Why a hook has no program at all; `None` where it has one.
    #[must_use]
    pub fn refusal(&self, hook: Hook) -> Option<&Refusal> {
        let mut programs = self.measuring().filter(|(_, of)| *of == hook);
        let (first, _) = programs.next()?;
        let refusal = self.refused.get(first)?;
        let mut others = programs.map(|(name, _)| self.refused.contains_key(name));
        others.all(|refused| refused).then_some(refusal)
    }

    /// Whether attempts are followed to their end.
    #[must_use]
    pub fn follows_attempts(&self) -> bool {
        self.unfollowed.keys().all(|name| *name == next::LOOPBACK)
    }

    /// Why no hook can have a program; `None` where one has, or may have later.
    #[must_use]
    pub fn nothing(&self) -> Option<&Refusal> {
        hopeless(self.measuring().map(|(name, _)| self.refused.get(name)))
    }

    /// Tries again the programs whose refusal may have passed. Gives those that are loaded now.
    pub fn load_again(&mut self) -> Vec<&'static str> {
        let passing = self
            .refused
            .iter()
            .filter(|(_, refusal)| refusal.cause == Cause::Passing);
        let names: Vec<&'static str> = passing.map(|(name, _)| *name).collect();
        for name in &names {
            self.refused.remove(name);
        }
        self.load_missing(&names);
        self.follow_again();
        let mut loaded = names;
        loaded.retain(|name| !self.refused.contains_key(name));
        loaded
    }

    /// Tries again the programs without which attempts are not followed, where their refusal may have
    /// passed.
    fn follow_again(&mut self) {
        let passing = |refusal: &Refusal| refusal.cause == Cause::Passing;
        if self.unfollowed.values().any(passing) {
            for (name, _) in self.programs() {
                if !self.refused.contains_key(name) {
                    // Those that are needed are in place: their program is loaded.
                    self.load_next(name).ok();
                }
            }
        }
    }

    /// Loads those of these programs that are not refused yet.
    fn load_missing(&mut self, names: &[&'static str]) {
        for &name in names {
            if self.refused.contains_key(name) {
                continue;
            }
            let mut result = self.load_next(name);
            if result.is_ok() && !self.programs.contains_key(name) {
                result = self.load_one(name);
                if result.is_ok() {
                    self.pin_one(name);
                }
            }
            if let Err(refusal) = result {
                self.refused.insert(name, refusal);
            }
        }
    }

    /// Loads the programs that this one goes on with. An error where it is of no use without one of them.
    fn load_next(&mut self, name: &str) -> Result<(), Refusal> {
        for next in Next::of(name) {
            if self.in_place.contains(next.name) {
                continue;
            }
            let loaded = if self.programs.contains_key(next.name) {
                Ok(())
            } else {
                self.load_one(next.name)
            };
            let result = loaded.and_then(|()| {
                next.put(&mut self.ebpf).map_err(|error| Refusal {
                    why: format!("nothing can go on with {}: {}", next.name, chain(&error)),
                    cause: Cause::Kernel,
                })
            });
            match result {
                Ok(()) => {
                    self.pin_one(next.name);
                    self.unfollowed.remove(next.name);
                    self.in_place.insert(next.name);
                }
                Err(refusal) if next.is_needed => return Err(refusal),
                Err(refusal) => {
                    self.unfollowed.insert(next.name, refusal);
                }
            }
        }
        Ok(())
    }

    fn describe(&self, name: &str, error: &ProgramError) -> Refusal {
        match error {
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => Refusal {
                why: format!(
                    "the kernel refused the program {name}: {io_error}{}",
                    excerpt(&verifier_log.to_string(), self.verifier_log)
                ),
                cause: cause(io_error),
            },
            other => Refusal {
                why: format!("the program {name} was not loaded: {}", chain(other)),
                cause: Cause::Kernel,
            },
        }
    }
}

#[cfg(test)]
mod tests;
