//! Known vulnerabilities of the locked versions, by the `RustSec` advisory database.
//!
//! The database is a repository of its own and in no package registry, so nothing here fetches it: a checkout is read
//! where there is one. One advisory is a Markdown file that begins with a block of TOML
//! (<https://github.com/rustsec/advisory-db>, `README.md`, "Advisory Format").

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use semver::{Version, VersionReq};
use serde::Deserialize;

use super::{Checked, deps::Package};

/// Names a checkout of the database.
const VARIABLE: &str = "PEERWATCH_ADVISORY_DB";

/// Advisories that do not concern us: a line each, the identifier and the reason.
const ACCEPTED: &str = "xtask/advisories.txt";

/// The block of TOML, as far as it matters here.
#[derive(Debug, Deserialize)]
struct File {
    advisory: Advisory,
    #[serde(default)]
    versions: Versions,
}

#[derive(Debug, Deserialize)]
struct Advisory {
    id: String,
    package: String,
    /// Set where it was a mistake.
    withdrawn: Option<toml::Value>,
    /// `unmaintained`, `notice`: no vulnerability, and told of all the same; `unsound` is one.
    informational: Option<String>,
}

/// Versions that the advisory is not about.
#[derive(Debug, Default, Deserialize)]
struct Versions {
    #[serde(default)]
    patched: Vec<VersionReq>,
    #[serde(default)]
    unaffected: Vec<VersionReq>,
}

/// Holds the locked versions against the database.
///
/// # Errors
///
/// All advisories that concern one of them, or an advisory that is not understood.
pub(super) fn check(root: &Path, packages: &[Package]) -> Result<Checked> {
    let Some(database) = env::var_os(VARIABLE).map(PathBuf::from) else {
        return Ok(Checked::No(format!(
            "no RustSec advisory database, which is in no package registry: get \
             https://github.com/rustsec/advisory-db with git and name the folder in {VARIABLE}"
        )));
    };
    let crates = database.join("crates");
    if !crates.is_dir() {
        bail!("{VARIABLE}: {} is no advisory database", database.display());
    }
    let accepted = root.join(ACCEPTED);
    let accepted = fs::read_to_string(&accepted).with_context(|| accepted.display().to_string())?;
    let (mut problems, mut count) = (Vec::new(), 0);
    for package in packages.iter().filter(|package| package.source.is_some()) {
        for file in files(&crates.join(&package.name))? {
            let text = fs::read_to_string(&file)?;
            count += 1;
            let found =
                concern(&text, package, &accepted).with_context(|| file.display().to_string())?;
            problems.extend(found);
        }
    }
    if !problems.is_empty() {
        bail!("{} advisories\n  {}", problems.len(), problems.join("\n  "));
    }
    println!("{count} advisories about these packages, none about these versions");
    Ok(Checked::Yes)
}

/// The advisories of a package; most have none.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    Ok(files)
}

/// What is wrong with a package by an advisory; nothing where it is about other versions, or accepted.
fn concern(text: &str, package: &Package, accepted: &str) -> Result<Option<String>> {
    let block = text
        .trim_start()
        .strip_prefix("```toml")
        .and_then(|text| text.split_once("```"))
        .context("it does not begin with a block of TOML")?
        .0;
    let File { advisory, versions } = toml::from_str(block)?;
    let version: Version = package.version.parse()?;
    let is_fine = versions
        .patched
        .iter()
        .chain(&versions.unaffected)
        .any(|range| range.matches(&version));
    let is_accepted = accepted.lines().any(|line| {
        let (id, reason) = line.split_once(' ').unwrap_or((line, ""));
        id == advisory.id && !reason.trim().is_empty()
    });
    if advisory.package != package.name || advisory.withdrawn.is_some() || is_fine || is_accepted {
        return Ok(None);
    }
    let kind = advisory.informational.as_deref().unwrap_or("vulnerability");
    Ok(Some(format!(
        "{} {}: {} ({kind}); newer versions may be free of it, or name it in {ACCEPTED} with the reason why it does not matter here",
        package.name, package.version, advisory.id
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2021-0003\"\npackage = \"smallvec\"\ndate = \"2021-01-08\"\n\
        url = \"https://example.org\"\n\n[versions]\npatched = [\">= 0.6.14, < 1.0.0\", \">= 1.6.1\"]\n\
        unaffected = [\"< 0.6.3\"]\n```\n\n# Buffer overflow\n\nText with ```toml in it.\n";

    fn package(version: &str) -> Package {
        Package {
            name: "smallvec".to_owned(),
            version: version.to_owned(),
            source: Some("registry+x".to_owned()),
            licence: None,
        }
    }

    #[test]
    fn versions_in_the_ranges_are_fine_and_others_are_not() {
        for version in ["0.6.14", "0.6.20", "1.6.1", "2.0.0", "0.6.2"] {
            assert_eq!(
                concern(TEXT, &package(version), "").unwrap(),
                None,
                "{version}"
            );
        }
        for version in ["0.6.13", "1.0.0", "1.6.0"] {
            let said = concern(TEXT, &package(version), "").unwrap().unwrap();
            assert!(said.contains("RUSTSEC-2021-0003 (vulnerability)"), "{said}");
        }
    }

    #[test]
    fn an_advisory_is_accepted_with_a_reason_only() {
        let package = package("1.6.0");
        let accepted = |line| concern(TEXT, &package, line).unwrap();
        assert_eq!(accepted("RUSTSEC-2021-0003 not called"), None);
        assert!(accepted("RUSTSEC-2021-0003 ").is_some());
        assert!(accepted("RUSTSEC-2021-0004 not called").is_some());
        let withdrawn = TEXT.replace("date =", "withdrawn = \"2021-02-01\"\ndate =");
        assert_eq!(concern(&withdrawn, &package, "").unwrap(), None);
    }

    #[test]
    fn what_is_no_advisory_is_an_error() {
        for text in ["", "# no block", "```toml\n[advisory]\n```", "```toml\nx"] {
            assert!(concern(text, &package("1.0.0"), "").is_err(), "{text:?}");
        }
    }
}
