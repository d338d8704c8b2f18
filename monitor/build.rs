//! Builds the kernel programs and embeds them, and records the revision.
//!
//! The object lands in `OUT_DIR/monitor-ebpf`. The BPF target is in no stable toolchain, so the
//! compiler and the linker are those that `cargo xtask setup` found or brought.

#[path = "../xtask/src/state.rs"]
mod state;

use std::{
    env,
    ffi::OsStr,
    iter,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};
use state::BpfToolchain;

/// Names a toolchain of the user's own choice. The linker is then the one of set-up, or else the
/// one on PATH: whether its LLVM fits is up to the user.
const OVERRIDE: &str = "PEERWATCH_BPF_TOOLCHAIN";

/// What the object is made of besides `monitor-ebpf`, which aya-build watches itself.
const SOURCES: [&str; 5] = [
    "build.rs",
    "../monitor-common",
    "../Cargo.toml",
    "../Cargo.lock",
    "../xtask/src/state.rs",
];

fn main() -> ExitCode {
    match prepare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line that cargo shows by itself, without this script's output around it.
            println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

/// Does it all.
fn prepare() -> Result<()> {
    println!("cargo::rustc-env=PEERWATCH_REVISION={}", revision());
    for path in SOURCES {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in [OVERRIDE, "XDG_CACHE_HOME", "HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    // A new set-up means another compiler. A file that is absent would make cargo rerun this
    // every time, which is right: without it the build fails.
    println!("cargo::rerun-if-changed={}", state::file()?.display());

    let set_up = BpfToolchain::load();
    if let Ok(toolchain) = &set_up {
        prepend_path(&toolchain.linker)?;
    }
    let chosen = env::var(OVERRIDE).ok().filter(|name| !name.is_empty());
    let name = if let Some(name) = chosen {
        name
    } else {
        let hint = "the kernel programs cannot be built: run `cargo xtask setup` once (it brings a \
                    compiler for the BPF target, and bpf-linker)";
        set_up.context(hint)?.name
    };
    build(&name)
}

/// Puts the folder of the cached linker first on PATH, where rustc looks for `bpf-linker`.
fn prepend_path(linker: &Path) -> Result<()> {
    let folder: PathBuf = linker
        .parent()
        .context("the linker's path has no folder")?
        .into();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(iter::once(folder).chain(env::split_paths(&path)))?;
    set(OsStr::new("PATH"), &path);
    Ok(())
}

/// Compiles `monitor-ebpf` with the named rustup toolchain into `OUT_DIR/monitor-ebpf`.
fn build(toolchain: &str) -> Result<()> {
    // Debian's compiler is a stable one; building the core library needs an unstable flag.
    set(OsStr::new("RUSTC_BOOTSTRAP"), OsStr::new("1"));
    // Every line of the inner cargo becomes a warning of the outer one; errors still get through.
    set(OsStr::new("CARGO_TERM_QUIET"), OsStr::new("true"));
    let package = Package {
        name: "monitor-ebpf",
        root_dir: "../monitor-ebpf",
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain))
}

/// Sets a variable for the processes that aya-build starts: it takes none as arguments.
fn set(name: &OsStr, value: &OsStr) {
    // SAFETY: this process has one thread until aya-build starts its own, later.
    unsafe { env::set_var(name, value) };
}

/// The short commit of this checkout, or `unknown` when it is none.
fn revision() -> String {
    // An unpacked release inside somebody else's repository must not carry its commit.
    if git(&["rev-parse", "--show-prefix"]).as_deref() != Some("monitor/") {
        return "unknown".to_owned();
    }
    // The log of HEAD grows with every commit, checkout and reset; HEAD itself names a branch and
    // stays the same when that branch moves.
    for name in ["logs/HEAD", "HEAD"] {
        let path = git(&["rev-parse", "--git-path", name]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
            break;
        }
    }
    git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

/// The first line that git prints, if it is there and succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}
