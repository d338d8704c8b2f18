//! Traffics: named sets of ports, and the table by which the kernel programs find them.
//!
//! The kernel programs know a traffic by its index and keep counters under it, so an index belongs to
//! one name for as long as there are counters: see [`Traffics::merge_reload`].

mod port;
mod watch;

use monitor_common::Protocol;
use monitor_common::traffic::{MAX_PORTS, MAX_TRAFFICS, PortTable, UNWATCHED};

pub use port::{Port, PortError};
pub use watch::{Expect, Watch};

/// The longest name of a traffic, bytes: it is a label value in every series.
pub const MAX_NAME: usize = 32;

/// A named kind of traffic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Traffic {
    /// The index under which the kernel programs count it, below [`MAX_TRAFFICS`].
    pub index: u8,
    /// The name in labels: a lower-case letter, then letters, digits and `_`.
    pub name: String,
    /// Its ports; at least one, and none belongs to another traffic.
    pub ports: Vec<Port>,
    /// How its state is decided, and what is expected of it.
    pub watch: Watch,
}

impl Traffic {
    /// The protocols that it has ports of, each once, in the order of their codes.
    pub fn protocols(&self) -> impl Iterator<Item = Protocol> {
        Protocol::ALL
            .iter()
            .copied()
            .filter(|p| self.ports.iter().any(|port| port.protocol == *p))
    }
}

/// Which port of which traffic, by position in the list given to [`Traffics::new`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct At {
    /// Position of the traffic.
    pub traffic: usize,
    /// Position of the port in it; `None` where the traffic as a whole is meant.
    pub port: Option<usize>,
}

/// Why a list of traffics can't be watched. The places let a caller point into its file.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TrafficError {
    /// The name is not fit for a label value.
    #[error(
        "\"{name}\" is no name for a traffic; use a lower-case letter, then up to {} lower-case \
         letters, digits or _", MAX_NAME - 1
    )]
    Name {
        /// The traffic.
        at: At,
        /// Its name.
        name: String,
    },
    /// Two traffics have the same name.
    #[error("two traffics are named \"{name}\"; rename one or merge their ports")]
    DuplicateName {
        /// The second of them.
        at: At,
        /// Their name.
        name: String,
    },
    /// The traffic has no port.
    #[error("traffic \"{name}\" has no port; add one, like \"tcp/7680\"")]
    NoPorts {
        /// The traffic.
        at: At,
        /// Its name.
        name: String,
    },
    /// Two traffics, or one twice, name the same port.
    #[error("{port} is in traffic \"{first_name}\" already; take it out of one of the two places")]
    PortTaken {
        /// Where it is named first.
        first: At,
        /// Where it is named again.
        second: At,
        /// The port.
        port: Port,
        /// The traffic that names it first.
        first_name: String,
        /// The traffic that names it again.
        second_name: String,
    },
    /// There are more than [`MAX_TRAFFICS`].
    #[error("{count} traffics are more than the {MAX_TRAFFICS} that can be watched; merge some")]
    TooManyTraffics {
        /// The first that is too many.
        at: At,
        /// How many there are.
        count: usize,
    },
    /// There are more than [`MAX_PORTS`].
    #[error("{count} ports are more than the {MAX_PORTS} that can be watched; leave some out")]
    TooManyPorts {
        /// The first that is too many.
        at: At,
        /// How many there are.
        count: usize,
    },
    /// Every index belongs, or belonged, to another name.
    #[error(
        "traffic \"{name}\" can't be added, because the counters of removed traffics \
         ({}) are kept; restart peerwatch after `peerwatch uninstall`, or with --ephemeral", removed.join(", ")
    )]
    NoFreeIndex {
        /// The traffic, in the new list.
        at: At,
        /// Its name.
        name: String,
        /// The names that hold an index without being watched.
        removed: Vec<String>,
    },
}

impl TrafficError {
    /// Where the trouble is; of two places the later one first.
    #[must_use]
    pub fn places(&self) -> [At; 2] {
        match *self {
            Self::PortTaken { first, second, .. } => [second, first],
            Self::Name { at, .. }
            | Self::DuplicateName { at, .. }
            | Self::NoPorts { at, .. }
            | Self::TooManyTraffics { at, .. }
            | Self::TooManyPorts { at, .. }
            | Self::NoFreeIndex { at, .. } => [at, at],
        }
    }
}

/// The traffics that are watched: valid names, each port once, at most [`MAX_TRAFFICS`] with together
/// at most [`MAX_PORTS`] ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Traffics {
    /// In the order of their indexes.
    list: Vec<Traffic>,
    /// Indexes of traffics that a reload removed. A name that comes back takes its index again, so
    /// that its counters go on.
    retired: Vec<(u8, String)>,
}

/// The traffics that are watched unless a file says otherwise: Delivery Optimization between peers,
/// Teredo (RFC 4380 section 2.7), and HTTPS over TCP and QUIC.
#[must_use]
pub fn builtin() -> Vec<(String, Vec<Port>)> {
    let port = |protocol, number| Port { protocol, number };
    vec![
        ("do_peer".into(), vec![port(Protocol::Tcp, 7680)]),
        ("teredo".into(), vec![port(Protocol::Udp, 3544)]),
        (
            "https".into(),
            vec![port(Protocol::Tcp, 443), port(Protocol::Udp, 443)],
        ),
    ]
}

fn valid_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl Traffics {
    /// Traffics of names and ports; indexes follow the order of the list.
    ///
    /// # Errors
    ///
    /// The first of the [`TrafficError`]s that the list has.
    pub fn new(list: Vec<(String, Vec<Port>)>) -> Result<Self, TrafficError> {
        let count = list.len();
        let total = list.iter().map(|(_, ports)| ports.len()).sum();
        let mut seen: Vec<(Port, At)> = Vec::new();
        let mut traffics: Vec<Traffic> = Vec::new();
        for (position, (name, ports)) in list.into_iter().enumerate() {
            let at = At {
                traffic: position,
                port: None,
            };
            if !valid_name(&name) {
                return Err(TrafficError::Name { at, name });
            }
            if traffics.iter().any(|t| t.name == name) {
                return Err(TrafficError::DuplicateName { at, name });
            }
            if ports.is_empty() {
                return Err(TrafficError::NoPorts { at, name });
            }
            let index = u8::try_from(position)
                .ok()
                .filter(|i| *i < MAX_TRAFFICS)
                .ok_or(TrafficError::TooManyTraffics { at, count })?;
            for (n, port) in ports.iter().enumerate() {
                let here = At {
                    traffic: position,
                    port: Some(n),
                };
                if let Some((_, first)) = seen.iter().find(|(other, _)| other == port) {
                    return Err(TrafficError::PortTaken {
                        first: *first,
                        second: here,
                        port: *port,
                        first_name: traffics
                            .get(first.traffic)
                            .map_or_else(|| name.clone(), |traffic| traffic.name.clone()),
                        second_name: name,
                    });
                }
                if seen.len() == MAX_PORTS {
                    return Err(TrafficError::TooManyPorts {
                        at: here,
                        count: total,
                    });
                }
                seen.push((*port, here));
            }
            traffics.push(Traffic {
                index,
                name,
                ports,
                watch: Watch::default(),
            });
        }
        Ok(Self {
            list: traffics,
            retired: Vec::new(),
        })
    }

    /// The same traffics, watched so: one for each, in the order of their indexes. Those for which
    /// there is none stay as they are.
    #[must_use]
    pub fn watched(mut self, watches: impl IntoIterator<Item = Watch>) -> Self {
        for (traffic, watch) in self.list.iter_mut().zip(watches) {
            traffic.watch = watch;
        }
        self
    }

    /// The traffics, in the order of their indexes.
    pub fn iter(&self) -> std::slice::Iter<'_, Traffic> {
        self.list.iter()
    }

    /// The traffic of an index; `None` where none is watched under it now.
    #[must_use]
    pub fn get(&self, index: u8) -> Option<&Traffic> {
        self.list.iter().find(|traffic| traffic.index == index)
    }

    /// How many traffics there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many ports all traffics have together.
    #[must_use]
    pub fn port_count(&self) -> usize {
        self.list.iter().map(|traffic| traffic.ports.len()).sum()
    }

    /// The table that the kernel programs look ports up in: index is the port in network byte order,
    /// value the traffic's index + 1.
    #[must_use]
    #[expect(
        clippy::large_stack_arrays,
        reason = "128 KiB, at start and at a reload only"
    )]
    pub fn port_table(&self) -> Box<PortTable> {
        let mut table = Box::new(PortTable {
            tcp: [UNWATCHED; 65536],
            udp: [UNWATCHED; 65536],
        });
        for traffic in &self.list {
            for port in &traffic.ports {
                let row = match port.protocol {
                    Protocol::Tcp => &mut table.tcp,
                    Protocol::Udp => &mut table.udp,
                };
                row[usize::from(port.number.to_be())] = traffic.index + 1;
            }
        }
        table
    }

    /// Nothing to watch, but the names of traffics whose counters are there already, by index.
    #[must_use]
    pub fn known(names: &[(u8, String)]) -> Self {
        Self {
            list: Vec::new(),
            retired: names.to_vec(),
        }
    }

    /// Index and name of every traffic that has counters, also of those that are watched no more.
    #[must_use]
    pub fn owners(&self) -> Vec<(u8, String)> {
        let watched = self.list.iter();
        let watched = watched.map(|traffic| (traffic.index, traffic.name.clone()));
        watched.chain(self.retired.iter().cloned()).collect()
    }

    /// The new traffics, watched as the new configuration says, with the indexes that they have from now
    /// on: a name that has counters keeps its index, another gets one that no name ever had.
    ///
    /// # Errors
    ///
    /// [`TrafficError::NoFreeIndex`] where every index has had a name; places are those in `new`.
    pub fn merge_reload(&self, new: Self) -> Result<Self, TrafficError> {
        let mut owners: Vec<(u8, String)> = self
            .list
            .iter()
            .map(|traffic| (traffic.index, traffic.name.clone()))
            .chain(self.retired.iter().cloned())
            .collect();
        let names: Vec<String> = new
            .list
            .iter()
            .map(|traffic| traffic.name.clone())
            .collect();
        let mut list = new.list;
        for (position, traffic) in list.iter_mut().enumerate() {
            if let Some((index, _)) = owners.iter().find(|(_, name)| *name == traffic.name) {
                traffic.index = *index;
                continue;
            }
            let free = (0..MAX_TRAFFICS).find(|i| owners.iter().all(|(taken, _)| taken != i));
            let Some(index) = free else {
                let removed = owners.into_iter().map(|(_, name)| name);
                return Err(TrafficError::NoFreeIndex {
                    at: At {
                        traffic: position,
                        port: None,
                    },
                    name: traffic.name.clone(),
                    removed: removed.filter(|name| !names.contains(name)).collect(),
                });
            };
            traffic.index = index;
            owners.push((index, traffic.name.clone()));
        }
        owners.retain(|(_, name)| !names.contains(name));
        list.sort_by_key(|traffic| traffic.index);
        Ok(Self {
            list,
            retired: owners,
        })
    }
}

impl<'a> IntoIterator for &'a Traffics {
    type Item = &'a Traffic;
    type IntoIter = std::slice::Iter<'a, Traffic>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

#[cfg(test)]
mod tests;
