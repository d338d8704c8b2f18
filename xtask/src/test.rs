//! `cargo xtask test`: checks, unit tests as the calling user, integration tests as root.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Built},
    check,
    cmd::{self, Privilege},
    fuzz,
    libtest::{Report, Tally},
    packages,
    setup::{self, Needs},
    vm,
};

/// Test programs that run side by side, those of each lane one after the other. What the first prints is shown
/// as it comes. `faults` runs alone: while it makes and deletes thousands of interfaces, everybody else waits for the
/// kernel's lock of network devices (`rtnl_lock`), daemons that are to end within seconds too.
const LANES: [&[&str]; 2] = [
    &["conformance", "packets", "corpus"],
    &["attempts", "restarts", "states"],
];

/// Arguments of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only checks and tests whose name contains one of these (documentation tests have none)
    names: Vec<String>,
    /// Leave namespaces of integration tests in place, and say how to enter them
    #[arg(long)]
    keep_lab: bool,
    /// Also run what takes long: tests that are ignored otherwise, and all tests on all kernels
    #[arg(long)]
    long: bool,
    /// Show what the kernel's verifier says when a program loads
    #[arg(long)]
    verifier_log: bool,
}

/// Sets up and runs everything; true when nothing failed.
///
/// # Errors
///
/// When set-up fails, root is not to be had, or nothing has such a name. What fails later is
/// counted, so that the closing line is always printed.
pub(crate) fn test(options: &Options) -> Result<bool> {
    let mut tally = Tally::default();
    let start = Instant::now();
    let toolchain = setup::setup(Needs {
        clippy: true,
        tools: true,
        fuzz: options.long,
        root: true,
    })?;
    tally.phase("set-up", start);

    let without = if options.long { &[][..] } else { check::SLOW };
    check::run(&toolchain, &options.names, without, &mut tally);

    println!("== build");
    let start = Instant::now();
    let built = build::daemon().and_then(|daemon| {
        // Never `--workspace`: the default members leave out the kernel programs.
        let mut programs = build::build(&["test", "--no-run", "--locked"])?;
        programs.retain(|program| program.is_test);
        Ok((daemon, programs))
    });
    tally.phase("build", start);
    match built {
        Ok((daemon, programs)) => run_all(options, &daemon, &programs, &mut tally)?,
        Err(error) => {
            eprintln!("error: {error:#}");
            tally.one("build", false);
        }
    }
    if tally.is_empty() {
        bail!("no check and no test has a name with {:?}", options.names);
    }
    Ok(tally.close())
}

/// Runs all test programs, those of package `monitor-tests` last and as root.
fn run_all(
    options: &Options,
    daemon: &PathBuf,
    programs: &[Built],
    tally: &mut Tally,
) -> Result<()> {
    let lab = build::root()?.join("tests");
    let (integration, unit): (Vec<_>, Vec<_>) =
        programs.iter().partition(|program| program.package == lab);

    let start = Instant::now();
    for program in unit {
        let mut command = Command::new(&program.program);
        take(tally, run_program(program, &mut command, options, true)?);
    }
    tally.phase("unit tests", start);

    if options.names.is_empty() {
        let start = Instant::now();
        println!("== documentation tests");
        let mut command = cmd::cargo();
        command
            .current_dir(build::root()?)
            .args(["test", "--quiet", "--locked", "--doc"]);
        let (text, success) = tee(&mut command, true)?;
        tally.program("documentation tests", Report::parse(&text), success);
        tally.phase("documentation tests", start);
    }

    let start = Instant::now();
    let as_root = |program: &Built| -> Result<Command> {
        // sudo resets the environment, hence `env`.
        let mut command = Privilege::find().command("env");
        command
            .args(environment(options, daemon)?)
            .arg(&program.program);
        Ok(command)
    };
    // Conformance works, the others of these wait most of the time: together they take little more than one.
    let (lanes, others): (Vec<&Built>, Vec<&Built>) = integration
        .into_iter()
        .partition(|program| LANES.concat().contains(&program.target.as_str()));
    let lane = |names: &'static [&'static str], at_once| {
        // In the order of the lane, not in that in which they were built.
        let programs = names
            .iter()
            .filter_map(|name| lanes.iter().find(|program| program.target == *name));
        let mut done = Vec::new();
        for program in programs {
            done.extend(run_program(
                program,
                &mut as_root(program)?,
                options,
                at_once,
            )?);
        }
        Ok::<_, anyhow::Error>(done)
    };
    let done = std::thread::scope(|scope| -> Result<Vec<Done>> {
        let [first, beside @ ..] = LANES;
        let lane = &lane;
        let beside = beside.map(|names| scope.spawn(move || lane(names, false)));
        let mut done = lane(first, true)?;
        for lane in beside {
            let joined = lane.join();
            done.extend(joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(done)
    })?;
    take(tally, done);
    for program in others {
        take(
            tally,
            run_program(program, &mut as_root(program)?, options, true)?,
        );
    }
    tally.phase("integration tests", start);

    if options.long {
        println!("== fuzz");
        fuzz::part_of_test(&options.names, tally);
    }

    // The same tests on other kernels: they differ where it hurts.
    let conformance = programs
        .iter()
        .find(|program| program.package == lab && program.target == "conformance");
    if options.names.is_empty()
        && let Some(conformance) = conformance
    {
        vm::part_of_test(daemon, &conformance.program, options.long, tally)?;
    }
    Ok(())
}

/// What integration tests are told by their environment, as `NAME=value`.
fn environment(options: &Options, daemon: &PathBuf) -> Result<Vec<OsString>> {
    let mut variables = Vec::new();
    let mut add = |name: &str, value: OsString| {
        let mut variable = OsString::from(name);
        variable.push("=");
        variable.push(value);
        variables.push(variable);
    };
    add("PATH", packages::test_path()?);
    add("PEERWATCH_BIN", daemon.into());
    let switches = [
        ("PEERWATCH_KEEP_LAB", options.keep_lab),
        ("PEERWATCH_LONG", options.long),
        ("PEERWATCH_VERIFIER_LOG", options.verifier_log),
    ];
    for (name, _) in switches.into_iter().filter(|(_, wanted)| *wanted) {
        add(name, "1".into());
    }
    Ok(variables)
}

/// What a test program said: its name, its output, and whether it succeeded.
type Done = (String, String, bool);

/// Counts what test programs said.
fn take(tally: &mut Tally, done: Vec<Done>) {
    for (name, text, success) in done {
        tally.program(&name, Report::parse(&text), success);
    }
}

/// Runs one test program by the command that starts it, once for each name asked for: not every
/// harness takes more than one. What it prints is shown as it comes, or when it has ended.
fn run_program(
    program: &Built,
    command: &mut Command,
    options: &Options,
    at_once: bool,
) -> Result<Vec<Done>> {
    let package = program
        .package
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let name = format!("{package}/{}", program.target);
    let kind = if program.kind == "test" {
        "tests"
    } else {
        "unit tests"
    };
    let title = format!("== {kind} {name}");
    if at_once {
        println!("{title}");
    }
    command.current_dir(&program.package);
    if options.long {
        command.arg("--include-ignored");
    }
    let mut done = Vec::new();
    if options.names.is_empty() {
        let (text, success) = tee(command, at_once)?;
        done.push((name.clone(), text, success));
    }
    for filter in &options.names {
        let mut command = again(command);
        let (text, success) = tee(command.arg(filter), at_once)?;
        done.push((name.clone(), text, success));
    }
    if !at_once {
        let texts: String = done.iter().map(|(_, text, _)| text.as_str()).collect();
        // At once: others print, too.
        println!("{title}\n{texts}");
    }
    Ok(done)
}

/// A copy of a command: program, arguments and folder (the environment is ours in both).
fn again(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        copy.current_dir(folder);
    }
    copy
}

/// Runs a command, may show what it prints as it comes, and returns that with its success.
fn tee(command: &mut Command, show: bool) -> Result<(String, bool)> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", cmd::display(command)))?;
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            if show {
                writeln!(std::io::stdout(), "{line}")?;
            }
            text.push_str(&line);
            text.push('\n');
        }
    }
    let success = child.wait()?.success();
    Ok((text, success))
}
