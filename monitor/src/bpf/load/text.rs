//! What the kernel said, for people.

/// An error and everything behind it, in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The end of a verifier log, where the reason stands: its last useful lines, and how many came before.
pub(super) fn excerpt(log: &str, whole: bool) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with("processed "))
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let shown = if whole {
        lines.len()
    } else {
        LINES.min(lines.len())
    };
    let left_out = lines.len() - shown;
    let end = lines[left_out..].join("\n  ");
    if left_out == 0 {
        return format!("\n  {end}");
    }
    format!("\n  ({left_out} lines left out; --verifier-log shows them)\n  {end}")
}
