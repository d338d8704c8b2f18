//! Two labs that many scenes share at once, each with room for sixteen.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};

use super::lab::{Lab, SLOTS, Slot};

/// Which of the shared labs a scene may be in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Nothing is ever blocked upstream there: enough of that proves that other targets are alive too.
    Unproven,
    /// Anything may happen there.
    Proven,
    /// Either.
    Any,
}

#[derive(Debug)]
struct Shared {
    lab: Option<Arc<Lab>>,
    free: Vec<usize>,
}

/// The shared labs, made on demand: [`Place::Unproven`], then [`Place::Proven`].
#[derive(Debug)]
pub struct Pool {
    labs: Mutex<[Shared; 2]>,
    returned: Condvar,
    /// Labs are made one after the other.
    making: Mutex<()>,
}

impl Default for Pool {
    fn default() -> Self {
        let shared = || Shared {
            lab: None,
            free: (0..SLOTS).rev().collect(),
        };
        Self {
            labs: Mutex::new([shared(), shared()]),
            returned: Condvar::new(),
            making: Mutex::new(()),
        }
    }
}

impl Pool {
    /// Takes a slot, waiting for one if all are in use.
    ///
    /// # Errors
    ///
    /// When its lab can't be made.
    pub fn take(&self, place: Place) -> Result<Lease<'_>> {
        let mut labs = self.lock();
        let (which, slot) = loop {
            let candidates: &[usize] = match place {
                Place::Unproven => &[0],
                Place::Proven => &[1],
                Place::Any if labs[0].free.len() > labs[1].free.len() => &[0, 1],
                Place::Any => &[1, 0],
            };
            let mut taken = None;
            for which in candidates {
                if let Some(slot) = labs[*which].free.pop() {
                    taken = Some((*which, slot));
                    break;
                }
            }
            if let Some(taken) = taken {
                break taken;
            }
            labs = self
                .returned
                .wait(labs)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(labs);
        let mut lease = Lease {
            pool: self,
            which,
            slot: Slot::new(slot),
            lab: None,
        };
        lease.lab = Some(self.lab(which)?);
        Ok(lease)
    }

    fn lab(&self, which: usize) -> Result<Arc<Lab>> {
        let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lab) = &self.lock()[which].lab {
            return Ok(Arc::clone(lab));
        }
        let lab = Arc::new(Lab::create().context("making a lab")?);
        self.lock()[which].lab = Some(Arc::clone(&lab));
        drop(making);
        Ok(lab)
    }

    /// Stops the daemons of the labs and removes these.
    ///
    /// # Errors
    ///
    /// When an attempt was lost in one, or a daemon does not end as it should.
    pub fn shut_down(&self) -> Result<()> {
        for shared in &mut *self.lock() {
            let Some(lab) = shared.lab.take() else {
                continue;
            };
            if crate::netns::keep() {
                std::mem::forget(lab);
                continue;
            }
            let counts = lab.counts()?;
            for (series, count) in &counts {
                ensure!(
                    *count == 0 || series.metric() != "peerwatch_attempts_lost_total",
                    "{series} is {count}"
                );
            }
            let mut lab = Arc::into_inner(lab).context("a lab is still in use")?;
            lab.daemon.stop()?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, [Shared; 2]> {
        // A panic never leaves the lists half changed.
        self.labs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot in use; it goes back to the pool on drop.
#[derive(Debug)]
pub struct Lease<'a> {
    pool: &'a Pool,
    which: usize,
    slot: Slot,
    lab: Option<Arc<Lab>>,
}

impl Lease<'_> {
    /// Its lab.
    ///
    /// # Errors
    ///
    /// When it has none yet, which is only while it is made.
    pub fn lab(&self) -> Result<&Lab> {
        self.lab.as_deref().context("a slot without a lab")
    }

    /// The slot.
    #[must_use]
    pub const fn slot(&self) -> &Slot {
        &self.slot
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.lab = None;
        self.pool.lock()[self.which].free.insert(0, self.slot.index);
        // Not everyone who waits can have this one.
        self.pool.returned.notify_all();
    }
}
