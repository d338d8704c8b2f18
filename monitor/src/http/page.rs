//! A page that takes work, made once for all who wait for it.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Which of a page's texts.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Variant {
    /// Compressed.
    pub(super) gzip: bool,
    /// With addresses of peers, where it has any.
    pub(super) peers: bool,
}

/// Why there is no page.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Missing {
    /// A sentence.
    Reason(String),
    /// It was not made in time.
    TooSlow,
}

/// What was made, by whom is all the same, and when that began.
type Made = (Instant, Result<Bytes, String>);

/// A page.
#[derive(Debug)]
pub(super) struct Page {
    name: &'static str,
    /// One permit: it is made once at a time.
    turn: Arc<Semaphore>,
    last: Arc<Mutex<HashMap<Variant, Made>>>,
}

impl Page {
    /// `name` is what sentences call it.
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            turn: Arc::new(Semaphore::new(1)),
            last: Arc::default(),
        }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// The page as it is now, or is made by somebody who began after this call. `render` runs on a blocking
    /// thread.
    pub(super) async fn get(
        &self,
        variant: Variant,
        deadline: Instant,
        render: impl FnOnce() -> Result<String, String> + Send + 'static,
    ) -> Result<Bytes, Missing> {
        let called = Instant::now();
        let turn = timeout_at(deadline, Arc::clone(&self.turn).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(Missing::TooSlow);
        };
        let last = Arc::clone(&self.last);
        let made = lock(&last).get(&variant).cloned();
        if let Some((_, made)) = made.filter(|(began, _)| *began > called) {
            return made.map_err(Missing::Reason);
        }
        let name = self.name;
        // The turn goes along: a client that hangs up leaves the work running, and the next one must wait
        // for it all the same.
        let work = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let made = render().and_then(|text| {
                if !variant.gzip {
                    return Ok(Bytes::from(text));
                }
                compress(&text)
                    .map(Bytes::from)
                    .map_err(|error| format!("the {name} could not be compressed: {error}"))
            });
            lock(&last).insert(variant, (began, made.clone()));
            drop(turn);
            made
        });
        match timeout_at(deadline, work).await {
            Ok(Ok(made)) => made.map_err(Missing::Reason),
            Ok(Err(panic)) => {
                tracing::error!("the {name} could not be collected: {panic}");
                Err(Missing::Reason(format!(
                    "the {name} could not be collected; the log of the daemon has more"
                )))
            }
            Err(_) => Err(Missing::TooSlow),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn compress(text: &str) -> io::Result<Vec<u8>> {
    // Level 1: the text repeats itself so much that more effort saves little.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    const PLAIN: Variant = Variant {
        gzip: false,
        peers: true,
    };

    #[tokio::test]
    async fn who_waits_together_gets_one_page_and_who_comes_later_another() {
        let page = Arc::new(Page::new("metrics"));
        let count = Arc::new(AtomicU32::new(0));
        let ask = |variant| {
            let (page, count) = (Arc::clone(&page), Arc::clone(&count));
            async move {
                let make = move || Ok((count.fetch_add(1, Ordering::SeqCst) + 1).to_string());
                let deadline = Instant::now() + Duration::from_secs(20);
                page.get(variant, deadline, make).await
            }
        };
        let first = ask(PLAIN).await.unwrap();
        assert_eq!(first, "1");
        let turn = Arc::clone(&page.turn).acquire_owned().await.unwrap();
        let waiting = async {
            tokio::join!(
                ask(PLAIN),
                ask(PLAIN),
                ask(PLAIN),
                ask(Variant {
                    peers: false,
                    ..PLAIN
                })
            )
        };
        let open = async { drop(turn) };
        let ((a, b, c, other), ()) = tokio::join!(waiting, open);
        assert_eq!([a.unwrap(), b.unwrap(), c.unwrap()], ["2", "2", "2"]);
        assert_eq!(other.unwrap(), "3", "another text");
        assert_eq!(ask(PLAIN).await.unwrap(), "4");
    }
}
