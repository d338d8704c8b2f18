//! Dependencies: where they come from, their licences, and versions that are there twice.
//!
//! The same as `cargo deny check bans licenses sources`. cargo-deny itself takes minutes to
//! compile, on a machine that wants the answer to three simple questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::licence;
use crate::{build::root, cmd};

/// What cargo's name of a registry begins with: besides this workspace, code comes from the one that
/// cargo uses by default, and not from repositories.
const REGISTRY: &str = "registry+";

/// Crates that may be there in more than one version: a line each, the name and the reason.
const DUPLICATES: &str = "xtask/duplicates.txt";

/// The workspaces with a lock file of their own.
const WORKSPACES: [&str; 2] = [".", "tests/fuzz"];

/// A package of the dependency graph.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// None for a package by path.
    pub(super) source: Option<String>,
    pub(super) licence: Option<String>,
}

/// Everything that is compiled on Linux, the fuzz targets included, each once.
///
/// # Errors
///
/// When cargo fails, as where a lock file is not up to date.
pub(super) fn packages() -> Result<Vec<Package>> {
    let root = root()?;
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut all = BTreeSet::new();
    for workspace in WORKSPACES {
        let text = cmd::output(cmd::cargo().current_dir(root.join(workspace)).args([
            "metadata",
            "--locked",
            "--format-version=1",
            "--filter-platform",
            &target,
        ]))?;
        let metadata: Value = serde_json::from_str(&text)?;
        let packages = metadata["packages"]
            .as_array()
            .context("cargo metadata has no packages")?;
        for package in packages {
            all.insert(Package::parse(package)?);
        }
    }
    Ok(all.into_iter().collect())
}

/// Checks everything that this repository compiles on Linux.
///
/// # Errors
///
/// All that is wrong, one line each.
pub(super) fn check() -> Result<()> {
    let root = root()?;
    let packages = packages()?;
    let list = root.join(DUPLICATES);
    let list = fs::read_to_string(&list).with_context(|| list.display().to_string())?;

    let mut problems: Vec<_> = packages.iter().filter_map(|p| p.problem().err()).collect();
    let sources: BTreeSet<_> = packages.iter().filter_map(|p| p.source.as_ref()).collect();
    if sources.len() > 1 {
        problems.push(anyhow::anyhow!("code comes from {sources:?}, not from one"));
    }
    problems.extend(
        duplicates(&packages, &list)
            .into_iter()
            .map(anyhow::Error::msg),
    );
    if !problems.is_empty() {
        let lines: Vec<_> = problems
            .iter()
            .map(|problem| format!("  {problem:#}"))
            .collect();
        bail!("{} problems\n{}", lines.len(), lines.join("\n"));
    }
    println!(
        "{} packages, all from one registry or this repository, licences allowed",
        packages.len()
    );
    Ok(())
}

impl Package {
    fn parse(value: &Value) -> Result<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Ok(Self {
            name: text("name").context("a package has no name")?,
            version: text("version").context("a package has no version")?,
            source: text("source"),
            licence: text("license"),
        })
    }

    /// What is wrong with its source or its licence.
    fn problem(&self) -> Result<()> {
        let Self {
            name,
            version,
            source,
            licence,
        } = self;
        if let Some(source) = source
            && !source.starts_with(REGISTRY)
        {
            bail!("{name} {version} comes from {source}");
        }
        let Some(licence) = licence else {
            bail!("{name} {version} names no licence");
        };
        let allowed = licence::is_allowed(licence).with_context(|| format!("{name} {version}"))?;
        if !allowed {
            bail!("{name} {version} has licence {licence}, which is not allowed");
        }
        Ok(())
    }
}

/// Crates that are there twice and not listed, and listed ones that are there once.
fn duplicates(packages: &[Package], list: &str) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .insert(&package.version);
    }
    versions.retain(|_, versions| versions.len() > 1);

    let mut problems = Vec::new();
    let mut listed = BTreeSet::new();
    for line in list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (name, reason) = line.split_once(' ').unwrap_or((line, ""));
        if reason.trim().is_empty() {
            problems.push(format!("{DUPLICATES}: {name} has no reason"));
        }
        if !versions.contains_key(name) {
            problems.push(format!(
                "{DUPLICATES}: {name} is there once, remove it from the list"
            ));
        }
        listed.insert(name);
    }
    for (name, versions) in versions {
        if !listed.contains(name) {
            problems.push(format!("{name} is there in versions {versions:?}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            source: Some("registry+https://example.org/index".to_owned()),
            licence: Some("MIT".to_owned()),
        }
    }

    #[test]
    fn source_and_licence_are_checked() {
        let good = package("a", "1.0.0");
        assert!(good.problem().is_ok());
        assert!(
            Package {
                source: None,
                ..good.clone()
            }
            .problem()
            .is_ok()
        );
        let foreign = Some("git+https://example.org/a".to_owned());
        assert!(
            Package {
                source: foreign,
                ..good.clone()
            }
            .problem()
            .is_err()
        );
        assert!(
            Package {
                licence: None,
                ..good.clone()
            }
            .problem()
            .is_err()
        );
        let copyleft = Some("GPL-3.0-only".to_owned());
        assert!(
            Package {
                licence: copyleft,
                ..good
            }
            .problem()
            .is_err()
        );
    }

    #[test]
    fn duplicates_need_a_line_with_a_reason() {
        let packages = [
            package("a", "1.0.0"),
            package("a", "2.0.0"),
            package("b", "1.0.0"),
        ];
        assert_eq!(duplicates(&packages, "").len(), 1);
        assert_eq!(duplicates(&packages, "# why\na old users of it\n"), [""; 0]);
        assert_eq!(duplicates(&packages, "a\n").len(), 1);
    }

    #[test]
    fn a_line_that_is_no_longer_needed_is_a_problem() {
        let problems = duplicates(&[package("b", "1.0.0")], "b was there twice\n");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("b is there once"), "{problems:?}");
    }
}
