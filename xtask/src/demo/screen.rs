//! A table that is redrawn in place, with lines that stay above it; plain lines where that can't be.

use std::io::{self, Write};

/// Where the demo writes.
#[derive(Debug)]
pub(super) struct Screen<W> {
    out: W,
    live: bool,
    /// Lines of the table that is on the screen.
    drawn: usize,
}

impl<W: Write> Screen<W> {
    /// `live`: whether the cursor can be moved.
    pub(super) fn new(out: W, live: bool) -> Self {
        Self {
            out,
            live,
            drawn: 0,
        }
    }

    /// Whether tables are redrawn in place.
    pub(super) fn live(&self) -> bool {
        self.live
    }

    /// Writes a line that stays.
    ///
    /// # Errors
    ///
    /// When the reader is gone.
    pub(super) fn event(&mut self, line: &str) -> io::Result<()> {
        let text = format!("{}{line}\n", self.erase());
        self.drawn = 0;
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Writes a table in place of the last one.
    ///
    /// # Errors
    ///
    /// When the reader is gone.
    pub(super) fn table(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = self.erase();
        // A line that wrapped would be two, and the cursor would not go up far enough.
        let (begin, end) = if self.live {
            ("\x1b[?7l", "\x1b[?7h")
        } else {
            ("", "")
        };
        text.push_str(begin);
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(end);
        self.drawn = lines.len();
        // In one write, so that a signal never leaves the terminal without wrapping.
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Leaves the table that is there for good.
    pub(super) fn keep(&mut self) {
        self.drawn = 0;
    }

    fn erase(&self) -> String {
        if self.live && self.drawn > 0 {
            format!("\x1b[{}A\x1b[J", self.drawn)
        } else {
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(live: bool) -> String {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, live);
        let lines = ["a".to_owned(), "b".to_owned()];
        screen.table(&lines).unwrap();
        screen.event("news").unwrap();
        screen.table(&lines[..1]).unwrap();
        screen.keep();
        screen.event("end").unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_terminal_sees_the_table_below_the_news() {
        assert_eq!(
            written(true),
            "\x1b[?7la\nb\n\x1b[?7h\x1b[2A\x1b[Jnews\n\x1b[?7la\n\x1b[?7hend\n"
        );
    }

    #[test]
    fn a_file_gets_plain_lines() {
        assert_eq!(written(false), "a\nb\nnews\na\nend\n");
    }
}
