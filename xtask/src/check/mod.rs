//! `cargo xtask check`: everything that can be said about the tree without running it.

mod advisories;
mod deps;
mod licence;
mod rules;
mod tree;
mod yanked;

mod aarch64;

use std::{env, process::Command, time::Instant};

use anyhow::Result;

use crate::{
    build::root,
    cmd,
    libtest::Tally,
    setup::{self, Needs},
    state::BpfToolchain,
};

/// A check: its name, and what it runs.
type Check = (&'static str, fn(&BpfToolchain) -> Result<Checked>);

/// What came of a check that found nothing wrong.
enum Checked {
    Yes,
    /// It cannot be done on this machine, for this reason.
    No(String),
}

/// All of them, the quickest first.
const CHECKS: [Check; 10] = [
    ("tree", |_| tree::check().map(|()| Checked::Yes)),
    ("deps", |_| deps::check().map(|()| Checked::Yes)),
    ("yanked", |_| yanked::check(&deps::packages()?)),
    ("advisories", |_| {
        advisories::check(&root()?, &deps::packages()?)
    }),
    ("rules", |_| rules::check()),
    ("fmt", |_| fmt().map(|()| Checked::Yes)),
    ("clippy", |_| clippy().map(|()| Checked::Yes)),
    ("clippy-bpf", |toolchain| {
        clippy_bpf(toolchain).map(|()| Checked::Yes)
    }),
    ("aarch64", |_| aarch64::check()),
    ("doc", |_| doc().map(|()| Checked::Yes)),
];

/// Sets up and runs the checks; true when all passed.
///
/// # Errors
///
/// When set-up fails, or no check has such a name.
pub(crate) fn check(names: &[String]) -> Result<bool> {
    let toolchain = setup::setup(Needs {
        clippy: true,
        ..Needs::default()
    })?;
    let mut tally = Tally::default();
    run(&toolchain, names, &[], &mut tally);
    if tally.is_empty() {
        anyhow::bail!(
            "no check has such a name; there are {:?}",
            CHECKS.map(|(name, _)| name)
        );
    }
    Ok(tally.close())
}

/// Those that go through everything once more: the quick test leaves them to `cargo xtask check` and to the long
/// one.
pub(crate) const SLOW: &[&str] = &["aarch64", "doc"];

/// Runs the checks whose name contains one of `names`, or all when there are none but those `without`.
pub(crate) fn run(toolchain: &BpfToolchain, names: &[String], without: &[&str], tally: &mut Tally) {
    let wanted = |check: &str| names.is_empty() || names.iter().any(|name| check.contains(name));
    for (name, check) in CHECKS.into_iter().filter(|(name, _)| wanted(name)) {
        let is_left_out = names.is_empty() && without.contains(&name);
        println!("== check {name}");
        let start = Instant::now();
        let name = format!("check {name}");
        if is_left_out {
            tally.left_out(
                &name,
                "it goes through everything once more; `cargo xtask check` does it",
            );
            continue;
        }
        match check(toolchain) {
            Ok(Checked::Yes) => tally.one(&name, true),
            Ok(Checked::No(reason)) => {
                println!("{name}: not checked: {reason}");
                tally.left_out(&name, &reason);
            }
            Err(error) => {
                eprintln!("{name}: {error:#}");
                tally.one(&name, false);
            }
        }
        tally.phase(&name, start);
    }
}

/// Formatting of every member.
fn fmt() -> Result<()> {
    cmd::run(
        cmd::cargo()
            .current_dir(root()?)
            .args(["fmt", "--all", "--check"]),
    )
}

/// Lints of everything that runs in user space.
fn clippy() -> Result<()> {
    cmd::run(cmd::cargo().current_dir(root()?).args([
        "clippy",
        "--quiet",
        "--locked",
        "--all-targets",
        "--",
        "--deny=warnings",
    ]))
}

/// Lints of the kernel programs, by the compiler that builds them.
fn clippy_bpf(toolchain: &BpfToolchain) -> Result<()> {
    let target = if cfg!(target_endian = "big") {
        "bpfeb"
    } else {
        "bpfel"
    };
    let mut command = Command::new("rustup");
    command
        .current_dir(root()?)
        .args([
            "run",
            &toolchain.name,
            "cargo",
            "clippy",
            "--quiet",
            "--locked",
            "--release",
        ])
        .args([
            "--package",
            "monitor-ebpf",
            "--bins",
            "-Z",
            "build-std=core",
            "--target",
        ])
        .arg(format!("{target}-unknown-none"))
        .args(["--", "--deny=warnings"])
        // As aya-build does: the flag is unstable, and the bindings are for this machine's kind.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        );
    cmd::run(&mut command)
}

/// Documentation that builds without a warning, a broken link for one.
fn doc() -> Result<()> {
    cmd::run(
        cmd::cargo()
            .current_dir(root()?)
            .args(["doc", "--quiet", "--locked", "--no-deps"])
            .env("RUSTDOCFLAGS", "--deny=warnings"),
    )
}
