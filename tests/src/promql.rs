//! What an expression of Prometheus asks for: its metrics with their matchers, the labels that it groups
//! by, and the variables of a dashboard in it. No evaluation, and no check of its grammar: Prometheus does
//! that.

use anyhow::{Context, Result, bail};

/// A matcher of a label.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Matcher {
    /// The label.
    pub label: String,
    /// `=`, `!=`, `=~` or `!~`.
    pub operator: String,
    /// What stands in the quotes.
    pub value: String,
}

/// A metric, or a recorded one, with its matchers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selector {
    /// Its name.
    pub metric: String,
    /// What stands in its braces.
    pub matchers: Vec<Matcher>,
}

impl Selector {
    /// Whether it has this matcher.
    #[must_use]
    pub fn has(&self, label: &str, operator: &str, value: &str) -> bool {
        self.matchers.iter().any(|matcher| {
            matcher.label == label && matcher.operator == operator && matcher.value == value
        })
    }
}

/// What an expression asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Expression {
    /// Each metric, as often as it stands there.
    pub selectors: Vec<Selector>,
    /// Labels behind `by`, `without`, `on`, `ignoring`, `group_left` and `group_right`.
    pub grouping: Vec<String>,
    /// Variables, `job` for `$job`, those within quotes too.
    pub variables: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

const GROUPING: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
const WORDS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "atan2"];

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    ///
    /// When quotes, braces or a list of labels don't end, or a matcher is none.
    pub fn parse(text: &str) -> Result<Self> {
        let tokens = tokens(text)?;
        let mut this = Self {
            variables: variables(text),
            ..Self::default()
        };
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            let Token::Word(word) = token else { continue };
            if GROUPING.contains(&word.as_str()) {
                if tokens.get(at) == Some(&Token::Sign('(')) {
                    at = this.labels(&tokens, at + 1)?;
                }
                continue;
            }
            let is_metric = match tokens.get(at) {
                _ if WORDS.contains(&word.as_str()) => false,
                // An aggregation with its labels in front.
                Some(Token::Word(next)) => !GROUPING[..2].contains(&next.as_str()),
                // A function, or an aggregation.
                next => next != Some(&Token::Sign('(')),
            };
            if !is_metric {
                continue;
            }
            let metric = word.clone();
            let mut matchers = Vec::new();
            if tokens.get(at) == Some(&Token::Sign('{')) {
                (matchers, at) = braces(&tokens, at + 1)?;
            }
            this.selectors.push(Selector { metric, matchers });
        }
        Ok(this)
    }

    /// Takes the labels of a list; where it goes on behind that.
    fn labels(&mut self, tokens: &[Token], mut at: usize) -> Result<usize> {
        loop {
            match tokens.get(at).context("a list of labels does not end")? {
                Token::Sign(')') => return Ok(at + 1),
                Token::Sign(',') => {}
                Token::Word(label) => self.grouping.push(label.clone()),
                other => bail!("{other:?} in a list of labels"),
            }
            at += 1;
        }
    }
}

/// Matchers up to the brace that ends them, and where it goes on behind that.
fn braces(tokens: &[Token], mut at: usize) -> Result<(Vec<Matcher>, usize)> {
    let mut matchers = Vec::new();
    loop {
        let label = match tokens.get(at).context("braces do not end")? {
            Token::Sign('}') => return Ok((matchers, at + 1)),
            Token::Sign(',') => {
                at += 1;
                continue;
            }
            Token::Word(label) => label.clone(),
            other => bail!("{other:?} in braces, where a label should be"),
        };
        at += 1;
        let mut operator = String::new();
        while let Some(Token::Sign(sign)) = tokens.get(at) {
            operator.push(*sign);
            at += 1;
        }
        if !["=", "!=", "=~", "!~"].contains(&operator.as_str()) {
            bail!("{operator:?} is no operator of a matcher of {label}");
        }
        let Some(Token::Text(value)) = tokens.get(at) else {
            bail!("the matcher of {label} has no value");
        };
        at += 1;
        let value = value.clone();
        matchers.push(Matcher {
            label,
            operator,
            value,
        });
    }
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            quote @ ('"' | '\'' | '`') => {
                let mut value = String::new();
                loop {
                    match chars.next().context("quotes do not end")? {
                        c if c == quote => break,
                        '\\' if quote != '`' => {
                            value.push(chars.next().context("quotes do not end")?);
                        }
                        c => value.push(c),
                    }
                }
                tokens.push(Token::Text(value));
            }
            // A number, or a variable or a time in brackets: nothing that has a name.
            c if c.is_ascii_digit() || c == '$' => {
                while chars.next_if(|c| is_word(*c) || *c == '.').is_some() {}
            }
            c if is_word(c) => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| is_word(*c)) {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
            // Ranges and subqueries have times in them, and no names.
            '[' => {
                chars.find(|c| *c == ']').context("a range does not end")?;
            }
            c => tokens.push(Token::Sign(c)),
        }
    }
    Ok(tokens)
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':')
}

/// Names behind a `$`; those of the groups of a regular expression, `$1`, are none.
fn variables(text: &str) -> Vec<String> {
    text.split('$')
        .skip(1)
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect::<String>()
        })
        .filter(|name| !name.starts_with(|c: char| c.is_ascii_digit()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(metric: &str, matchers: &[(&str, &str, &str)]) -> Selector {
        let matcher = |(label, operator, value): &(&str, &str, &str)| Matcher {
            label: (*label).to_owned(),
            operator: (*operator).to_owned(),
            value: (*value).to_owned(),
        };
        Selector {
            metric: metric.to_owned(),
            matchers: matchers.iter().map(matcher).collect(),
        }
    }

    #[test]
    fn metrics_labels_and_variables_are_found() {
        let text = r#"sum by (le, job) (rate(a_bucket{job=~"$job", x!="a\"b)"}[$__rate_interval]))
            / on (job) group_left () (b > 0 or -1.5e3 * level:c:sum{}) and max without(y) (d) offset 5m"#;
        let found = Expression::parse(text).unwrap();
        let wanted = [
            selector("a_bucket", &[("job", "=~", "$job"), ("x", "!=", "a\"b)")]),
            selector("b", &[]),
            selector("level:c:sum", &[]),
            selector("d", &[]),
        ];
        assert_eq!(found.selectors, wanted);
        assert_eq!(found.grouping, ["le", "job", "job", "y"]);
        assert_eq!(found.variables, ["job", "__rate_interval"]);
        assert!(found.selectors[0].has("job", "=~", "$job"));
        assert!(!found.selectors[0].has("job", "=", "$job"));
    }

    #[test]
    fn groups_of_a_replacement_are_no_variables() {
        let text = r#"label_replace(up, "host", "$1", "instance", "(.+):\\d+")"#;
        let found = Expression::parse(text).unwrap();
        assert_eq!(found.selectors, [selector("up", &[])]);
        assert!(found.variables.is_empty());
    }

    #[test]
    fn what_does_not_end_is_an_error() {
        for text in [
            "a{b=\"c",
            "a{b=\"c\"",
            "sum by (a",
            "a[5m",
            "a{b==\"c\"}",
            "a{b=c}",
        ] {
            assert!(Expression::parse(text).is_err(), "{text}");
        }
    }
}
