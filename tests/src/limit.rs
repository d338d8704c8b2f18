//! The limit of the table of connections: one for the whole machine, which only its first network namespace may
//! change, so one test at a time has it.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

use crate::wait::{DEADLINE, until};

const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The right to change it, and what it was; it is that again when this goes.
#[derive(Debug)]
pub struct Limit {
    default: Option<String>,
}

impl Limit {
    /// Waits until nobody else has it.
    ///
    /// # Errors
    ///
    /// When that takes too long.
    pub fn take() -> Result<Self> {
        until("the limit is free", DEADLINE, || {
            Ok((!TAKEN.swap(true, Ordering::AcqRel)).then_some(()))
        })?;
        Ok(Self { default: None })
    }

    /// Sets it.
    ///
    /// # Errors
    ///
    /// When no connections are followed yet, or this is not the first network namespace.
    pub fn set(&mut self, limit: u64) -> Result<()> {
        if self.default.is_none() {
            self.default = Some(fs::read_to_string(MAX).context(MAX)?);
        }
        fs::write(MAX, limit.to_string()).context(MAX)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Some(default) = &self.default
            && let Err(error) = fs::write(MAX, default.trim())
        {
            eprintln!("{MAX} = {}: {error}", default.trim());
        }
        TAKEN.store(false, Ordering::Release);
    }
}
