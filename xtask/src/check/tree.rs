//! The tree itself: files that grew too long, and notes about work that is left to do.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{build::root, cmd};

/// The design says about 400 lines; this is where "about" ends.
const MAX_LINES: usize = 450;

/// Words that mark unfinished work, cut in two so that this file has none of them.
const MARKS: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Checks every file that git knows, or would add.
///
/// # Errors
///
/// All that is wrong, one line each.
pub(super) fn check() -> Result<()> {
    let root = root()?;
    let list = cmd::output(Command::new("git").current_dir(&root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut problems = Vec::new();
    let mut files = 0;
    for name in list.split_terminator('\0') {
        // Deleted but not yet committed, or no text: nothing to read.
        let Ok(text) = fs::read_to_string(root.join(name)) else {
            continue;
        };
        problems.extend(problems_of(name, &text));
        files += 1;
    }
    if !problems.is_empty() {
        bail!("{} problems\n  {}", problems.len(), problems.join("\n  "));
    }
    println!("{files} files");
    Ok(())
}

/// What is wrong with one file.
fn problems_of(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    let is_source = Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "rs");
    if is_source && lines > MAX_LINES {
        problems.push(format!("{name} has {lines} lines, {MAX_LINES} are allowed"));
    }
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split(|c: char| !c.is_alphanumeric());
        if let Some(word) = words.find(|word| MARKS.contains(word)) {
            problems.push(format!("{name}:{}: {word}", number + 1));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sources_are_named_and_long_texts_are_not() {
        let text = "x\n".repeat(MAX_LINES + 1);
        assert_eq!(problems_of("a.rs", &text).len(), 1);
        assert_eq!(problems_of("a.md", &text), [""; 0]);
        assert_eq!(problems_of("a.rs", &"x\n".repeat(MAX_LINES)), [""; 0]);
    }

    #[test]
    fn marks_are_found_as_whole_words() {
        let mark = MARKS[0];
        assert_eq!(
            problems_of("a.md", &format!("one\n// {mark}: more\n")),
            [format!("a.md:2: {mark}")]
        );
        assert_eq!(problems_of("a.md", &format!("{mark}S and todo\n")), [""; 0]);
    }
}
