//! `cargo xtask vm-test`: conformance tests of the real binary on other kernels, under QEMU.
//!
//! Needs no root and no hardware support for virtual machines. Each kernel boots with an initial
//! file system of its own that is the whole guest: busybox, the daemon, the test program, the tools
//! that it starts, and the kernel's modules. Nothing of the host can be seen from in there.

mod apt;
mod arch;
mod archive;
mod facts;
mod guest;
mod kernels;
mod machine;
mod newer;
mod page;
mod programs;
mod rows;
mod table;
mod userland;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::{
    build,
    libtest::Tally,
    setup::{self, Needs},
};
use arch::Arch;
use facts::Facts;
use kernels::{Kernel, Pin};
use machine::Machine;
use page::Found;
use programs::{Programs, Sets};
use table::Outcome;

/// Arguments of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this kernel (as in xtask/kernels.toml; may be repeated)
    #[arg(long = "kernel", value_name = "NAME")]
    kernels: Vec<String>,
    /// All conformance tests, in place of the core tests
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Boot nothing: print what the archive has now, in the form of xtask/kernels.toml
    #[arg(long, conflicts_with_all = ["names", "all"])]
    newer: bool,
    /// Write what was found into docs/kernels.md
    #[arg(long, conflicts_with_all = ["names", "kernels"])]
    write_page: bool,
    /// Tests whose name contains one of these, in place of the core tests
    #[arg(value_name = "TEST")]
    names: Vec<String>,
}

/// What a virtual machine may take besides its tests. It boots in seconds, but not on a machine
/// that is busy with other things.
const BOOT: Duration = Duration::from_mins(2);

/// What one test may take on average. Under software emulation most are done in two seconds.
const TEST: Duration = Duration::from_secs(20);

/// Sets up, builds, and runs the tests on every kernel; true when none failed.
///
/// # Errors
///
/// When set-up or the build fails, or no kernel or test has such a name. A kernel that cannot be
/// had or does not boot is a failure that is counted.
pub(crate) fn vm_test(options: &Options) -> Result<bool> {
    let mut tally = Tally::default();
    if options.newer {
        let pins = if options.kernels.is_empty() {
            kernels::all()?
        } else {
            kernels::chosen(&options.kernels)?
        };
        return newer::print(&pins).map(|()| true);
    }
    let pins = kernels::chosen(&options.kernels)?;
    let start = Instant::now();
    setup::setup(Needs {
        tools: true,
        ..Needs::default()
    })?;
    tally.phase("set-up", start);

    println!("== build");
    let start = Instant::now();
    let conformance = programs::conformance()?;
    let all = programs::tests(&conformance)?;
    let programs = Sets::build(conformance, &pins)?;
    let tests = if options.all {
        all
    } else {
        rows::chosen(&all, &options.names)?
    };
    tally.phase("build", start);

    let found = run(&pins, &programs, &tests, &mut tally)?;
    let good = tally.close();
    if options.write_page {
        ensure!(
            good,
            "docs/kernels.md is not written: it says that all is well"
        );
        write_page("docs/kernels.md", &tests, &found)?;
    }
    Ok(good)
}

/// Writes the page of these results into a file of the checkout.
fn write_page(file: &str, tests: &[String], found: &[Found<'_>]) -> Result<()> {
    let file = build::root()?.join(file);
    fs::write(&file, page::render(tests, found)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}

/// As a part of `cargo xtask test`, with programs that are built already: the core tests on the kernels
/// that are marked for it, or all tests on all kernels of Debian, for which programs are built if they run on
/// another kind of machine. Where all run, the page that docs/kernels.md would be is left in target/vm.
///
/// # Errors
///
/// When a core test is gone. A kernel that cannot be had or does not boot is a failure that is counted.
pub(crate) fn part_of_test(
    daemon: &Path,
    conformance: &Path,
    long: bool,
    tally: &mut Tally,
) -> Result<()> {
    let all = programs::tests(conformance)?;
    let mut pins = kernels::all()?;
    pins.retain(Pin::is_of_debian);
    let tests = if long {
        all
    } else {
        pins.retain(|pin| pin.short);
        rows::chosen(&all, &[])?
    };
    let native = Programs {
        daemon: daemon.into(),
        conformance: conformance.into(),
    };
    let programs = Sets::new(Some(native), &pins);
    let mut found = run(&pins, &programs, &tests, tally)?;
    found.retain(|one| one.pin.arch == Arch::default());
    if long && found.iter().all(Found::spoke) {
        write_page("target/vm/kernels.md", &tests, &found)?;
    }
    Ok(())
}

/// How many machines run at once.
const SIDE_BY_SIDE: usize = 2;

/// What came of one kernel.
struct Ended {
    said: String,
    error: Option<anyhow::Error>,
    time: Duration,
}

/// Runs the tests on all kernels, prints the table, adds the results up, and gives what was found.
fn run<'a>(
    pins: &'a [Pin],
    programs: &Sets,
    tests: &[String],
    tally: &mut Tally,
) -> Result<Vec<Found<'a>>> {
    let (usual, locked) = rows::by_boot(tests.to_vec());
    // One after the other, and once: apt does not share its lists.
    let fetched: Vec<Fetched<'a>> = pins.iter().map(|pin| (pin, pin.fetch())).collect();
    let mut found = if usual.is_empty() {
        Vec::new()
    } else {
        run_booted(Boot::Usual, &fetched, programs, &usual, tally)?
    };
    if !locked.is_empty() {
        let found_locked = run_booted(Boot::LockedDown, &fetched, programs, &locked, tally)?;
        for (one, locked) in found.iter_mut().zip(found_locked) {
            one.outcomes.extend(locked.outcomes);
            one.locked = locked.facts;
        }
    }
    Ok(found)
}

/// A kernel, and where it is, or why it cannot be had.
type Fetched<'a> = (&'a Pin, Result<Kernel>);

/// How a kernel boots.
#[derive(Clone, Copy, Debug)]
enum Boot {
    Usual,
    /// Nobody may read the kernel's memory (`kernel_lockdown(7)`).
    LockedDown,
}

impl Boot {
    /// What a kernel is called that boots so.
    fn name(self, pin: &Pin) -> String {
        match self {
            Self::Usual => pin.name.clone(),
            Self::LockedDown => format!("{}-locked", pin.name),
        }
    }

    /// What is added to its command line.
    const fn arguments(self) -> &'static str {
        match self {
            Self::Usual => "",
            Self::LockedDown => "lockdown=confidentiality",
        }
    }
}

/// The same for kernels that all boot in one way.
fn run_booted<'a>(
    boot: Boot,
    kernels: &[Fetched<'a>],
    programs: &Sets,
    tests: &[String],
    tally: &mut Tally,
) -> Result<Vec<Found<'a>>> {
    let folder = build::root()?.join("target/vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut ended = Vec::new();
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(fetched) = kernels.get(index)
        {
            ended.push((index, run_one(boot, fetched, programs, tests, &folder)));
        }
        ended
    };
    let mut ended = BTreeMap::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            match worker.join() {
                Ok(of_one) => ended.extend(of_one),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let mut found = Vec::new();
    for (index, (pin, _)) in kernels.iter().enumerate() {
        let Ended { said, error, time } =
            ended.remove(&index).context("a kernel without a result")?;
        let outcomes = table::outcomes(&said);
        let kernel = format!("kernel {}", boot.name(pin));
        tally.took(&kernel, time);
        if let Some(error) = &error {
            eprintln!("error: {kernel}: {error:#}");
        }
        // A test without an outcome did not run, which is no success.
        for test in tests {
            let name = || format!("{kernel}: {test}");
            match outcomes.get(test) {
                Some(Outcome::Passed) => tally.one(&name(), true),
                Some(Outcome::Ignored) => tally.left_out(&kernel, "what it does not have"),
                Some(Outcome::Failed) | None => tally.one(&name(), false),
            }
        }
        let bad = |test: &String| matches!(outcomes.get(test), Some(Outcome::Failed) | None);
        if error.is_some() && !tests.iter().any(bad) {
            tally.one(&format!("{kernel}: its end"), false);
        }
        found.push(Found {
            pin,
            facts: Facts::parse(&said),
            locked: Facts::default(),
            outcomes,
        });
    }
    let columns: Vec<_> = found
        .iter()
        .map(|one| (boot.name(one.pin), &one.outcomes))
        .collect();
    print!("\n{}", table::render(tests, &columns));
    Ok(found)
}

/// Boots one kernel and runs the tests there.
fn run_one(
    boot: Boot,
    fetched: &Fetched<'_>,
    programs: &Sets,
    tests: &[String],
    folder: &Path,
) -> Ended {
    let (pin, kernel) = fetched;
    println!(
        "== kernel {} ({}, {}), {} tests",
        boot.name(pin),
        pin.distribution,
        pin.version,
        tests.len()
    );
    let start = Instant::now();
    let mut said = String::new();
    let result = match kernel {
        Ok(kernel) => boot_one(boot, pin, kernel, programs, tests, folder, &mut said),
        Err(error) => Err(anyhow!("{error:#}")),
    };
    Ended {
        said,
        error: result.err(),
        time: start.elapsed(),
    }
}

/// Boots one kernel and runs the tests there. What the guest said is in `said`, whatever the result.
///
/// # Errors
///
/// When the guest did not come to its end, or ended as it should not
/// although no test failed: with the end of what its console said.
fn boot_one(
    boot: Boot,
    pin: &Pin,
    kernel: &Kernel,
    programs: &Sets,
    tests: &[String],
    folder: &Path,
    said: &mut String,
) -> Result<()> {
    let name = boot.name(pin);
    let initramfs = folder.join(format!("{name}.cpio"));
    guest::write(&initramfs, pin, kernel, programs.of(pin.arch)?, tests)?;
    let count = u32::try_from(tests.len()).context("too many tests")?;
    let machine = Machine {
        arch: pin.arch,
        image: kernel.image.clone(),
        initramfs,
        console: folder.join(format!("{name}.console")),
        arguments: boot.arguments(),
        deadline: BOOT + TEST * count,
    };
    machine.run(&name, said)?;
    let outcomes = table::outcomes(said);
    let failed = outcomes.values().any(|outcome| *outcome == Outcome::Failed);
    match guest::exit_code(said) {
        Some(0) => Ok(()),
        Some(_) if failed => {
            println!("its console: {}", machine.console.display());
            Ok(())
        }
        Some(code) => bail!(
            "the test program ended with {code}\n{}",
            machine.last_words()
        ),
        None => bail!("it did not come to its end\n{}", machine.last_words()),
    }
}
