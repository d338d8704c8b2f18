//! What a service manager is told, as systemd wants it (`sd_notify(3)`): that the daemon is ready, that it
//! still works, that it stops. Without one, nothing happens.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

/// The service manager, or nobody.
#[derive(Debug)]
pub struct ServiceManager {
    /// After how long without a sign of life it ends and restarts the daemon (`WatchdogSec=`).
    watchdog: Option<Duration>,
    told: Option<Instant>,
    /// Whether telling it failed: said once.
    failed: bool,
}

impl ServiceManager {
    /// The one that started this process, by its environment (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled(),
            told: None,
            failed: false,
        }
    }

    /// The daemon is attached and serves metrics; `status` shows in `systemctl status`.
    pub fn ready(&mut self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The daemon did what it is there for: call it wherever that is proven, at least once a second. It is
    /// told on four times as often as it wants to hear it, and not at all where it does not.
    pub fn works(&mut self) {
        let Some(watchdog) = self.watchdog else {
            return;
        };
        if self.told.is_none_or(|told| told.elapsed() >= watchdog / 4) {
            self.told = Some(Instant::now());
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// The daemon stops by itself.
    pub fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping]);
    }

    fn tell(&mut self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            if !self.failed {
                warn!(
                    "the service manager can't be told how peerwatch is: {error}; it may take it for dead"
                );
            }
            self.failed = true;
        }
    }
}
