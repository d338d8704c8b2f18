//! One daemon for each network namespace: two would attach the same hooks and each count everything.
//!
//! The guard is an abstract unix socket. Abstract names belong to a network namespace (unix(7)), which is
//! exactly the scope wanted, and the kernel frees the name however the process ends.

use std::io;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};

/// The name in `/proc/net/unix`: `@peerwatch`.
const NAME: &str = "\0peerwatch";

/// How many questions about the owner may be left unread; the kernel caps it at `net.core.somaxconn`.
const QUESTIONS: i32 = 4096;

/// Holds the place of the one daemon of a network namespace until it is dropped or the process ends.
#[derive(Debug)]
#[must_use = "the place is free again when this is dropped"]
pub struct Instance {
    _listener: Socket,
}

/// Why this process cannot be the namespace's daemon.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// There is one already.
    #[error(
        "{owner} is already the peerwatch of this network namespace; stop it first, or start this \
         one in another namespace (ip netns exec NAME peerwatch run)"
    )]
    Taken {
        /// "process 12 (peerwatch)", as far as it is known.
        owner: String,
    },
    /// The kernel gave no socket.
    #[error("cannot make sure that no other peerwatch runs in this network namespace: {0}")]
    Socket(#[from] io::Error),
}

impl Instance {
    /// Takes the place in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// [`InstanceError::Taken`] names the process that has it.
    pub fn claim() -> Result<Self, InstanceError> {
        let address = SockAddr::unix(NAME)?;
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        for last in [false, true] {
            match listener.bind(&address) {
                // It listens, so that others can ask the kernel who it is; it never answers.
                Ok(()) => {
                    listener.listen(QUESTIONS)?;
                    return Ok(Self {
                        _listener: listener,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => match owner(&address) {
                    // The owner ended in between.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && !last => {}
                    owner => {
                        let owner = owner.unwrap_or_else(|_| "another process".to_owned());
                        return Err(InstanceError::Taken { owner });
                    }
                },
                Err(error) => return Err(error.into()),
            }
        }
        let owner = "another process".to_owned();
        Err(InstanceError::Taken { owner })
    }
}

/// The process that listens on a unix socket, by number and name.
fn owner(address: &SockAddr) -> io::Result<String> {
    // Nobody accepts: once the queue is full, a socket that blocks would wait here for ever.
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(address)?;
    let pid = getsockopt(&socket, PeerCredentials)?.pid();
    if pid == 0 {
        return Ok("a process of another PID namespace".to_owned());
    }
    Ok(match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim_end().escape_debug()),
        Err(_) => format!("process {pid}"),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::{Command, Stdio};

    use nix::sched::CloneFlags;

    use super::*;
    use crate::netns::tests::isolated;

    /// Set for the process that holds the place.
    const HOLDER: &str = "PEERWATCH_TEST_HOLDER";

    #[test]
    #[ignore = "not a test: the process that a_killed_owner_leaves_its_place starts"]
    fn holder() {
        if std::env::var_os(HOLDER).is_some() {
            let _instance = Instance::claim().unwrap();
            println!("holding");
            io::stdin().read_to_end(&mut Vec::new()).unwrap();
        }
    }

    #[test]
    fn one_for_each_network_namespace() {
        isolated(CloneFlags::CLONE_NEWNET, || {
            let first = Instance::claim().unwrap();
            let refused = Instance::claim().unwrap_err().to_string();
            let pid = std::process::id();
            assert!(
                refused.starts_with(&format!("process {pid} (")),
                "{refused}"
            );
            let other = isolated(CloneFlags::CLONE_NEWNET, || Instance::claim().unwrap()).unwrap();
            drop(first);
            // Held in the other namespace, free in this one.
            let again = Instance::claim().unwrap();
            drop((again, other));
        });
    }

    #[test]
    fn a_killed_owner_leaves_its_place() {
        isolated(CloneFlags::CLONE_NEWNET, || {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "instance::tests::holder",
                    "--ignored",
                    "--nocapture",
                ])
                .env(HOLDER, "1")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let held = lines.any(|line| line.unwrap().contains("holding"));
            let refused = Instance::claim().map_err(|error| error.to_string());
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(held, "the other process did not get the place");
            let refused = refused.unwrap_err();
            assert!(
                refused.starts_with(&format!("process {} (", child.id())),
                "{refused}"
            );
            let _again = Instance::claim().unwrap();
        });
    }

    #[test]
    fn questions_never_block() {
        isolated(CloneFlags::CLONE_NEWNET, || {
            let address = SockAddr::unix(NAME).unwrap();
            let small = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            small.bind(&address).unwrap();
            small.listen(1).unwrap();
            let texts: Vec<_> = (0..5)
                .map(|_| Instance::claim().unwrap_err().to_string())
                .collect();
            assert!(texts[0].starts_with("process "), "{texts:?}");
            assert!(
                texts[4].starts_with("another process is already the peerwatch of"),
                "{texts:?}"
            );
        });
    }
}
