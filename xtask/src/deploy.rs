//! `cargo xtask rules`: writes the rules that are shipped, or scaled ones elsewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::root,
    rules::{RUNBOOKS, Rules, Scale, render_all},
};

/// Arguments of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Multiplies every time, as 1/15, 2 or 0.1
    #[arg(long, default_value = "1")]
    scale: Scale,
    /// Where the runbooks are, without a slash at the end
    #[arg(long, value_name = "URL", default_value = RUNBOOKS)]
    runbooks: String,
    /// A folder for the files; by default the shipped ones are written, which take no scale
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Where the shipped rules are.
pub(crate) const SHIPPED: &str = "deploy/prometheus/rules";

/// Writes them.
///
/// # Errors
///
/// When the source is not understood, a file cannot be written, or the shipped rules would be scaled.
pub(crate) fn rules(options: &Options) -> Result<()> {
    let as_shipped = options.scale == Scale::ONE && options.runbooks == RUNBOOKS;
    let folder = match &options.out {
        Some(folder) => folder.clone(),
        None if as_shipped => root()?.join(SHIPPED),
        None => bail!("the shipped rules have scale 1 and our runbooks: say where with --out DIR"),
    };
    let rules = rendered(options.scale, &options.runbooks)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for Rules { name, text } in &rules {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// What is wrong with the shipped files, one line each.
///
/// # Errors
///
/// When the source is not understood.
pub(crate) fn differences() -> Result<Vec<String>> {
    let rules = rendered(Scale::ONE, RUNBOOKS)?;
    let folder = root()?.join(SHIPPED);
    let mut problems: Vec<_> = rules
        .iter()
        .filter(|rules| !is_same(&folder.join(&rules.name), &rules.text))
        .map(|rules| format!("{SHIPPED}/{} is not what its source renders", rules.name))
        .collect();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {SHIPPED}"))? {
        let name = entry?.file_name();
        if !rules.iter().any(|rules| *rules.name == *name) {
            problems.push(format!("{SHIPPED}/{} has no source", name.display()));
        }
    }
    Ok(problems)
}

fn rendered(scale: Scale, runbooks: &str) -> Result<Vec<Rules>> {
    render_all(&root()?.join("deploy/prometheus/source"), scale, runbooks)
}

fn is_same(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|shipped| shipped == text)
}
