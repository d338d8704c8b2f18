//! The format itself: header, types and strings, each access checked.

use std::borrow::Cow;

use super::{Btf, BtfError, MAX_CHAIN, MAX_NAME};

const MAGIC: u16 = 0xeb9f;
/// Length of the part of the header that version 1 has always had, in bytes.
const HEADER: usize = 24;
/// Length of what every type begins with, in bytes: name, info, size or type.
const TYPE: usize = 12;

/// What a type is: `BTF_KIND_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Int,
    Pointer,
    Array,
    Struct,
    Union,
    Enum,
    Forward,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    DataSec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Int,
            2 => Self::Pointer,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Forward,
            8 => Self::Typedef,
            9 => Self::Volatile,
            10 => Self::Const,
            11 => Self::Restrict,
            12 => Self::Func,
            13 => Self::FuncProto,
            14 => Self::Var,
            15 => Self::DataSec,
            16 => Self::Float,
            17 => Self::DeclTag,
            18 => Self::TypeTag,
            19 => Self::Enum64,
            _ => return None,
        })
    }

    /// Bytes that follow the common part of a type with `vlen` elements.
    fn body_len(self, vlen: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::DataSec | Self::Enum64 => 12 * vlen,
            Self::Enum | Self::FuncProto => 8 * vlen,
            Self::Pointer
            | Self::Forward
            | Self::Typedef
            | Self::Volatile
            | Self::Const
            | Self::Restrict
            | Self::Func
            | Self::Float
            | Self::TypeTag => 0,
        }
    }

    /// The type only names or qualifies another one: its layout is that one's.
    pub(super) fn is_modifier(self) -> bool {
        matches!(
            self,
            Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag
        )
    }
}

/// The common part of a type, and where the rest of it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    /// Offset of the name in the strings; 0 for none.
    pub(super) name: u32,
    pub(super) kind: Kind,
    /// The kind's flag: bit-fields have their width beside them, an enum is signed, a forward
    /// declaration is of a union.
    pub(super) flag: bool,
    /// Number of members, values or parameters.
    pub(super) vlen: usize,
    /// Size in bytes or number of the type that this one refers to, as the kind has it.
    pub(super) size_or_target: u32,
    /// Where in the file the rest begins.
    pub(super) body: usize,
}

impl Btf {
    /// Parses BTF as the kernel offers it, of either byte order.
    ///
    /// # Errors
    ///
    /// [`BtfError::Malformed`] or [`BtfError::UnknownKind`].
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let malformed = |what, offset| BtfError::Malformed { what, offset };
        if data.len() < HEADER {
            return Err(malformed("shorter than its header", data.len()));
        }
        if u32::try_from(data.len()).is_err() {
            return Err(malformed("longer than 4 GiB", data.len()));
        }
        let big_endian = match [data[0], data[1]] {
            magic if magic == MAGIC.to_le_bytes() => false,
            magic if magic == MAGIC.to_be_bytes() => true,
            _ => return Err(malformed("no BTF magic number", 0)),
        };
        if data[2] != 1 {
            return Err(malformed("a version other than 1", 2));
        }
        let mut btf = Self {
            data,
            big_endian,
            types: Vec::new(),
            structs: Vec::new(),
            strings: 0..0,
            pointer_size: 8,
        };
        let header = btf.u32_at(4)? as usize;
        if header < HEADER {
            return Err(malformed("a header length below 24", 4));
        }
        let types = btf.section(header, 8, "types beyond the end")?;
        btf.strings = btf.section(header, 16, "strings beyond the end")?;
        btf.index(types)?;
        Ok(btf)
    }

    /// The section whose offset behind the header and whose length stand at `at`.
    fn section(
        &self,
        header: usize,
        at: usize,
        what: &'static str,
    ) -> Result<std::ops::Range<usize>, BtfError> {
        let malformed = || BtfError::Malformed { what, offset: at };
        let start = header
            .checked_add(self.u32_at(at)? as usize)
            .ok_or_else(malformed)?;
        let end = start
            .checked_add(self.u32_at(at + 4)? as usize)
            .ok_or_else(malformed)?;
        if end > self.data.len() {
            return Err(malformed());
        }
        Ok(start..end)
    }

    /// Notes where each type begins, and checks that all of it lies within the section.
    fn index(&mut self, section: std::ops::Range<usize>) -> Result<(), BtfError> {
        // vmlinux has some 20 bytes a type; a little too much is cheaper than growing.
        self.types.reserve(section.len() / 20);
        let mut at = section.start;
        while at < section.end {
            if section.end - at < TYPE {
                return Err(BtfError::Malformed {
                    what: "a type that is cut short",
                    offset: at,
                });
            }
            let ty = self.decode(at)?;
            let end = ty.body + ty.kind.body_len(ty.vlen);
            if end > section.end {
                return Err(BtfError::Malformed {
                    what: "a type that is cut short",
                    offset: at,
                });
            }
            self.types.push(offset_u32(at)?);
            match ty.kind {
                Kind::Struct | Kind::Union if ty.name != 0 => {
                    self.structs.push(offset_u32(self.types.len())?);
                }
                // A pointer has no size of its own; the kernel's `long` has the same one on every
                // machine that Linux runs on.
                Kind::Int
                    if matches!(ty.size_or_target, 4 | 8)
                        && (self.name_is(ty.name, "long unsigned int")
                            || self.name_is(ty.name, "unsigned long")) =>
                {
                    self.pointer_size = ty.size_or_target;
                }
                _ => {}
            }
            at = end;
        }
        Ok(())
    }

    /// The numbers of all types.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + use<> {
        (1..).take(self.types.len())
    }

    /// The type of this number, which must not be 0 (`void`).
    pub(super) fn type_at(&self, id: u32) -> Result<Type, BtfError> {
        let at = (id as usize)
            .checked_sub(1)
            .and_then(|index| self.types.get(index));
        let &at = at.ok_or(BtfError::Malformed {
            what: "a reference to a type that does not exist",
            offset: id as usize,
        })?;
        self.decode(at as usize)
    }

    /// The type behind names and qualifiers; `None` for `void`.
    pub(super) fn resolve(&self, id: u32) -> Result<Option<Type>, BtfError> {
        Ok(match self.resolve_id(id)? {
            0 => None,
            id => Some(self.type_at(id)?),
        })
    }

    /// The number of the type behind names and qualifiers.
    pub(super) fn resolve_id(&self, mut id: u32) -> Result<u32, BtfError> {
        for _ in 0..MAX_CHAIN {
            if id == 0 {
                return Ok(0);
            }
            let ty = self.type_at(id)?;
            if !ty.kind.is_modifier() {
                return Ok(id);
            }
            id = ty.size_or_target;
        }
        Err(BtfError::Malformed {
            what: "a cycle of types",
            offset: id as usize,
        })
    }

    fn decode(&self, at: usize) -> Result<Type, BtfError> {
        let info = self.u32_at(at + 4)?;
        let code = ((info >> 24) & 0x1f) as u8;
        let kind = Kind::from_code(code).ok_or(BtfError::UnknownKind {
            id: self.types.len() + 1,
            kind: code,
        })?;
        Ok(Type {
            name: self.u32_at(at)?,
            kind,
            flag: info >> 31 == 1,
            vlen: (info & 0xffff) as usize,
            size_or_target: self.u32_at(at + 8)?,
            body: at + TYPE,
        })
    }

    /// The number at `offset` bytes of the file.
    pub(super) fn u32_at(&self, offset: usize) -> Result<u32, BtfError> {
        let bytes = self
            .data
            .get(offset..)
            .and_then(<[u8]>::first_chunk)
            .ok_or(BtfError::Malformed {
                what: "a number beyond the end",
                offset,
            })?;
        Ok(if self.big_endian {
            u32::from_be_bytes(*bytes)
        } else {
            u32::from_le_bytes(*bytes)
        })
    }

    /// Whether the string at `offset` of the strings is `name`; false for one that is cut short.
    pub(super) fn name_is(&self, offset: u32, name: &str) -> bool {
        let tail = self.data[self.strings.clone()]
            .get(offset as usize..)
            .unwrap_or_default();
        tail.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The string at `offset` of the strings.
    pub(super) fn name_at(&self, offset: u32) -> Result<Cow<'_, str>, BtfError> {
        let tail = self.data[self.strings.clone()]
            .get(offset as usize..)
            .unwrap_or_default();
        let end = tail
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(BtfError::Malformed {
                what: "a string without an end",
                offset: self.strings.start.saturating_add(offset as usize),
            })?;
        if end > MAX_NAME {
            return Err(BtfError::Malformed {
                what: "a name that is too long",
                offset: self.strings.start.saturating_add(offset as usize),
            });
        }
        Ok(String::from_utf8_lossy(&tail[..end]))
    }
}

/// A place in the file, or a count of its types, as the index keeps it.
fn offset_u32(value: usize) -> Result<u32, BtfError> {
    u32::try_from(value).map_err(|_| BtfError::Malformed {
        what: "longer than 4 GiB",
        offset: value,
    })
}
