//! A network namespace without a name: it lives as long as a thread that is in it, and sockets made there.

use std::fs::File;
use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

/// A namespace, and the thread that is in it.
#[derive(Debug)]
pub(super) struct Namespace {
    /// The thread ends without it.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// By which it is named to the kernel.
    file: File,
}

/// Puts the calling thread into a new network namespace, and opens that.
pub(super) fn enter_new() -> io::Result<File> {
    // SAFETY: it takes no pointer, and changes the namespace of the calling thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    File::open("/proc/thread-self/ns/net")
}

impl Namespace {
    /// Makes a namespace, and a thread in it.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let (told, made) = mpsc::channel();
        let thread = thread::Builder::new().name(format!("self-test {name}"));
        let thread = thread.spawn(move || {
            let entered = enter_new();
            let ok = entered.is_ok();
            if told.send(entered).is_ok() && ok {
                for job in waiting {
                    job();
                }
            }
        })?;
        let file = made.recv().map_err(io::Error::other)??;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            file,
        })
    }

    /// The namespace, open.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Does something in the namespace, and waits for it. Sockets that it makes stay there.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let ended = || io::Error::other("the thread of the namespace has ended");
        let (told, result) = mpsc::channel();
        let job = Box::new(move || {
            told.send(work()).ok();
        });
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(job).map_err(|_| ended())?;
        result.recv().map_err(|_| ended())?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic was told by the thread itself.
            thread.join().ok();
        }
    }
}
