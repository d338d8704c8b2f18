//! What set-up leaves behind for `monitor/build.rs`: which compiler and which linker build the
//! kernel programs.
//!
//! One small text file of `key=value` lines in the user's cache folder. xtask writes it,
//! and the build script of the daemon includes this module by path and reads it, so that a plain
//! `cargo build` works from any checkout without finding everything again.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The release of bpf-linker that set-up builds. Its own LLVM comes from the toolchain.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// The toolchain and the linker that build the kernel programs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BpfToolchain {
    /// The name that rustup knows it by.
    pub(crate) name: String,
    /// Its compiler, an absolute path.
    pub(crate) rustc: PathBuf,
    /// The cargo that rustup starts with it, an absolute path.
    pub(crate) cargo: PathBuf,
    /// What [`identity`] said of that compiler when the linker was built for it.
    pub(crate) identity: String,
    /// The bpf-linker built against the compiler's LLVM, an absolute path.
    pub(crate) linker: PathBuf,
}

/// The folder for everything that set-up makes: `$XDG_CACHE_HOME/peerwatch`, or
/// `~/.cache/peerwatch`.
///
/// # Errors
///
/// When neither variable names an absolute path.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    // The XDG specification: a relative path is to be ignored.
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|dir| dir.join("peerwatch"))
        .context("neither XDG_CACHE_HOME nor HOME names an absolute path: no place for a cache")
}

/// The file that set-up writes.
///
/// # Errors
///
/// As [`cache_dir`].
pub(crate) fn file() -> Result<PathBuf> {
    Ok(cache_dir()?.join("bpf-toolchain"))
}

/// The whole of `rustc -vV` on one line: release, commit and LLVM version.
///
/// # Errors
///
/// When the compiler does not run.
pub(crate) fn identity(rustc: &Path) -> Result<String> {
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .with_context(|| format!("cannot run {}", rustc.display()))?;
    if !output.status.success() {
        bail!("{} -vV failed: {}", rustc.display(), output.status);
    }
    let lines: Vec<_> = std::str::from_utf8(&output.stdout)?.lines().collect();
    Ok(lines.join("; "))
}

impl BpfToolchain {
    /// Reads the file that set-up wrote and makes sure that it still holds.
    ///
    /// # Errors
    ///
    /// When the file is absent or not understood, when the compiler is another one by now, when
    /// its library source is gone, or when the linker does not run.
    pub(crate) fn load() -> Result<Self> {
        let file = file()?;
        let text = fs::read_to_string(&file)
            .with_context(|| format!("set-up has not run: no {}", file.display()))?;
        let toolchain =
            Self::parse(&text).with_context(|| format!("{} is not understood", file.display()))?;
        toolchain.validate()?;
        Ok(toolchain)
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    ///
    /// When a key is missing, or the linker is of another release than [`LINKER_VERSION`].
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .with_context(|| format!("no line {key}="))
        };
        let release = value("linker_version")?;
        if release != LINKER_VERSION {
            bail!("it is about bpf-linker {release}, and {LINKER_VERSION} is wanted");
        }
        Ok(Self {
            name: value("toolchain")?.to_owned(),
            rustc: value("rustc")?.into(),
            cargo: value("cargo")?.into(),
            identity: value("identity")?.to_owned(),
            linker: value("linker")?.into(),
        })
    }

    /// Makes sure that the compiler is still the one that the linker was built for, that it has
    /// the core library's source, and that the linker runs.
    ///
    /// # Errors
    ///
    /// Naming the first of these that does not hold.
    pub(crate) fn validate(&self) -> Result<()> {
        let now = identity(&self.rustc)?;
        if now != self.identity {
            bail!("the compiler {} changed since set-up", self.rustc.display());
        }
        if !self.has_source() {
            bail!(
                "the toolchain {} has no source of the core library any more",
                self.name
            );
        }
        if !self.cargo.is_file() {
            bail!(
                "the toolchain {} has no {} any more",
                self.name,
                self.cargo.display()
            );
        }
        let linker = Command::new(&self.linker)
            .arg("--version")
            .output()
            .with_context(|| format!("cannot run {}", self.linker.display()))?;
        let version = String::from_utf8_lossy(&linker.stdout);
        if version.trim() != format!("bpf-linker {LINKER_VERSION}") {
            bail!(
                "{} does not run, or is of another release",
                self.linker.display()
            );
        }
        Ok(())
    }

    /// Whether the core library's source is where cargo's `-Z build-std` looks for it.
    fn has_source(&self) -> bool {
        // rustc -> bin -> sysroot.
        let sysroot = self.rustc.parent().and_then(Path::parent);
        sysroot.is_some_and(has_core_source)
    }
}

/// Whether a toolchain's folder holds the source that `-Z build-std=core` compiles.
pub(crate) fn has_core_source(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .is_file()
}
