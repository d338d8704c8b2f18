//! `cargo xtask fuzz`: libFuzzer on the targets of `tests/fuzz`, without cargo-fuzz, which only calls cargo as this does.
//!
//! The compiler is the pinned one: what libFuzzer needs of it (counters of coverage, the address sanitizer) is there, only
//! not stable yet, hence `RUSTC_BOOTSTRAP`. The crate libfuzzer-sys has libFuzzer's source, for which a C++ compiler is
//! installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{
    build::root,
    cmd,
    libtest::Tally,
    setup::{self, Needs},
};

/// How long each target runs in `cargo xtask test --long`, seconds.
const SECONDS: u64 = 60;

/// How many run at a time there.
const JOBS: usize = 2;

/// How long one input may take, seconds, on a machine that does other things as well.
const PATIENCE: u64 = 20;

/// The most memory that a target may take, MiB: with the sanitizer, which takes twice of everything.
const MEMORY: u64 = 1024;

/// The longest input that is made, bytes.
const LONGEST: u64 = 64 * 1024;

/// The flags that cargo-fuzz gives to the compiler.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// Arguments of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only the targets whose name contains one of these
    names: Vec<String>,
    /// How long each target runs, seconds
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
    /// How many run at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
}

/// `tests/fuzz/Cargo.toml`, as far as it matters here.
#[derive(Deserialize)]
struct Manifest {
    bin: Vec<Bin>,
}

#[derive(Deserialize)]
struct Bin {
    name: String,
}

/// The built targets.
struct Fuzzers {
    /// `tests/fuzz`.
    folder: PathBuf,
    /// Where everything goes that is made: `target/fuzz`.
    target: PathBuf,
    /// Where the programs are.
    programs: PathBuf,
    names: Vec<String>,
}

/// What came of one target.
struct Outcome {
    name: String,
    /// What to tell of it; an error is what is wrong.
    said: Result<String>,
    took: Duration,
}

/// Sets up and runs targets; true when none found anything.
///
/// # Errors
///
/// When set-up or the build fails, or no target has such a name.
pub(crate) fn fuzz(options: &Options) -> Result<bool> {
    setup::setup(Needs {
        fuzz: true,
        ..Needs::default()
    })?;
    let wanted = |name: &str| {
        options.names.is_empty() || options.names.iter().any(|part| name.contains(part))
    };
    let fuzzers = Fuzzers::build(wanted)?;
    let mut tally = Tally::default();
    fuzzers.run_all(options.seconds, options.jobs, &mut tally);
    Ok(tally.close())
}

/// The part of `cargo xtask test --long`: every target for a minute, each counted as a test.
pub(crate) fn part_of_test(names: &[String], tally: &mut Tally) {
    let start = Instant::now();
    let wanted = |name: &str| {
        let name = format!("fuzz {name}");
        names.is_empty() || names.iter().any(|part| name.contains(part))
    };
    match Fuzzers::build(wanted) {
        Ok(fuzzers) => fuzzers.run_all(SECONDS, JOBS, tally),
        // None has one of the names.
        Err(_) if !names.is_empty() => {}
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            tally.one("fuzz (build)", false);
        }
    }
    tally.phase("fuzz", start);
}

/// The flag for the address sanitizer, where the compiler has its runtime.
fn sanitizer(host: &str) -> Result<Option<&'static str>> {
    let sysroot = cmd::output(rustc().args(["--print", "sysroot"]))?;
    let folder = Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(host)
        .join("lib");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let is_there = entries.filter_map(Result::ok).any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("librustc") && name.ends_with("_rt.asan.a")
    });
    Ok(is_there.then_some("-Zsanitizer=address"))
}

/// The compiler beside the cargo that runs this task.
fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// The kind of machine that the compiler builds for, as it names it.
fn host() -> Result<String> {
    let text = cmd::output(rustc().arg("-vV"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc -vV names no host")
}

impl Fuzzers {
    /// Builds the targets that are wanted by name.
    fn build(wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let root = root()?;
        let folder = root.join("tests/fuzz");
        let manifest = folder.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        let Manifest { bin } = toml::from_str(&text)?;
        let all: Vec<String> = bin.into_iter().map(|bin| bin.name).collect();
        let names: Vec<String> = all.iter().filter(|name| wanted(name)).cloned().collect();
        if names.is_empty() {
            bail!("no target has such a name; there are {}", all.join(", "));
        }
        let host = host()?;
        let mut flags = FLAGS.to_vec();
        match sanitizer(&host)? {
            Some(flag) => flags.push(flag),
            None => println!("fuzz: this compiler has no address sanitizer, so it goes without"),
        }
        let target = root.join("target/fuzz");
        let mut command = cmd::cargo();
        command
            .current_dir(&root)
            .args(["build", "--locked", "--release", "--target", &host])
            .arg("--manifest-path")
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        for name in &names {
            command.args(["--bin", name]);
        }
        println!("fuzz: building {} targets", names.len());
        cmd::run(&mut command)?;
        Ok(Self {
            programs: target.join(host).join("release"),
            folder,
            target,
            names,
        })
    }

    /// Runs them, `jobs` at a time, and counts each.
    fn run_all(&self, seconds: u64, jobs: usize, tally: &mut Tally) {
        let queue = Mutex::new(self.names.iter());
        let outcomes = Mutex::new(Vec::new());
        let next = || queue.lock().ok()?.next();
        thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    while let Some(name) = next() {
                        let start = Instant::now();
                        let said = self.run(name, seconds);
                        match &said {
                            Ok(text) => println!("fuzz {name}: {text}"),
                            Err(error) => eprintln!("fuzz {name}: {error:#}"),
                        }
                        if let Ok(mut outcomes) = outcomes.lock() {
                            outcomes.push(Outcome {
                                name: name.clone(),
                                said,
                                took: start.elapsed(),
                            });
                        }
                    }
                });
            }
        });
        for outcome in outcomes.into_inner().unwrap_or_default() {
            let name = format!("fuzz {}", outcome.name);
            tally.one(&name, outcome.said.is_ok());
            tally.took(&name, outcome.took);
        }
    }

    /// Runs one: from its corpus and from what was found before. What it prints goes into a file.
    fn run(&self, name: &str, seconds: u64) -> Result<String> {
        let [found, artifacts] =
            ["corpus", "artifacts"].map(|kind| self.target.join(kind).join(name));
        for folder in [&found, &artifacts] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let log = self.target.join(format!("{name}.log"));
        let output = fs::File::create(&log).with_context(|| log.display().to_string())?;
        let program = self.programs.join(name);
        let status = Command::new(&program)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={PATIENCE}"))
            .arg(format!("-rss_limit_mb={MEMORY}"))
            .arg(format!("-max_len={LONGEST}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            // Needs to stop the process from outside, which containers forbid.
            .args(["-detect_leaks=0", "-print_final_stats=1"])
            .arg(&found)
            .arg(self.folder.join("corpus").join(name))
            .stdout(Stdio::null())
            .stderr(output)
            .status()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if !status.success() {
            let tail: Vec<_> = text.lines().rev().take(30).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            bail!(
                "{status}\n{}\nall of it is in {}; to run the input again: {} FILE",
                tail.join("\n"),
                log.display(),
                program.display()
            );
        }
        Ok(summary(&text))
    }
}

/// What is told of a run without a finding, out of libFuzzer's statistics.
fn summary(log: &str) -> String {
    let number = |name: &str| {
        let line = log.lines().rev().find_map(|line| line.strip_prefix(name));
        line.map_or("?", str::trim).to_owned()
    };
    format!(
        "{} inputs, {} a second, {} new ones kept, {} MiB at most, the slowest took {} s",
        number("stat::number_of_executed_units:"),
        number("stat::average_exec_per_sec:"),
        number("stat::new_units_added:"),
        number("stat::peak_rss_mb:"),
        number("stat::slowest_unit_time_sec:")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_are_told() {
        let log = "Done 9 runs\nstat::number_of_executed_units: 123\nstat::average_exec_per_sec:     4\n\
                   stat::new_units_added:          5\nstat::slowest_unit_time_sec:    0\nstat::peak_rss_mb: 67\n";
        assert_eq!(
            summary(log),
            "123 inputs, 4 a second, 5 new ones kept, 67 MiB at most, the slowest took 0 s"
        );
        assert!(summary("").starts_with("? inputs"));
    }

    #[test]
    fn this_compiler_has_what_the_flags_ask_for() {
        let host = host().unwrap();
        assert!(host.ends_with("-unknown-linux-gnu"), "{host}");
        assert!(sanitizer(&host).is_ok());
    }
}
