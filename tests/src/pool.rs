//! A few labs that many trials share, one after the other.

use std::ops::Deref;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::lab::Lab;

/// How many labs there are at most, and so how many trials run side by side.
pub const LABS: usize = 2;

/// Labs that are not in use, made on demand.
#[derive(Debug)]
pub struct Pool {
    free: Mutex<Vec<Option<Lab>>>,
    returned: Condvar,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            free: Mutex::new((0..LABS).map(|_| None).collect()),
            returned: Condvar::new(),
        }
    }
}

impl Pool {
    /// Takes a lab, waiting for one if all are in use.
    ///
    /// # Errors
    ///
    /// When a new one can't be made.
    pub fn take(&self) -> Result<Lease<'_>> {
        let mut free = self.lock();
        let slot = loop {
            if let Some(slot) = free.pop() {
                break slot;
            }
            free = self
                .returned
                .wait(free)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(free);
        let mut lease = Lease {
            pool: self,
            lab: None,
        };
        lease.lab = Some(match slot {
            Some(lab) => lab,
            None => Lab::create().context("making a lab")?,
        });
        Ok(lease)
    }

    /// Stops the daemons of all labs and removes these.
    ///
    /// # Errors
    ///
    /// When a daemon does not end as it should.
    pub fn shut_down(&self) -> Result<()> {
        let labs: Vec<Lab> = self.lock().drain(..).flatten().collect();
        let mut result = Ok(());
        for mut lab in labs {
            if crate::netns::keep() {
                continue;
            }
            let stopped = lab.daemon.stop();
            if result.is_ok() {
                result = stopped;
            }
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Lab>>> {
        // A panic never leaves the list half changed.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lab in use. It goes back to the pool on drop; after a failure [`Lease::discard`] makes the pool
/// build a new one, as nobody knows what state it is in.
#[derive(Debug)]
pub struct Lease<'a> {
    pool: &'a Pool,
    lab: Option<Lab>,
}

impl Lease<'_> {
    /// Removes the lab instead of giving it back.
    pub fn discard(mut self) {
        self.lab = None;
    }
}

impl Deref for Lease<'_> {
    type Target = Lab;

    #[expect(clippy::expect_used, reason = "empty only while it is dropped")]
    fn deref(&self) -> &Lab {
        self.lab.as_ref().expect("a lab")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lab = None;
        }
        let lab = self.lab.take();
        // Labs that are ready go on top, so that they are taken first.
        let mut free = self.pool.lock();
        if lab.is_some() {
            free.push(lab);
        } else {
            free.insert(0, lab);
        }
        drop(free);
        self.pool.returned.notify_one();
    }
}
