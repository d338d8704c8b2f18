//! Files as users write them, with certificates made here.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedKey, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, generate_simple_self_signed,
};
use rustls::pki_types::CertificateDer;

use super::*;

/// A folder with `web.yml`, `server.crt` and `server.key`.
pub(in crate::http) struct Folder(tempfile::TempDir);

impl Folder {
    pub(in crate::http) fn new(text: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.renew();
        folder.write("web.yml", text);
        folder
    }

    /// A new certificate and its key.
    pub(in crate::http) fn renew(&self) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        self.write("server.crt", &cert.pem());
        self.write("server.key", &signing_key.serialize_pem());
    }

    pub(in crate::http) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts a file in another's place.
    pub(in crate::http) fn write(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    pub(in crate::http) fn open(&self) -> Result<Web, WebError> {
        Web::open(Some(&self.path("web.yml")))
    }

    /// The sentence for the file, without the folder's name.
    fn sentence(&self) -> String {
        let sentence = self.open().unwrap_err().to_string();
        sentence.replace(&format!("{}/", self.0.path().display()), "")
    }
}

pub(in crate::http) const TLS: &str =
    "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";

/// `secret`.
pub(in crate::http) const USERS: &str =
    "basic_auth_users:\n  ann: $2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

#[test]
fn a_whole_file_is_understood() {
    let text = format!(
        "# As Prometheus has it.\n{TLS}  client_auth_type: RequireAndVerifyClientCert\n  \
         client_ca_file: server.crt\n  min_version: TLS12\n  max_version: TLS13\n  cipher_suites:\n  \
         - TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\n  - TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305\n  \
         - TLS_AES_128_GCM_SHA256\n  curve_preferences: [CurveP256, X25519]\n  \
         prefer_server_cipher_suites: true\nhttp_server_config:\n  http2: true\n  headers:\n    \
         X-Frame-Options: deny\n    Strict-Transport-Security: max-age=63072000\n{USERS}"
    );
    let web = Folder::new(&text).open().unwrap();
    let wanted = Protection {
        tls: true,
        users: true,
        certificates: true,
    };
    assert_eq!(web.protection(), wanted);
    let settings = web.current();
    assert_eq!(settings.headers.len(), 2);
    let tls = settings.tls.as_ref().unwrap();
    let suites = &tls.crypto_provider().cipher_suites;
    assert_eq!(suites.len(), 3 + 2, "{suites:?}");
    for empty in ["", "tls_server_config:\n", "basic_auth_users: {}\n"] {
        let web = Folder::new(empty).open().unwrap();
        assert_eq!(web.protection(), Protection::default(), "{empty}");
    }
}

#[test]
fn the_documentation_s_example_is_good() {
    let text = include_str!("../../../../docs/http.md");
    let (_, rest) = text.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let protection = Folder::new(example).open().unwrap().protection();
    assert!(protection.tls && protection.users, "{protection:?}");
}

/// Each file's sentence has this in it.
fn check(cases: &[(String, &str)]) {
    for (text, wanted) in cases {
        let folder = Folder::new(text);
        let other = Folder::new("");
        fs::copy(other.path("server.key"), folder.path("other.key")).unwrap();
        let said = folder.sentence();
        assert!(said.contains(wanted), "{text}: {said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn every_fault_of_tls_gets_one_sentence_with_line_and_key() {
    let only = |line: &str| format!("{TLS}  {line}\n");
    check(&[
        (
            "tls_config: {}\n".to_owned(),
            "web.yml:1: unknown key `tls_config`, expected one of `tls_server_config`, \
             `http_server_config`, `basic_auth_users`",
        ),
        (
            only("cert_fle: x"),
            "web.yml:4: tls_server_config: unknown key `cert_fle`, expected one of `cert_file`,",
        ),
        (
            only("cert: x"),
            "web.yml:4: tls_server_config.cert: not supported here; name a file with cert_file",
        ),
        (
            "rate_limit: {}\n".to_owned(),
            "web.yml:1: rate_limit: not supported here; connections",
        ),
        (
            "tls_server_config:\n  cert_file: server.crt\n".to_owned(),
            "web.yml:1: tls_server_config: key_file is missing; give both",
        ),
        (
            TLS.replace("server.crt", "none.crt"),
            "web.yml:2: tls_server_config.cert_file: can't read none.crt: No such file",
        ),
        (
            TLS.replace("server.crt", "web.yml"),
            "web.yml:2: tls_server_config.cert_file: web.yml has no certificate in PEM form",
        ),
        (
            TLS.replace("server.key", "server.crt"),
            "web.yml:3: tls_server_config.key_file: server.crt has no private key in PEM form",
        ),
        (
            TLS.replace("server.key", "other.key"),
            "web.yml:3: tls_server_config.key_file: other.key does not go with the certificate in \
             server.crt",
        ),
        (
            only("min_version: TLS11"),
            "web.yml:4: tls_server_config.min_version: \"TLS11\" is neither TLS12 nor TLS13; older",
        ),
        (
            only("min_version: TLS13\n  max_version: TLS12"),
            "web.yml:5: tls_server_config.max_version: TLS12 is below min_version",
        ),
        (
            only("cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]"),
            "web.yml:4: tls_server_config.cipher_suites: \"TLS_RSA_WITH_RC4_128_SHA\" is none of \
             TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,",
        ),
        (
            only("curve_preferences: [CurveP521]"),
            "web.yml:4: tls_server_config.curve_preferences: \"CurveP521\" is none of X25519, CurveP256,",
        ),
        (
            only("client_ca_file: server.crt"),
            "web.yml:4: tls_server_config.client_ca_file: it does nothing without client_auth_type",
        ),
        (
            only("client_auth_type: RequireAnyClientCert"),
            "web.yml:4: tls_server_config.client_auth_type: RequireAnyClientCert takes certificates that \
             nobody has checked, and is not supported",
        ),
        (
            only("client_auth_type: RequireAndVerifyClientCert"),
            "RequireAndVerifyClientCert needs client_ca_file",
        ),
    ]);
}

#[test]
fn every_other_fault_gets_one_sentence_with_line_and_key() {
    check(&[
        (
            "http_server_config:\n  headers:\n    Server: x\n".to_owned(),
            "web.yml:3: http_server_config.headers: unknown key `Server`, expected one of",
        ),
        (
            "http_server_config:\n  http2: maybe\n".to_owned(),
            "web.yml:2: http_server_config.http2: \"maybe\" is neither true nor false",
        ),
        (
            "basic_auth_users:\n  ann: secret\n".to_owned(),
            "web.yml:2: basic_auth_users.ann: this is no bcrypt hash; `htpasswd -nBC 10 \"\"` makes one",
        ),
        (
            "basic_auth_users:\n  ann:\n".to_owned(),
            "web.yml:2: basic_auth_users.ann: the hash of its password is missing",
        ),
        (
            format!("{USERS}{USERS}"),
            "web.yml:3: `basic_auth_users` is here twice; line 1 has it too",
        ),
        (
            "basic_auth_users: 5\n".to_owned(),
            "web.yml:1: basic_auth_users: keys with values are expected here",
        ),
        ("a: [\n".to_owned(), "this is not valid YAML ("),
    ]);
    let folder = Folder::new("");
    fs::remove_file(folder.path("web.yml")).unwrap();
    assert_eq!(
        folder.sentence(),
        "can't read web.yml: No such file or directory (os error 2); give another file with --web-config"
    );
}

#[test]
fn a_change_is_taken_over_and_a_bad_one_is_not() {
    let folder = Folder::new(&format!("{TLS}{USERS}"));
    let web = folder.open().unwrap();
    let first = web.current();
    assert!(
        Arc::ptr_eq(&first, &web.current()),
        "read again for nothing"
    );

    folder.renew();
    let second = web.current();
    assert!(
        !Arc::ptr_eq(&first, &second),
        "the new certificate is not used"
    );

    for bad in ["nonsense", ""] {
        folder.write("server.crt", bad);
        assert!(Arc::ptr_eq(&second, &web.current()), "{bad:?} is used");
    }
    fs::remove_file(folder.path("server.key")).unwrap();
    assert!(Arc::ptr_eq(&second, &web.current()));
    folder.renew();
    let third = web.current();
    assert!(!Arc::ptr_eq(&second, &third), "it does not recover");

    // Emptied while it is written: nothing opens.
    for less in ["", TLS, USERS, "tls_server_config: [\n"] {
        folder.write("web.yml", less);
        assert!(Arc::ptr_eq(&third, &web.current()), "{less:?} is used");
    }
    folder.write("web.yml", &format!("{USERS}{TLS}"));
    assert!(!Arc::ptr_eq(&third, &web.current()));
}

/// Descriptors are one process's, so this runs in one of its own: this very test binary, with a word in its
/// environment.
const ALONE: &str = "PEERWATCH_TEST_NO_DESCRIPTORS";

#[test]
fn a_file_that_could_not_be_read_is_tried_again() {
    if std::env::var_os(ALONE).is_some() {
        return without_descriptors();
    }
    let name = "http::web::tests::a_file_that_could_not_be_read_is_tried_again";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let complaints = said.matches("TLS and users stay as they were").count();
    assert_eq!(complaints, 1, "{said}");
    assert!(said.contains("Too many open files"), "{said}");
}

fn without_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let folder = Folder::new(&format!("{TLS}{USERS}"));
    let web = folder.open().unwrap();
    let first = web.current();
    folder.renew();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    // More than one try: a second is said no more.
    let end = Instant::now() + PAUSE * 2;
    while Instant::now() < end {
        assert!(Arc::ptr_eq(&first, &web.current()));
        std::thread::sleep(PAUSE / 20);
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while Arc::ptr_eq(&first, &web.current()) {
        assert!(Instant::now() < end, "it is not tried again");
        std::thread::sleep(PAUSE / 20);
    }
}

/// An authority, and a client's certificate of it.
fn authority() -> (String, CertificateDer<'static>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let mut client = CertificateParams::new(["client".to_owned()]).unwrap();
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let issuer = Issuer::new(params, key);
    let client = client.signed_by(&KeyPair::generate().unwrap(), &issuer);
    (pem, client.unwrap().der().clone())
}

#[test]
fn an_open_connection_is_judged_by_what_is_asked_for_now() {
    const IF_GIVEN: &str =
        "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.crt\n";
    const REQUIRED: &str =
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n";
    let (first, client) = authority();
    let (second, other) = authority();
    let folder = Folder::new("");
    folder.write("ca.crt", &first);
    let web = folder.open().unwrap();
    let shown = |chain: &[CertificateDer<'static>]| Shown {
        demand: Arc::clone(&web.current().demand),
        chain: chain.to_vec(),
    };
    let judge = |shown: &Shown| {
        let standing = web.current().demand.judge(shown);
        (standing.allowed, standing.certificate, standing.over)
    };
    let plain = shown(&[]);
    assert_eq!(judge(&plain), (true, false, false));
    folder.write("web.yml", TLS);
    assert_eq!(judge(&plain), (false, false, true), "not encrypted");

    let tls = shown(&[]);
    folder.renew();
    assert_eq!(judge(&tls), (true, false, false), "a new certificate");
    folder.write("web.yml", &format!("{TLS}{IF_GIVEN}"));
    assert_eq!(judge(&tls), (true, false, true));
    let (nobody, known) = (shown(&[]), shown(&[client]));
    assert_eq!(judge(&known), (true, true, false));
    folder.write("web.yml", &format!("{TLS}{REQUIRED}"));
    assert_eq!(judge(&nobody), (false, false, true), "no certificate");
    assert_eq!(judge(&known), (true, true, true));
    assert_eq!(judge(&plain), (false, false, true));

    folder.write("ca.crt", &format!("{first}{second}"));
    assert_eq!(judge(&known), (true, true, true), "its authority counts on");
    let later = shown(&[other]);
    folder.write("ca.crt", &second);
    assert_eq!(judge(&known), (false, false, true), "another authority");
    assert_eq!(judge(&later), (true, true, true));
    folder.write("ca.crt", &format!("{second}\n# the same\n"));
    let standing = judge(&shown(&[]));
    assert!(!standing.2, "nothing else is asked for");
}
