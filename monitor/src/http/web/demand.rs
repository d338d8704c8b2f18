//! What a client must show before it may ask anything.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

/// What TLS asks of clients.
#[derive(Clone, Debug, Default)]
pub(super) struct Clients {
    /// Whether each must have a certificate.
    pub(super) required: bool,
    /// Who vouches for them, as their file has it; none where no certificate is looked at.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// Decides whether they do.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// What a connection must be like.
#[derive(Debug, Default)]
pub(in crate::http) struct Demand {
    tls: bool,
    clients: Clients,
}

/// What a connection showed when it was accepted, and what it had to show then.
#[derive(Clone, Debug)]
pub(in crate::http) struct Shown {
    pub(in crate::http) demand: Arc<Demand>,
    /// The client's certificate and what is between it and the authority; it was checked. Empty without one.
    pub(in crate::http) chain: Vec<CertificateDer<'static>>,
}

/// What a connection is worth by now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::http) struct Standing {
    /// Whether it would be accepted now.
    pub(in crate::http) allowed: bool,
    /// Whether its client has a certificate that counts now.
    pub(in crate::http) certificate: bool,
    /// Whether it has to be made anew: something else is asked for now.
    pub(in crate::http) over: bool,
}

impl Demand {
    /// Without TLS where there are no `clients`.
    pub(super) fn new(clients: Option<Clients>) -> Self {
        Self {
            tls: clients.is_some(),
            clients: clients.unwrap_or_default(),
        }
    }

    /// Whether each client must have a certificate.
    pub(super) const fn certificates(&self) -> bool {
        self.clients.required
    }

    /// Whether both ask for the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        let of = |demand: &Self| (demand.tls, demand.clients.required);
        of(self) == of(other) && self.clients.authorities == other.clients.authorities
    }

    /// Judges a connection that is open. This is what is asked for now.
    pub(in crate::http) fn judge(self: &Arc<Self>, shown: &Shown) -> Standing {
        if Arc::ptr_eq(self, &shown.demand) {
            return Standing {
                allowed: true,
                certificate: !shown.chain.is_empty(),
                over: false,
            };
        }
        let certificate = self.vouches(&shown.chain);
        let encrypted = shown.demand.tls || !self.tls;
        Standing {
            allowed: encrypted && (certificate || !self.clients.required),
            certificate,
            over: true,
        }
    }

    fn vouches(&self, chain: &[CertificateDer<'static>]) -> bool {
        let (Some(verifier), Some((client, between))) =
            (&self.clients.verifier, chain.split_first())
        else {
            return false;
        };
        let checked = verifier.verify_client_cert(client, between, UnixTime::now());
        checked.is_ok()
    }
}
