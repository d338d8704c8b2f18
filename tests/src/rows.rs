//! The list of rows: every scene on every port and family for which it means something.

use anyhow::{Context, Result};

use crate::case::Case;
use crate::expect::Family;
use crate::lab::Lab;
use crate::packet::Protocol;
use crate::scenes::{SCENES, Scene};

/// A port that the daemon watches by default.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Port {
    /// Label `traffic`.
    pub traffic: &'static str,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port number.
    pub number: u16,
}

/// The built-in ports.
pub const PORTS: [Port; 4] = [
    Port {
        traffic: "do_peer",
        protocol: Protocol::Tcp,
        number: 7680,
    },
    Port {
        traffic: "teredo",
        protocol: Protocol::Udp,
        number: 3544,
    },
    Port {
        traffic: "https",
        protocol: Protocol::Tcp,
        number: 443,
    },
    Port {
        traffic: "https",
        protocol: Protocol::Udp,
        number: 443,
    },
];

/// How many rows there have to be at least.
pub const AT_LEAST: usize = 150;

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What happens to the packets.
    pub scene: &'static Scene,
    /// Where they go.
    pub port: Port,
    /// Their address family.
    pub family: Family,
}

impl Row {
    /// `direction/scene/port/family`; `vm/scene/…` where the scene needs what many kernels are built
    /// without.
    #[must_use]
    pub fn name(&self) -> String {
        let group = match self.scene.needs {
            Some(feature) if feature.since().is_none() => "vm",
            _ => self.scene.way.direction(),
        };
        format!(
            "{}/{}/{}{}/{}",
            group,
            self.scene.name,
            self.port.protocol.name(),
            self.port.number,
            self.family.name()
        )
    }

    /// Runs it in a lab that nobody else uses, with a number of packets that differs from row to
    /// row, so that one row's count can't pass for another's.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn run(&self, lab: &Lab) -> Result<()> {
        let sum: u64 = self.name().bytes().map(u64::from).sum();
        Case::new(lab, self, 3 + sum % 18)
            .run()
            .with_context(|| self.name())
    }
}

/// All valid rows.
#[must_use]
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for scene in SCENES.iter().copied().flatten() {
        for port in PORTS {
            for family in [Family::V4, Family::V6] {
                if scene.limits.allow(port, family) {
                    rows.push(Row {
                        scene,
                        port,
                        family,
                    });
                }
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_there_are_enough() {
        let rows = all();
        let names: HashSet<_> = rows.iter().map(Row::name).collect();
        assert_eq!(names.len(), rows.len());
        assert!(rows.len() >= AT_LEAST, "{}", rows.len());
    }
}
