//! From a dotted path to the place of a field.

use std::collections::HashSet;

use super::raw::{Kind, Type};
use super::{Btf, BtfError, Field, MAX_CHAIN};

/// A member, found directly or within anonymous members.
#[derive(Clone, Copy)]
struct Member {
    /// Bits from the start of the struct.
    bit_offset: u64,
    /// Width of a bit-field, 0 for an ordinary member.
    bit_size: u32,
    /// Number of its type.
    type_id: u32,
}

impl Btf {
    /// Where the field of a dotted path lies: `sk_buff.len`, `net_device.nd_net.net`.
    ///
    /// The first component names a struct or union, each further one a member of what stands before
    /// it, also when the member sits in anonymous structs or unions. Names and qualifiers of types
    /// are looked through; pointers and arrays are not followed.
    ///
    /// # Errors
    ///
    /// [`BtfError::MissingType`], [`BtfError::MissingField`] or [`BtfError::NotAStruct`], which name
    /// the path and the component; [`BtfError::Ambiguous`] when structs of the same name have the
    /// field in different places; [`BtfError::Malformed`] for corrupt data.
    pub fn field(&self, path: &str) -> Result<Field, BtfError> {
        let (name, members) = path.split_once('.').ok_or_else(|| BtfError::NotAStruct {
            path: path.to_owned(),
            component: path.to_owned(),
        })?;
        // Drivers do reuse names; what counts is that all that have the field agree.
        let mut found: Option<Field> = None;
        let mut failure = None;
        for id in self.structs_named(name) {
            match self.field_of(id, name, members, path) {
                Ok(field) if *found.get_or_insert(field) == field => {}
                Ok(_) => {
                    return Err(BtfError::Ambiguous {
                        path: path.to_owned(),
                    });
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        found.ok_or_else(|| {
            failure.unwrap_or_else(|| BtfError::MissingType {
                kind: "struct",
                name: name.to_owned(),
            })
        })
    }

    fn field_of(&self, id: u32, name: &str, members: &str, path: &str) -> Result<Field, BtfError> {
        let mut here = Member {
            bit_offset: 0,
            bit_size: 0,
            type_id: id,
        };
        let mut component = name;
        for next in members.split('.') {
            let composite = self
                .resolve(here.type_id)?
                .filter(|ty| here.bit_size == 0 && matches!(ty.kind, Kind::Struct | Kind::Union))
                .ok_or_else(|| BtfError::NotAStruct {
                    path: path.to_owned(),
                    component: component.to_owned(),
                })?;
            let member = self
                .member(&composite, next)?
                .ok_or_else(|| BtfError::MissingField {
                    path: path.to_owned(),
                    component: next.to_owned(),
                })?;
            here = Member {
                bit_offset: here.bit_offset + member.bit_offset,
                ..member
            };
            component = next;
        }
        self.place(here)
    }

    /// The member `name` of a struct or union, also inside anonymous members.
    fn member(&self, composite: &Type, name: &str) -> Result<Option<Member>, BtfError> {
        let mut pending = vec![(*composite, 0_u64)];
        // C forbids the same member name twice, so no anonymous type need be searched twice; and a
        // corrupt file cannot make the search endless.
        let mut searched = HashSet::new();
        while let Some((ty, base)) = pending.pop() {
            for index in 0..ty.vlen {
                let at = ty.body + index * 12;
                let member_name = self.u32_at(at)?;
                let type_id = self.u32_at(at + 4)?;
                let offset = self.u32_at(at + 8)?;
                let (bit_size, bits) = if ty.flag {
                    (offset >> 24, offset & 0x00ff_ffff)
                } else {
                    (0, offset)
                };
                let bit_offset = base + u64::from(bits);
                if member_name == 0 {
                    let id = self.resolve_id(type_id)?;
                    if id != 0 && bit_size == 0 {
                        let inner = self.type_at(id)?;
                        if matches!(inner.kind, Kind::Struct | Kind::Union) && searched.insert(id) {
                            pending.push((inner, bit_offset));
                        }
                    }
                } else if self.name_is(member_name, name) {
                    return Ok(Some(Member {
                        bit_offset,
                        bit_size,
                        type_id,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Which bytes to load for a member, and which of their bits.
    fn place(&self, member: Member) -> Result<Field, BtfError> {
        let Member {
            mut bit_offset,
            mut bit_size,
            type_id,
        } = member;
        let malformed = |what| BtfError::Malformed {
            what,
            offset: type_id as usize,
        };
        // Structs without the flag have bit-fields of an integer type that says its own width.
        if bit_size == 0
            && let Some(ty) = self.resolve(type_id)?
            && ty.kind == Kind::Int
        {
            let encoding = self.u32_at(ty.body)?;
            let width = encoding & 0xff;
            if u64::from(width) != u64::from(ty.size_or_target) * 8 {
                bit_size = width;
                bit_offset += u64::from((encoding >> 16) & 0xff);
            }
        }
        let byte =
            |bits: u64| u32::try_from(bits / 8).map_err(|_| malformed("a member beyond 4 GiB"));
        if bit_size == 0 {
            if bit_offset % 8 != 0 {
                return Err(malformed("a member that begins within a byte"));
            }
            let size = self.size_of(type_id)?;
            return Ok(Field {
                offset: byte(bit_offset)?,
                size,
                bit_offset: 0,
                bit_size: 0,
            });
        }
        for size in [1_u32, 2, 4, 8] {
            let unit = size * 8;
            let shift = u32::try_from(bit_offset % u64::from(unit)).unwrap_or_default();
            if shift + bit_size <= unit {
                return Ok(Field {
                    offset: byte(bit_offset - u64::from(shift))?,
                    size,
                    bit_offset: if self.big_endian {
                        unit - shift - bit_size
                    } else {
                        shift
                    },
                    bit_size,
                });
            }
        }
        Err(malformed("a bit-field that no aligned load holds"))
    }

    /// Bytes of a type.
    fn size_of(&self, id: u32) -> Result<u32, BtfError> {
        let malformed = |what| BtfError::Malformed {
            what,
            offset: id as usize,
        };
        let mut count = 1_u64;
        let mut at = id;
        for _ in 0..MAX_CHAIN {
            let ty = self
                .resolve(at)?
                .ok_or_else(|| malformed("a member of type void"))?;
            let size = match ty.kind {
                Kind::Int
                | Kind::Struct
                | Kind::Union
                | Kind::Enum
                | Kind::Enum64
                | Kind::Float => ty.size_or_target,
                Kind::Pointer => self.pointer_size,
                Kind::Array => {
                    at = self.u32_at(ty.body)?;
                    count = count
                        .checked_mul(u64::from(self.u32_at(ty.body + 8)?))
                        .ok_or_else(|| malformed("an array beyond 4 GiB"))?;
                    continue;
                }
                _ => return Err(malformed("a member whose type has no size")),
            };
            return count
                .checked_mul(u64::from(size))
                .and_then(|bytes| u32::try_from(bytes).ok())
                .ok_or_else(|| malformed("a member beyond 4 GiB"));
        }
        Err(malformed("a cycle of types"))
    }
}
