//! Attaching to the tc hooks of an interface: by TCX, or as a filter of `clsact`.

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};

use super::{Hooks, Mode, Refused, Wanted, clsact};
use crate::bpf::Hook;

impl Hooks {
    /// Attaches the program of a hook to the interface with this index.
    pub(super) fn attach_tc(
        &mut self,
        index: u32,
        wanted: &Wanted,
        hook: Hook,
        attach_type: TcAttachType,
    ) -> Result<SchedClassifierLink, Refused> {
        let name = wanted.program(hook);
        if let Some(refusal) = self.loaded.refused.get(name) {
            return Err(refusal.into());
        }
        let program = self.loaded.ebpf.program_mut(name);
        let program: &mut SchedClassifier = program
            .ok_or(ProgramError::NotLoaded)
            .and_then(TryInto::try_into)
            .map_err(Refused::by_kernel)?;
        let options = if self.tc_mode == Mode::Tcx {
            // First in the chain: a program ahead of ours that ends it would hide packets from us.
            TcAttachOptions::TcxOrder(LinkOrder::first())
        } else {
            if clsact::add(&wanted.name, attach_type).map_err(Refused::by_kernel)? {
                self.own_clsact.insert(index);
            }
            TcAttachOptions::Netlink(NlOptions {
                priority: 1,
                ..NlOptions::default()
            })
        };
        let id = program.attach_with_options(&wanted.name, attach_type, options);
        id.and_then(|id| program.take_link(id))
            .map_err(Refused::by_kernel)
    }
}
