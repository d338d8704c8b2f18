//! The kernel's functions in the table of places: looked up at start, and again when modules come or go.
//! A bridge, packet sockets or queues for programs may be loaded long after the daemon has started.

use std::fs;

use tracing::{debug, warn};

use super::interfaces::Interfaces;
use crate::bpf::tables::{TableError, Tables};
use crate::drop::{ReasonTable, places};
use crate::kallsyms::{KALLSYMS, Kallsyms, KallsymsError};

/// The kernel's list of modules: name, size, users, who they are, state, address.
const MODULES: &str = "/proc/modules";

/// Keeps the table of places up to date.
#[derive(Debug)]
pub(super) struct Watched {
    reasons: ReasonTable,
    /// The modules whose functions are in the table.
    modules: Vec<(String, String)>,
    /// Said once: what cannot be read at start cannot be read later.
    readable: bool,
}

impl Watched {
    /// Fills the table.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses. Without a list of its functions the table stays empty, with a warning.
    pub(super) fn new(reasons: ReasonTable, tables: &mut Tables) -> Result<Self, TableError> {
        let mut this = Self {
            reasons,
            // Before the functions: what comes in between is then found to be new.
            modules: modules(),
            readable: true,
        };
        match this.look_up() {
            Ok(found) => {
                let left_out = tables.set_places(&found)?;
                if left_out > 0 {
                    warn!("{left_out} kernel functions found no room in the table of places");
                }
            }
            Err(error) => {
                this.readable = false;
                warn!(
                    "the kernel's functions are not known ({error}): drops without a telling reason \
                     are classed as unspecified"
                );
                tables.set_places(&[])?;
            }
        }
        Ok(this)
    }

    fn look_up(&self) -> Result<Vec<monitor_common::drop::Place>, KallsymsError> {
        Ok(places(&Kallsyms::read(KALLSYMS)?, &self.reasons))
    }

    /// Looks again where modules have come or gone.
    pub(super) fn refresh(&mut self, interfaces: &mut Interfaces) {
        let now = modules();
        if !self.readable || now == self.modules {
            return;
        }
        match self.look_up() {
            Ok(found) => match interfaces.set_places(&found) {
                Ok(left_out) => {
                    debug!("modules changed: places looked up again, {left_out} left out");
                    self.modules = now;
                }
                Err(error) => warn!("{error}"),
            },
            Err(error) => warn!("the kernel's functions can't be read again: {error}"),
        }
    }
}

/// Names and addresses of the modules that are there. Nothing where the kernel has none.
fn modules() -> Vec<(String, String)> {
    parse(&fs::read_to_string(MODULES).unwrap_or_default())
}

/// Takes name and address out of each line: the numbers of users in between change all the time. A
/// module that is not live yet has its functions in the list already, but not all of their addresses
/// may be there.
pub(crate) fn parse(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            let [state, address] = [words.nth(3)?, words.next()?];
            (state == "Live").then(|| (name.to_owned(), address.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "nf_tables 425984 0 - Live 0xffffffffc0a00000\n\
                          llc 16384 2 bridge,stp, Live 0xffffffffc0900000 (OE)\n";

    #[test]
    fn a_module_counts_by_name_and_address_once_it_is_live() {
        assert_eq!(
            parse(BEFORE),
            [
                ("nf_tables".to_owned(), "0xffffffffc0a00000".to_owned()),
                ("llc".to_owned(), "0xffffffffc0900000".to_owned())
            ]
        );
        let more_users = BEFORE.replace("425984 0 -", "425984 7 nft_ct,");
        assert_eq!(parse(&more_users), parse(BEFORE));
        let moved = BEFORE.replace("0a00000", "0b00000");
        assert_ne!(parse(&moved), parse(BEFORE));
        let loading = format!("{BEFORE}nfnetlink_queue 28672 0 - Loading 0xffffffffc0c00000\n");
        assert_eq!(parse(&loading), parse(BEFORE));
        assert_ne!(parse(&loading.replace("Loading", "Live")), parse(BEFORE));
        assert!(parse("").is_empty());
    }
}
