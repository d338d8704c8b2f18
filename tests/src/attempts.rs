//! Attempts to open a connection, on real packets and real firewalls: each gets exactly one count in
//! exactly one series of `peerwatch_attempts_total`.

use std::sync::Arc;

use anyhow::Result;

use crate::expect::{Expected, Family};
use crate::needs::Feature;

pub mod act;
pub mod crafted;
pub mod flood;
pub mod lab;
pub mod local;
pub mod miredo;
pub mod pool;
pub mod remote;
pub mod repeat;
pub mod teredo;
pub mod words;

use act::{Act, Target, Way};
use pool::Place;

type Run = Arc<dyn Fn(&Act<'_>) -> Result<Expected> + Send + Sync>;

/// Fewer tests than this mean that some went missing.
pub const AT_LEAST: usize = 270;

/// What happens, and what has to come of it.
#[derive(Clone)]
pub struct Scene {
    /// First part of the tests' names.
    pub name: String,
    /// How the attempts go through the gateway: a test for each.
    pub ways: &'static [Way],
    /// Address families: a test for each.
    pub families: &'static [Family],
    /// Whom they are to reach.
    pub target: Target,
    /// Which of the shared labs will do; `None`: one of its own.
    pub place: Option<Place>,
    /// What it needs of the kernel.
    pub needs: Option<Feature>,
    /// Does it, and says what to expect.
    pub run: Run,
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scene")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A scene to the server, in both families, in any shared lab.
pub fn scene(
    name: &str,
    ways: &'static [Way],
    run: impl Fn(&Act<'_>) -> Result<Expected> + Send + Sync + 'static,
) -> Scene {
    Scene {
        name: name.to_owned(),
        ways,
        families: &[Family::V4, Family::V6],
        target: Target::default(),
        place: Some(Place::Any),
        needs: None,
        run: Arc::new(run),
    }
}

impl Scene {
    /// To another target.
    #[must_use]
    pub fn target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// In one of the shared labs.
    #[must_use]
    pub fn place(self, place: Place) -> Self {
        Self {
            place: Some(place),
            ..self
        }
    }

    /// In a lab of its own, where all series are compared, and what was lost.
    #[must_use]
    pub fn alone(self) -> Self {
        Self {
            place: None,
            ..self
        }
    }

    /// In these families only.
    #[must_use]
    pub fn families(self, families: &'static [Family]) -> Self {
        Self { families, ..self }
    }

    /// Only where the kernel has this.
    #[must_use]
    pub fn needing(self, feature: Feature) -> Self {
        Self {
            needs: Some(feature),
            ..self
        }
    }
}

/// All scenes: first those that load a daemon of their own, then those that take longest.
#[must_use]
pub fn all() -> Vec<Scene> {
    let mut all = crafted::scenes();
    all.extend(repeat::scenes());
    all.extend(remote::scenes());
    all.extend(local::scenes());
    all
}
