//! What Prometheus and Alertmanager read: it is what its source says, and they understand it.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::Checked;
use crate::{
    build::root,
    cmd,
    deploy::{self, SHIPPED},
    packages::find_tool,
};

/// Where the scrape configurations are.
const SCRAPE: &str = "deploy/prometheus/scrape";

/// The key of what Debian's promtool does not know.
const KUBERNETES: &str = "kubernetes_sd_configs:";

/// Checks it all. The rules are compared with their source in any case; the programs that try them are
/// there only after a set-up for tests.
///
/// # Errors
///
/// When a shipped file is another one than its source renders, or a program finds something.
pub(super) fn check() -> Result<Checked> {
    let problems = deploy::differences()?;
    if !problems.is_empty() {
        bail!(
            "`cargo xtask rules` writes them anew:\n  {}",
            problems.join("\n  ")
        );
    }
    let root = root()?;
    let [promtool, amtool] = ["promtool", "amtool"].map(find_tool);
    for tool in [&promtool, &amtool] {
        if !tool.is_file() {
            return Ok(Checked::No(format!(
                "there is no {}, which tries what is in deploy: `cargo xtask setup --tests` brings it",
                tool.display()
            )));
        }
    }
    let run = |tool: &Path, words: &[&str], files: Vec<PathBuf>| {
        cmd::run(
            Command::new(tool)
                .current_dir(&root)
                .args(words)
                .args(files),
        )
    };
    run(&promtool, &["check", "rules"], yml(&root.join(SHIPPED))?)?;
    let tests = yml(&root.join("deploy/prometheus/tests"))?;
    run(&promtool, &["test", "rules"], tests)?;
    for file in yml(&root.join(SCRAPE))? {
        check_scrape(&promtool, &file)?;
    }
    let routes = yml(&root.join("deploy/alertmanager"))?;
    run(&amtool, &["check-config"], routes)?;
    Ok(Checked::Yes)
}

/// The `.yml` files of a folder; one without any has been moved, and would check nothing.
fn yml(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("cannot read {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "yml") {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("no .yml in {}", folder.display());
    }
    files.sort();
    Ok(files)
}

/// Checks a scrape configuration. Debian's promtool is built without Kubernetes: of a file with such a part
/// it gets the rest.
fn check_scrape(promtool: &Path, file: &Path) -> Result<()> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut command = Command::new(promtool);
    command.args(["check", "config"]);
    if !text.contains(KUBERNETES) {
        return cmd::run(command.arg(file));
    }
    // Relative paths would be looked for in /dev.
    let rest = without(&without(&text, KUBERNETES), "rule_files:");
    println!("{}, without its {KUBERNETES}", file.display());
    let mut child = command
        .arg("/dev/stdin")
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", cmd::display(&command)))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(rest.as_bytes())?;
    drop(stdin);
    if !child.wait()?.success() {
        bail!("{} is no configuration of Prometheus", file.display());
    }
    Ok(())
}

/// A text of YAML without a key and what is below it.
fn without(text: &str, key: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut left_out = None;
    let mut rest = String::new();
    for line in text.lines() {
        if left_out.is_some_and(|depth| line.trim().is_empty() || indent(line) > depth) {
            continue;
        }
        left_out = (line.trim() == key).then(|| indent(line));
        if left_out.is_none() {
            rest.push_str(line);
            rest.push('\n');
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_left_out_with_all_below_it() {
        let text = "a:\n  b:\n    - c: 1\n\n      d: 2\n  e: 3\nb: 4\n";
        assert_eq!(without(text, "b:"), "a:\n  e: 3\nb: 4\n");
        assert_eq!(without(text, "a:"), "b: 4\n");
        assert_eq!(without(text, "f:"), text);
    }
}
