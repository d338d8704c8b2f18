//! The configuration file: TOML into values, each problem with its line and key.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::options;
use super::traffics::TrafficKeys;

/// The file as it is written. The names of the keys are those of the flags, with `_` for `-`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) web_config: Option<Spanned<String>>,
    pub(super) interface: Option<Vec<Spanned<String>>>,
    pub(super) exclude_interface: Option<Vec<Spanned<String>>>,
    pub(super) max_attempts: Option<Spanned<i64>>,
    pub(super) log_packets: Option<Spanned<String>>,
    pub(super) log_packets_rate: Option<Spanned<i64>>,
    pub(super) log_packets_burst: Option<Spanned<i64>>,
    pub(super) log_format: Option<Spanned<String>>,
    pub(super) log_level: Option<Spanned<String>>,
    pub(super) bpf_log: Option<Spanned<String>>,
    pub(super) btf: Option<Spanned<String>>,
    pub(super) bpffs: Option<Spanned<String>>,
    pub(super) state_dir: Option<Spanned<String>>,
    pub(super) ephemeral: Option<bool>,
    pub(super) bpf_stats: Option<bool>,
    pub(super) self_test: Option<bool>,
    pub(super) verifier_log: Option<bool>,
    pub(super) builtin_traffics: Option<Spanned<bool>>,
    #[serde(default)]
    pub(super) traffic: Vec<TrafficKeys>,
}

/// A file that is valid TOML and has only known keys. Without a file: no key.
#[derive(Debug, Default)]
pub(super) struct File {
    path: PathBuf,
    text: String,
    pub(super) keys: Keys,
}

impl File {
    /// Parses a file's text.
    pub(super) fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        let mut file = Self {
            path: path.to_owned(),
            text,
            keys: Keys::default(),
        };
        match toml::from_str(&file.text) {
            Ok(keys) => file.keys = keys,
            Err(error) => return Err(file.explain(&error)),
        }
        Ok(file)
    }

    /// The value of a key that is a text, by a parser that says what is wrong.
    pub(super) fn value<T>(
        &self,
        key: &str,
        value: Option<&Spanned<String>>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        parse(value.get_ref())
            .map(Some)
            .map_err(|problem| self.error(value.span(), Some(key.to_owned()), problem))
    }

    /// The value of a key that is a number, by a check that says what is wrong.
    pub(super) fn number<T>(
        &self,
        key: &str,
        value: Option<&Spanned<i64>>,
        check: impl FnOnce(i64) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        check(*value.get_ref())
            .map(Some)
            .map_err(|problem| self.error(value.span(), Some(key.to_owned()), problem))
    }

    /// The value of a key that is a number of packets.
    pub(super) fn log_rate(
        &self,
        key: &str,
        value: Option<&Spanned<i64>>,
    ) -> Result<Option<u32>, ConfigError> {
        self.number(key, value, options::log_rate)
    }

    /// The values of a key that is a list.
    pub(super) fn values<T>(
        &self,
        key: &str,
        values: Option<&Vec<Spanned<String>>>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(values) = values else {
            return Ok(None);
        };
        let parse = |value: &Spanned<String>| {
            parse(value.get_ref())
                .map_err(|problem| self.error(value.span(), Some(key.to_owned()), problem))
        };
        values.iter().map(parse).collect::<Result<_, _>>().map(Some)
    }

    /// An error at a place in the file.
    pub(super) fn error(
        &self,
        span: Range<usize>,
        key: Option<String>,
        problem: String,
    ) -> ConfigError {
        let before = self.text.get(..span.start).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::File {
            path: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key,
            problem,
        }
    }

    /// Makes the parser's error a sentence of ours.
    fn explain(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or_default();
        let message = error.message().replace('\n', ", ");
        let Ok(document) = DeTable::parse(&self.text) else {
            // The parser knows no key here, so the line speaks for itself.
            let before = self.text.get(..span.start).unwrap_or(&self.text);
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line: String = self.text[start..]
                .lines()
                .next()
                .unwrap_or_default()
                .trim()
                .chars()
                .take(60)
                .collect();
            let problem = format!(
                "\"{line}\" is not valid TOML ({message}); texts stand in quotes, lists in brackets"
            );
            return self.error(span, None, problem);
        };
        if let Some(rest) = message.strip_prefix("unknown field ") {
            return self.error(span, None, format!("unknown key {rest}"));
        }
        if let Some(name) = message.strip_prefix("missing field ") {
            let problem = format!(
                "[[traffic]] lacks {name}; it needs a name, and ports unless it is a built-in one, like \
                 name = \"cache_http\", ports = [\"tcp/80\"]"
            );
            return self.error(span, None, problem);
        }
        let key = key_at(document.get_ref(), span.start);
        self.error(span, key, message)
    }
}

/// The key whose name or value is at an offset, with those of the tables that it is in.
fn key_at(table: &DeTable<'_>, offset: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let inner = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, offset),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(inner) => key_at(inner, offset),
                _ => None,
            }),
            _ => None,
        };
        match inner {
            Some(inner) => Some(format!("{}.{inner}", key.get_ref())),
            None => (key.span().contains(&offset) || value.span().contains(&offset))
                .then(|| key.get_ref().to_string()),
        }
    })
}
