//! Two results of `--json` beside each other.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::spread::Spread;

/// A figure: what it is of, and which one.
type Figure = (String, Spread);

/// Reads two results, and shows each figure that both have. Times of two runs differ by what else the machine did:
/// the empty programs, which are in both, say by how much.
pub(crate) fn compare(files: &[PathBuf]) -> Result<String> {
    let [before, after] = files else {
        bail!("two files are compared, not {}", files.len());
    };
    let (before, after) = (read(before)?, read(after)?);
    let mut text = format!(
        "{:<64} {:>10} {:>10} {:>7}  (min..max of either)\n",
        "figure", "before", "after", "ratio"
    );
    let mut any = false;
    for (name, old) in &before {
        let Some((_, new)) = after.iter().find(|(other, _)| other == name) else {
            writeln!(text, "{name:<64} {:>10.2} {:>10}", old.median, "-")?;
            continue;
        };
        any = true;
        // Of nothing there is no ratio.
        let ratio = if old.median.abs() < f64::EPSILON {
            "-".to_owned()
        } else {
            format!("{:.2}", new.median / old.median)
        };
        writeln!(
            text,
            "{name:<64} {:>10.2} {:>10.2} {ratio:>7}  ({:.1}..{:.1}, {:.1}..{:.1})",
            old.median, new.median, old.min, old.max, new.min, new.max
        )?;
    }
    for (name, new) in &after {
        if !before.iter().any(|(other, _)| other == name) {
            writeln!(text, "{name:<64} {:>10} {:>10.2}", "-", new.median)?;
        }
    }
    ensure!(any, "the two results have no figure in common");
    Ok(text)
}

fn read(path: &Path) -> Result<Vec<Figure>> {
    let context = || {
        format!(
            "{}: no result of `cargo xtask bench --json`",
            path.display()
        )
    };
    let text =
        fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    // What else was printed stands before it.
    let line = text.lines().last().with_context(context)?;
    let value: Value = serde_json::from_str(line).with_context(context)?;
    let mut figures = Vec::new();
    collect(&value, &mut figures);
    ensure!(!figures.is_empty(), "{}", context());
    Ok(figures)
}

/// Finds the figures, which are named by the words beside them.
fn collect(value: &Value, figures: &mut Vec<Figure>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, figures)),
        Value::Object(fields) => {
            let words = fields.values().filter_map(Value::as_str);
            let words = words.collect::<Vec<_>>().join(", ");
            for (key, field) in fields {
                match serde_json::from_value::<Spread>(field.clone()) {
                    Ok(spread) => figures.push((format!("{words}: {key}"), spread)),
                    Err(_) => collect(field, figures),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("peerwatch-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn figures_of_two_results_stand_beside_each_other() {
        let result = |median: f64| {
            format!(
                r#"{{"programs":{{"kernel":"6","cpu":"x","rows":[{{"program":"deliver","packet":"IPv4",
                "ours":{{"median":{median},"min":1,"max":9}}}}]}},"path":[]}}"#
            )
            .replace('\n', "")
        };
        let old = file("old", &format!("setup: nothing\n{}\n", result(8.0)));
        let new = file("new", &result(2.0));
        let text = compare(&[old.clone(), new.clone()]).unwrap();
        assert!(text.contains("IPv4, deliver: ours"), "{text}");
        assert!(text.contains("8.00       2.00    0.25"), "{text}");
        let other = file("other", "{}");
        let error = compare(&[old.clone(), other.clone()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("no result of"), "{error}");
        assert!(compare(std::slice::from_ref(&old)).is_err());
        for path in [old, new, other] {
            fs::remove_file(path).unwrap();
        }
    }
}
