//! What Prometheus and Alertmanager read: it is what its source says, and they understand it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
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
    run(&promtool, &["check", "config"], yml(&root.join(SCRAPE))?)?;
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
