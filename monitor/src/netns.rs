//! The network namespace that the daemon reports: how the kernel's programs recognise it.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use socket2::{Domain, Socket, Type};

/// Number of the calling thread's network namespace: `net.ns.inum` in the kernel, and the number in
/// `readlink /proc/self/ns/net`. Read of the thread, not the process: threads can be in different ones.
///
/// # Errors
///
/// When /proc is not mounted.
pub fn inum() -> io::Result<u32> {
    let inode = std::fs::metadata("/proc/thread-self/ns/net")?.ino();
    // The kernel keeps it in 32 bits (struct ns_common).
    u32::try_from(inode).map_err(io::Error::other)
}

/// Cookie of the calling thread's network namespace, as `bpf_get_netns_cookie` gives it: unlike
/// [`inum`], no later namespace gets it again. `None` where the kernel does not know it (before 5.14).
#[must_use]
pub fn cookie() -> Option<u64> {
    // Any socket has the cookie of the namespace it was made in.
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).ok()?;
    let mut cookie = 0_u64;
    let size = size_of::<u64>();
    let mut length = libc::socklen_t::try_from(size).ok()?;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which is that large.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (result == 0 && usize::try_from(length).ok()? == size).then_some(cookie)
}

/// From include/uapi/asm-generic/socket.h; not in libc.
const SO_NETNS_COOKIE: libc::c_int = 71;

#[cfg(test)]
pub(crate) mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Runs a function in a thread with namespaces of its own, which end with the thread. Namespaces
    /// take root: for anyone else the function does not run, and the test says so.
    pub(crate) fn isolated<T: Send>(
        flags: CloneFlags,
        run: impl FnOnce() -> T + Send,
    ) -> Option<T> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: namespaces take root");
            return None;
        }
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(flags).unwrap();
                    run()
                })
                .join()
        });
        Some(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    #[test]
    fn a_namespace_is_known_by_number_and_cookie() {
        let link = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let here = inum().unwrap();
        assert_eq!(link.to_str().unwrap(), format!("net:[{here}]"));
        // What we test on is newer than 5.14; an older kernel would have to say so here.
        let first_cookie = cookie().unwrap();
        let Some((there, second_cookie)) = isolated(CloneFlags::CLONE_NEWNET, || {
            (inum().unwrap(), cookie().unwrap())
        }) else {
            return;
        };
        assert_ne!(here, there);
        assert_ne!(first_cookie, second_cookie);
        assert_eq!((here, Some(first_cookie)), (inum().unwrap(), cookie()));
    }
}
