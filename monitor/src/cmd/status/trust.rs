//! Whom the client trusts, and who it says it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Where distributions keep the authorities that a host trusts: Debian, Fedora, openSUSE, Alpine.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is wrong with a file of the client's.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    #[error("can't read {}: {cause}; give another file with {flag}", path.display())]
    Read {
        path: PathBuf,
        cause: io::Error,
        flag: &'static str,
    },
    #[error(
        "{} has no certificate in PEM form; give that of the authority, or the daemon's own, with \
         --ca-file", path.display()
    )]
    NoAuthority { path: PathBuf },
    #[error("this host has no file with authorities; give one with --ca-file")]
    NoSystem,
    #[error(
        "{} has no NAME:PASSWORD in its first line; write it so, readable for you alone", path.display()
    )]
    NoUser { path: PathBuf },
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Whom to trust, and what to say.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    /// For https.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// For a daemon that asks for a password.
    pub(super) authorization: Option<HeaderValue>,
}

impl Trust {
    /// Reads the files. Without one with authorities, those that this host trusts are asked for `tls`.
    pub(super) fn read(
        tls: bool,
        ca_file: Option<&Path>,
        user_file: Option<&Path>,
    ) -> Result<Self, TrustError> {
        Ok(Self {
            tls: tls.then(|| client(ca_file)).transpose()?,
            authorization: user_file.map(authorization).transpose()?,
        })
    }
}

fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let mut system = SYSTEM.iter().map(Path::new);
    let path = ca_file
        .or_else(|| system.find(|path| path.is_file()))
        .ok_or(TrustError::NoSystem)?;
    let bytes = std::fs::read(path).map_err(|cause| TrustError::Read {
        path: path.to_owned(),
        cause,
        flag: "--ca-file",
    })?;
    let mut roots = RootCertStore::empty();
    // One that this library does not understand takes nothing away from the others.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).flatten());
    if roots.is_empty() {
        return Err(TrustError::NoAuthority {
            path: path.to_owned(),
        });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn authorization(path: &Path) -> Result<HeaderValue, TrustError> {
    let text = std::fs::read_to_string(path).map_err(|cause| TrustError::Read {
        path: path.to_owned(),
        cause,
        flag: "--user-file",
    })?;
    let line = text.lines().next().unwrap_or_default();
    let bad = || TrustError::NoUser {
        path: path.to_owned(),
    };
    if !line.contains(':') {
        return Err(bad());
    }
    let value = format!("Basic {}", STANDARD.encode(line));
    let mut value = HeaderValue::from_str(&value).map_err(|_| bad())?;
    value.set_sensitive(true);
    Ok(value)
}
