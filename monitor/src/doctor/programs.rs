//! BPF programs on the hooks that peerwatch uses: whose, and in which order.

use serde::Serialize;

use super::finding::{Finding, Weight};
use super::interfaces::Watched;
use crate::bpf::Hook;
use crate::bpf::kernel::Kernel;
use crate::bpf::others::{self, Program};
use crate::cgroup::Root;

/// The programs on one hook.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct OnHook {
    /// `drop`, `deliver`, `ingress` or `egress`.
    pub hook: &'static str,
    /// The interface; empty where the hook has none.
    pub interface: String,
    /// In the order in which they run.
    pub programs: Vec<Program>,
}

/// Looks at all hooks; those without a program are left out.
pub(super) fn look(
    interfaces: &[Watched],
    kernel: &Kernel,
    cgroup: &Root,
    findings: &mut Vec<Finding>,
) -> Vec<OnHook> {
    let mut unknown = Vec::new();
    let mut found = Vec::new();
    let mut take =
        |hook: Hook, interface: &str, programs: std::io::Result<Vec<Program>>| match programs {
            Ok(programs) if programs.is_empty() => {}
            Ok(programs) => found.push(OnHook {
                hook: hook.as_str(),
                interface: interface.to_owned(),
                programs,
            }),
            Err(error) => unknown.push(format!("{}: {error}", hook.as_str())),
        };
    take(Hook::Drop, "", others::on_drops(kernel.facts.tracepoint));
    if let Ok(root) = cgroup.open() {
        take(Hook::Deliver, "", others::on_cgroup(&root.dir));
    }
    for interface in interfaces {
        for hook in [Hook::Ingress, Hook::Egress] {
            let programs = others::on_interface(interface.index, hook);
            take(hook, &interface.name, programs);
        }
    }
    if let Some(first) = unknown.first() {
        findings.push(Finding {
            id: "programs_unknown",
            weight: Weight::Note,
            what: format!("not all BPF programs on the same hooks are known ({first})"),
            effect: "a program that hides packets from peerwatch could be among them".to_owned(),
            hint: Some("run it as root (CAP_SYS_ADMIN, CAP_NET_ADMIN)".to_owned()),
        });
    }
    find(&found, findings);
    found
}

fn find(found: &[OnHook], findings: &mut Vec<Finding>) {
    for on in found.iter().filter(|on| !on.interface.is_empty()) {
        let foreign = |program: &&Program| !program.ours;
        let names: Vec<String> = on.programs.iter().filter(foreign).map(name).collect();
        if names.is_empty() {
            continue;
        }
        let ours = on.programs.iter().position(|program| program.ours);
        let first = on.programs.iter().position(|program| !program.ours);
        if let (Some(ours), Some(first)) = (ours, first)
            && first < ours
        {
            findings.push(Finding {
                id: "behind_others",
                weight: Weight::Limited,
                what: format!(
                    "on {} of {} the program {} runs before that of peerwatch",
                    on.hook,
                    on.interface,
                    names.join(", ")
                ),
                effect: "packets for which it ends the chain are not counted as allowed".to_owned(),
                hint: Some("restart peerwatch: it attaches itself first".to_owned()),
            });
            continue;
        }
        findings.push(Finding {
            id: "other_programs",
            weight: Weight::Note,
            what: format!("other programs are on {} of {}: {}", on.hook, on.interface, names.join(", ")),
            effect: "what they drop is counted as a drop of class \"firewall\" (TC_INGRESS, TC_EGRESS); what they hand to \
                     another network namespace by bpf_redirect_peer is not seen"
                .to_owned(),
            hint: None,
        });
    }
}

/// A program in words.
pub(super) fn name(program: &Program) -> String {
    if program.name.is_empty() {
        format!("number {}", program.id)
    } else {
        format!("{} ({})", program.name, program.id)
    }
}
