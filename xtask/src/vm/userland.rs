//! Where the programs in the guest come from, and the libraries that they are linked with: this machine,
//! or a folder with unpacked packages for another kind of machine.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{apt, apt::Apt, arch::Arch};
use crate::cmd;

/// The packages that have the guest's tools, and those with the libraries of our own programs.
const PACKAGES: [&str; 11] = [
    "busybox-static",
    "iproute2",
    "nftables",
    "iptables",
    "conntrack",
    "ethtool",
    "tcpdump",
    "bpftool",
    "wireguard-tools",
    "libc6",
    "libgcc-s1",
];

/// Where programs are in unpacked packages.
const PROGRAMS: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// Where libraries are in unpacked packages of arm64; older releases have some of them not below `usr`.
const LIBRARIES: [&str; 4] = [
    "usr/lib/aarch64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib",
    "lib",
];

/// A place that programs and libraries come from.
#[derive(Debug)]
pub(super) enum Userland {
    /// This machine.
    Here,
    /// A folder as the root folder of another.
    Unpacked(PathBuf),
}

/// A library.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Library {
    /// Where it is.
    pub(super) file: PathBuf,
    /// Where the guest has it.
    pub(super) in_guest: PathBuf,
}

impl Userland {
    /// The one for a kind of machine; `suite` is the release that packages are taken from.
    ///
    /// # Errors
    ///
    /// When packages cannot be had or unpacked.
    pub(super) fn of(arch: Arch, suite: &str) -> Result<Self> {
        match arch {
            Arch::Amd64 => Ok(Self::Here),
            Arch::Arm64 => unpacked(arch, suite)
                .with_context(|| format!("programs of {suite} for {}", arch.debian()))
                .map(Self::Unpacked),
        }
    }

    /// Where a program is.
    ///
    /// # Errors
    ///
    /// When it is nowhere.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf> {
        match self {
            Self::Here => cmd::find_program(name)
                .with_context(|| format!("no {name} here: run `cargo xtask setup --tests`")),
            Self::Unpacked(root) => find(root, &PROGRAMS, name)
                .with_context(|| format!("no {name} in {}", root.display())),
        }
    }

    /// The libraries that a program needs, and the loader.
    ///
    /// # Errors
    ///
    /// When one is missing, or the program cannot be read.
    pub(super) fn libraries(&self, program: &Path) -> Result<Vec<Library>> {
        let found = match self {
            Self::Here => of_this_machine(program),
            Self::Unpacked(root) => needed(root, program),
        };
        found.with_context(|| program.display().to_string())
    }
}

/// Packages for another kind of machine, unpacked into one folder, unless that was done before.
fn unpacked(arch: Arch, suite: &str) -> Result<PathBuf> {
    let folder = apt::folder(suite, arch)?;
    let root = folder.join("root");
    // Says what was unpacked: other packages, another folder.
    let list = folder.join("unpacked");
    let wanted = PACKAGES.join("\n");
    if root.exists() && fs::read_to_string(&list).is_ok_and(|text| text == wanted) {
        return Ok(root);
    }
    println!(
        "downloading the guest's tools for {}, of {suite}",
        arch.debian()
    );
    let archives = Apt::read(suite, arch)?.download(&PACKAGES)?;
    // Renamed when it is complete: an interrupted run leaves nothing that looks done.
    let scratch = folder.join(format!("unpack-{}", std::process::id()));
    for entry in fs::read_dir(&archives)? {
        let archive = entry?.path();
        if archive.extension() == Some(OsStr::new("deb")) {
            let mut command = Command::new("dpkg-deb");
            cmd::run(command.arg("--extract").arg(&archive).arg(&scratch))?;
        }
    }
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::rename(&scratch, &root)?;
    fs::write(&list, wanted)?;
    Ok(root)
}

/// The first file of a name in some folders below a root.
fn find(root: &Path, folders: &[&str], name: &str) -> Option<PathBuf> {
    folders
        .iter()
        .map(|folder| root.join(folder).join(name))
        .find(|path| path.is_file())
}

/// The libraries of a program of another kind of machine, by what it and they say that they need: its
/// own loader does not run here.
fn needed(root: &Path, program: &Path) -> Result<Vec<Library>> {
    let mut libraries = Vec::new();
    let mut known = BTreeSet::new();
    let mut next = vec![program.to_owned()];
    while let Some(file) = next.pop() {
        let mut command = Command::new("readelf");
        command
            .env("LC_ALL", "C")
            .args(["--wide", "--dynamic", "--program-headers"]);
        for name in parse_readelf(&cmd::output(command.arg(&file))?) {
            if !known.insert(name.clone()) {
                continue;
            }
            let library = locate(root, &name)
                .with_context(|| format!("no library {name} in {}", root.display()))?;
            let file = library.file.clone();
            libraries.push(library);
            next.push(file);
        }
    }
    Ok(libraries)
}

/// A library by its name, or the loader by its path: that is what a program has of it.
fn locate(root: &Path, name: &str) -> Option<Library> {
    let below = name.trim_start_matches('/');
    let file = if below == name {
        find(root, &LIBRARIES, name)?
    } else {
        find(root, &["usr", "."], below)?
    };
    let path = if below == name {
        Path::new("/").join(file.strip_prefix(root).ok()?)
    } else {
        PathBuf::from(name)
    };
    Some(Library {
        file,
        in_guest: in_guest(&path),
    })
}

/// The libraries and the loader in what `readelf` prints:
/// `0x0000000000000001 (NEEDED)  Shared library: [libc.so.6]` and
/// `[Requesting program interpreter: /lib/ld-linux-aarch64.so.1]`.
fn parse_readelf(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let (_, rest) = line
                .split_once("(NEEDED)")
                .and_then(|(_, rest)| rest.split_once('['))
                .or_else(|| line.split_once("program interpreter: "))?;
            rest.split(']').next().map(str::to_owned)
        })
        .collect()
}

/// The libraries of a program of this machine.
fn of_this_machine(program: &Path) -> Result<Vec<Library>> {
    let mut command = Command::new("ldd");
    // cargo's own library folders are not in the guest.
    command.arg(program).env_remove("LD_LIBRARY_PATH");
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", cmd::display(&command)))?;
    // It fails for static programs.
    let files = parse_ldd(&String::from_utf8_lossy(&output.stdout))?;
    Ok(files
        .into_iter()
        .map(|file| Library {
            in_guest: in_guest(&file),
            file,
        })
        .collect())
}

/// Reads what `ldd` prints: `name => path (address)`, or the loader's path alone.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        let file = line.split_once(" => ").map_or(line, |(_, path)| path);
        if file == "not found" {
            bail!("a library is missing: {line}");
        }
        if file.starts_with('/') {
            let path = file.split_once(" (").map_or(file, |(path, _)| path);
            paths.push(path.into());
        }
    }
    Ok(paths)
}

/// A library's path in the guest, where `/lib` is a link to `/usr/lib`.
fn in_guest(path: &Path) -> PathBuf {
    if path.starts_with("/lib") || path.starts_with("/lib64") {
        let below = path.strip_prefix("/").unwrap_or(path);
        Path::new("/usr").join(below)
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_read_and_what_is_in_no_file_is_not() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f01)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n";
        assert_eq!(
            parse_ldd(text).unwrap(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
            .map(PathBuf::from)
        );
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
        assert!(parse_ldd("\tlibx.so.1 => not found\n").is_err());
    }

    #[test]
    fn what_a_program_of_another_machine_needs_is_read() {
        let text = "  INTERP  0x000238 0x0238 0x0238 0x00001b 0x00001b R  0x1\n\
                    \x20     [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]\n\
                    \x200x0000000000000001 (NEEDED)             Shared library: [libmnl.so.0]\n\
                    \x200x000000000000000e (SONAME)             Library soname: [libx.so.1]\n";
        assert_eq!(
            parse_readelf(text),
            ["/lib/ld-linux-aarch64.so.1", "libmnl.so.0"]
        );
        assert!(parse_readelf("There is no dynamic section in this file.\n").is_empty());
    }

    #[test]
    fn the_loader_is_where_programs_look_for_it() {
        let root = std::env::temp_dir().join(format!("peerwatch-userland-{}", std::process::id()));
        let libraries = root.join("usr/lib/aarch64-linux-gnu");
        fs::create_dir_all(&libraries).unwrap();
        for path in [
            libraries.join("ld.so.1"),
            libraries.join("libc.so.6"),
            root.join("usr/lib/ld.so.1"),
        ] {
            fs::write(path, "").unwrap();
        }
        let loader = locate(&root, "/lib/ld.so.1");
        let library = locate(&root, "libc.so.6");
        let missing = locate(&root, "libm.so.6");
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(loader.unwrap().in_guest, Path::new("/usr/lib/ld.so.1"));
        let in_guest = library.unwrap().in_guest;
        assert_eq!(in_guest, Path::new("/usr/lib/aarch64-linux-gnu/libc.so.6"));
        assert_eq!(missing, None);
    }

    #[test]
    fn libraries_are_below_usr_in_the_guest() {
        for (host, guest) in [
            ("/lib64/ld.so", "/usr/lib64/ld.so"),
            ("/lib/a/b.so", "/usr/lib/a/b.so"),
            ("/usr/lib/a/b.so", "/usr/lib/a/b.so"),
            ("/library/b.so", "/library/b.so"),
        ] {
            assert_eq!(in_guest(Path::new(host)), Path::new(guest));
        }
    }
}
