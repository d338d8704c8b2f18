//! Prometheus for the tests and the demo. Debian's has its pages, which people look at, in files of their
//! own, with scripts out of many packages.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{Tool, bring, find_tool, is_debian_like, unpack::files_name, unpacked_with_all};
use crate::cmd::find_program;

/// What set-up says of it.
pub(super) const TOOL: Tool = unpacked_with_all(
    "prometheus",
    "prometheus",
    "scrapes as users' servers do, and has pages to look at",
);

/// Where the pages are, in the package.
const PAGES: &str = "usr/share/prometheus/web";
/// Where its scripts are.
const SCRIPTS: &str = "usr/share/javascript";
/// 200 MB of tables, of which no page reads any.
const NOT_NEEDED: &str = "usr/share/javascript/moment-timezone/data";

/// Brings it where it is missing, and no other tool; says where it is.
///
/// # Errors
///
/// When there is none and it cannot be had.
pub(crate) fn find_or_bring() -> Result<PathBuf> {
    if find_program(TOOL.program).is_none() && !is_debian_like() {
        bail!("it is not installed, and this is no Debian-like system to take its package from");
    }
    bring(&[TOOL])?;
    Ok(find_tool(TOOL.program))
}

/// Where the pages of one that set-up brought are. One that is installed knows it by itself.
pub(crate) fn pages(program: &Path) -> Option<PathBuf> {
    let files = program.with_file_name(files_name(TOOL.package));
    Some(files.join(PAGES)).filter(|pages| pages.is_dir())
}

/// Whether it has its pages: older set-ups took the program alone. True for other tools.
pub(super) fn is_whole(tool: &Tool, file: &Path) -> bool {
    tool.program != TOOL.program || pages(file).is_some()
}

/// Makes the pages work below `root`, where packages are unpacked: those that are installed in `system` are
/// not among them.
///
/// # Errors
///
/// When the folder can't be changed. Nothing is done where there are no pages.
pub(super) fn complete(root: &Path, system: &Path) -> Result<()> {
    if !root.join(PAGES).is_dir() {
        return Ok(());
    }
    match fs::remove_dir_all(root.join(NOT_NEEDED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::create_dir_all(root.join(SCRIPTS))?;
    let Ok(installed) = fs::read_dir(system.join(SCRIPTS)) else {
        return Ok(());
    };
    for entry in installed {
        let target = entry?.path();
        let link = root
            .join(SCRIPTS)
            .join(target.file_name().unwrap_or_default());
        if link.symlink_metadata().is_err() {
            symlink(&target, &link).with_context(|| link.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_that_are_installed_are_linked_and_tables_are_gone() {
        let base = std::env::temp_dir().join(format!("peerwatch-pages-{}", std::process::id()));
        let (root, system) = (base.join("root"), base.join("system"));
        for folder in [
            root.join(PAGES),
            root.join(NOT_NEEDED),
            system.join(SCRIPTS).join("jquery"),
            system.join(SCRIPTS).join("moment-timezone"),
        ] {
            fs::create_dir_all(folder).unwrap();
        }
        let scripts = root.join(SCRIPTS);
        let result = complete(&root, &system);
        let linked = fs::read_link(scripts.join("jquery"));
        let own = fs::read_link(scripts.join("moment-timezone"));
        let tables = root.join(NOT_NEEDED).exists();
        let other = complete(&system, &root);
        fs::remove_dir_all(&base).unwrap();
        result.unwrap();
        assert_eq!(linked.unwrap(), system.join(SCRIPTS).join("jquery"));
        assert!(own.is_err() && !tables);
        other.unwrap();
    }

    #[test]
    fn a_program_without_its_pages_is_brought_again() {
        let alone = Path::new("/nowhere/prometheus");
        assert!(!is_whole(&TOOL, alone));
        assert_eq!(pages(alone), None);
    }
}
