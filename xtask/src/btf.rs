//! `cargo xtask btf-samples`: the BTF of many kernels, cut down to what the daemon reads of it.
//!
//! The samples are test data of the daemon: they show on any machine, and without booting anything,
//! that fields, tracepoint arguments and drop reasons are found on each of these kernels.

mod image;
mod reduce;
mod types;

use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{
    build,
    mirror::{self, Repository},
    state,
};

/// The list.
const PINS: &str = include_str!("../btf-samples.toml");

/// Where the samples are, in the workspace.
const FOLDER: &str = "monitor/tests/btf";

/// What `btf-samples` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this sample of xtask/btf-samples.toml, for example `6.1-amd64`; may be repeated
    #[arg(long = "kernel", value_name = "NAME")]
    kernels: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sample: Vec<Pin>,
}

/// A kernel package as it is pinned.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    /// Release and architecture, `6.1-amd64`; the sample is `NAME.btf`.
    name: String,
    /// Which archive has it.
    repository: Repository,
    /// The package file in that archive.
    path: String,
    /// Its SHA-256 in hexadecimal digits.
    sha256: String,
}

/// Makes the samples anew.
///
/// # Errors
///
/// When no sample has a name, a package cannot be had, or no usable BTF is found in its kernel.
pub(crate) fn samples(options: &Options) -> Result<()> {
    let pins = chosen(&options.kernels)?;
    let folder = build::root()?.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let cache = state::cache_dir()?.join("kernels");
    for pin in pins {
        let make = || {
            let package = mirror::fetch(pin.repository, &pin.path, &pin.sha256, &cache)?;
            let whole = image::btf(&package)?;
            let sample = reduce::reduce(&whole)?;
            println!(
                "{}: {} of {} bytes",
                pin.name,
                sample.len(),
                whole.bytes().len()
            );
            let file = folder.join(format!("{}.btf", pin.name));
            fs::write(&file, sample).with_context(|| format!("cannot write {}", file.display()))
        };
        make().with_context(|| format!("no sample {}", pin.name))?;
    }
    Ok(())
}

/// The pins of these names, or all when there are none.
fn chosen(names: &[String]) -> Result<Vec<Pin>> {
    let file: File = toml::from_str(PINS).context("xtask/btf-samples.toml")?;
    let pins = file.sample;
    if let Some(unknown) = names
        .iter()
        .find(|name| !pins.iter().any(|pin| pin.name == **name))
    {
        let known: Vec<_> = pins.iter().map(|pin| pin.name.as_str()).collect();
        bail!(
            "no sample {unknown:?} in xtask/btf-samples.toml; there are: {}",
            known.join(", ")
        );
    }
    Ok(pins
        .into_iter()
        .filter(|pin| names.is_empty() || names.contains(&pin.name))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_and_the_samples_are_of_the_same_kernels() {
        let mut names: Vec<_> = chosen(&[])
            .unwrap()
            .into_iter()
            .inspect(|pin| assert_eq!(pin.sha256.len(), 64, "{}", pin.name))
            .map(|pin| format!("{}.btf", pin.name))
            .collect();
        let folder = build::root().unwrap().join(FOLDER);
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        files.sort_unstable();
        assert_eq!(files, names);
    }

    #[test]
    fn a_name_that_is_not_in_the_list_is_refused_with_those_that_are() {
        let error = chosen(&["2.4-amd64".to_owned()]).unwrap_err().to_string();
        assert!(
            error.contains("\"2.4-amd64\"") && error.contains("6.1-amd64"),
            "{error}"
        );
        assert_eq!(chosen(&["6.1-arm64".to_owned()]).unwrap().len(), 1);
    }
}
