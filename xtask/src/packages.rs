//! Every package that set-up installs, each with its reason, and how it is installed.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    cmd::{self, Privilege, find_program},
    state::cache_dir,
};

pub(crate) mod prometheus;
mod unpack;

use unpack::{unpack, unpack_with_more};

/// A program that a task starts, and the Debian package that has it.
#[derive(Debug)]
struct Tool {
    program: &'static str,
    package: &'static str,
    why: &'static str,
    how: How,
}

/// What is done with a package.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    /// apt-get installs it. None of these starts a service.
    Install,
    /// It is downloaded and unpacked into the cache folder. Installing it would start a service
    /// and add a user, and suppressing that by policy-rc.d is a change for the whole system.
    Unpack,
    /// As [`How::Unpack`], with all that it depends on and is not installed. QEMU's packages break
    /// those of another of its versions (as `qemu-utils` of a backport), which may be installed; the
    /// pages of Prometheus are scripts of many packages.
    UnpackAll,
    /// As [`How::Unpack`], with these packages that it needs.
    UnpackWith(&'static [&'static str]),
}

const fn tool(program: &'static str, package: &'static str, why: &'static str) -> Tool {
    Tool {
        program,
        package,
        why,
        how: How::Install,
    }
}

const fn unpacked(program: &'static str, package: &'static str, why: &'static str) -> Tool {
    Tool {
        program,
        package,
        why,
        how: How::Unpack,
    }
}

const fn unpacked_with_all(
    program: &'static str,
    package: &'static str,
    why: &'static str,
) -> Tool {
    Tool {
        program,
        package,
        why,
        how: How::UnpackAll,
    }
}

/// What the tests start. The daemon itself needs none of these.
const TEST_TOOLS: [Tool; 23] = [
    tool("ip", "iproute2", "makes network namespaces and their links"),
    tool(
        "tc",
        "iproute2",
        "attaches other programs ahead of and behind ours",
    ),
    tool(
        "nft",
        "nftables",
        "firewall rules, and counters to compare with",
    ),
    tool(
        "iptables-nft",
        "iptables",
        "firewall rules in its own format",
    ),
    tool(
        "iptables-legacy",
        "iptables",
        "firewall rules of the old kind",
    ),
    tool("conntrack", "conntrack", "reads the connection table"),
    tool("tcpdump", "tcpdump", "runs beside, and must change nothing"),
    tool("bpftool", "bpftool", "shows that nothing stays attached"),
    tool("setpriv", "util-linux", "takes root's privileges away"),
    tool("strace", "strace", "shows the system calls of the daemon"),
    tool(
        "systemd-analyze",
        "systemd",
        "reads the unit; nothing of systemd is started",
    ),
    tool("ethtool", "ethtool", "turns offloads on and off"),
    tool("wg", "wireguard-tools", "sets tunnels up on other kernels"),
    unpacked(
        "promtool",
        "prometheus",
        "checks what a scrape returns, and rules",
    ),
    prometheus::TOOL,
    Tool {
        program: "prometheus-alertmanager",
        package: "prometheus-alertmanager",
        why: "pages somebody",
        // It reads templates beside it.
        how: How::UnpackWith(&[]),
    },
    unpacked(
        "amtool",
        "prometheus-alertmanager",
        "checks the routes for alerts",
    ),
    Tool {
        program: "miredo",
        package: "miredo",
        why: "a Teredo client that is not ours",
        how: How::UnpackWith(&["libjudydebian1"]),
    },
    unpacked("miredo-server", "miredo-server", "the server that it asks"),
    unpacked_with_all(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "boots other kernels",
    ),
    tool("xz", "xz-utils", "unpacks their modules"),
    tool("zstd", "zstd", "unpacks their modules"),
    tool("busybox", "busybox-static", "the shell in there"),
];

/// The linker for programs that are built for arm64.
pub(crate) const CROSS_LINKER: &str = "aarch64-linux-gnu-gcc";

/// What builds programs for arm64, and runs them.
const CROSS_TOOLS: [Tool; 3] = [
    tool(CROSS_LINKER, "gcc-aarch64-linux-gnu", "links for arm64"),
    // No program: the file that says to the linker where the library is.
    tool(
        "/usr/aarch64-linux-gnu/lib/libc.so",
        "libc6-dev-arm64-cross",
        "what programs for arm64 are linked with",
    ),
    unpacked_with_all(
        "qemu-system-aarch64",
        "qemu-system-arm",
        "boots kernels for arm64",
    ),
];

/// What libFuzzer is compiled with.
const FUZZ_TOOLS: [Tool; 1] = [tool("c++", "g++", "compiles libFuzzer")];

/// Packages of Debian's newest Rust: the compiler for the BPF target. `gcc` comes with it.
pub(crate) const BPF_COMPILER: [&str; 2] = ["rustc-web", "rust-web-src"];

/// Clippy of that compiler.
pub(crate) const BPF_CLIPPY: &str = "rust-web-clippy";

/// What a package is for, as set-up says before it installs it.
fn reason(package: &str) -> String {
    match package {
        "rustc-web" => "a Rust compiler with the BPF target".to_owned(),
        "rust-web-src" => {
            "the source of the core library, to compile it for that target".to_owned()
        }
        BPF_CLIPPY => "clippy for the kernel programs".to_owned(),
        _ => {
            let all = TEST_TOOLS.iter().chain(&CROSS_TOOLS).chain(&FUZZ_TOOLS);
            let tools = all.filter(|tool| tool.package == package);
            let reasons: Vec<_> = tools
                .map(|tool| format!("{}: {}", tool.program, tool.why))
                .collect();
            reasons.join("; ")
        }
    }
}

/// Whether this system installs packages as Debian does.
pub(crate) fn is_debian_like() -> bool {
    find_program("apt-get").is_some() && find_program("dpkg-query").is_some()
}

/// The commands that install packages, for somebody else to run.
pub(crate) fn commands(packages: &[&str]) -> String {
    format!(
        "    apt-get update\n    apt-get install --yes --no-install-recommends --no-remove {}",
        packages.join(" ")
    )
}

/// The version that apt-get would install; none when it knows none.
///
/// # Errors
///
/// When apt-cache does not run.
pub(crate) fn candidate(package: &str) -> Result<Option<String>> {
    let text = cmd::output(
        Command::new("apt-cache")
            .env("LC_ALL", "C")
            .args(["policy", package]),
    )?;
    Ok(text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned))
}

/// Brings apt's lists up to date.
///
/// # Errors
///
/// When apt-get fails, with the commands to run by hand.
pub(crate) fn update() -> Result<()> {
    let privilege = Privilege::find();
    cmd::run(privilege.command("apt-get").args(["-qq", "update"]))
}

/// Installs packages, saying which and why. Never removes one: a conflict is the user's to solve.
///
/// # Errors
///
/// Without root and sudo, or when apt-get fails; both with the exact commands.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let by_hand = || format!("as root, run\n{}\nthen repeat this", commands(packages));
    let privilege = Privilege::find();
    if privilege == Privilege::None {
        bail!(
            "installing packages needs root, and there is no sudo: {}",
            by_hand()
        );
    }
    for package in packages {
        println!("setup: installing {package} ({})", reason(package));
    }
    if packages
        .iter()
        .any(|package| !matches!(candidate(package), Ok(Some(_))))
    {
        update().with_context(by_hand)?;
    }
    // sudo resets the environment, hence `env`.
    let mut command = privilege.command("env");
    command
        .args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-qq",
            "install",
            "--yes",
        ])
        .args(["--no-install-recommends", "--no-remove"])
        .args(packages);
    if cmd::run(&mut command).is_ok() {
        return Ok(());
    }
    // Lists may name versions that the archive has no more.
    println!("setup: trying again with new lists of packages");
    update().with_context(by_hand)?;
    cmd::run(&mut command).with_context(by_hand)
}

/// Where unpacked tools are.
fn unpacked_dir() -> Result<PathBuf> {
    Ok(cache_dir()?.join("tools"))
}

/// PATH as the tests get it: the user's, the system folders, and the unpacked tools.
///
/// # Errors
///
/// When there is no place for a cache folder.
pub(crate) fn test_path() -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let paths = env::split_paths(&path).chain(more).chain([unpacked_dir()?]);
    Ok(env::join_paths(paths)?)
}

/// Brings every program that the tests start.
///
/// # Errors
///
/// When something is missing and cannot be installed, with the exact commands or the whole list.
pub(crate) fn test_tools() -> Result<()> {
    bring(&TEST_TOOLS)
}

/// Brings what builds programs for arm64, and runs them.
///
/// # Errors
///
/// As [`test_tools`].
pub(crate) fn cross_tools() -> Result<()> {
    bring(&CROSS_TOOLS)
}

/// Brings what libFuzzer is compiled with.
///
/// # Errors
///
/// As [`test_tools`].
pub(crate) fn fuzz_tools() -> Result<()> {
    bring(&FUZZ_TOOLS)
}

/// Brings the tools that are missing.
fn bring(tools: &[Tool]) -> Result<()> {
    let unpacked = unpacked_dir()?;
    let there = |tool: &Tool| {
        let file = unpacked.join(tool.program);
        // PATH may have the folder of unpacked ones.
        find_program(tool.program).is_some_and(|found| found != file)
            || tool.how != How::Install && file.is_file() && prometheus::is_whole(tool, &file)
    };
    let missing: Vec<_> = tools.iter().filter(|tool| !there(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_debian_like() {
        let list: Vec<_> = missing
            .iter()
            .map(|tool| format!("    {}: {}", tool.program, tool.why))
            .collect();
        bail!(
            "the tests need these programs, please install them:\n{}",
            list.join("\n")
        );
    }
    let packages = |how| {
        let mut packages: Vec<_> = missing
            .iter()
            .filter(|tool| tool.how == how)
            .map(|tool| tool.package)
            .collect();
        packages.dedup();
        packages
    };
    let to_install = packages(How::Install);
    if !to_install.is_empty() {
        install(&to_install)?;
    }
    for package in packages(How::Unpack) {
        let programs: Vec<_> = missing
            .iter()
            .filter(|tool| tool.package == package && tool.how == How::Unpack)
            .map(|t| t.program)
            .collect();
        unpack(package, &programs, &unpacked)?;
    }
    for tool in missing {
        if matches!(tool.how, How::UnpackAll | How::UnpackWith(_)) {
            unpack_with_more(tool, &unpacked)?;
        }
    }
    Ok(())
}

/// Where a tool is: installed, or unpacked by set-up; its bare name where it is neither.
pub(crate) fn find_tool(program: &str) -> PathBuf {
    let unpacked = || Some(unpacked_dir().ok()?.join(program)).filter(|path| path.is_file());
    find_program(program)
        .or_else(unpacked)
        .unwrap_or_else(|| program.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_has_a_reason() {
        for package in TEST_TOOLS
            .iter()
            .chain(&CROSS_TOOLS)
            .chain(&FUZZ_TOOLS)
            .map(|tool| &tool.package)
            .chain(&BPF_COMPILER)
        {
            assert!(!reason(package).is_empty(), "{package}");
        }
    }

    #[test]
    fn a_package_with_two_programs_gives_both_reasons() {
        let text = reason("iproute2");
        assert!(
            text.starts_with("ip: ") && text.contains("; tc: "),
            "{text}"
        );
    }
}
