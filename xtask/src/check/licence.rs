//! SPDX licence expressions: may this be used?

use anyhow::{Result, bail};

/// Licences that ask for no more than their notice.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    // Of LLVM's libFuzzer, which is in no program but the fuzz targets.
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Exceptions that only give more rights to a licence above.
const EXCEPTIONS: [&str; 1] = ["LLVM-exception"];

/// Whether an expression can be met by allowed licences alone: of `OR` one side is enough, `AND`
/// needs both.
///
/// # Errors
///
/// When the expression is not understood.
pub(super) fn is_allowed(expression: &str) -> Result<bool> {
    // Older crates write `MIT/Apache-2.0` for OR.
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words };
    let allowed = parser.or()?;
    match parser.words {
        [] => Ok(allowed),
        [word, ..] => bail!("licence expression {expression:?} goes on with {word:?}"),
    }
}

/// Recursive descent: OR binds weakest, then AND, then WITH.
struct Parser<'a> {
    /// What is left of the expression.
    words: &'a [&'a str],
}

impl<'a> Parser<'a> {
    /// Takes a word off if it is the next one.
    fn eat(&mut self, word: &str) -> bool {
        let is_next = self.words.first() == Some(&word);
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }

    /// Takes the next word off, whatever it is.
    fn next(&mut self) -> Result<&'a str> {
        match self.words {
            [word, rest @ ..] => {
                self.words = rest;
                Ok(word)
            }
            [] => bail!("licence expression ends too early"),
        }
    }

    fn or(&mut self) -> Result<bool> {
        let mut allowed = self.and()?;
        while self.eat("OR") {
            allowed |= self.and()?;
        }
        Ok(allowed)
    }

    fn and(&mut self) -> Result<bool> {
        let mut allowed = self.term()?;
        while self.eat("AND") {
            allowed &= self.term()?;
        }
        Ok(allowed)
    }

    fn term(&mut self) -> Result<bool> {
        if self.eat("(") {
            let allowed = self.or()?;
            if !self.eat(")") {
                bail!("licence expression lacks a closing parenthesis");
            }
            return Ok(allowed);
        }
        let licence = self.next()?;
        if ["OR", "AND", "WITH", ")"].contains(&licence) {
            bail!("licence expression has {licence:?} where a licence should be");
        }
        let mut allowed = ALLOWED.contains(&licence);
        if self.eat("WITH") {
            allowed &= EXCEPTIONS.contains(&self.next()?);
        }
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_side_of_or_is_enough_and_both_of_and_are_needed() {
        assert!(is_allowed("MIT").unwrap());
        assert!(!is_allowed("GPL-2.0-only").unwrap());
        assert!(is_allowed("MIT OR GPL-2.0-only").unwrap());
        assert!(is_allowed("GPL-2.0-only OR MIT").unwrap());
        assert!(is_allowed("MIT/Apache-2.0").unwrap());
        assert!(!is_allowed("GPL-2.0-only OR AGPL-3.0-only").unwrap());
        assert!(is_allowed("MIT AND Zlib").unwrap());
        assert!(!is_allowed("MIT AND GPL-2.0-only").unwrap());
    }

    #[test]
    fn and_binds_tighter_than_or_and_parentheses_tighter_still() {
        assert!(is_allowed("MIT OR ISC AND GPL-2.0-only").unwrap());
        assert!(is_allowed("GPL-2.0-only AND ISC OR MIT").unwrap());
        assert!(!is_allowed("(MIT OR ISC) AND GPL-2.0-only").unwrap());
        assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0").unwrap());
        assert!(is_allowed("((MIT))").unwrap());
    }

    #[test]
    fn exceptions_are_allowed_by_name() {
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT").unwrap());
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception").unwrap());
        assert!(!is_allowed("GPL-2.0-only WITH LLVM-exception").unwrap());
        assert!(!is_allowed("Apache-2.0 WITH Made-up-exception").unwrap());
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for text in [
            "",
            "MIT OR",
            "OR MIT",
            "MIT Apache-2.0",
            "(MIT",
            "MIT)",
            "MIT WITH",
            "()",
        ] {
            assert!(is_allowed(text).is_err(), "{text:?}");
        }
    }
}
