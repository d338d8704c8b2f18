//! Addresses of kernel functions, from `/proc/kallsyms`.
//!
//! A drop's tracepoint carries the address of the code that freed the packet. Where the kernel gives
//! no reason, that place says what happened, so the daemon turns the names of a few functions into
//! ranges of addresses once, at start.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Where the kernel lists its symbols.
pub const KALLSYMS: &str = "/proc/kallsyms";

/// What can be wrong with the list of symbols.
#[derive(Debug, thiserror::Error)]
pub enum KallsymsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not `address type name`.
    #[error("line {line} of the kernel's symbols is not an address, a type and a name")]
    Malformed {
        /// Number of the line, from 1.
        line: usize,
    },
    /// The kernel shows no addresses to this process.
    #[error(
        "the kernel hides the addresses of its symbols: sysctl kernel.kptr_restrict is 2, or this \
         process lacks CAP_SYSLOG"
    )]
    Hidden,
    /// The list has no functions at all.
    #[error("the kernel lists no functions (is CONFIG_KALLSYMS off?)")]
    Empty,
}

/// The addresses of one function, or of one of the parts that the compiler made of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Range {
    /// The name that was asked for.
    pub name: String,
    /// The compiler moved this part out because it hardly ever runs (`name.cold`).
    pub cold: bool,
    /// First address.
    pub start: u64,
    /// First address behind it: that of the next function, or `u64::MAX` for the last one.
    pub end: u64,
}

/// The functions of the running kernel and its modules.
#[derive(Debug)]
pub struct Kallsyms {
    /// Address of each function and where its name begins in `names`, by address.
    functions: Vec<(u64, u32)>,
    /// The names, each with a line feed behind it.
    names: Vec<u8>,
}

impl Kallsyms {
    /// Reads the symbols at `path`, usually [`KALLSYMS`].
    ///
    /// # Errors
    ///
    /// All of [`KallsymsError`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, KallsymsError> {
        let path = path.as_ref();
        let failed = |source| KallsymsError::Read {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        // The kernel hands out a page at a time whatever the buffer; this one saves system calls on
        // a copy of the file.
        Self::parse(BufReader::with_capacity(1 << 16, file)).map_err(|error| match error {
            ParseError::Read(source) => failed(source),
            ParseError::Content(error) => error,
        })
    }

    /// As [`Kallsyms::read`], of bytes in memory.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, KallsymsError> {
        Self::parse(bytes).map_err(|error| match error {
            ParseError::Content(error) => error,
            ParseError::Read(source) => KallsymsError::Read {
                path: PathBuf::new(),
                source,
            },
        })
    }

    fn parse(mut lines: impl BufRead) -> Result<Self, ParseError> {
        let mut functions = Vec::new();
        let mut names = Vec::new();
        let mut hidden = true;
        let mut buffer = Vec::new();
        let mut line = 0;
        while {
            buffer.clear();
            lines
                .read_until(b'\n', &mut buffer)
                .map_err(ParseError::Read)?
                != 0
        } {
            line += 1;
            let malformed = ParseError::Content(KallsymsError::Malformed { line });
            let Some((address, kind, name)) = split(&buffer) else {
                return Err(malformed);
            };
            hidden &= address == 0;
            // Functions, global, local and weak. A function on x86 is preceded by padding with a
            // symbol of its own, `__pfx_…`, which thereby ends the function before.
            if !matches!(kind, b't' | b'T' | b'w' | b'W') || is_label(name) {
                continue;
            }
            let Ok(at) = u32::try_from(names.len()) else {
                return Err(malformed);
            };
            functions.push((address, at));
            names.extend_from_slice(name);
            names.push(b'\n');
        }
        if functions.is_empty() {
            return Err(ParseError::Content(KallsymsError::Empty));
        }
        if hidden {
            return Err(ParseError::Content(KallsymsError::Hidden));
        }
        functions.sort_unstable();
        Ok(Self { functions, names })
    }

    /// The addresses of the functions with these names, by address.
    ///
    /// A name stands for every function that has it (static functions of different files can share
    /// one) and for the parts that compilers make of a function: `name.cold`, `name.isra.0`,
    /// `name.part.0`, `name.constprop.0`, `name.llvm.123`; in the kernel and in modules. A name that
    /// this kernel does not have, because it is inlined or not compiled in, gives nothing.
    #[must_use]
    pub fn ranges(&self, names: &[&str]) -> Vec<Range> {
        let wanted: HashMap<&[u8], &str> =
            names.iter().map(|&name| (name.as_bytes(), name)).collect();
        let mut found = Vec::new();
        for &(start, at) in &self.functions {
            let name = self.name(at);
            let base = name
                .iter()
                .position(|&byte| byte == b'.')
                .unwrap_or(name.len());
            let (base, suffixes) = name.split_at(base);
            let Some(&name) = wanted.get(base) else {
                continue;
            };
            let cold = suffixes
                .split(|&byte| byte == b'.')
                .any(|suffix| suffix == b"cold");
            // Several symbols can stand at one address, so the next one in the list is not enough; and
            // no list is so odd that this takes long.
            let next = self
                .functions
                .partition_point(|&(address, _)| address <= start);
            let end = self
                .functions
                .get(next)
                .map_or(u64::MAX, |&(address, _)| address);
            found.push(Range {
                name: name.to_owned(),
                cold,
                start,
                end,
            });
        }
        found
    }

    fn name(&self, at: u32) -> &[u8] {
        let tail = self.names.get(at as usize..).unwrap_or_default();
        tail.split(|&byte| byte == b'\n').next().unwrap_or_default()
    }
}

/// An error in the making: [`Kallsyms::read`] knows the path.
enum ParseError {
    Read(io::Error),
    Content(KallsymsError),
}

/// Whether a symbol is a mark inside a function and not its beginning (`is_mapping_symbol`,
/// `linux/module_symbol.h`): arm64's compilers leave `$x` where instructions begin and `$d` where data
/// does, and the list keeps those of modules.
fn is_label(name: &[u8]) -> bool {
    name.starts_with(b"$") || name.starts_with(b".L") || name.starts_with(b"L0")
}

/// Address, type and name of a line such as `ffffffffc0401000 t br_forward\t[bridge]`.
fn split(line: &[u8]) -> Option<(u64, u8, &[u8])> {
    let mut fields = line
        .split(u8::is_ascii_whitespace)
        .filter(|part| !part.is_empty());
    let address = std::str::from_utf8(fields.next()?).ok()?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let &[kind] = fields.next()? else { return None };
    Some((address, kind, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000100 T ip_forward
ffffffff81000100 T ip_forward_alias
ffffffff81000180 t __pfx_ip_forward_finish
ffffffff81000190 t ip_forward_finish
ffffffff81000200 t dst_discard
ffffffff81000240 t neigh_flush_dev.isra.0
ffffffff81000300 d data_in_between
ffffffff81000340 t neigh_flush_dev.constprop.0.isra.1
ffffffff81000400 t dst_discard
ffffffff81000480 t ip_forward.cold
ffffffff81000490 W last
ffffffffc0401000 t br_forward\t[bridge]
ffffffffc0401080 t br_forward.part.0.cold\t[bridge]
";

    fn parse(text: &str) -> Result<Kallsyms, KallsymsError> {
        Kallsyms::parse(text.as_bytes()).map_err(|error| match error {
            ParseError::Content(error) => error,
            ParseError::Read(error) => panic!("{error}"),
        })
    }

    fn ranges(names: &[&str]) -> Vec<(String, bool, u64, u64)> {
        let symbols = parse(SAMPLE).unwrap();
        let found = symbols.ranges(names);
        found
            .into_iter()
            .map(|range| (range.name, range.cold, range.start, range.end))
            .collect()
    }

    #[test]
    fn any_number_of_functions_can_stand_at_one_address() {
        let text = "1 t ip_forward\n".repeat(100_000) + "2 t end\n";
        let begin = std::time::Instant::now();
        let ranges = parse(&text).unwrap().ranges(&["ip_forward"]);
        assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
        assert_eq!(ranges.len(), 100_000);
        assert!(
            ranges
                .iter()
                .all(|range| (range.start, range.end) == (1, 2))
        );
    }

    #[test]
    fn a_function_ends_where_the_next_one_begins_and_its_parts_belong_to_it() {
        assert_eq!(
            ranges(&["ip_forward"]),
            [
                (
                    "ip_forward".to_owned(),
                    false,
                    0xffff_ffff_8100_0100,
                    0xffff_ffff_8100_0180
                ),
                (
                    "ip_forward".to_owned(),
                    true,
                    0xffff_ffff_8100_0480,
                    0xffff_ffff_8100_0490
                ),
            ]
        );
    }

    #[test]
    fn data_symbols_end_nothing_and_all_suffixes_count() {
        assert_eq!(
            ranges(&["neigh_flush_dev"]),
            [
                (
                    "neigh_flush_dev".to_owned(),
                    false,
                    0xffff_ffff_8100_0240,
                    0xffff_ffff_8100_0340
                ),
                (
                    "neigh_flush_dev".to_owned(),
                    false,
                    0xffff_ffff_8100_0340,
                    0xffff_ffff_8100_0400
                ),
            ]
        );
    }

    #[test]
    fn functions_that_share_a_name_are_all_found() {
        let starts: Vec<u64> = ranges(&["dst_discard"])
            .iter()
            .map(|range| range.2)
            .collect();
        assert_eq!(starts, [0xffff_ffff_8100_0200, 0xffff_ffff_8100_0400]);
    }

    #[test]
    fn functions_of_modules_are_found_and_the_last_one_has_no_end() {
        assert_eq!(
            ranges(&["br_forward"]),
            [
                (
                    "br_forward".to_owned(),
                    false,
                    0xffff_ffff_c040_1000,
                    0xffff_ffff_c040_1080
                ),
                (
                    "br_forward".to_owned(),
                    true,
                    0xffff_ffff_c040_1080,
                    u64::MAX
                ),
            ]
        );
    }

    #[test]
    fn marks_inside_a_function_do_not_end_it() {
        let text = "ffff800079a01000 t $x\t[bridge]\n\
                    ffff800079a01000 t br_forward\t[bridge]\n\
                    ffff800079a01040 t $d\t[bridge]\n\
                    ffff800079a01048 t $x\t[bridge]\n\
                    ffff800079a01060 t .L12\t[bridge]\n\
                    ffff800079a01080 t br_flood\t[bridge]\n";
        let found = parse(text).unwrap().ranges(&["br_forward"]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].start, found[0].end),
            (0xffff_8000_79a0_1000, 0xffff_8000_79a0_1080)
        );
    }

    #[test]
    fn names_match_as_a_whole() {
        assert_eq!(
            ranges(&["forward", "ip_forwar", "neigh_flush", "cold", "bridge", ""]),
            []
        );
    }

    #[test]
    fn hidden_addresses_are_told_apart_from_missing_ones() {
        let text = "0000000000000000 T _text\n0000000000000000 T ip_forward\n";
        assert!(matches!(parse(text), Err(KallsymsError::Hidden)));
        assert!(matches!(parse(""), Err(KallsymsError::Empty)));
        let text = "ffffffff81000300 d data\n";
        assert!(matches!(parse(text), Err(KallsymsError::Empty)));
    }

    #[test]
    fn a_line_of_another_form_is_named() {
        for line in ["ffffffff81000000 T\n", "x T a\n", "1 TT a\n", "\n"] {
            let text = format!("ffffffff81000000 T _text\n{line}");
            assert!(
                matches!(parse(&text), Err(KallsymsError::Malformed { line: 2 })),
                "{line:?}"
            );
        }
    }

    #[test]
    fn the_running_kernel_has_a_range_for_its_tcp_receive_function() {
        let symbols = Kallsyms::read(KALLSYMS).expect("root, and kernel.kptr_restrict below 2");
        let ranges = symbols.ranges(&["tcp_v4_rcv"]);
        let main: Vec<&Range> = ranges.iter().filter(|range| !range.cold).collect();
        let [main] = main[..] else {
            panic!("{ranges:?}")
        };
        let length = main.end - main.start;
        assert!((256..65_536).contains(&length), "{length} bytes");
    }
}
