//! X.
use super::Scene;
/// The scenes.
#[must_use]
pub fn scenes() -> Vec<Scene> { Vec::new() }
