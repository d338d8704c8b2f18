//! The report for people: what matters first, then what was looked at.

use std::fmt::Write as _;

use super::finding::{Finding, Weight};
use super::kernel::State;
use super::programs::name;
use super::{Firewall, Report};
use crate::selftest::Outcome;

/// How wide a line of words is, at most.
const WIDTH: usize = 100;

/// The report. Writing to a text cannot fail, so results are let go.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    let limits = report
        .findings
        .iter()
        .filter(|one| one.weight > Weight::Note)
        .count();
    let what = match (report.verdict, limits) {
        (Weight::Note, _) => "everything that passes here will be seen".to_owned(),
        (_, 1) => "1 limitation".to_owned(),
        (_, count) => format!("{count} limitations"),
    };
    writeln!(
        text,
        "PEERWATCH DOCTOR {} - {what}",
        report.verdict.as_str()
    )
    .ok();
    findings(&mut text, &report.findings);
    host(&mut text, report);
    kernel(&mut text, report);
    interfaces(&mut text, report);
    firewall(&mut text, &report.firewall);
    programs(&mut text, report);
    head(&mut text, "Never seen, and not to be detected");
    for way in report.undetectable {
        wrapped(&mut text, "  - ", way);
    }
    self_test(&mut text, report);
    text
}

fn head(text: &mut String, title: &str) {
    writeln!(text, "\n{title}").ok();
}

fn line(text: &mut String, first: &str, rest: &str) {
    let rest = shown(rest);
    wrapped(text, &format!("  {first:<22} "), &rest);
}

/// Names are the user's own, and may hold anything.
fn shown(text: &str) -> String {
    text.chars()
        .map(|one| if one.is_control() { '\u{fffd}' } else { one })
        .collect()
}

/// Words behind a beginning, and in its column where they need more lines.
fn wrapped(text: &mut String, begin: &str, words: &str) {
    let indent = " ".repeat(begin.chars().count());
    let mut line = begin.to_owned();
    let mut column = line.chars().count();
    let start = column;
    for word in words.split_whitespace() {
        let length = word.chars().count();
        if column > start && column + 1 + length > WIDTH {
            writeln!(text, "{}", line.trim_end()).ok();
            line.clone_from(&indent);
            column = start;
        }
        if column > start {
            line.push(' ');
            column += 1;
        }
        line.push_str(word);
        column += length;
    }
    writeln!(text, "{}", line.trim_end()).ok();
}

fn findings(text: &mut String, findings: &[Finding]) {
    for (weight, title, mark) in [
        (Weight::CannotWork, "Cannot work", "!!"),
        (Weight::Limited, "Limitations", "! "),
        (Weight::Note, "Good to know", "  "),
    ] {
        let of: Vec<&Finding> = findings.iter().filter(|one| one.weight == weight).collect();
        if of.is_empty() {
            continue;
        }
        head(text, title);
        for finding in of {
            wrapped(
                text,
                &format!("{mark} "),
                &shown(&format!("{}.", finding.what)),
            );
            wrapped(text, "      so: ", &shown(&finding.effect));
            if let Some(hint) = &finding.hint {
                wrapped(text, "      do: ", &shown(hint));
            }
        }
    }
}

fn host(text: &mut String, report: &Report) {
    let host = &report.host;
    head(text, "Host");
    line(
        text,
        "peerwatch",
        &format!("{} (revision {})", report.version, report.revision),
    );
    line(
        text,
        "kernel",
        &format!("{} ({})", host.release, host.machine),
    );
    line(
        text,
        "distribution",
        host.distribution.as_deref().unwrap_or("not known"),
    );
    line(
        text,
        "lockdown",
        host.lockdown
            .as_deref()
            .unwrap_or("not shown by this kernel"),
    );
    let missing = if host.missing_capabilities.is_empty() {
        "all that are needed".to_owned()
    } else {
        format!("missing: {}", host.missing_capabilities.join(", "))
    };
    line(text, "capabilities", &missing);
    line(text, "BTF", either(&host.btf));
    line(text, "cgroup root", either(&host.cgroup_root));
    let symbols = match &host.symbols {
        Ok(()) => "shown",
        Err(why) => why,
    };
    line(text, "kernel symbols", symbols);
    if let Some(number) = host.network_namespace {
        let whose = match host.is_host_namespace {
            Some(true) => ", the host's",
            Some(false) => ", not the host's",
            None => "",
        };
        line(text, "network namespace", &format!("{number}{whose}"));
    }
    let connections = report.conntrack.map_or_else(
        || "no table of connections".to_owned(),
        |table| match table.limit {
            0 => format!("{} connections, no limit", table.entries),
            limit => {
                let percent = table.entries.saturating_mul(100) / limit;
                format!("{} of {limit} connections ({percent} %)", table.entries)
            }
        },
    );
    line(text, "connection tracking", &connections);
}

fn either(what: &Result<String, String>) -> &str {
    match what {
        Ok(what) | Err(what) => what,
    }
}

fn kernel(text: &mut String, report: &Report) {
    head(text, "Hooks");
    for hook in &report.hooks {
        let rest = match hook.state {
            State::Available => "ok".to_owned(),
            State::Missing => format!("MISSING ({}): {}", hook.why, hook.without),
            State::Unknown => format!("not known: {}", hook.why),
        };
        line(text, hook.hook, &rest);
    }
    head(text, "Features of the kernel");
    for feature in &report.features {
        let rest = match feature.state {
            State::Available => "ok".to_owned(),
            State::Missing => format!("missing: {}", feature.without),
            State::Unknown => format!("not known ({})", feature.why),
        };
        line(text, feature.name, &rest);
    }
}

fn interfaces(text: &mut String, report: &Report) {
    head(text, "Interfaces");
    for interface in &report.interfaces {
        let mut rest = match (interface.mode, interface.left_out) {
            (Some(mode), None) => format!("watched at {} ({mode})", interface.hooks.join(" and ")),
            (_, Some(why)) => format!("left out: {why}"),
            (None, None) => "not watched".to_owned(),
        };
        for (what, of) in [("", &interface.kind), ("port of a ", &interface.slave_of)] {
            if let Some(of) = of {
                write!(rest, "; {what}{of}").ok();
            }
        }
        line(text, &interface.name, &rest);
    }
}

fn firewall(text: &mut String, firewall: &Firewall) {
    head(text, "Firewall");
    if let Some(why) = &firewall.unknown {
        line(text, "not known", why);
        return;
    }
    let backends: Vec<String> = firewall
        .backends
        .iter()
        .map(|one| {
            format!(
                "{} (tables: {}, rules: {})",
                one.name, one.tables, one.rules
            )
        })
        .collect();
    let backends = if backends.is_empty() {
        "none: nothing is dropped by rules of this network namespace".to_owned()
    } else {
        backends.join(", ")
    };
    line(text, "in use", &backends);
    for policy in firewall.policies.iter().filter(|policy| policy.drops) {
        let chain = format!(
            "chain {} of table {} {} drops what no rule lets pass (hook {}, {})",
            policy.chain, policy.family, policy.table, policy.hook, policy.backend
        );
        line(text, "policy", &chain);
    }
    for table in &firewall.flow_tables {
        let what = if table.hardware {
            "hardware"
        } else {
            "software"
        };
        let rest = format!(
            "{} {} {} in {what}: {}",
            table.family,
            table.table,
            table.name,
            table.devices.join(", ")
        );
        line(text, "flow table", &rest);
    }
    for port in &firewall.ports {
        let first = format!("{} {}", port.port, port.traffic);
        for rule in &port.rules {
            let hooks = if rule.hooks.is_empty() {
                "no hook leads there".to_owned()
            } else {
                rule.hooks.join(", ")
            };
            let handle = rule
                .handle
                .map(|handle| format!(" (handle {handle})"))
                .unwrap_or_default();
            let rest = format!(
                "{hooks}: {} by a rule of chain {} of table {} {}{handle}, {}",
                rule.verdict, rule.chain, rule.family, rule.table, rule.backend
            );
            line(text, &first, &rest);
        }
        if !port.silent_hooks.is_empty() {
            let rest = format!("no rule names it at {}", port.silent_hooks.join(", "));
            line(text, &first, &rest);
        }
    }
}

fn programs(text: &mut String, report: &Report) {
    head(text, "BPF programs on the same hooks, in their order");
    if report.programs.is_empty() {
        line(text, "none", "");
    }
    for on in &report.programs {
        let names: Vec<String> = on
            .programs
            .iter()
            .map(|program| {
                let whose = if program.ours { "peerwatch: " } else { "" };
                format!("{whose}{}, {}", name(program), program.by)
            })
            .collect();
        let place = format!("{} {}", on.hook, on.interface);
        line(text, place.trim_end(), &names.join("; "));
    }
}

fn self_test(text: &mut String, report: &Report) {
    head(text, "Self-test");
    let Some(result) = &report.selftest else {
        return line(text, "not run", "");
    };
    line(text, "result", &result.summary());
    for case in &result.cases {
        let rest = match &case.result {
            Outcome::Passed => continue,
            Outcome::Failed {
                series,
                expected,
                counted,
            } => format!("FAILED: {series} should be {expected} and is {counted}"),
            Outcome::NotRun { why } => format!("not run: {why}"),
        };
        line(text, &case.name, &rest);
    }
}
