//! BTF as a list of types, read and written: names, references and numbers told apart.
//!
//! The daemon has a reader of its own, which answers questions and copies nothing. This one is for
//! taking BTF apart and putting it together again. The format is that of the kernel's
//! `include/uapi/linux/btf.h`; only little-endian files are read.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};

/// Magic number and version, as they begin a file.
pub(super) const START: [u8; 3] = [0x9f, 0xeb, 1];
/// Length of the header that is written, in bytes.
const HEADER: u32 = 24;

/// Codes of kinds: `BTF_KIND_*`.
pub(super) mod kind {
    pub(crate) const INT: u8 = 1;
    pub(crate) const POINTER: u8 = 2;
    pub(crate) const ARRAY: u8 = 3;
    pub(crate) const STRUCT: u8 = 4;
    pub(crate) const UNION: u8 = 5;
    pub(crate) const ENUM: u8 = 6;
    pub(crate) const FORWARD: u8 = 7;
    pub(crate) const TYPEDEF: u8 = 8;
    pub(crate) const VOLATILE: u8 = 9;
    pub(crate) const CONST: u8 = 10;
    pub(crate) const RESTRICT: u8 = 11;
    pub(crate) const FUNC: u8 = 12;
    pub(crate) const FUNC_PROTO: u8 = 13;
    pub(crate) const VAR: u8 = 14;
    pub(crate) const DATASEC: u8 = 15;
    pub(crate) const FLOAT: u8 = 16;
    pub(crate) const DECL_TAG: u8 = 17;
    pub(crate) const TYPE_TAG: u8 = 18;
    pub(crate) const ENUM64: u8 = 19;
}

/// What a number in a type is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// Where a name begins in the strings.
    Name,
    /// The number of another type.
    Type,
    /// Only a number.
    Number,
}

/// A type.
#[derive(Clone, Debug)]
pub(super) struct Type {
    /// Its name, empty for none.
    pub(super) name: String,
    /// One of [`kind`].
    pub(super) kind: u8,
    /// The flag of its kind.
    pub(super) flag: bool,
    /// Number of its members, values or parameters.
    pub(super) vlen: u16,
    /// Bytes, or the type that it refers to, as the kind has it.
    pub(super) size_or_target: u32,
    /// Whatever follows. A name is where it begins in the file's strings.
    pub(super) body: Vec<u32>,
}

impl Type {
    /// Whether [`Self::size_or_target`] is a type.
    pub(super) fn has_target(&self) -> bool {
        matches!(
            self.kind,
            kind::POINTER
                | kind::TYPEDEF
                | kind::VOLATILE
                | kind::CONST
                | kind::RESTRICT
                | kind::FUNC
                | kind::FUNC_PROTO
                | kind::VAR
                | kind::DECL_TAG
                | kind::TYPE_TAG
        )
    }

    /// The body's numbers, each with what it is.
    pub(super) fn parts(&self) -> impl Iterator<Item = (Part, u32)> + '_ {
        // An unknown kind was refused when the type was read.
        let pattern = pattern(self.kind).unwrap_or_default();
        pattern
            .iter()
            .copied()
            .cycle()
            .zip(self.body.iter().copied())
    }
}

/// What the body of a kind repeats for each element.
fn pattern(kind: u8) -> Option<&'static [Part]> {
    use Part::{Name, Number, Type};
    Some(match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => &[Number],
        kind::ARRAY => &[Type, Type, Number],
        kind::STRUCT | kind::UNION => &[Name, Type, Number],
        kind::ENUM => &[Name, Number],
        kind::ENUM64 => &[Name, Number, Number],
        kind::FUNC_PROTO => &[Name, Type],
        kind::DATASEC => &[Type, Number, Number],
        kind::POINTER
        | kind::FORWARD
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FUNC
        | kind::FLOAT
        | kind::TYPE_TAG => &[],
        _ => return None,
    })
}

/// BTF, read.
#[derive(Debug)]
pub(super) struct Types {
    bytes: Vec<u8>,
    list: Vec<Type>,
    strings: Vec<u8>,
}

impl Types {
    /// Reads the file that `bytes` begin with; more may follow.
    ///
    /// # Errors
    ///
    /// When it breaks the format, or has a kind that is not known here.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        if !bytes.starts_with(&START) {
            bail!("no BTF");
        }
        let header = word(bytes, 4)?;
        let section = |at| -> Result<(usize, usize)> {
            let start = u64::from(header) + u64::from(word(bytes, at)?);
            let end = start + u64::from(word(bytes, at + 4)?);
            if header < HEADER || end > bytes.len() as u64 {
                bail!("a section beyond the end");
            }
            Ok((usize::try_from(start)?, usize::try_from(end)?))
        };
        let (at, types_end) = section(8)?;
        let (strings, end) = section(16)?;
        let mut read = Self {
            bytes: bytes[..end.max(types_end)].to_vec(),
            list: Vec::new(),
            strings: bytes[strings..end].to_vec(),
        };
        read.read_types(&bytes[at..types_end])?;
        Ok(read)
    }

    fn read_types(&mut self, section: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < section.len() {
            let info = word(section, at + 4)?;
            let kind = ((info >> 24) & 0x1f) as u8;
            let vlen = (info & 0xffff) as u16;
            let pattern = pattern(kind)
                .with_context(|| format!("type {} is of kind {kind}", self.list.len() + 1))?;
            let elements = match kind {
                kind::INT | kind::VAR | kind::DECL_TAG | kind::ARRAY => 1,
                _ => usize::from(vlen),
            };
            let body = (0..pattern.len() * elements)
                .map(|index| word(section, at + 12 + 4 * index))
                .collect::<Result<Vec<_>>>()?;
            let next = at + 12 + 4 * body.len();
            self.list.push(Type {
                name: self.name(word(section, at)?)?.to_owned(),
                kind,
                flag: info >> 31 == 1,
                vlen,
                size_or_target: word(section, at + 8)?,
                body,
            });
            at = next;
        }
        Ok(())
    }

    /// The file itself.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All types with their numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Type)> {
        (1..).zip(&self.list)
    }

    /// The type of this number; none for 0, which is `void`.
    ///
    /// # Errors
    ///
    /// When there is no such type.
    pub(super) fn get(&self, id: u32) -> Result<Option<&Type>> {
        let Some(index) = id.checked_sub(1) else {
            return Ok(None);
        };
        let found = self.list.get(usize::try_from(index)?);
        found.map(Some).with_context(|| format!("no type {id}"))
    }

    /// The string that begins there.
    ///
    /// # Errors
    ///
    /// When none does.
    pub(super) fn name(&self, offset: u32) -> Result<&str> {
        let tail = self.strings.get(usize::try_from(offset)?..);
        let name = tail.and_then(|tail| tail.split(|&byte| byte == 0).next());
        Ok(std::str::from_utf8(name.context("a name beyond the end")?)?)
    }
}

/// The number at `at`.
fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    Ok(u32::from_le_bytes(*bytes.context("cut short")?))
}

/// BTF that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    known: HashMap<String, u32>,
}

impl Writer {
    /// Without types yet.
    pub(super) fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            known: HashMap::from([(String::new(), 0)]),
        }
    }

    /// Appends a type. Names in its body begin where [`Self::name`] said.
    ///
    /// # Errors
    ///
    /// When the file gets too long.
    pub(super) fn add(&mut self, ty: &Type) -> Result<()> {
        let info = u32::from(ty.flag) << 31 | u32::from(ty.kind) << 24 | u32::from(ty.vlen);
        let words = [self.name(&ty.name)?, info, ty.size_or_target];
        for word in words.iter().chain(&ty.body) {
            self.types.extend(word.to_le_bytes());
        }
        Ok(())
    }

    /// Where a string begins, which is added when it is new.
    ///
    /// # Errors
    ///
    /// When the file gets too long.
    pub(super) fn name(&mut self, name: &str) -> Result<u32> {
        if let Some(&offset) = self.known.get(name) {
            return Ok(offset);
        }
        let offset = u32::try_from(self.strings.len())?;
        self.strings.extend(name.bytes());
        self.strings.push(0);
        self.known.insert(name.to_owned(), offset);
        Ok(offset)
    }

    /// The file.
    ///
    /// # Errors
    ///
    /// When it got too long.
    pub(super) fn finish(self) -> Result<Vec<u8>> {
        let types = u32::try_from(self.types.len())?;
        let strings = u32::try_from(self.strings.len())?;
        let mut file = START.to_vec();
        file.push(0);
        for word in [HEADER, 0, types, types, strings] {
            file.extend(word.to_le_bytes());
        }
        file.extend(self.types);
        file.extend(self.strings);
        Ok(file)
    }
}
