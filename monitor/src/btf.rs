//! Struct layouts, enum values and tracepoint prototypes out of the running kernel's BTF.
//!
//! Rust has no field relocations for BPF programs, so the daemon resolves every kernel field that
//! they read before it loads them. aya's own parser does not expose the members of a struct, hence
//! this one. It keeps the file as it is and an index of where each type begins, copies no strings,
//! and answers each question by a scan: the daemon asks some dozens of questions in its life.
//!
//! The format is the kernel's `include/uapi/linux/btf.h`, documented in
//! `Documentation/bpf/btf.rst`. Split BTF (that of modules) is not read.
//!
//! Nothing here trusts the input: every offset is checked, every chain of types is followed for a
//! bounded number of steps, and an answer is an error rather than a default.

mod field;
mod raw;
mod render;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use raw::{Kind, Type};

/// Where the kernel offers its own BTF (`CONFIG_DEBUG_INFO_BTF`).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// How many types in a row a chain (typedef of const of typedef …) may have. Real chains stay below
/// ten; a corrupt file can have a cycle.
const MAX_CHAIN: usize = 64;

/// The longest name that is shown, bytes. The kernel takes none of more than 512 (`KSYM_NAME_LEN`); any number of types can
/// share a name, so the file's own length is no limit.
const MAX_NAME: usize = 1024;

/// How many structs of one name are looked at. Drivers reuse some names a few times; a corrupt file can have each of many
/// structs lead to the same large one.
const MAX_NAMESAKES: usize = 16;

/// What can be wrong with BTF, or missing from it.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data breaks the format.
    #[error("malformed BTF: {what}, at byte {offset}")]
    Malformed {
        /// Which rule of the format it breaks.
        what: &'static str,
        /// Where in the file, in bytes.
        offset: usize,
    },
    /// A kind of type that this parser does not know, whose length is therefore unknown too.
    #[error("BTF type {id} is of the unknown kind {kind}")]
    UnknownKind {
        /// Number of the type.
        id: usize,
        /// Code of the kind.
        kind: u8,
    },
    /// There is no such struct, union, enum or tracepoint.
    #[error("this kernel's BTF has no {kind} `{name}`")]
    MissingType {
        /// What was looked for: `struct`, `enum`, `tracepoint`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A struct on the path has no such member.
    #[error("this kernel's BTF has no `{component}` in `{path}`")]
    MissingField {
        /// The path as asked for.
        path: String,
        /// The component of it that is missing.
        component: String,
    },
    /// A component in the middle of a path is a pointer, a number or the like, or the path has one
    /// component only.
    #[error("in `{path}`, `{component}` is no struct that has members to go on with")]
    NotAStruct {
        /// The path as asked for.
        path: String,
        /// The component of it that has no members.
        component: String,
    },
    /// Several structs share the name, and they disagree on where the field is.
    #[error("this kernel's BTF has different places for `{path}`")]
    Ambiguous {
        /// The path, or the name of the struct.
        path: String,
    },
}

/// Where a field lies in its outermost struct.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Field {
    /// Bytes from the start of the outermost struct to the first byte to load.
    pub offset: u32,
    /// How many bytes to load. Of a bit-field the smallest of 1, 2, 4 and 8 whose aligned load holds
    /// all of it.
    pub size: u32,
    /// Of a bit-field, how far to shift the loaded number to the right, the load being one of `size`
    /// bytes in the byte order of the kernel's machine; 0 otherwise. On a little-endian machine this
    /// is the number of bits from `offset`'s lowest; on a big-endian one, where the format counts
    /// bits from the highest, it is already turned around.
    pub bit_offset: u32,
    /// Of a bit-field, its width in bits; 0 for an ordinary field.
    pub bit_size: u32,
}

/// A parsed BTF file.
#[derive(Debug)]
pub struct Btf {
    /// The file.
    data: Vec<u8>,
    /// The file is in big-endian order.
    big_endian: bool,
    /// Where each type begins in `data`; the index is its number less one (number 0 is `void`).
    types: Vec<u32>,
    /// The numbers of all structs and unions that have a name.
    structs: Vec<u32>,
    /// Where in `data` the strings begin and end.
    strings: std::ops::Range<usize>,
    /// Bytes of a pointer.
    pointer_size: u32,
}

impl Btf {
    /// Parses the file at `path`, for example [`VMLINUX`].
    ///
    /// # Errors
    ///
    /// [`BtfError::Read`] when the file cannot be read, and those of [`Btf::parse`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, BtfError> {
        let path = path.as_ref();
        let data = std::fs::read(path).map_err(|source| BtfError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Self::parse(data)
    }

    /// Bytes of the struct or union `name`.
    ///
    /// # Errors
    ///
    /// [`BtfError::MissingType`] when there is none, [`BtfError::Ambiguous`] when there are several of
    /// different sizes, [`BtfError::Malformed`] for corrupt data.
    pub fn size_of_struct(&self, name: &str) -> Result<u32, BtfError> {
        let mut found = None;
        for id in self.structs_named(name) {
            let size = self.type_at(id)?.size_or_target;
            if *found.get_or_insert(size) != size {
                return Err(BtfError::Ambiguous {
                    path: name.to_owned(),
                });
            }
        }
        found.ok_or_else(|| BtfError::MissingType {
            kind: "struct",
            name: name.to_owned(),
        })
    }

    /// The values of the enum `name` in the order of its definition, of the kinds `ENUM` and `ENUM64`.
    ///
    /// Values of an enum that is not marked as signed are read as unsigned ones: what builds BTF
    /// marks them since Linux 6.0 only, and none that the daemon reads has a negative value.
    ///
    /// # Errors
    ///
    /// [`BtfError::MissingType`] when no enum of this name has values, [`BtfError::Malformed`] for
    /// corrupt data or an unsigned value that `i64` cannot hold.
    pub fn enum_values(&self, name: &str) -> Result<Vec<(String, i64)>, BtfError> {
        for id in self.ids() {
            let ty = self.type_at(id)?;
            // A mere declaration is an enum without values.
            if matches!(ty.kind, Kind::Enum | Kind::Enum64)
                && ty.vlen > 0
                && self.name_is(ty.name, name)
            {
                return (0..ty.vlen)
                    .map(|index| self.enum_value(&ty, index))
                    .collect();
            }
        }
        Err(BtfError::MissingType {
            kind: "enum",
            name: name.to_owned(),
        })
    }

    fn enum_value(&self, ty: &Type, index: usize) -> Result<(String, i64), BtfError> {
        let wide = ty.kind == Kind::Enum64;
        let at = ty.body + index * if wide { 12 } else { 8 };
        let low = self.u32_at(at + 4)?;
        let value = if wide {
            let value = u64::from(low) | (u64::from(self.u32_at(at + 8)?) << 32);
            if ty.flag {
                value.cast_signed()
            } else {
                i64::try_from(value).map_err(|_| BtfError::Malformed {
                    what: "an enum value beyond 63 bits",
                    offset: at,
                })?
            }
        } else if ty.flag {
            i64::from(low.cast_signed())
        } else {
            i64::from(low)
        };
        Ok((self.name_at(self.u32_at(at)?)?.into_owned(), value))
    }

    /// The types of the arguments that the tracepoint `name` passes, one readable C type each.
    ///
    /// They are those of the prototype behind the typedef `btf_trace_<name>`, which is what the
    /// verifier checks a `tp_btf` program against. The leading `void *`, private to the kernel's
    /// tracepoint code, is left out, as it is from a program's arguments.
    ///
    /// # Errors
    ///
    /// [`BtfError::MissingType`] when this kernel has no such tracepoint, [`BtfError::Malformed`] for
    /// corrupt data.
    pub fn tracepoint_arguments(&self, name: &str) -> Result<Vec<String>, BtfError> {
        let (_, prototype) = self.tracepoint(name)?;
        (1..prototype.vlen)
            .map(|index| self.render(self.u32_at(prototype.body + index * 8 + 4)?))
            .collect()
    }

    /// The number of the typedef `btf_trace_<name>`, by which a `tp_btf` program names its tracepoint.
    ///
    /// # Errors
    ///
    /// As [`Btf::tracepoint_arguments`].
    pub fn tracepoint_id(&self, name: &str) -> Result<u32, BtfError> {
        Ok(self.tracepoint(name)?.0)
    }

    /// Whether the file is of a kernel with the byte order of this machine.
    #[must_use]
    pub fn has_native_order(&self) -> bool {
        self.big_endian == cfg!(target_endian = "big")
    }

    /// The typedef of a tracepoint, and the prototype behind it.
    fn tracepoint(&self, name: &str) -> Result<(u32, Type), BtfError> {
        let wanted = format!("btf_trace_{name}");
        for id in self.ids() {
            let typedef = self.type_at(id)?;
            if typedef.kind != Kind::Typedef || !self.name_is(typedef.name, &wanted) {
                continue;
            }
            let Some(pointer) = self.resolve(typedef.size_or_target)? else {
                continue;
            };
            if pointer.kind != Kind::Pointer {
                continue;
            }
            let Some(prototype) = self.resolve(pointer.size_or_target)? else {
                continue;
            };
            if prototype.kind == Kind::FuncProto {
                return Ok((id, prototype));
            }
        }
        Err(BtfError::MissingType {
            kind: "tracepoint",
            name: name.to_owned(),
        })
    }

    /// The structs and unions of this name, the first [`MAX_NAMESAKES`].
    fn structs_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let named = self.structs.iter().copied().filter(move |&id| {
            self.type_at(id)
                .is_ok_and(|candidate| self.name_is(candidate.name, name))
        });
        named.take(MAX_NAMESAKES)
    }
}
