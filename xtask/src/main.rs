//! Set-up, run, check and test of peerwatch. `cargo xtask --help` lists the tasks.

mod bench;
mod btf;
mod build;
mod check;
mod cmd;
mod cross;
mod demo;
mod deploy;
mod fuzz;
mod libtest;
mod linker;
mod mirror;
mod packages;
mod prereq;
mod rules;
mod run;
mod setup;
mod state;
mod test;
mod toolchain;
mod vm;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use setup::Needs;

/// Tasks of the peerwatch workspace.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Bring what the build needs: a compiler for the BPF target, and bpf-linker
    ///
    /// Takes a rustup nightly if there is one, else Debian's rustc-web. Does nothing twice.
    Setup {
        /// Also bring what the checks and tests start: firewalls, tcpdump, promtool, qemu ...
        #[arg(long)]
        tests: bool,
    },
    /// Set up, build, and run the daemon (through sudo when not root)
    Run {
        /// Arguments of `peerwatch run`
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Blocked traffic and what the daemon says of it, live, in namespaces of its own
    Demo(demo::Options),
    /// Formatting, lints, documentation, dependencies, tidiness; needs no root
    Check {
        /// Only the checks whose name contains one of these
        names: Vec<String>,
    },
    /// All checks, unit tests as the calling user, integration tests as root
    Test(test::Options),
    /// Conformance tests on other kernels, in virtual machines; needs no root
    ///
    /// Boots the kernels of xtask/kernels.toml under QEMU, and without TEST runs the core tests.
    VmTest(vm::Options),
    /// Feeds parsers with bytes that libFuzzer makes up, each for a minute
    ///
    /// Installs a C++ compiler where there is none. What is found goes to target/fuzz.
    Fuzz(fuzz::Options),
    /// Nanoseconds a packet of the kernel programs, or their sizes against a budget; as root
    Bench(bench::Options),
    /// Write the rules for Prometheus in deploy/prometheus/rules anew, out of their source
    ///
    /// With a scale, all their times are multiplied by it: rules to try things out with.
    Rules(deploy::Options),
    /// Make the BTF samples of monitor/tests/btf anew, out of distributions' kernel packages
    ///
    /// Downloads the packages of xtask/btf-samples.toml; needs dpkg-deb, tar, xz, zstd and lz4.
    BtfSamples(btf::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup { tests } => setup::setup(Needs {
            clippy: tests,
            tools: tests,
            ..Needs::default()
        })
        .map(|_| true),
        Task::Run { arguments } => run::run(&arguments).map(|()| true),
        Task::Demo(options) => demo::demo(&options).map(|()| true),
        Task::Check { names } => check::check(&names),
        Task::Test(options) => test::test(&options),
        Task::VmTest(options) => vm::vm_test(&options),
        Task::Fuzz(options) => fuzz::fuzz(&options),
        Task::Bench(options) => bench::bench(&options),
        Task::Rules(options) => deploy::rules(&options).map(|()| true),
        Task::BtfSamples(options) => btf::samples(&options).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
