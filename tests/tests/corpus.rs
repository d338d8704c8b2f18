//! Every fuzz target over its corpus, and over variations of it: cut short, with bytes changed, and many times as long.
//! No engine looks for more here (`cargo xtask fuzz` does); what one found once is in the corpus and stays found.

#[path = "corpus/seeds.rs"]
mod seeds;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use monitor_tests::fuzz::{TARGETS, Target};

/// How long one input may take, without optimisation and with others beside it. The longest ones have [`LONG`] bytes:
/// what takes time that grows with the square of them takes minutes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of the longest input.
const LONG: usize = 256 * 1024;

/// The most memory that one input may take beside what is there before, bytes: what a target has of its own, and so
/// many times the bytes that came in. A length that is a lie must not take what it says.
const fn most_memory(input: usize) -> usize {
    4 * 1024 * 1024 + 256 * input
}

/// How many variations of an input have changed bytes.
const CHANGED: u64 = 100;

/// At how many places an input is cut.
const CUTS: usize = 40;

/// The system's memory, with what each thread has of it, and the most that it had.
struct Counting;

thread_local! {
    /// Now (of what other threads gave back it may be less than nothing), and at most.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn holds(more: isize) {
    // A thread that ends has no place for it any more.
    let _ended = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + more, most.max(now + more)));
    });
}

// SAFETY: everything is the system's; what is noted beside it takes no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        holds(layout.size().cast_signed());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        holds(-layout.size().cast_signed());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        holds(layout.size().cast_signed());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there for a moment.
        holds(size.cast_signed());
        holds(-layout.size().cast_signed());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The files of a target's corpus, by name.
fn corpus(name: &str) -> Result<Vec<PathBuf>, Failed> {
    let folder = fuzz_folder().join("corpus").join(name);
    let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    if files.is_empty() {
        return Err(format!("{} is empty", folder.display()).into());
    }
    Ok(files)
}

/// Random enough, and the same each time (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap_or_default()
    }

    /// One of the values at which parsers trip, or any.
    fn byte(&mut self) -> u8 {
        let odd = [0, 1, 0x7f, 0x80, 0xff];
        match odd.get(self.below(2 * odd.len())) {
            Some(byte) => *byte,
            None => u8::try_from(self.below(256)).unwrap_or_default(),
        }
    }
}

/// Changes a few bytes, takes some out or puts some in twice.
fn change(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => {
                let end = (at + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            1 => {
                let end = (at + random.below(64)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.byte();
                }
            }
        }
    }
    bytes
}

/// Runs a target on an input. Those that fail are written where they can be looked at.
fn run((name, target): Target, input: &[u8], what: &str) -> Result<(), Failed> {
    let before = HELD.get().0;
    HELD.set((before, before));
    let begin = Instant::now();
    let panicked = catch_unwind(AssertUnwindSafe(|| target(input))).is_err();
    let took = begin.elapsed();
    let memory = usize::try_from(HELD.get().1 - before).unwrap_or_default();
    let is_modest = memory <= most_memory(input.len());
    if !panicked && took < PATIENCE && is_modest {
        return Ok(());
    }
    let file = std::env::temp_dir().join(format!("peerwatch-fuzz-{name}"));
    fs::write(&file, input)?;
    let how = if panicked {
        "panicked".to_owned()
    } else if !is_modest {
        format!("took {memory} bytes of memory for {}", input.len())
    } else {
        format!("took {took:?}")
    };
    Err(format!("{how} on {what}, which is now {}", file.display()).into())
}

fn over_its_corpus(target: Target) -> Result<(), Failed> {
    run(target, &[], "nothing")?;
    for file in corpus(target.0)? {
        let shown = file.display().to_string();
        let seed = fs::read(&file)?;
        run(target, &seed, &shown)?;
        for cut in 0..CUTS {
            let end = seed.len() * cut / CUTS;
            run(
                target,
                &seed[..end],
                &format!("the first {end} bytes of {shown}"),
            )?;
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed.len() as u64);
        for round in 0..CHANGED {
            let input = change(&seed, &mut random);
            run(target, &input, &format!("change {round} of {shown}"))?;
        }
        if !seed.is_empty() {
            let long: Vec<u8> = seed.iter().copied().cycle().take(LONG).collect();
            run(
                target,
                &long,
                &format!("{LONG} bytes of {shown} again and again"),
            )?;
        }
    }
    Ok(())
}

/// Each target has its corpus, its program and the entry for that, and nothing is there for a target that is gone.
fn every_target_is_complete() -> Result<(), Failed> {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert!(names.is_sorted(), "by name");
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml"))?;
    let mut problems = Vec::new();
    for name in &names {
        corpus(name)?;
        let program = format!("fuzz_targets/{name}.rs");
        let text = fs::read_to_string(fuzz_folder().join(&program)).unwrap_or_default();
        if !text.contains(&format!("monitor_tests::fuzz::{name}(data)")) {
            problems.push(format!("{program} does not call {name}"));
        }
        let entry = format!("[[bin]]\nname = \"{name}\"\npath = \"{program}\"\n");
        if !manifest.contains(&entry) {
            problems.push(format!("Cargo.toml has no {entry:?}"));
        }
    }
    for folder in ["corpus", "fuzz_targets"] {
        for entry in fs::read_dir(fuzz_folder().join(folder))? {
            let path = entry?.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            if !names.contains(&stem.as_ref()) {
                problems.push(format!("{} is of no target", path.display()));
            }
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n").into())
    }
}

fn main() -> ExitCode {
    let mut trials: Vec<Trial> = TARGETS
        .into_iter()
        .map(|target| {
            Trial::test(format!("corpus::{}", target.0), move || {
                over_its_corpus(target)
            })
        })
        .collect();
    trials.push(Trial::test(
        "every_target_is_complete",
        every_target_is_complete,
    ));
    if std::env::var_os("PEERWATCH_SEEDS").is_some() {
        trials.push(Trial::test("seeds_of_rules_are_written", || {
            let folder = fuzz_folder().join("corpus/rules");
            seeds::write(&folder).map_err(|error| Failed::from(format!("{error:#}")))
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
