//! From an answer of any server to a [`Document`], or to the reason why it is none.

use serde::Deserialize as _;
use serde_json::Value;

use super::{Document, VERSION};

/// Why bytes are no [`Document`]. The texts go on after "the answer of URL".
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is no JSON.
    #[error("is no JSON ({0})")]
    Json(serde_json::Error),
    /// It has no version: some other program's JSON.
    #[error("is JSON, but no status of peerwatch: it has no number in \"version\"")]
    NoVersion,
    /// It is of another version.
    #[error("has version {0}, and this peerwatch reads version {VERSION}")]
    Version(u64),
    /// It has the right version, and still is not what it should be.
    #[error("has version {VERSION}, but is no status of peerwatch ({0})")]
    Shape(serde_json::Error),
}

impl Document {
    /// Reads a document. Fields that are not known are left out: a later daemon may have more.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, ParseError> {
        let value: Value = serde_json::from_slice(json).map_err(ParseError::Json)?;
        // Before the rest, so that another version is told as that and not as a missing field.
        let version = value
            .get("version")
            .and_then(Value::as_u64)
            .ok_or(ParseError::NoVersion)?;
        if version != u64::from(VERSION) {
            return Err(ParseError::Version(version));
        }
        Self::deserialize(value).map_err(ParseError::Shape)
    }
}
