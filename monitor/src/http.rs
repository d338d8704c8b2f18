//! The HTTP server: metrics, status, health and readiness, over HTTP/1.1.
//!
//! It answers from behind a [`Site`], so that a test needs no kernel programs. Whoever can reach the
//! address can speak to it: every limit is there so that no client can take the others' answers away.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

mod access;
mod activity;
mod answer;
mod connections;
mod group;
mod page;
mod server;
#[cfg(test)]
mod tests;
mod web;

pub(crate) use server::replay;
pub use server::serve;
pub(crate) use web::understand;
pub use web::{Protection, Web, WebError};

/// How many connections may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// What the server shows.
pub trait Site: Send + Sync {
    /// The metrics in Prometheus's text format, version 0.0.4. May block: it is called on a blocking
    /// thread, and never twice at a time.
    ///
    /// # Errors
    ///
    /// The reason why there are none, as a sentence for the client; it is answered with status 500.
    fn metrics(&self) -> Result<String, String>;

    /// The document of [`crate::status`], as JSON, with addresses of peers or without. May block: it is
    /// called on a blocking thread, never twice at a time, and also while metrics are collected.
    ///
    /// # Errors
    ///
    /// The reason why there is none, as a sentence for the client; it is answered with status 500.
    fn status(&self, peers: bool) -> Result<String, String>;

    /// Whether the hooks that are wanted are attached. Must not block.
    ///
    /// # Errors
    ///
    /// What is missing, as a sentence for the client; it is answered with status 503.
    fn ready(&self) -> Result<(), String>;
}

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Another program listens there.
    #[error(
        "{0} is in use by another program; choose another address with --listen, or find that \
         program with `ss -ltnp 'sport = :{port}'`",
        port = .0.port()
    )]
    InUse(SocketAddr),
    /// This user may not listen there.
    #[error(
        "no permission to listen on {0}; choose a port above 1023 with --listen, or run as root"
    )]
    Permission(SocketAddr),
    /// The address is none of this host's.
    #[error(
        "{0} is not an address of this host; choose one of `ip address` with --listen, or {any} \
         for all of them",
        any = any(*.0)
    )]
    NotHere(SocketAddr),
    /// The kernel has no such address family.
    #[error(
        "IPv6 is off on this host, {0} cannot be opened; use --listen 0.0.0.0:{port}",
        port = .0.port()
    )]
    NoIpv6(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address}: {reason}; choose another address with --listen")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the kernel said.
        reason: io::Error,
    },
    /// The runtime did not take the socket.
    #[error("the metrics socket cannot be watched: {0}; are the file descriptors used up?")]
    Watch(io::Error),
}

/// The wildcard address of the same family and port.
fn any(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(_) => IpAddr::from([0_u8; 4]),
        IpAddr::V6(_) => IpAddr::from([0_u8; 16]),
    };
    SocketAddr::new(ip, address.port())
}

/// Opens the listening socket; it does not block. `[::]` takes IPv4 as well, whatever
/// `net.ipv6.bindv6only` says. Separate from [`serve`], so that a bad address is found before anything
/// is attached.
///
/// # Errors
///
/// One sentence that names the address and the way out.
pub fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    listen(address).map_err(|reason| match reason.raw_os_error() {
        Some(libc::EADDRINUSE) => HttpError::InUse(address),
        Some(libc::EACCES | libc::EPERM) => HttpError::Permission(address),
        // With net.ipv6.conf.all.disable_ipv6 the family is there, but not its loopback address.
        Some(libc::EADDRNOTAVAIL) if !address.ip().is_loopback() => HttpError::NotHere(address),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) if address.is_ipv6() => {
            HttpError::NoIpv6(address)
        }
        _ => HttpError::Listen { address, reason },
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the connections of the last run in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Where the metrics are and who can reach them, for the first line that the daemon prints.
#[must_use]
pub fn describe(address: SocketAddr, protection: Protection) -> String {
    let mut who = Vec::new();
    if is_loopback(address) {
        who.push("this host only");
    }
    match (protection.certificates, protection.users) {
        (true, true) => who.push("with a certificate and a password"),
        (true, false) => who.push("with a certificate"),
        (false, true) => who.push("with a password"),
        (false, false) if who.is_empty() => who.push("anyone who can reach this host"),
        (false, false) => {}
    }
    let mut who = who.join(" ");
    if is_loopback(address) {
        who.extend([format!("; --listen [::]:{} for others", address.port())]);
    }
    let scheme = if protection.tls { "https" } else { "http" };
    format!("metrics on {scheme}://{address}{} ({who})", answer::METRICS)
}

/// What an operator should know about who can read the metrics, where that may not be what they want.
#[must_use]
pub fn exposure(address: SocketAddr, protection: Protection) -> Option<String> {
    if is_loopback(address) {
        return None;
    }
    if !protection.users && !protection.certificates {
        return Some(format!(
            "everybody who can reach {address} can read the metrics: no password is asked for; give \
             users in a file with --web-config, or listen on 127.0.0.1:{}",
            address.port()
        ));
    }
    (!protection.tls).then(|| {
        format!(
            "passwords for {address} go over the network in clear; add tls_server_config to the file \
             of --web-config"
        )
    })
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
