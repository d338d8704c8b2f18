//! Finds or brings a compiler for the BPF target.
//!
//! The target needs the core library's source. First choice is a rustup nightly that has it or
//! can add it; otherwise Debian's newest Rust, whose source is a package, linked as a rustup
//! toolchain of our own name, with the cargo that runs us.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    cmd::{self, replace_link},
    packages,
    state::{cache_dir, has_core_source, identity},
};

/// The rustup name of Debian's compiler. Ours alone, so no toolchain of the user is touched.
const LINKED: &str = "peerwatch-bpf";

/// Where Debian's compiler is.
const DEBIAN_SYSROOT: &str = "/usr";

/// The majors of LLVM that bpf-linker has a feature for.
const LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// How long rustup may take to add a component: a download that does not come may hang for ever.
const ADD_LIMIT: Duration = Duration::from_secs(20);

/// A compiler that can build the kernel programs.
#[derive(Debug)]
pub(crate) struct Compiler {
    /// Its rustup name.
    pub(crate) name: String,
    /// The compiler, an absolute path.
    pub(crate) rustc: PathBuf,
    /// The cargo that rustup starts with it, an absolute path.
    pub(crate) cargo: PathBuf,
    /// What it says of itself ([`identity`]).
    pub(crate) identity: String,
    /// Its LLVM, `22.1.8`.
    pub(crate) llvm: String,
}

impl Compiler {
    /// Looks at a compiler and checks that it can be used: release, LLVM, source.
    fn examine(name: &str, sysroot: &Path) -> Result<Self> {
        let rustc = sysroot.join("bin/rustc");
        let identity = identity(&rustc)?;
        let field = |key: &str| {
            let mut fields = identity.split("; ");
            fields
                .find_map(|field| field.strip_prefix(key))
                .with_context(|| format!("{} -vV has no {key:?}", rustc.display()))
        };
        let release = field("release: ")?;
        if !is_recent(release) {
            bail!(
                "it is Rust {release}, and {} is needed",
                env!("CARGO_PKG_RUST_VERSION")
            );
        }
        let llvm = field("LLVM version: ")?.to_owned();
        let cargo = rustc.with_file_name("cargo");
        let compiler = Self {
            name: name.to_owned(),
            llvm,
            rustc,
            cargo,
            identity,
        };
        if !LINKER_LLVM.contains(&compiler.llvm_major()?) {
            bail!(
                "its LLVM is {}, and bpf-linker knows {LINKER_LLVM:?}",
                compiler.llvm
            );
        }
        Ok(compiler)
    }

    /// The major of its LLVM.
    ///
    /// # Errors
    ///
    /// When the version does not begin with a number.
    pub(crate) fn llvm_major(&self) -> Result<u32> {
        let major = self.llvm.split('.').next().unwrap_or_default();
        major
            .parse()
            .with_context(|| format!("LLVM version {:?} is not understood", self.llvm))
    }
}

/// Whether a release is at least the one that the workspace needs.
fn is_recent(release: &str) -> bool {
    version(release) >= version(env!("CARGO_PKG_RUST_VERSION"))
}

/// Major and minor of a version; what is no number counts as 0.
fn version(text: &str) -> (u32, u32) {
    let mut parts = text
        .split(['.', '-', '+', '~'])
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Finds a compiler, or brings one.
///
/// # Errors
///
/// When there is none and none can be installed: why, and the exact commands.
pub(crate) fn find_or_install() -> Result<Compiler> {
    let refused = match nightly() {
        Ok(compiler) => return Ok(compiler),
        Err(error) => error,
    };
    println!("setup: no rustup nightly for the BPF target: {refused:#}");
    debian().map_err(|error| {
        anyhow!(
            "no compiler for the BPF target: {error:#}\n\
             with a nightly of rustup it works as well:\n    \
             rustup toolchain install nightly --profile minimal --component rust-src,clippy\n    \
             cargo xtask setup"
        )
    })
}

/// A nightly of rustup with the core library's source, which is added if need be.
fn nightly() -> Result<Compiler> {
    let list = cmd::output(Command::new("rustup").args(["toolchain", "list"]))?;
    // "nightly-<host> (default)"; dated ones, as "nightly-2026-05-20-<host>", come before it.
    let name = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .rfind(|name| name.starts_with("nightly-"))
        .context("none is installed")?;
    let which = ["which", "--toolchain", name, "rustc"];
    let rustc = cmd::output(Command::new("rustup").args(which))?;
    let sysroot = Path::new(rustc.trim()).parent().and_then(Path::parent);
    let sysroot = sysroot.context("rustup names no compiler")?;
    let compiler = Compiler::examine(name, sysroot).context(name.to_owned())?;
    if !has_core_source(sysroot) {
        add_source(&compiler)?;
        if !has_core_source(sysroot) {
            bail!("{name} has no source of the core library even after rust-src was added");
        }
    }
    Ok(compiler)
}

/// Adds rust-src to a nightly; that it did not work is remembered until that nightly changes.
fn add_source(compiler: &Compiler) -> Result<()> {
    let memory = cache_dir()?.join("nightly-without-rust-src");
    if fs::read_to_string(&memory).is_ok_and(|text| text == compiler.identity) {
        bail!(
            "{} could not add rust-src last time (remove {} to let it try again)",
            compiler.name,
            memory.display()
        );
    }
    let name = compiler.name.as_str();
    println!(
        "setup: adding rust-src to {name} (the source of the core library, for the BPF target; \
         at most {} s)",
        ADD_LIMIT.as_secs()
    );
    let mut command = Command::new("rustup");
    command.args(["component", "add", "rust-src", "--toolchain", name]);
    let problem = match cmd::run_within(&mut command, ADD_LIMIT)? {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => format!("it took over {} s", ADD_LIMIT.as_secs()),
    };
    fs::write(&memory, &compiler.identity)
        .with_context(|| format!("cannot write {}", memory.display()))?;
    bail!("`{}` failed: {problem}", cmd::display(&command))
}

/// Debian's newest Rust, linked as a rustup toolchain of its own name.
fn debian() -> Result<Compiler> {
    let sysroot = Path::new(DEBIAN_SYSROOT);
    let usable = || -> Result<Compiler> {
        let compiler = Compiler::examine(LINKED, sysroot)?;
        if !has_core_source(sysroot) {
            bail!("it has no source of the core library");
        }
        Ok(compiler)
    };
    let compiler = if let Ok(compiler) = usable() {
        compiler
    } else {
        install()?;
        usable().context("/usr/bin/rustc, after installing")?
    };
    link(compiler)
}

/// Makes a rustup toolchain of Debian's compiler and clippy, and of the cargo that runs us.
///
/// Linking Debian's own folder would nearly do, but it has no cargo, and rustup then looks for one
/// in toolchains called stable, beta or nightly only: there may be none of these.
fn link(compiler: Compiler) -> Result<Compiler> {
    let folder = cache_dir()?.join("toolchain");
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    // rustup wants this folder; the compiler finds its own in Debian's place.
    fs::create_dir_all(folder.join("lib"))?;
    let which = cmd::output(Command::new("rustup").args(["which", "cargo"]))?;
    let ours = Path::new(which.trim()).to_owned();
    let debian = |program| Path::new(DEBIAN_SYSROOT).join("bin").join(program);
    let links = ["rustc", "cargo-clippy", "clippy-driver"].map(|name| (name, debian(name)));
    for (name, target) in links.into_iter().chain([("cargo", ours)]) {
        replace_link(&target, &bin.join(name))?;
    }
    println!(
        "setup: linking {} as rustup toolchain {LINKED}",
        folder.display()
    );
    let command = ["toolchain", "link", LINKED];
    cmd::output(Command::new("rustup").args(command).arg(&folder))?;
    Ok(Compiler {
        cargo: bin.join("cargo"),
        ..compiler
    })
}

/// Installs Debian's compiler, if Debian has one that is new enough.
fn install() -> Result<()> {
    let [package, _] = packages::BPF_COMPILER;
    if !packages::is_debian_like() {
        bail!("this is no Debian-like system, so nothing was installed");
    }
    let recent = || -> Result<bool> {
        Ok(packages::candidate(package)?.is_some_and(|version| is_recent(&version)))
    };
    if !recent()? {
        packages::update().with_context(|| {
            format!(
                "as root, run\n{}",
                packages::commands(&packages::BPF_COMPILER)
            )
        })?;
        if !recent()? {
            bail!(
                "this release has no package {package} of Rust {} or newer (Debian 12 has it in \
                 its security archive)",
                env!("CARGO_PKG_RUST_VERSION")
            );
        }
    }
    packages::install(&packages::BPF_COMPILER).map_err(|error| {
        anyhow!(
            "{error:#}\n(if apt-get named a conflict: {package} cannot be beside Debian's own \
             packages rustc and rustup)"
        )
    })
}

/// Brings clippy for the compiler of the kernel programs.
///
/// # Errors
///
/// When it is absent and cannot be installed.
pub(crate) fn ensure_clippy(name: &str, rustc: &Path) -> Result<()> {
    let driver = rustc.with_file_name("clippy-driver");
    if driver.is_file() {
        return Ok(());
    }
    if name == LINKED {
        return packages::install(&[packages::BPF_CLIPPY]);
    }
    println!("setup: adding clippy to {name} (for the kernel programs)");
    let mut command = Command::new("rustup");
    command.args(["component", "add", "clippy", "--toolchain", name]);
    match cmd::run_within(&mut command, ADD_LIMIT)? {
        Some(status) if status.success() => Ok(()),
        _ => bail!(
            "`{}` did not succeed in {} s",
            cmd::display(&command),
            ADD_LIMIT.as_secs()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_number() {
        assert!(is_recent("1.97.0-nightly"));
        assert!(is_recent("1.96.0+dfsg1-1~deb12u2"));
        assert!(is_recent("1.100.0"));
        assert!(!is_recent("1.85.0+dfsg3-1~deb12u3"));
        assert!(!is_recent("0.99"));
    }

    #[test]
    fn a_compiler_that_is_not_there_is_an_error() {
        assert!(Compiler::examine("none", Path::new("/nonexistent")).is_err());
    }
}
