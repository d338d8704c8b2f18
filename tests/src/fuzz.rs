//! Fuzz targets: each feeds bytes that somebody else made to a parser, and holds what comes out to what must be
//! true of it. That nothing panics is the least of it: what is shown again must parse to the same, sums must add up,
//! lengths must lie within what came in, and time and memory must not grow faster than the bytes.
//!
//! `cargo test --test corpus` runs every target over its corpus and over variations of it, in seconds; `cargo xtask fuzz`
//! lets libFuzzer look for more (`tests/fuzz`, in the layout of cargo-fuzz).
//!
//! A new target takes: a function here that takes bytes and panics on what must not be; its row in [`TARGETS`]; a folder
//! `tests/fuzz/corpus/NAME` with at least one small file that the parser likes; `tests/fuzz/fuzz_targets/NAME.rs`
//! and its `[[bin]]` in `tests/fuzz/Cargo.toml`, both copied from another. A parser that is private gets a door in
//! `monitor/src/fuzz.rs`. The test `every_target_is_complete` names what is missing.

#![expect(clippy::expect_used, reason = "a target panics on what must not be")]

mod http;
mod kernel;
mod netlink;
pub mod packet;
mod records;
mod rules;
mod settings;
mod state;
mod status;

pub use http::http_server;
pub use kernel::{btf, kallsyms, proc_files};
pub use netlink::{iptables_legacy, links, neighbours, nftables};
pub use packet::packet;
pub use records::{records, teredo};
pub use rules::{INTERFACES, rules};
pub use settings::{config, settings, web_config};
pub use state::state_file;
pub use status::{status_answer, status_document};

/// A target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, by name.
pub const TARGETS: [Target; 18] = [
    ("btf", btf),
    ("config", config),
    ("http_server", http_server),
    ("iptables_legacy", iptables_legacy),
    ("kallsyms", kallsyms),
    ("links", links),
    ("neighbours", neighbours),
    ("nftables", nftables),
    ("packet", packet),
    ("proc_files", proc_files),
    ("records", records),
    ("rules", rules),
    ("settings", settings),
    ("state_file", state_file),
    ("status_answer", status_answer),
    ("status_document", status_document),
    ("teredo", teredo),
    ("web_config", web_config),
];

/// Cuts bytes into parts: each begins with its length, 16 bits, the lower byte first. The last one is what is there.
fn parts(mut data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let [low, high, rest @ ..] = data {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (part, rest) = rest.split_at(length.min(rest.len()));
        parts.push(part);
        data = rest;
    }
    parts
}

/// That a text is one that can be shown: in a terminal it moves no cursor, and in a log it begins no line.
fn assert_printable(text: &str) {
    let bad = text.chars().find(|c| c.is_control());
    assert!(bad.is_none(), "{bad:?} in {text:?}");
}
