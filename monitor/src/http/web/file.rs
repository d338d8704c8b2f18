//! The file's keys: those of Prometheus's exporter-toolkit (docs/web-configuration.md there). Unknown ones
//! are refused, and so are known ones that this server could not honour.

use std::path::{Path, PathBuf};

use hyper::header::{HeaderName, HeaderValue};

use super::users::User;
use super::yaml::{Entry, Node, Problem, Value, parse};

/// What is wrong with a file, at a line.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Fault {
    /// From 1.
    pub(super) line: usize,
    /// The key with those that it is in; empty where the problem names it.
    pub(super) key: String,
    /// What is wrong, and the way out.
    pub(super) problem: String,
    /// Whether it is about a file that could not be read, which may pass without a change of any file.
    pub(super) unread: bool,
}

impl Fault {
    pub(super) fn new(line: usize, key: &str, problem: impl Into<String>) -> Self {
        Self {
            line,
            key: printable(key),
            problem: printable(&problem.into()),
            unread: false,
        }
    }
}

/// What a file says has a place in one line of a log, whatever is in it.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::new(problem.line, "", problem.problem)
    }
}

/// A value of a key, with its line.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) line: usize,
    pub(super) value: T,
}

/// `tls_server_config`.
#[derive(Debug)]
pub(super) struct TlsKeys {
    /// The line of the section.
    pub(super) line: usize,
    pub(super) cert_file: Option<At<PathBuf>>,
    pub(super) key_file: Option<At<PathBuf>>,
    pub(super) client_auth_type: Option<At<String>>,
    pub(super) client_ca_file: Option<At<PathBuf>>,
    pub(super) min_version: Option<At<String>>,
    pub(super) max_version: Option<At<String>>,
    pub(super) cipher_suites: Option<Vec<At<String>>>,
    pub(super) curve_preferences: Option<Vec<At<String>>>,
    pub(super) prefer_server_cipher_suites: bool,
}

/// The whole file.
#[derive(Debug, Default)]
pub(super) struct WebFile {
    pub(super) tls: Option<TlsKeys>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) users: Vec<User>,
}

const TLS: &str = "tls_server_config";
const HTTP: &str = "http_server_config";
const USERS: &str = "basic_auth_users";

/// The headers that the toolkit lets a file set, with the values that it takes; none for any.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-XSS-Protection", &[]),
    ("Strict-Transport-Security", &[]),
];

impl WebFile {
    /// Parses a file's text; relative paths in it are relative to `folder`.
    pub(super) fn parse(text: &str, folder: &Path) -> Result<Self, Fault> {
        let mut file = Self::default();
        let root = Section::new(parse(text)?, "")?;
        root.known(
            &[TLS, HTTP, USERS],
            &[(
                "rate_limit",
                "connections and checks of passwords are limited anyway",
            )],
        )?;
        for entry in root.entries {
            if matches!(entry.value.value, Value::Null) {
                continue;
            }
            match entry.key.as_str() {
                TLS => file.tls = Some(tls(Section::of(entry, TLS)?, folder)?),
                HTTP => file.headers = http(Section::of(entry, HTTP)?)?,
                _ => file.users = users(Section::of(entry, USERS)?)?,
            }
        }
        Ok(file)
    }
}

fn tls(mut section: Section, folder: &Path) -> Result<TlsKeys, Fault> {
    section.known(
        &[
            "cert_file",
            "key_file",
            "client_auth_type",
            "client_ca_file",
            "min_version",
            "max_version",
            "cipher_suites",
            "curve_preferences",
            "prefer_server_cipher_suites",
        ],
        &[
            ("cert", "name a file with cert_file"),
            ("key", "name a file with key_file"),
            ("client_ca", "name a file with client_ca_file"),
            (
                "client_allowed_sans",
                "choose who may ask with the authority in client_ca_file, or with basic_auth_users",
            ),
        ],
    )?;
    let mut file = |key| -> Result<Option<At<PathBuf>>, Fault> {
        Ok(section.text(key)?.map(|text| At {
            line: text.line,
            value: folder.join(text.value),
        }))
    };
    let (cert_file, key_file) = (file("cert_file")?, file("key_file")?);
    let client_ca_file = file("client_ca_file")?;
    Ok(TlsKeys {
        line: section.line,
        cert_file,
        key_file,
        client_ca_file,
        client_auth_type: section.text("client_auth_type")?,
        min_version: section.text("min_version")?,
        max_version: section.text("max_version")?,
        cipher_suites: section.texts("cipher_suites")?,
        curve_preferences: section.texts("curve_preferences")?,
        prefer_server_cipher_suites: section
            .switch("prefer_server_cipher_suites")?
            .unwrap_or(true),
    })
}

fn http(mut section: Section) -> Result<Vec<(HeaderName, HeaderValue)>, Fault> {
    section.known(&["http2", "headers"], &[])?;
    // Answers are HTTP/1.1, which every client of HTTP/2 speaks too, so it changes nothing.
    section.switch("http2")?;
    let Some(headers) = section.take("headers") else {
        return Ok(Vec::new());
    };
    let name = format!("{HTTP}.headers");
    let mut section = Section::of(headers, &name)?;
    let names = HEADERS.map(|(name, _)| name);
    section.known(&names, &[])?;
    let mut headers = Vec::new();
    for (name, values) in HEADERS {
        let Some(text) = section.text(name)? else {
            continue;
        };
        let key = section.key(name);
        if !values.is_empty() && !values.contains(&text.value.to_ascii_lowercase().as_str()) {
            let problem = format!("\"{}\" is none of {}", text.value, values.join(", "));
            return Err(Fault::new(text.line, &key, problem));
        }
        let (Ok(header), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(&text.value),
        ) else {
            let problem = "a header takes printable ASCII characters only";
            return Err(Fault::new(text.line, &key, problem));
        };
        headers.push((header, value));
    }
    Ok(headers)
}

fn users(mut section: Section) -> Result<Vec<User>, Fault> {
    let mut users = Vec::new();
    for entry in std::mem::take(&mut section.entries) {
        let (name, line) = (entry.key.clone(), entry.line);
        let key = section.key(&name);
        // RFC 7617, section 2: the first colon ends the name.
        if name.contains(':') {
            let problem = "a user's name can't have a colon";
            return Err(Fault::new(line, &key, problem));
        }
        let hash = match entry.value.value {
            Value::Text(text) if !text.is_empty() => text,
            Value::Null => {
                let problem =
                    "the hash of its password is missing; `htpasswd -nBC 10 \"\"` makes one";
                return Err(Fault::new(line, &key, problem));
            }
            _ => return Err(Fault::new(line, &key, "a text is expected here")),
        };
        let user = User::new(name, &hash).map_err(|problem| Fault::new(line, &key, problem))?;
        users.push(user);
    }
    Ok(users)
}

/// A map of the file.
struct Section {
    /// Its key; empty for the file itself.
    name: String,
    line: usize,
    entries: Vec<Entry>,
}

impl Section {
    fn new(node: Node, name: &str) -> Result<Self, Fault> {
        let entries = match node.value {
            Value::Map(entries) => entries,
            Value::Null => Vec::new(),
            Value::Text(_) | Value::List(_) => {
                let problem = "keys with values are expected here, like `cert_file: server.crt`";
                return Err(Fault::new(node.line, name, problem));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            line: node.line,
            entries,
        })
    }

    /// That of a key. Its line is the key's.
    fn of(entry: Entry, name: &str) -> Result<Self, Fault> {
        let mut section = Self::new(entry.value, name)?;
        section.line = entry.line;
        Ok(section)
    }

    /// The full name of a key.
    fn key(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    /// Checks that there are no others than these. Some of the toolkit's are refused with what to do instead.
    fn known(&self, keys: &[&str], refused: &[(&str, &str)]) -> Result<(), Fault> {
        for entry in &self.entries {
            if keys.contains(&entry.key.as_str()) {
                continue;
            }
            let refused = refused.iter().find(|(key, _)| *key == entry.key);
            if let Some((key, instead)) = refused {
                let problem = format!("not supported here; {instead}");
                return Err(Fault::new(entry.line, &self.key(key), problem));
            }
            let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
            let key = entry.key.escape_debug();
            let problem = format!("unknown key `{key}`, expected one of {}", keys.join(", "));
            return Err(Fault::new(entry.line, &self.name, problem));
        }
        Ok(())
    }

    /// Takes a key out. One without a value counts as not there.
    fn take(&mut self, key: &str) -> Option<Entry> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        let entry = self.entries.remove(index);
        (!matches!(entry.value.value, Value::Null)).then_some(entry)
    }

    fn text(&mut self, key: &str) -> Result<Option<At<String>>, Fault> {
        let Some(entry) = self.take(key) else {
            return Ok(None);
        };
        match entry.value.value {
            Value::Text(text) if !text.is_empty() => Ok(Some(At {
                line: entry.line,
                value: text,
            })),
            _ => Err(Fault::new(
                entry.line,
                &self.key(key),
                "a text is expected here",
            )),
        }
    }

    fn texts(&mut self, key: &str) -> Result<Option<Vec<At<String>>>, Fault> {
        let Some(entry) = self.take(key) else {
            return Ok(None);
        };
        let bad = |line| Fault::new(line, &self.key(key), "a list of texts is expected here");
        let Value::List(items) = entry.value.value else {
            return Err(bad(entry.line));
        };
        let texts = items.into_iter().map(|item| match item.value {
            Value::Text(value) => Ok(At {
                line: item.line,
                value,
            }),
            _ => Err(bad(item.line)),
        });
        texts.collect::<Result<_, _>>().map(Some)
    }

    fn switch(&mut self, key: &str) -> Result<Option<bool>, Fault> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match text.value.as_str() {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            other => {
                let problem = format!("\"{other}\" is neither true nor false");
                Err(Fault::new(text.line, &self.key(key), problem))
            }
        }
    }
}
