//! From the keys of `tls_server_config` to what rustls needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    NamedGroup, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
};

use super::demand::Clients;
use super::file::{At, Fault, TlsKeys};
use crate::privileges::hint;

/// What the server's TLS is.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    pub(super) clients: Clients,
}

/// How much of a PEM file is read: far more than a chain or a bundle of authorities has.
const MAX_PEM: u64 = 4 * 1024 * 1024;

/// Go's names of TLS 1.2's cipher suites where they are not those of rustls.
const OTHER_NAMES: [(&str, &str); 2] = [
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
];

/// Go's names of key exchange groups.
const GROUPS: [(&str, NamedGroup); 3] = [
    ("X25519", NamedGroup::X25519),
    ("CurveP256", NamedGroup::secp256r1),
    ("CurveP384", NamedGroup::secp384r1),
];

fn key(name: &str) -> String {
    format!("tls_server_config.{name}")
}

/// The files that these keys name.
pub(super) fn files(keys: &TlsKeys) -> Vec<PathBuf> {
    [&keys.cert_file, &keys.key_file, &keys.client_ca_file]
        .into_iter()
        .filter_map(|file| file.as_ref().map(|file| file.value.clone()))
        .collect()
}

/// Reads the files and checks that all of it fits together.
pub(super) fn build(keys: &TlsKeys) -> Result<Tls, Fault> {
    let missing = |name: &str| {
        let problem = format!("{name} is missing; give both cert_file and key_file");
        Fault::new(keys.line, "tls_server_config", problem)
    };
    let cert_file = keys
        .cert_file
        .as_ref()
        .ok_or_else(|| missing("cert_file"))?;
    let key_file = keys.key_file.as_ref().ok_or_else(|| missing("key_file"))?;
    let chain = certificates("cert_file", cert_file)?;
    let private = private_key(key_file)?;
    let provider = Arc::new(provider(keys)?);
    let clients = clients(keys, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(keys)?)
        .map_err(|error| Fault::new(keys.line, "tls_server_config", no_suites(&error)))?;
    let builder = match &clients.verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|error| {
        let problem = format!(
            "{} does not go with the certificate in {} ({error}); give the key that it was made for",
            key_file.value.display(),
            cert_file.value.display()
        );
        Fault::new(key_file.line, &key("key_file"), problem)
    })?;
    config.ignore_client_order = keys.prefer_server_cipher_suites;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Tls {
        config: Arc::new(config),
        clients,
    })
}

fn no_suites(error: &rustls::Error) -> String {
    format!(
        "cipher_suites and versions leave nothing to choose from ({error}); leave cipher_suites out"
    )
}

/// The PEM text of a file.
fn pem(name: &str, file: &At<PathBuf>) -> Result<Vec<u8>, Fault> {
    let fault = |problem: String| Fault::new(file.line, &key(name), problem);
    let path = file.value.display();
    read(&file.value).map_err(|error| Fault {
        unread: true,
        ..fault(format!("can't read {path}: {error}{}", hint(&error)))
    })
}

/// A file, up to a limit: a device, say, must not fill the memory.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_PEM + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PEM {
        return Err(std::io::Error::other("it is larger than 4 MiB"));
    }
    Ok(bytes)
}

fn certificates(name: &str, file: &At<PathBuf>) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let bytes = pem(name, file)?;
    let all: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&bytes).collect();
    let fault = |why: &str| {
        let problem = format!(
            "{} has no certificate in PEM form ({why})",
            file.value.display()
        );
        Fault::new(file.line, &key(name), problem)
    };
    match all {
        Ok(all) if all.is_empty() => Err(fault("no \"-----BEGIN CERTIFICATE-----\"")),
        Ok(all) => Ok(all),
        Err(error) => Err(fault(&error.to_string())),
    }
}

fn private_key(file: &At<PathBuf>) -> Result<PrivateKeyDer<'static>, Fault> {
    let bytes = pem("key_file", file)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let encrypted = bytes
            .windows(9)
            .any(|window| window == b"ENCRYPTED" || window == b"encrypted");
        let why = if encrypted {
            "it is encrypted; take the password off with `openssl pkey`".to_owned()
        } else {
            error.to_string()
        };
        let problem = format!(
            "{} has no private key in PEM form ({why})",
            file.value.display()
        );
        Fault::new(file.line, &key("key_file"), problem)
    })
}

/// The cipher suites and groups that are wanted.
fn provider(keys: &TlsKeys) -> Result<CryptoProvider, Fault> {
    let mut provider = ring::default_provider();
    if let Some(names) = &keys.cipher_suites {
        provider.cipher_suites = suites(names)?;
    }
    if let Some(names) = &keys.curve_preferences {
        provider.kx_groups = groups(names)?;
    }
    Ok(provider)
}

/// As in Go, the list is about TLS 1.2: those of 1.3 are all good and always there.
fn suites(names: &[At<String>]) -> Result<Vec<SupportedCipherSuite>, Fault> {
    let all = ring::ALL_CIPHER_SUITES;
    let name_of = |suite: &SupportedCipherSuite| {
        let name = format!("{:?}", suite.suite());
        // rustls marks the suites of TLS 1.3, which Go does not.
        name.replace("TLS13_", "TLS_")
    };
    let is_13 = |suite: &&SupportedCipherSuite| suite.tls13().is_some();
    let mut chosen: Vec<_> = all.iter().copied().filter(|suite| is_13(&suite)).collect();
    for name in names {
        let other = OTHER_NAMES.iter().find(|(go, _)| *go == name.value);
        let wanted = other.map_or(name.value.as_str(), |(_, ours)| ours);
        let Some(suite) = all.iter().find(|suite| name_of(suite) == wanted) else {
            let known: Vec<_> = all
                .iter()
                .filter(|suite| !is_13(suite))
                .map(name_of)
                .collect();
            let problem = format!("\"{}\" is none of {}", name.value, known.join(", "));
            return Err(Fault::new(name.line, &key("cipher_suites"), problem));
        };
        if !chosen.contains(suite) {
            chosen.push(*suite);
        }
    }
    Ok(chosen)
}

fn groups(names: &[At<String>]) -> Result<Vec<&'static dyn SupportedKxGroup>, Fault> {
    let find = |name: &At<String>| {
        let group = GROUPS.iter().find(|(go, _)| *go == name.value);
        let group = group.and_then(|(_, group)| {
            let mut all = ring::ALL_KX_GROUPS.iter();
            all.find(|one| one.name() == *group).copied()
        });
        group.ok_or_else(|| {
            let known = GROUPS.map(|(go, _)| go).join(", ");
            let problem = format!("\"{}\" is none of {known}", name.value);
            Fault::new(name.line, &key("curve_preferences"), problem)
        })
    };
    names.iter().map(find).collect()
}

/// The versions from the least to the most.
fn versions(keys: &TlsKeys) -> Result<Vec<&'static SupportedProtocolVersion>, Fault> {
    let number = |name: &str, value: &Option<At<String>>, default| {
        let Some(value) = value else {
            return Ok(default);
        };
        match value.value.as_str() {
            "TLS12" => Ok(12),
            "TLS13" => Ok(13),
            other => {
                let problem =
                    format!("\"{other}\" is neither TLS12 nor TLS13; older ones are not safe");
                Err(Fault::new(value.line, &key(name), problem))
            }
        }
    };
    let least = number("min_version", &keys.min_version, 12)?;
    let most = number("max_version", &keys.max_version, 13)?;
    if least > most {
        let line = keys.max_version.as_ref().map_or(keys.line, |at| at.line);
        let problem = "TLS12 is below min_version, TLS13; leave one of them out";
        return Err(Fault::new(line, &key("max_version"), problem));
    }
    let all = [(12, &TLS12), (13, &TLS13)];
    let chosen = all.into_iter().filter(|(n, _)| (least..=most).contains(n));
    Ok(chosen.map(|(_, version)| version).collect())
}

/// Who may ask, by certificate.
fn clients(keys: &TlsKeys, provider: &Arc<CryptoProvider>) -> Result<Clients, Fault> {
    let name = key("client_auth_type");
    let (line, kind) = match &keys.client_auth_type {
        Some(kind) => (kind.line, kind.value.as_str()),
        None => (keys.line, "NoClientCert"),
    };
    let required = match kind {
        "NoClientCert" => {
            if let Some(file) = &keys.client_ca_file {
                let problem =
                    "it does nothing without client_auth_type: RequireAndVerifyClientCert";
                return Err(Fault::new(file.line, &key("client_ca_file"), problem));
            }
            return Ok(Clients::default());
        }
        "VerifyClientCertIfGiven" => false,
        "RequireAndVerifyClientCert" => true,
        "RequestClientCert" | "RequireAnyClientCert" | "RequireClientCert" => {
            let problem = format!(
                "{kind} takes certificates that nobody has checked, and is not supported; choose \
                 RequireAndVerifyClientCert or VerifyClientCertIfGiven"
            );
            return Err(Fault::new(line, &name, problem));
        }
        other => {
            let problem = format!(
                "\"{other}\" is none of NoClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert"
            );
            return Err(Fault::new(line, &name, problem));
        }
    };
    let Some(file) = &keys.client_ca_file else {
        let problem = format!("{kind} needs client_ca_file, whose authorities vouch for clients");
        return Err(Fault::new(line, &name, problem));
    };
    let bad = |error: &dyn std::error::Error| {
        let problem = format!("{} has a bad authority: {error}", file.value.display());
        Fault::new(file.line, &key("client_ca_file"), problem)
    };
    let mut roots = RootCertStore::empty();
    let authorities = certificates("client_ca_file", file)?;
    for certificate in &authorities {
        let added = roots.add(certificate.clone());
        added.map_err(|error| bad(&error))?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    let verifier = builder.build().map_err(|error| bad(&error))?;
    Ok(Clients {
        required,
        authorities,
        verifier: Some(verifier),
    })
}
