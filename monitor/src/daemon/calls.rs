//! Calls of the kernel programs: many attempts came at once, and are to be read before newer ones take their places.

use std::io;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::events::take_ring;

/// The least time between two readings that were called for.
const LEAST: Duration = Duration::from_millis(20);

/// The calls that have not been answered.
pub(super) struct Calls {
    ring: AsyncFd<RingBuf<MapData>>,
    is_called: bool,
    /// Not before this one is answered.
    next: Instant,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Calls {
    /// Takes their ring buffer out of a loaded object. Call it in a tokio runtime.
    pub(super) fn new(ebpf: &mut Ebpf) -> io::Result<Self> {
        let ring = take_ring(ebpf, "CALLS")?;
        // SAFETY: a ring buffer keeps the descriptor of its map open for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(Self {
            ring,
            is_called: false,
            next: Instant::now(),
        })
    }

    /// Waits for a call. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) {
        while !self.is_called {
            let Ok(mut ready) = self.ring.readable_mut().await else {
                // Its runtime ends.
                return std::future::pending().await;
            };
            let ring = ready.get_inner_mut();
            while ring.next().is_some() {
                self.is_called = true;
            }
            ready.clear_ready();
        }
        tokio::time::sleep_until(self.next.into()).await;
        self.is_called = false;
    }

    /// The attempts were read, which began at this time: for as long as that took, no call is answered, so that
    /// half of the time is left for all else.
    pub(super) fn answered(&mut self, start: Instant) {
        let now = Instant::now();
        self.next = now + now.duration_since(start).max(LEAST);
    }
}
