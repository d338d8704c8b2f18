//! What stays when the daemon ends, what it finds when it begins, and what it loses meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use aya::programs::TcAttachType;
use nix::time::{ClockId, clock_gettime};
use tracing::{info, warn};

use super::Hooks;
use super::clsact;
use super::filters::remove_clsact;
use super::link::{How, Link};
use crate::bpf::Hook;
use crate::bpf::load::Kept;
use crate::bpf::pins::{PinsError, link_name};

impl Hooks {
    /// Removes the filters that a daemon before left on interfaces, given by index and name, where none is
    /// wanted any more: they have no pins, and would go on to count.
    pub fn clear_unwanted<'a>(&self, interfaces: impl Iterator<Item = (u32, &'a str)>) {
        let mut cleared = BTreeSet::new();
        for (index, name) in interfaces {
            let wanted = self.interfaces.get(&index);
            let wanted = wanted.map_or(&[][..], |interface| interface.wanted.hooks());
            let is_unwanted = |side: &TcAttachType| wanted.iter().all(|(_, of)| of != side);
            let sides: Vec<_> = clsact::SIDES.into_iter().filter(is_unwanted).collect();
            match clsact::clear(index, name, &sides) {
                Ok(true) => {
                    info!("filters of a daemon before are taken off {name}");
                    cleared.insert(index);
                }
                Ok(false) => {}
                // It is gone.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => warn!("filters of a daemon before may be on {name}: {error}"),
            }
        }
        remove_clsact(&cleared);
    }

    /// Where a link is pinned; `None` where nothing is.
    pub(super) fn pin(&self, name: &str) -> Option<PathBuf> {
        let kept = self.loaded.kept.as_ref()?;
        Some(kept.pins.link(name))
    }

    /// The daemon begins; the one before was last alive at this time, on the monotonic clock.
    pub fn begin(&mut self, down_since: Option<Duration>) {
        self.down_since = down_since;
    }

    /// Notes for how long a hook did not count while this daemon took it over.
    pub(super) fn note(&self, hook: Hook, how: How) {
        let gap = match (how, self.down_since) {
            (How::Kept | How::Swapped, _) | (How::New, None) => Duration::ZERO,
            (How::Replaced(gap), _) => gap,
            (How::New, Some(since)) => clock_gettime(ClockId::CLOCK_MONOTONIC)
                .map_or(Duration::ZERO, Duration::from)
                .saturating_sub(since),
        };
        self.states.note_gap(hook, gap);
    }

    /// Everything is attached that can be: what was pinned and is not wanted any more goes, and from now on
    /// the counters are those of these traffics.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn commit(&mut self, traffics: Vec<(u8, String)>) -> Result<(), PinsError> {
        self.down_since = None;
        let mut wanted: BTreeSet<String> = [Hook::Drop, Hook::Deliver]
            .map(|hook| hook.as_str().to_owned())
            .into();
        for (index, interface) in &self.interfaces {
            // A filter of clsact has no pin: one that is there is of a daemon that used TCX.
            let held = interface.links.iter();
            let held = held.filter(|(_, link)| matches!(link, Link::Held(_)));
            wanted.extend(held.map(|(hook, _)| link_name(*hook, *index)));
        }
        let Some(kept) = &mut self.loaded.kept else {
            return Ok(());
        };
        for name in kept.pins.links() {
            if !wanted.contains(&name) {
                let path = kept.pins.link(&name);
                fs::remove_file(&path).map_err(|source| PinsError::Io { path, source })?;
            }
        }
        kept.commit(traffics)
    }

    /// What is kept for the next daemon.
    #[must_use]
    pub fn kept(&self) -> Option<&Kept> {
        self.loaded.kept.as_ref()
    }

    /// A hook that belongs to no interface is attached again.
    pub fn is_attached_again(&self, hook: Hook) {
        self.states.note_reattached(hook);
    }

    /// Detaches an interface, or forgets one that is gone.
    pub fn detach_interface(&mut self, index: u32) {
        if let Some(interface) = self.interfaces.remove(&index) {
            self.states.remove_interface(&interface.wanted.name);
            for (hook, link) in interface.links {
                link.end();
                if let Some(pin) = self.pin(&link_name(hook, index))
                    && let Err(error) = fs::remove_file(&pin)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    warn!("{}: {error}", pin.display());
                }
            }
        }
    }

    /// The daemon ends: what is pinned stays, everything else is detached. Gives the interfaces whose
    /// `clsact` was added here and is to be removed.
    #[must_use]
    pub fn end(self) -> BTreeSet<u32> {
        let Self {
            loaded,
            drop_link,
            deliver_link,
            interfaces,
            own_clsact,
            ..
        } = self;
        if loaded.kept.is_none() {
            drop(interfaces);
            drop((drop_link, deliver_link, loaded));
            return own_clsact;
        }
        let links = interfaces
            .into_values()
            .flat_map(|interface| interface.links.into_values());
        links.for_each(Link::leave);
        BTreeSet::new()
    }
}

/// Removes the filters of a peerwatch from an interface whose index and name are given; whether there were
/// any.
///
/// # Errors
///
/// What the kernel said.
pub fn clear_filters(index: u32, interface: &str) -> io::Result<bool> {
    clsact::clear(index, interface, &clsact::SIDES)
}
