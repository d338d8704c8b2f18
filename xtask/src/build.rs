//! Building the workspace with cargo, and what came out of it.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cmd;

/// The workspace's folder: of the checkout that cargo runs us in. The one that we were compiled in
/// may be another, when several share a target folder.
///
/// # Errors
///
/// Never in a checkout: xtask is one level below it.
pub(crate) fn root() -> Result<PathBuf> {
    let xtask =
        env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    Ok(xtask.parent().context("xtask has no parent folder")?.into())
}

/// A program that cargo built.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Built {
    /// The folder of its package: where `cargo test` would start it.
    pub(crate) package: PathBuf,
    /// The target's name, `conformance`.
    pub(crate) target: String,
    /// Its kind: `lib`, `bin`, `test` and so on.
    pub(crate) kind: String,
    /// Whether it holds tests: cargo also builds the plain binaries beside them.
    pub(crate) is_test: bool,
    /// The program, an absolute path.
    pub(crate) program: PathBuf,
}

impl Built {
    /// Reads one line that cargo prints; `None` for all that is no program.
    fn parse(line: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(line).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Self {
            program: text(&message["executable"])?.into(),
            package: Path::new(message["manifest_path"].as_str()?)
                .parent()?
                .into(),
            target: text(&message["target"]["name"])?,
            kind: text(&message["target"]["kind"][0])?,
            is_test: message["profile"]["test"].as_bool()?,
        })
    }
}

/// Runs cargo with arguments that build something, and returns the programs.
///
/// # Errors
///
/// When the build fails; cargo has then said why.
pub(crate) fn build(arguments: &[&str]) -> Result<Vec<Built>> {
    let mut command = cmd::cargo();
    command
        .current_dir(root()?)
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", show(&command)))?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{}` failed: {}", show(&command), output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(Built::parse).collect())
}

/// Builds the daemon as users run it.
///
/// # Errors
///
/// When the build fails.
pub(crate) fn daemon() -> Result<PathBuf> {
    build(&[
        "build",
        "--release",
        "--package",
        "peerwatch",
        "--bin",
        "peerwatch",
    ])?
    .into_iter()
    .find(|built| built.target == "peerwatch")
    .map(|built| built.program)
    .context("cargo built no peerwatch")
}

/// The command without the path of cargo and without the message format.
fn show(command: &Command) -> String {
    let arguments: Vec<_> = command
        .get_args()
        .map(|argument| argument.to_string_lossy())
        .filter(|argument| !argument.starts_with("--message-format"))
        .collect();
    format!("cargo {}", arguments.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_read_and_the_rest_is_not() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml",
            "target":{"kind":["test"],"name":"conformance"},"profile":{"test":true},
            "executable":"/w/target/c-1"}"#;
        let built = Built::parse(line).unwrap();
        assert_eq!(built.package, Path::new("/w/tests"));
        assert_eq!(
            (built.target.as_str(), built.kind.as_str()),
            ("conformance", "test")
        );
        assert_eq!(built.program, Path::new("/w/target/c-1"));
        assert!(built.is_test);
        let plain = Built::parse(&line.replace("true", "false")).unwrap();
        assert!(!plain.is_test);
        assert_eq!(
            Built::parse(&line.replace("\"/w/target/c-1\"", "null")),
            None
        );
        assert_eq!(Built::parse("running 1 test"), None);
    }
}
