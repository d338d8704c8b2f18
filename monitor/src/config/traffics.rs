//! The traffics of the configuration file.

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::file::File;
use crate::traffic::{self, At, Port, TrafficError, Traffics, Watch};

/// A `[[traffic]]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrafficKeys {
    name: Spanned<String>,
    /// Only a built-in traffic may leave them out: it keeps its own.
    ports: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) state_directions: Option<Vec<Spanned<String>>>,
    pub(super) expect: Option<Spanned<String>>,
    pub(super) window: Option<Spanned<String>>,
    pub(super) hold: Option<Spanned<String>>,
    pub(super) recovery: Option<Spanned<String>>,
    pub(super) blocked_failures: Option<Spanned<i64>>,
    pub(super) blocked_percent: Option<Spanned<i64>>,
    pub(super) blocked_spread: Option<Spanned<String>>,
    pub(super) failing_attempts: Option<Spanned<i64>>,
    pub(super) degraded_attempts: Option<Spanned<i64>>,
    pub(super) degraded_percent: Option<Spanned<i64>>,
    pub(super) lost_percent: Option<Spanned<i64>>,
}

/// A traffic, and where it comes from.
struct Entry {
    name: String,
    ports: Vec<Port>,
    watch: Watch,
    /// The position of its `[[traffic]]`; `None` for a built-in one that the file does not name.
    origin: Option<usize>,
    /// Whether its ports are those of a built-in one, so that they have no line.
    builtin_ports: bool,
}

impl File {
    /// The traffics: the built-in ones, unless the file leaves them out, and the file's. One of the
    /// file that has the name of a built-in one takes its place, with its ports if it names none.
    pub(super) fn traffics(&self) -> Result<Traffics, ConfigError> {
        let entries = self.entries()?;
        if let (true, Some(key)) = (entries.is_empty(), &self.keys.builtin_traffics) {
            return Err(self.error(
                key.span(),
                Some("builtin_traffics".into()),
                "no traffic is left to watch; add a [[traffic]] or set it to true".into(),
            ));
        }
        let list = entries.iter().map(|e| (e.name.clone(), e.ports.clone()));
        match Traffics::new(list.collect()) {
            Ok(traffics) => Ok(traffics.watched(entries.into_iter().map(|e| e.watch))),
            Err(error) => Err(self.traffic_error(&error, &entries)),
        }
    }

    /// Points an error in the list that [`Self::traffics`] makes to its line here.
    pub(super) fn reload_error(&self, error: &TrafficError) -> ConfigError {
        match self.entries() {
            Ok(entries) => self.traffic_error(error, &entries),
            Err(error) => error,
        }
    }

    /// The traffics in the order of their indexes.
    fn entries(&self) -> Result<Vec<Entry>, ConfigError> {
        let builtin = self
            .keys
            .builtin_traffics
            .as_ref()
            .is_none_or(|key| *key.get_ref());
        let builtin = if builtin {
            traffic::builtin()
        } else {
            Vec::new()
        };
        let mut entries: Vec<Entry> = builtin
            .into_iter()
            .map(|(name, ports)| Entry {
                name,
                ports,
                watch: Watch::default(),
                origin: None,
                builtin_ports: true,
            })
            .collect();
        for (position, keys) in self.keys.traffic.iter().enumerate() {
            let name = keys.name.get_ref();
            let ports = keys.ports.as_ref().map(Spanned::get_ref);
            let ports = self.values("traffic.ports", ports, |text| {
                text.parse()
                    .map_err(|error: traffic::PortError| error.to_string())
            })?;
            let watch = self.watch(keys)?;
            let named = entries.iter_mut().find(|entry| entry.name == *name);
            match (named, ports) {
                (Some(entry), ports) if entry.origin.is_none() => {
                    entry.builtin_ports = ports.is_none();
                    if let Some(ports) = ports {
                        entry.ports = ports;
                    }
                    entry.watch = watch;
                    entry.origin = Some(position);
                }
                (None, None) => {
                    let problem = format!(
                        "traffic \"{name}\" has no ports, and none is built in; add them, like ports \
                         = [\"tcp/80\"]"
                    );
                    let key = Some("traffic.name".to_owned());
                    return Err(self.error(keys.name.span(), key, problem));
                }
                // A name that is there twice is refused later, with ports or without.
                (_, ports) => entries.push(Entry {
                    name: name.clone(),
                    ports: ports.unwrap_or_default(),
                    watch,
                    origin: Some(position),
                    builtin_ports: false,
                }),
            }
        }
        Ok(entries)
    }

    fn traffic_error(&self, error: &TrafficError, entries: &[Entry]) -> ConfigError {
        // A built-in traffic has no line: then the other place has, or the last traffic of the file
        // is the one that is too many.
        let places = error.places();
        let written = places.iter().find_map(|at| {
            let entry = entries.get(at.traffic)?;
            if entry.builtin_ports && at.port.is_some() {
                return None;
            }
            Some((self.keys.traffic.get(entry.origin?)?, at.port))
        });
        let (keys, port) = match written {
            Some(place) => place,
            None => match self.keys.traffic.last() {
                Some(keys) => (keys, None),
                None => return self.error(0..0, None, error.to_string()),
            },
        };
        let name = (keys.name.span(), "traffic.name");
        let (span, key) = match (&keys.ports, error, port) {
            (Some(ports), _, Some(port)) => ports
                .get_ref()
                .get(port)
                .map_or(name, |port| (port.span(), "traffic.ports")),
            (Some(ports), TrafficError::NoPorts { .. }, None) => (ports.span(), "traffic.ports"),
            _ => name,
        };
        self.error(span, Some(key.into()), traffic_problem(error, entries))
    }
}

/// What is wrong with the traffics. A port of a built-in one can't be taken out of it in the file, so
/// there the way out is another.
fn traffic_problem(error: &TrafficError, entries: &[Entry]) -> String {
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
    let built_in = |at: &At| entries.get(at.traffic).filter(|entry| entry.builtin_ports);
    let (name, entry) = match (built_in(first), built_in(second)) {
        (Some(entry), _) => (first_name, entry),
        (_, Some(entry)) => (second_name, entry),
        _ => return error.to_string(),
    };
    let way_out = if entry.origin.is_some() {
        format!("give the [[traffic]] named \"{name}\" other ports")
    } else {
        format!("replace that one by a [[traffic]] named \"{name}\"")
    };
    format!("{port} is in the built-in traffic \"{name}\" already; leave it out here, or {way_out}")
}
