//! Signals as something to wait for, not as something that ends the process.

use std::{io::ErrorKind, os::fd::AsFd as _, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// The signals that end the demo, blocked and read from a descriptor.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks them in this thread and those that it starts from now on.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn block() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().context("signals can't be blocked")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&set, flags).context("signals can't be read")?;
        Ok(Self(descriptor))
    }

    /// Waits so long, or until one comes: then its name.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn wait(&self, time: Duration) -> Result<Option<&'static str>> {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::try_from(time)?) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error).context("waiting for a signal"),
        }
        let read = self.0.read_signal();
        if matches!(read, Err(error) if std::io::Error::from(error).kind() == ErrorKind::WouldBlock)
        {
            return Ok(None);
        }
        let Some(info) = read.context("reading a signal")? else {
            return Ok(None);
        };
        Ok(Some(
            Signal::try_from(i32::try_from(info.ssi_signo)?)?.as_str(),
        ))
    }
}
