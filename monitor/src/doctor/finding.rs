//! What the doctor has to say: one sentence, what follows from it, and the way out.

use serde::Serialize;

use crate::selftest::{Outcome, SelfTest};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Good to know; nothing is missed.
    Note,
    /// Something is not seen, or not known.
    Limited,
    /// The daemon does not start here, or sees nothing.
    CannotWork,
}

impl Weight {
    /// The word for the weightiest finding of a report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "FINE",
            Self::Limited => "LIMITED",
            Self::CannotWork => "CANNOT WORK",
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// A name that stays the same from one version to the next.
    pub id: &'static str,
    /// How much it matters.
    pub weight: Weight,
    /// What it is, in one sentence without its end.
    pub what: String,
    /// What follows from it.
    pub effect: String,
    /// What to change; `None` where nothing can be, or need be.
    pub hint: Option<String>,
}

/// What helps most comes first, among findings of one weight. What is not named comes last.
const ORDER: &[&str] = &[
    "capabilities",
    "teredo_tcp_rule",
    "self_test_failed",
    "hook_refused",
    "kernel_btf",
    "kernel_reads",
    "cgroup_root",
    "cgroup_ingress",
    "native_xdp",
    "af_xdp",
    "openvswitch",
    "hardware_offload",
    "tc_offload",
    "encapsulation_socket",
    "ipsec_policies",
    "flow_table_below",
    "socket_maps",
    "bridge_ports_left_out",
    "conntrack_nearly_full",
    "symbols_hidden",
    "drop_reasons",
    "link_pinning",
    "self_test_not_run",
];

/// Puts the weightiest first, and of these the ones that it helps most to mend.
pub(super) fn sort(findings: &mut [Finding]) {
    let place = |id| {
        ORDER
            .iter()
            .position(|one| *one == id)
            .unwrap_or(ORDER.len())
    };
    findings.sort_by(|a, b| {
        let weight = b.weight.cmp(&a.weight);
        weight.then_with(|| place(a.id).cmp(&place(b.id)))
    });
}

/// What follows from the self-test.
pub(super) fn of_self_test(test: &SelfTest, findings: &mut Vec<Finding>) {
    if let Some(lacks) = &test.lacks {
        findings.push(Finding {
            id: "self_test_not_run",
            weight: Weight::Limited,
            what: format!("the self-test could not run: {lacks}"),
            effect: "that this kernel counts exactly is not proven here".to_owned(),
            hint: Some(
                "run `peerwatch doctor` as root of the host, outside of containers".to_owned(),
            ),
        });
        return;
    }
    let why = test.cases.iter().filter_map(|case| match &case.result {
        Outcome::NotRun { why } => Some(why.as_str()),
        _ => None,
    });
    let why: Vec<&str> = why.collect();
    if let Some(first) = why.first() {
        findings.push(Finding {
            id: "self_test_in_part",
            weight: Weight::Note,
            what: format!(
                "{} of {} cases of the self-test were not run: {first}",
                why.len(),
                test.cases.len()
            ),
            effect: "that these are counted exactly is not proven here".to_owned(),
            hint: None,
        });
    }
    let failed = test
        .cases
        .iter()
        .filter(|case| matches!(case.result, Outcome::Failed { .. }));
    let names: Vec<&str> = failed.map(|case| case.name.as_str()).collect();
    if let Some(first) = names.first() {
        findings.push(Finding {
            id: "self_test_failed",
            weight: Weight::Limited,
            what: format!(
                "{} cases of the self-test failed, the first is \"{first}\"",
                names.len()
            ),
            effect: "counts on this kernel are not to be trusted".to_owned(),
            hint: Some("report it, with the whole output of `peerwatch doctor --json`".to_owned()),
        });
    }
}
