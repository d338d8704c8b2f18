//! Which interfaces are watched.

use std::str::FromStr;

use globset::{Glob, GlobMatcher};

use super::ConfigError;

/// The name that the kernel gives to the loopback interface of every namespace
/// (`drivers/net/loopback.c`). Nothing is counted there, since what crosses it left and enters the same host;
/// only answers of this host's own rules are looked at.
pub const LOOPBACK: &str = "lo";

/// A pattern for interface names: `*`, `?`, `[a-z]`, `{a,b}`, or a plain name.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has none of the characters that make it more than a name.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.text.contains(['*', '?', '[', ']', '{', '}', '\\'])
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(
                "an empty text names no interface; write a name, or a glob like \"eth*\"".into(),
            );
        }
        let glob = Glob::new(text).map_err(|error| {
            format!(
                "\"{text}\" is no glob ({}); write one like \"eth*\"",
                error.kind()
            )
        })?;
        Ok(Self {
            text: text.to_owned(),
            matcher: glob.compile_matcher(),
        })
    }
}

/// Parses a pattern of interfaces to watch: any but the plain name of the loopback interface.
///
/// # Errors
///
/// A sentence that shows the right form.
pub fn wanted(text: &str) -> Result<Pattern, String> {
    if text == LOOPBACK {
        return Err(format!(
            "\"{LOOPBACK}\" is never watched, because nothing on it leaves this host; leave it out"
        ));
    }
    text.parse()
}

/// Which interfaces are watched.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InterfaceFilter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl InterfaceFilter {
    /// A filter of what to watch (empty: everything) and what not, which wins.
    #[must_use]
    pub fn new(include: Vec<Pattern>, exclude: Vec<Pattern>) -> Self {
        Self { include, exclude }
    }

    /// Whether the interface of this name is watched.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|p| p.matcher.is_match(name));
        name != LOOPBACK
            && (self.include.is_empty() || matches(&self.include))
            && !matches(&self.exclude)
    }

    /// The interfaces to watch that are named without a glob: they must exist at start. What is
    /// excluded need not exist.
    pub fn plain_names(&self) -> impl Iterator<Item = &str> {
        self.include
            .iter()
            .filter(|p| p.is_plain())
            .map(Pattern::as_str)
    }

    /// Checks that every plain name is among the interfaces that exist.
    ///
    /// # Errors
    ///
    /// [`ConfigError::UnknownInterface`] for the first that is not.
    pub fn require(&self, existing: &[&str]) -> Result<(), ConfigError> {
        let Some(missing) = self.plain_names().find(|name| !existing.contains(name)) else {
            return Ok(());
        };
        let mut known: Vec<&str> = existing
            .iter()
            .copied()
            .filter(|name| *name != LOOPBACK)
            .collect();
        known.sort_unstable();
        Err(ConfigError::UnknownInterface {
            name: missing.to_owned(),
            known: if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> InterfaceFilter {
        let patterns = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        InterfaceFilter::new(patterns(include), patterns(exclude))
    }

    #[test]
    fn without_a_list_everything_but_loopback_is_watched() {
        let all = filter(&[], &[]);
        assert!(all.wants("eth0") && all.wants("wg0.1@x"));
        assert!(!all.wants("lo"));
        assert!(!filter(&["*"], &[]).wants("lo"));
    }

    #[test]
    fn exclusion_wins() {
        let some = filter(&["eth*", "wan"], &["eth[12]", "veth{a,b}"]);
        assert!(some.wants("eth0") && some.wants("eth10") && some.wants("wan"));
        assert!(!some.wants("eth1") && !some.wants("wan0") && !some.wants("br0"));
        let rest = filter(&[], &["veth{a,b}"]);
        assert!(rest.wants("vethc") && !rest.wants("vetha"));
    }

    #[test]
    fn plain_names_must_exist() {
        let some = filter(&["eth*", "wan", "lan"], &["gone"]);
        assert_eq!(some.plain_names().collect::<Vec<_>>(), ["wan", "lan"]);
        assert!(some.require(&["lo", "wan", "lan"]).is_ok());
        assert_eq!(
            some.require(&["wan", "lo", "eth0"])
                .unwrap_err()
                .to_string(),
            "interface \"lan\" does not exist (there are: eth0, wan); name one of these, or give a \
             glob like \"lan*\" for interfaces that come later"
        );
        assert_eq!(
            some.require(&["lo"]).unwrap_err().to_string(),
            "interface \"wan\" does not exist (there are: none); name one of these, or give a glob \
             like \"wan*\" for interfaces that come later"
        );
    }

    #[test]
    fn bad_patterns_are_refused_with_their_fault() {
        assert_eq!(
            wanted("eth[").unwrap_err(),
            "\"eth[\" is no glob (unclosed character class; missing ']'); write one like \"eth*\""
        );
        assert_eq!(
            wanted("").unwrap_err(),
            "an empty text names no interface; write a name, or a glob like \"eth*\""
        );
        assert_eq!(
            wanted("lo").unwrap_err(),
            "\"lo\" is never watched, because nothing on it leaves this host; leave it out"
        );
    }
}
