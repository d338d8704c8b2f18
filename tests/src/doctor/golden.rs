//! The whole report on kernels that are known, line by line.

use anyhow::{Context as _, Result, ensure};

use super::Rig;
use crate::kernel::is_at_least;

/// Reports as they were looked through, by the first release that they are of.
const REPORTS: [(u32, u32, &str); 5] = [
    (5, 10, include_str!("../../golden/doctor/5.10.txt")),
    (6, 1, include_str!("../../golden/doctor/6.1.txt")),
    (6, 8, include_str!("../../golden/doctor/6.8.txt")),
    (6, 12, include_str!("../../golden/doctor/6.12.txt")),
    (7, 0, include_str!("../../golden/doctor/7.txt")),
];

/// Compares the report of this kernel with the one that is kept.
pub(super) fn golden() -> Result<()> {
    let rig = Rig::create()?;
    let output = rig.command()?.arg("--self-test=false").output()?;
    let said = String::from_utf8(output.stdout)?;
    let wanted = REPORTS
        .iter()
        .rfind(|(version, level, _)| is_at_least(*version, *level));
    let (_, _, wanted) = wanted.context("no report is kept for such a kernel")?;
    let said = without_what_varies(&said);
    ensure!(
        said == *wanted,
        "the report differs from the one that is kept, and is now:\n{said}"
    );
    Ok(())
}

/// A report without what differs from one run to the next: versions, numbers, places, other programs.
fn without_what_varies(said: &str) -> String {
    const LINES: [&str; 7] = [
        "peerwatch",
        "kernel",
        "distribution",
        "lockdown",
        "cgroup root",
        "network namespace",
        "connection tracking",
    ];
    let mut text = String::new();
    let mut of_machine = false;
    for line in said.lines() {
        // Daemons of other labs are on these hooks too, some of which are the whole machine's.
        let was_of_machine = of_machine;
        of_machine = line.starts_with("BPF programs") || of_machine && !line.is_empty();
        // With the empty line behind them.
        if of_machine || was_of_machine {
            continue;
        }
        let varies = LINES.iter().find(|name| {
            let rest = line
                .strip_prefix("  ")
                .and_then(|line| line.strip_prefix(**name));
            rest.is_some_and(|rest| rest.starts_with("  "))
        });
        match varies {
            Some(name) => text.extend(["  ", name, &" ".repeat(23 - name.len()), "…"]),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_varies_is_left_out() {
        let said = "Host\n  kernel                 6.1.0 (x86_64)\n  kernel symbols         shown\n\n\
                    BPF programs on …\n  drop                   peerwatch: kfree_skb (9)\n\nSelf-test\n";
        let kept =
            "Host\n  kernel                 …\n  kernel symbols         shown\n\nSelf-test\n";
        assert_eq!(without_what_varies(said), kept);
    }
}
