//! The rules for Prometheus with another time scale, as tests with a real server load them.

#[path = "../../xtask/src/rules.rs"]
mod rules;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rules::{RUNBOOKS, Scale, render_all};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/prometheus")
        .join(name)
}

#[test]
fn the_shipped_rules_are_those_of_the_source() -> Result<()> {
    for rules in render_all(&deploy("source"), Scale::ONE, RUNBOOKS)? {
        let shipped = fs::read_to_string(deploy("rules").join(&rules.name))?;
        ensure!(shipped == rules.text, "{}: `cargo xtask rules`", rules.name);
    }
    Ok(())
}

#[test]
fn promtool_understands_scaled_rules() -> Result<()> {
    for scale in ["1/15", "1/300", "2.5"] {
        let folder = std::env::temp_dir().join(format!("peerwatch-scaled-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let all = render_all(
            &deploy("source"),
            scale.parse()?,
            "http://127.0.0.1/runbooks",
        )?;
        let mut command = Command::new("promtool");
        command.args(["check", "rules"]);
        for rules in &all {
            let path = folder.join(&rules.name);
            fs::write(&path, &rules.text)?;
            command.arg(path);
        }
        let output = command.output().context("promtool")?;
        fs::remove_dir_all(&folder)?;
        ensure!(output.status.success(), "{scale}: {output:?}");
        ensure!(all.len() == 3, "{} files", all.len());
        let host = all.iter().find(|rules| rules.name == "host.yml");
        let host = &host.context("no host.yml")?.text;
        let times = ["for: 15m", "[5m]", "interval: 15s", RUNBOOKS];
        let left = times.into_iter().find(|time| host.contains(time));
        ensure!(left.is_none(), "{scale}: still {left:?}");
    }
    Ok(())
}
