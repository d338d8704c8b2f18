//! Values as the names that they have everywhere else.

use monitor_common::Direction;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use super::{Expect, State};
use crate::attempt::{BlockedBy, Outcome};
use crate::traffic::Port;

/// The value of a name, or a sentence that has both.
fn find<T: Copy, E: Error>(
    what: &str,
    all: &[T],
    as_str: impl Fn(T) -> &'static str,
    name: &str,
) -> Result<T, E> {
    all.iter()
        .copied()
        .find(|value| as_str(*value) == name)
        .ok_or_else(|| E::custom(format_args!("{name:?} is no {what}")))
}

macro_rules! by_name {
    ($($kind:ident is $what:literal;)+) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let name = String::deserialize(from)?;
                find($what, Self::ALL, Self::as_str, &name)
            }
        }
    )+};
}

by_name! {
    State is "state";
    Expect is "expectation";
    Outcome is "outcome";
    BlockedBy is "blocker";
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The direction of a name; `None` for a name that is none.
pub(crate) fn known_direction(name: &str) -> Option<Direction> {
    Direction::ALL.iter().copied().find(|d| d.as_str() == name)
}

/// For a field with a direction, which is a type of another crate.
pub(super) mod direction {
    use super::{Deserialize, Deserializer, Direction, Serializer, find};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature is serde's"
    )]
    pub(in crate::status) fn serialize<S: Serializer>(
        value: &Direction,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.as_str())
    }

    pub(in crate::status) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Direction, D::Error> {
        let name = String::deserialize(from)?;
        find("direction", Direction::ALL, Direction::as_str, &name)
    }
}

/// For a field with several.
pub(super) mod directions {
    use super::{Deserialize, Deserializer, Direction, Serializer, find};

    pub(in crate::status) fn serialize<S: Serializer>(
        values: &[Direction],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(|value| value.as_str()))
    }

    pub(in crate::status) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Direction>, D::Error> {
        let names = Vec::<String>::deserialize(from)?;
        names
            .iter()
            .map(|name| find("direction", Direction::ALL, Direction::as_str, name))
            .collect()
    }
}
