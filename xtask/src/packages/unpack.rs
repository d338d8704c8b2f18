//! Programs of packages that are not installed: unpacked into the cache folder.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{How, Tool, candidate, prometheus, reason, update};
use crate::cmd;

/// Downloads a package and puts some of its programs into a folder, without installing it.
pub(super) fn unpack(package: &str, programs: &[&str], to: &Path) -> Result<()> {
    println!(
        "setup: unpacking {} of package {package} into {} ({}); not installed, so no service",
        programs.join(" and "),
        to.display(),
        reason(package)
    );
    if candidate(package)?.is_none() {
        update().with_context(|| format!("as root, run\n    apt-get update\nfor {package}"))?;
    }
    let scratch = extract(package, &[package], to)?;
    for program in programs {
        fs::rename(find(&scratch, package, program)?, to.join(program))?;
    }
    fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// Where an extracted package has its program.
fn find(root: &Path, package: &str, program: &str) -> Result<PathBuf> {
    ["usr/bin", "usr/sbin"]
        .map(|folder| root.join(folder).join(program))
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("package {package} has no program {program}"))
}

/// Downloads packages and extracts them into one new folder below `to`, which is named after `name`.
fn extract(name: &str, packages: &[&str], to: &Path) -> Result<PathBuf> {
    let scratch = to.join(format!("unpack-{name}"));
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    // Root may read the folder, apt's own download user may not; both are fine.
    let mut download = Command::new("apt-get");
    download
        .current_dir(&scratch)
        .args(["-qq", "download"])
        .args(packages);
    if cmd::output(&mut download).is_err() {
        // Lists may name versions that the archive has no more.
        println!("setup: trying again with new lists of packages");
        update().with_context(|| format!("as root, run\n    apt-get update\nfor {name}"))?;
        cmd::output(&mut download)?;
    }
    let mut count = 0;
    for entry in fs::read_dir(&scratch)? {
        let archive = entry?.path();
        if archive
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            let mut command = Command::new("dpkg-deb");
            cmd::run(command.arg("--extract").arg(&archive).arg(&scratch))?;
            fs::remove_file(&archive)?;
            count += 1;
        }
    }
    if count != packages.len() {
        bail!(
            "apt-get download left {count} archives of {}",
            packages.join(", ")
        );
    }
    Ok(scratch)
}

/// The folder, beside the program, that has all of its package.
pub(super) fn files_name(package: &str) -> String {
    format!("{package}-files")
}

/// Unpacks a tool's package and what it needs into a folder, with a script beside it that starts the
/// program with its libraries.
pub(super) fn unpack_with_more(tool: &Tool, to: &Path) -> Result<()> {
    let Tool {
        program, package, ..
    } = tool;
    let why_not = match tool.how {
        How::UnpackWith(_) => "so no service",
        _ => "so other packages stay as they are",
    };
    println!(
        "setup: unpacking package {package}, and what it needs, into {} ({}); not installed, {why_not}",
        to.display(),
        reason(package)
    );
    if candidate(package)?.is_none() {
        update().with_context(|| format!("as root, run\n    apt-get update\nfor {package}"))?;
    }
    let text;
    let mut packages = if let How::UnpackWith(more) = tool.how {
        more.to_vec()
    } else {
        let mut simulate = Command::new("apt-get");
        simulate
            .env("LC_ALL", "C")
            .args(["-qq", "--simulate", "install", "--no-install-recommends"])
            .arg(package);
        text = cmd::output(&mut simulate)?;
        installed_by(&text)
    };
    // Where it is installed, and its program is not found: as broken as it may be.
    if !packages.contains(package) {
        packages.push(package);
    }
    let scratch = extract(package, &packages, to)?;
    // Programs may be called like their package.
    let root = to.join(files_name(package));
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    prometheus::complete(&scratch, Path::new("/"))?;
    fs::rename(&scratch, &root)?;
    let binary = find(&root, package, program)?;
    // It finds its data from where it stands itself.
    let script = format!(
        "#!/bin/sh\nroot='{}'\nLD_LIBRARY_PATH=$(echo \"$root\"/usr/lib/*-linux-gnu \"$root\"/lib/*-linux-gnu | tr ' ' ':')\n\
         export LD_LIBRARY_PATH\nexec '{}' \"$@\"\n",
        root.display(),
        binary.display()
    );
    // Renamed when it is complete: the program counts as brought when the script is there.
    let unfinished = to.join(format!("{program}-unfinished"));
    fs::write(&unfinished, script)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o755))?;
    fs::rename(&unfinished, to.join(program))?;
    Ok(())
}

/// The packages that apt-get would install or upgrade, out of what `--simulate` prints:
/// `Inst libslirp0 (4.7.0-1 Debian:12.14/oldstable [amd64])`.
fn installed_by(simulation: &str) -> Vec<&str> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_remove_is_not_what_it_would_install() {
        let text = "Remv qemu-utils [1:10.0]\n\
                    Inst libslirp0 (4.7.0-1 Debian:12.14/oldstable [amd64])\n\
                    Inst libx [1.0] (1.1 Debian:12.14/oldstable [amd64]) []\n\
                    Conf libslirp0 (4.7.0-1 Debian:12.14/oldstable [amd64])\n";
        assert_eq!(installed_by(text), ["libslirp0", "libx"]);
    }
}
