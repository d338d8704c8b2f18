//! The configuration file: TOML into values, each problem with its line and key.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::options;
use crate::traffic::{self, At, Port, TrafficError, Traffics};

/// The file as it is written. The names of the keys are those of the flags, with `_` for `-`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) interface: Option<Vec<Spanned<String>>>,
    pub(super) exclude_interface: Option<Vec<Spanned<String>>>,
    pub(super) log_packets: Option<Spanned<String>>,
    pub(super) log_packets_rate: Option<Spanned<i64>>,
    pub(super) log_packets_burst: Option<Spanned<i64>>,
    pub(super) log_format: Option<Spanned<String>>,
    pub(super) log_level: Option<Spanned<String>>,
    pub(super) bpf_log: Option<Spanned<String>>,
    pub(super) btf: Option<Spanned<String>>,
    pub(super) verifier_log: Option<bool>,
    builtin_traffics: Option<Spanned<bool>>,
    #[serde(default)]
    traffic: Vec<TrafficKeys>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrafficKeys {
    name: Spanned<String>,
    ports: Spanned<Vec<Spanned<String>>>,
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

    /// The value of a key that is a number of packets.
    pub(super) fn log_rate(
        &self,
        key: &str,
        value: Option<&Spanned<i64>>,
    ) -> Result<Option<u32>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        options::log_rate(*value.get_ref())
            .map(Some)
            .map_err(|problem| self.error(value.span(), Some(key.to_owned()), problem))
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

    /// The traffics: the built-in ones, unless the file leaves them out, and the file's. One of the
    /// file that has the name of a built-in one takes its place.
    pub(super) fn traffics(&self) -> Result<Traffics, ConfigError> {
        let (list, origins) = self.traffic_list()?;
        if let (true, Some(key)) = (list.is_empty(), &self.keys.builtin_traffics) {
            return Err(self.error(
                key.span(),
                Some("builtin_traffics".into()),
                "no traffic is left to watch; add a [[traffic]] or set it to true".into(),
            ));
        }
        Traffics::new(list).map_err(|error| self.traffic_error(&error, &origins))
    }

    /// Points an error in the list that [`Self::traffics`] makes to its line here.
    pub(super) fn reload_error(&self, error: &TrafficError) -> ConfigError {
        match self.traffic_list() {
            Ok((_, origins)) => self.traffic_error(error, &origins),
            Err(error) => error,
        }
    }

    /// Names and ports in the order of their indexes; for each the position of its `[[traffic]]`.
    #[expect(
        clippy::type_complexity,
        reason = "two parallel lists, private to this file"
    )]
    fn traffic_list(&self) -> Result<(Vec<(String, Vec<Port>)>, Vec<Option<usize>>), ConfigError> {
        let builtin = self
            .keys
            .builtin_traffics
            .as_ref()
            .is_none_or(|key| *key.get_ref());
        let mut list = if builtin {
            traffic::builtin()
        } else {
            Vec::new()
        };
        let mut origins = vec![None; list.len()];
        for (position, keys) in self.keys.traffic.iter().enumerate() {
            let name = keys.name.get_ref();
            let ports = self
                .values("traffic.ports", Some(keys.ports.get_ref()), |text| {
                    text.parse()
                        .map_err(|error: traffic::PortError| error.to_string())
                })?
                .unwrap_or_default();
            let replaced = list
                .iter()
                .zip(&origins)
                .position(|((other, _), origin)| origin.is_none() && other == name);
            if let Some(replaced) = replaced {
                list[replaced].1 = ports;
                origins[replaced] = Some(position);
            } else {
                list.push((name.clone(), ports));
                origins.push(Some(position));
            }
        }
        Ok((list, origins))
    }

    fn traffic_error(&self, error: &TrafficError, origins: &[Option<usize>]) -> ConfigError {
        // A built-in traffic has no line: then the other place has, or the last traffic of the file
        // is the one that is too many.
        let places = error.places();
        let written = places.iter().find_map(|at| {
            let origin = origins.get(at.traffic).copied().flatten()?;
            Some((self.keys.traffic.get(origin)?, at.port))
        });
        let (keys, port) = match written {
            Some(place) => place,
            None => match self.keys.traffic.last() {
                Some(keys) => (keys, None),
                None => return self.error(0..0, None, error.to_string()),
            },
        };
        let port = port.and_then(|port| keys.ports.get_ref().get(port));
        let (span, key) = match (error, port) {
            (_, Some(port)) => (port.span(), "traffic.ports"),
            (TrafficError::NoPorts { .. }, None) => (keys.ports.span(), "traffic.ports"),
            (_, None) => (keys.name.span(), "traffic.name"),
        };
        self.error(span, Some(key.into()), traffic_problem(error, origins))
    }

    /// An error at a place in the file.
    fn error(&self, span: Range<usize>, key: Option<String>, problem: String) -> ConfigError {
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
                "[[traffic]] lacks {name}; it needs a name and ports, like name = \"cache_http\", \
                 ports = [\"tcp/80\"]"
            );
            return self.error(span, None, problem);
        }
        let key = key_at(document.get_ref(), span.start);
        self.error(span, key, message)
    }
}

/// What is wrong with the traffics. A port of a built-in one can't be taken out of it in the file, so
/// there the way out is another.
fn traffic_problem(error: &TrafficError, origins: &[Option<usize>]) -> String {
    let TrafficError::PortTaken {
        first,
        second,
        port,
        first_name,
        second_name,
    } = error
    else {
        return error.to_string();
    };
    let built_in = |at: &At| origins.get(at.traffic).is_some_and(Option::is_none);
    let name = match (built_in(first), built_in(second)) {
        (true, _) => first_name,
        (_, true) => second_name,
        _ => return error.to_string(),
    };
    format!(
        "{port} is in the built-in traffic \"{name}\" already; leave it out here, or replace that \
         one by a [[traffic]] named \"{name}\""
    )
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
