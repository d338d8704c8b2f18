//! Attaching to the tc hooks of an interface: by TCX, or as a filter of `clsact`.

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::link::{How, Link, Place, attach};
use super::{Hooks, Mode, Refused, Wanted, clsact};
use crate::bpf::Hook;
use crate::bpf::pins::link_name;
use crate::bpf::sys;
use crate::bpf::sys::object::program_id;

impl Hooks {
    /// Attaches the program of a hook to the interface with this index.
    pub(super) fn attach_tc(
        &mut self,
        index: u32,
        wanted: &Wanted,
        hook: Hook,
        attach_type: TcAttachType,
    ) -> Result<(Link, How), Refused> {
        let name = wanted.program(hook);
        if let Some(refusal) = self.loaded.refused.get(name) {
            return Err(refusal.into());
        }
        let program = self.loaded.program(name);
        let program = program.ok_or_else(|| Refused::by_kernel(ProgramError::NotLoaded))?;
        if self.tc_mode == Mode::Tcx {
            // First in the chain: a program ahead of ours that ends it would hide packets from us.
            let place = match attach_type {
                TcAttachType::Ingress => Place::Interface(index, sys::link::BPF_TCX_INGRESS),
                _ => Place::Interface(index, sys::BPF_TCX_EGRESS),
            };
            let pin = self.pin(&link_name(hook, index));
            let (link, how) = attach(program, &place, pin.as_deref()).map_err(Refused::by_call)?;
            // Both kinds run side by side, and would count twice: filters are of a daemon that used none of
            // these links. Where they can't be read there are none of ours.
            if matches!(clsact::clear(index, &wanted.name, &clsact::SIDES), Ok(true)) {
                self.own_clsact.insert(index);
            }
            return Ok((Link::Held(link.into()), how));
        }
        let id = program_id(&program).map_err(Refused::by_call)?;
        let mut of_before;
        let program = match self
            .loaded
            .ebpf
            .program_mut(name)
            .map(<&mut SchedClassifier>::try_from)
        {
            Some(Ok(program)) if program.fd().is_ok() => program,
            _ => {
                let kept = self.loaded.kept.as_ref();
                let path = kept.map(|kept| kept.program_path(name));
                let path = path.ok_or_else(|| Refused::by_kernel(ProgramError::NotLoaded))?;
                of_before = SchedClassifier::from_pin(path).map_err(Refused::by_kernel)?;
                &mut of_before
            }
        };
        let placed = clsact::place(program, id, (index, &wanted.name), attach_type)
            .map_err(Refused::by_kernel)?;
        if placed.own {
            self.own_clsact.insert(index);
        }
        Ok((Link::Filter(placed.link), placed.how))
    }
}
