//! A web configuration with certificates of our own, and scrapers that use it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{Domain, Socket, Type};

/// The name of the user, and the password.
pub const USER: &str = "prom:secret";

/// The same as a header.
pub const AUTHORIZATION: &str = "Authorization: Basic cHJvbTpzZWNyZXQ=\r\n";

/// A bcrypt hash of the password, of the cost that docs/http.md has.
const HASH: &str = "$2y$10$abcdefghijklmnopqrstuuqflPDzB6gcMhKa1rZqKiun2YGL5sa2u";

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A folder with `web.yml`, `server.crt`, `server.key` and `ca.crt`.
#[derive(Debug)]
pub struct Web {
    folder: PathBuf,
    authority: Issuer<'static, KeyPair>,
}

impl Web {
    /// Writes the files: TLS, and one user.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
        let this = Self {
            folder: folder.to_owned(),
            authority: Issuer::new(params, key),
        };
        this.renew()?;
        let text = format!(
            "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n\
             basic_auth_users:\n  prom: {HASH}\n"
        );
        fs::write(this.file(), text)?;
        Ok(this)
    }

    /// The configuration.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join("web.yml")
    }

    /// The authority that vouches for the certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// A new certificate and key take the place of the old ones: the files that are named are links to a
    /// folder, which is changed at once, as tools for certificates do it.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn renew(&self) -> Result<()> {
        let names = ["10.77.1.1", "127.0.0.1"].map(str::to_owned);
        let params = CertificateParams::new(names)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.authority)?;
        let number = fs::read_dir(&self.folder)?.count();
        let version = self.folder.join(format!("version{number}"));
        fs::create_dir(&version)?;
        fs::write(version.join("server.crt"), certificate.pem())?;
        fs::write(version.join("server.key"), key.serialize_pem())?;
        let (new, current) = (self.folder.join("new"), self.folder.join("current"));
        std::os::unix::fs::symlink(&version, &new)?;
        fs::rename(new, current)?;
        for name in ["server.crt", "server.key"] {
            let link = self.folder.join(name);
            if !link.is_symlink() {
                std::os::unix::fs::symlink(Path::new("current").join(name), link)?;
            }
        }
        Ok(())
    }

    /// A client's configuration that trusts the authority.
    ///
    /// # Errors
    ///
    /// When its file cannot be read.
    pub fn client(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// A connection, encrypted or not.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Connects from an address of this namespace.
///
/// # Errors
///
/// When nobody listens, or the address is none of ours.
pub fn connect(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Many sockets of one address must not run out of ports before they know where they go.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A well-behaved scraper that keeps its connection, as Prometheus does. Use it in one namespace.
#[derive(Debug)]
pub struct Scraper {
    from: Ipv4Addr,
    to: SocketAddr,
    /// For TLS, with a password.
    tls: Option<Arc<ClientConfig>>,
    stream: Option<Stream>,
}

impl Scraper {
    /// One that is not connected yet.
    #[must_use]
    pub const fn new(from: Ipv4Addr, to: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Self {
        Self {
            from,
            to,
            tls,
            stream: None,
        }
    }

    /// Whether it is connected.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Scrapes the metrics; returns how long it took, the connection included where there is none yet.
    ///
    /// # Errors
    ///
    /// When there is no answer, or not the metrics; then it is no longer connected.
    pub fn scrape(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        let authorization = if self.tls.is_some() {
            AUTHORIZATION
        } else {
            ""
        };
        let (status, text) = self.get("/metrics", authorization)?;
        let took = begin.elapsed();
        ensure!(
            status == 200 && text.contains("peerwatch_build_info{"),
            "no metrics: {status}: {text:.300}"
        );
        Ok(took)
    }

    /// Gets a path with more header lines: the status, and the head with the body.
    ///
    /// # Errors
    ///
    /// When there is no answer; then it is no longer connected.
    pub fn get(&mut self, path: &str, headers: &str) -> Result<(u16, String)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().context("connecting")?,
        };
        let text = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.to);
        let answer = match &mut stream {
            Stream::Plain(stream) => ask(stream, &text),
            Stream::Tls(stream) => ask(stream, &text),
        };
        let answer = answer.context("the answer")?;
        let status = answer.split(' ').nth(1).context("no status")?.parse()?;
        self.stream = Some(stream);
        Ok((status, answer))
    }

    /// The certificate that the daemon shows on this connection.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        let Some(Stream::Tls(stream)) = &self.stream else {
            return None;
        };
        Some(stream.conn.peer_certificates()?.first()?.to_vec())
    }

    fn connect(&self) -> Result<Stream> {
        let stream = connect(self.from, self.to)?;
        let Some(config) = &self.tls else {
            return Ok(Stream::Plain(stream));
        };
        let name = ServerName::from(self.to.ip());
        let connection = ClientConnection::new(Arc::clone(config), name)?;
        Ok(Stream::Tls(Box::new(StreamOwned::new(connection, stream))))
    }
}

/// Sends a request and reads its answer, which has a length.
fn ask(stream: &mut (impl Read + Write), request: &str) -> Result<String> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    let mut wanted = usize::MAX;
    while answer.len() < wanted {
        let mut buffer = [0; 16 * 1024];
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            bail!("closed after {} bytes", answer.len());
        }
        answer.extend_from_slice(&buffer[..read]);
        if wanted == usize::MAX
            && let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.context("no length")?.trim().parse()?;
            wanted = end + 4 + length;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
