//! What a rule compares with what: its expressions, with the registers between them resolved.

use super::expressions::REGISTERS;
use super::rules::{Expression, Field, Kind, Operator, Rule, Verdict};

/// A field that a rule looks at, as it is when it is compared: `(field & mask) ^ xor`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Port {
    /// Which load of a port in the rule it comes from.
    pub(super) load: usize,
    pub(super) mask: u16,
    pub(super) xor: u16,
}

impl Port {
    /// What a port looks like in a comparison.
    pub(super) const fn value(self, port: u16) -> u16 {
        (port & self.mask) ^ self.xor
    }
}

/// What a comparison demands of a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Demand<T> {
    Is(Operator, T),
    Within(T, T),
    NotWithin(T, T),
}

impl<T: Ord + Copy> Demand<T> {
    pub(super) fn holds(self, number: T) -> bool {
        match self {
            Self::Is(Operator::Equal, value) => number == value,
            Self::Is(Operator::NotEqual, value) => number != value,
            Self::Is(Operator::Less, value) => number < value,
            Self::Is(Operator::LessOrEqual, value) => number <= value,
            Self::Is(Operator::Greater, value) => number > value,
            Self::Is(Operator::GreaterOrEqual, value) => number >= value,
            Self::Within(from, to) => (from..=to).contains(&number),
            Self::NotWithin(from, to) => !(from..=to).contains(&number),
        }
    }
}

/// The fields in the key of a lookup, by where they are in it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Key {
    pub(super) ports: Vec<(usize, Port)>,
    pub(super) protocols: Vec<usize>,
}

impl Key {
    pub(super) const fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.protocols.is_empty()
    }
}

/// A step of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step<'a> {
    Port(Port, Demand<u16>),
    Protocol(Demand<u8>),
    Lookup {
        set: &'a str,
        inverted: bool,
        is_verdict: bool,
        key: Key,
    },
    /// Ports that a match of xtables names.
    Ports(&'a [(u16, u16)]),
    Verdict(&'a Verdict),
    Action(&'a str),
}

/// The fields that the registers hold, by where they are in them.
#[derive(Default)]
struct Registers {
    fields: Vec<(Field, Port)>,
    /// Fields that were loaded so far.
    loads: usize,
}

impl Registers {
    /// What was in there is gone. A value that is shorter than the register is said to be as long: what it
    /// overwrites too much is behind it, and a key is put together from its beginning on.
    fn clear(&mut self, at: usize, length: usize) {
        let end = at.saturating_add(length);
        self.fields.retain(|(field, _)| {
            let field_end = field.at.saturating_add(size(field.kind));
            field_end <= at || end <= field.at
        });
    }

    fn load(&mut self, at: usize, length: usize, fields: &[Field]) {
        self.clear(at, length);
        for field in fields {
            let field = Field {
                kind: field.kind,
                at: at.saturating_add(field.at),
            };
            let load = self.loads;
            let (mask, xor) = (u16::MAX, 0);
            self.loads += 1;
            self.put(field, Port { load, mask, xor });
        }
    }

    /// Behind the registers there is nothing.
    fn put(&mut self, field: Field, port: Port) {
        if field.at.saturating_add(size(field.kind)) <= REGISTERS {
            self.fields.push((field, port));
        }
    }

    fn mask(&mut self, source: usize, to: usize, mask: &[u8], xor: &[u8]) {
        let masked: Vec<(Field, Port)> = self
            .fields(source)
            .filter_map(|(field, port)| {
                let (mask, xor) = (of_field(field, mask)?, of_field(field, xor)?);
                let masked = Port {
                    load: port.load,
                    mask: port.mask & mask,
                    xor: (port.xor & mask) ^ xor,
                };
                let at = to.checked_add(field.at)?;
                let kind = field.kind;
                let is_kept = match kind {
                    // Where all of it is masked out, it is not compared.
                    Kind::Port => mask != 0,
                    // Of a part of a protocol's number, nothing is known.
                    Kind::Protocol => (mask, xor) == (0xff, 0),
                };
                is_kept.then_some((Field { kind, at }, masked))
            })
            .collect();
        self.clear(to, mask.len());
        for (field, port) in masked {
            self.put(field, port);
        }
    }

    /// The fields from a register on, by their distance from it.
    fn fields(&self, register: usize) -> impl Iterator<Item = (Field, Port)> {
        self.fields.iter().filter_map(move |(field, port)| {
            let at = field.at.checked_sub(register)?;
            let kind = field.kind;
            Some((Field { kind, at }, *port))
        })
    }

    fn key(&self, register: usize) -> Key {
        let mut key = Key::default();
        for (field, port) in self.fields(register) {
            match field.kind {
                Kind::Port => key.ports.push((field.at, port)),
                Kind::Protocol => key.protocols.push(field.at),
            }
        }
        key
    }
}

/// How long a field is, bytes.
const fn size(kind: Kind) -> usize {
    match kind {
        Kind::Port => 2,
        Kind::Protocol => 1,
    }
}

/// The bytes of a value at a field, as a number.
fn of_field(field: Field, value: &[u8]) -> Option<u16> {
    match field.kind {
        Kind::Port => port_at(value, field.at),
        Kind::Protocol => value.get(field.at).copied().map(u16::from),
    }
}

/// The port at a place of a value.
pub(super) fn port_at(value: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*value.get(at..)?.first_chunk()?))
}

/// The steps of a rule.
pub(super) fn steps(rule: &Rule) -> Vec<Step<'_>> {
    let mut registers = Registers::default();
    let mut steps = Vec::new();
    for expression in &rule.expressions {
        match expression {
            Expression::Load {
                register,
                length,
                fields,
            } => registers.load(*register, *length, fields),
            Expression::Mask {
                source,
                register,
                mask,
                xor,
            } => registers.mask(*source, *register, mask, xor),
            Expression::Compare {
                register,
                operator,
                value,
            } => compare(&registers, *register, *operator, value, &mut steps),
            Expression::Range {
                register,
                inverted,
                from,
                to,
            } => range(&registers, *register, *inverted, (from, to), &mut steps),
            Expression::Lookup {
                register,
                set,
                inverted,
                is_verdict,
            } => steps.push(Step::Lookup {
                set,
                inverted: *inverted,
                is_verdict: *is_verdict,
                key: registers.key(*register),
            }),
            Expression::Protocol { number, inverted } => {
                let operator = if *inverted {
                    Operator::NotEqual
                } else {
                    Operator::Equal
                };
                steps.push(Step::Protocol(Demand::Is(operator, *number)));
            }
            Expression::Ports { protocol, ranges } => {
                if let Some(number) = protocol {
                    steps.push(Step::Protocol(Demand::Is(Operator::Equal, *number)));
                }
                steps.push(Step::Ports(ranges));
            }
            Expression::Verdict(verdict) => steps.push(Step::Verdict(verdict)),
            Expression::Action(word) => steps.push(Step::Action(word)),
        }
    }
    steps
}

fn compare(
    registers: &Registers,
    register: usize,
    operator: Operator,
    value: &[u8],
    steps: &mut Vec<Step<'_>>,
) {
    let is_exact = matches!(operator, Operator::Equal | Operator::NotEqual);
    for (field, port) in registers.fields(register) {
        // In an order by all bytes, only the first field has an order of its own.
        if !is_exact && field.at != 0 {
            continue;
        }
        match field.kind {
            Kind::Port => steps.extend(
                port_at(value, field.at).map(|value| Step::Port(port, Demand::Is(operator, value))),
            ),
            Kind::Protocol => steps.extend(
                value
                    .get(field.at)
                    .map(|value| Step::Protocol(Demand::Is(operator, *value))),
            ),
        }
    }
}

fn range(
    registers: &Registers,
    register: usize,
    inverted: bool,
    (from, to): (&[u8], &[u8]),
    steps: &mut Vec<Step<'_>>,
) {
    for (field, port) in registers.fields(register) {
        let step = match field.kind {
            _ if field.at != 0 => None,
            Kind::Port => port_at(from, 0)
                .zip(port_at(to, 0))
                .map(|(from, to)| Step::Port(port, demand(inverted, from, to))),
            Kind::Protocol => from
                .first()
                .zip(to.first())
                .map(|(from, to)| Step::Protocol(demand(inverted, *from, *to))),
        };
        steps.extend(step);
    }
}

const fn demand<T: Copy>(inverted: bool, from: T, to: T) -> Demand<T> {
    if inverted {
        Demand::NotWithin(from, to)
    } else {
        Demand::Within(from, to)
    }
}
