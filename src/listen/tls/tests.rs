use std::net::SocketAddr;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::settings::Settings;
use crate::settings::tls::{TlsFile, certificates};

/// A CA, a server and a client certificate in a folder, as PEM files.
struct Pki {
    dir: tempfile::TempDir,
    ca: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Pki {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let pki = Pki { dir: tempfile::tempdir().unwrap(), ca: Issuer::new(params, key) };
        std::fs::write(pki.path("ca.pem"), pem).unwrap();
        pki.issue("server", vec![SanType::DnsName("localhost".try_into().unwrap())]);
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes NAME.pem and NAME.key.
    fn issue(&self, name: &str, names: Vec<SanType>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "Example, CN=root");
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), params.signed_by(&key, &self.ca).unwrap().pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn tls(&self, address: &str, client_ca: bool) -> Tls {
        Tls {
            address: address.parse().unwrap(),
            certificate_file: self.path("server.pem"),
            private_key_file: self.path("server.key"),
            client_ca_file: client_ca.then(|| self.path("ca.pem")),
        }
    }

    fn client(
        &self,
        certificate: Option<&str>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(name) => builder
                .with_client_auth_cert(
                    certificates(&self.path(&format!("{name}.pem"))).unwrap(),
                    PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

/// One handshake: what the server calls the client, and the version; or the server's error.
async fn handshake(material: &Material, client: &TlsConnector) -> Result<(Vec<String>, String), String> {
    let (near, far) = tokio::io::duplex(65_536);
    let server = async {
        let mut stream = material.acceptor().accept(far).await.map_err(|error| error.to_string())?;
        stream.write_all(b"x").await.map_err(|error| error.to_string())?;
        let (_, connection) = stream.get_ref();
        assert_eq!(connection.alpn_protocol(), Some(b"h2".as_slice()));
        Ok((peer_names(connection), format!("{:?}", connection.protocol_version().unwrap())))
    };
    let client = async {
        let mut stream = client.connect(ServerName::try_from("localhost").unwrap(), near).await.ok()?;
        stream.read_u8().await.ok()
    };
    tokio::join!(server, client).0
}

const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

#[tokio::test]
async fn tls_1_3_is_preferred_and_1_2_is_served() {
    let pki = Pki::new();
    let material = Material::new(Loaded::read(pki.tls("127.0.0.1:0", false)).unwrap());
    let (names, version) = handshake(&material, &pki.client(None, &BOTH)).await.unwrap();
    assert_eq!((names, version.as_str()), (Vec::new(), "TLSv1_3"));
    let (_, version) = handshake(&material, &pki.client(None, &[&rustls::version::TLS12])).await.unwrap();
    assert_eq!(version, "TLSv1_2");
}

#[tokio::test]
async fn client_certificates_have_their_names() {
    let pki = Pki::new();
    let names = vec![
        SanType::DnsName("Billing.internal".try_into().unwrap()),
        SanType::URI("spiffe://example/billing".try_into().unwrap()),
        SanType::Rfc822Name("billing@example.com".try_into().unwrap()),
        SanType::IpAddress("10.0.0.7".parse().unwrap()),
    ];
    pki.issue("billing", names);
    let material = Material::new(Loaded::read(pki.tls("127.0.0.1:0", true)).unwrap());
    let (names, _) = handshake(&material, &pki.client(Some("billing"), &BOTH)).await.unwrap();
    assert_eq!(
        names,
        [
            "CN=billing",
            "O=Example, CN=root",
            "DNS:billing.internal",
            "URI:spiffe://example/billing",
            "email:billing@example.com",
            "IP:10.0.0.7"
        ]
    );
}

#[tokio::test]
async fn a_client_certificate_is_optional_on_loopback_only() {
    let pki = Pki::new();
    let local = Material::new(Loaded::read(pki.tls("127.0.0.1:0", true)).unwrap());
    assert_eq!(handshake(&local, &pki.client(None, &BOTH)).await.unwrap().0, Vec::<String>::new());
    let open = Material::new(Loaded::read(pki.tls("0.0.0.0:0", true)).unwrap());
    assert!(handshake(&open, &pki.client(None, &BOTH)).await.unwrap_err().contains("peer sent no certificates"));
    // One that another CA has issued.
    let stranger = Pki::new();
    stranger.issue("billing", Vec::new());
    for name in ["billing.pem", "billing.key"] {
        std::fs::copy(stranger.path(name), pki.path(name)).unwrap();
    }
    for material in [&local, &open] {
        let error = handshake(material, &pki.client(Some("billing"), &BOTH)).await.unwrap_err();
        assert!(error.contains("invalid peer certificate"), "{error}");
    }
}

#[tokio::test]
async fn a_new_certificate_serves_the_next_connection_and_a_bad_one_does_not() {
    let pki = Pki::new();
    let material = Material::new(Loaded::read(pki.tls("127.0.0.1:0", false)).unwrap());
    let served = |material: &Material| material.current.load_full();
    let first = served(&material);
    assert_eq!(material.reload_if_changed(), Ok(false));
    // Only the certificate so far: it is not the old key's.
    let key = std::fs::read(pki.path("server.key")).unwrap();
    pki.issue("server", vec![SanType::DnsName("localhost".try_into().unwrap())]);
    let new_key = std::fs::read(pki.path("server.key")).unwrap();
    std::fs::write(pki.path("server.key"), key).unwrap();
    let error = material.reload_if_changed().unwrap_err();
    assert_eq!(error.file, TlsFile::PrivateKey);
    assert!(error.to_string().contains("it is not the key of the certificate"), "{error}");
    assert!(Arc::ptr_eq(&first, &served(&material)));
    // An error is reported once, until something changes.
    assert_eq!(material.reload_if_changed(), Ok(false));
    std::fs::write(pki.path("server.key"), new_key).unwrap();
    assert_eq!(material.reload_if_changed(), Ok(true));
    assert!(!Arc::ptr_eq(&first, &served(&material)));
    handshake(&material, &pki.client(None, &BOTH)).await.unwrap();
}

/// Agents renew it too.
#[tokio::test]
async fn another_ca_of_clients_is_taken_over_and_the_old_ones_clients_are_strangers() {
    let (pki, next) = (Pki::new(), Pki::new());
    pki.issue("app", Vec::new());
    let material = Material::new(Loaded::read(pki.tls("127.0.0.1:0", true)).unwrap());
    let client = pki.client(Some("app"), &BOTH);
    handshake(&material, &client).await.unwrap();
    std::fs::copy(next.path("ca.pem"), pki.path("ca.pem")).unwrap();
    assert_eq!(material.reload_if_changed(), Ok(true));
    // Nor is a session resumed that the old one has vouched for.
    let error = handshake(&material, &client).await.unwrap_err();
    assert!(error.contains("invalid peer certificate"), "{error}");
}

fn load(pki: &Pki, lines: &str) -> Result<Settings, String> {
    let dir = pki.dir.path().to_str().unwrap();
    std::fs::write(pki.path("config.toml"), format!("[listen.tls]\n{}", lines.replace("{dir}", dir))).unwrap();
    Settings::load(&pki.path("config.toml")).map_err(|error| error.to_string().replace(dir, "{dir}"))
}

#[test]
fn configuration_errors_name_the_file_to_blame() {
    let pki = Pki::new();
    pki.issue("other", Vec::new());
    std::fs::write(pki.path("empty.pem"), "nothing").unwrap();
    let lines = |address: &str, certificate: &str, key: &str| {
        format!(
            "address = \"{address}\"\ncertificate_file = \"{{dir}}/{certificate}\"\nprivate_key_file = \"{{dir}}/{key}\"\n"
        )
    };
    let good = load(&pki, &lines("127.0.0.1:8793", "server.pem", "server.key")).unwrap();
    assert_eq!(good.listen.tls.unwrap().address, SocketAddr::from(([127, 0, 0, 1], 8793)));
    for (text, expected) in [
        (
            lines("0.0.0.0:8793", "server.pem", "server.key"),
            "2:11: 0.0.0.0:8793 can be reached from other hosts, so clients must show a certificate; name the CA that issues them in client_ca_file, or listen on a loopback address.",
        ),
        (
            lines("127.0.0.1:8790", "server.pem", "server.key"),
            "2:11: 127.0.0.1:8790 is named twice; give the TLS listener a port of its own.",
        ),
        (
            lines("127.0.0.1:8793", "empty.pem", "server.key"),
            "3:20: {dir}/empty.pem cannot be used: it holds no PEM certificate.",
        ),
        (
            lines("127.0.0.1:8793", "server.pem", "other.key"),
            "4:20: {dir}/other.key cannot be used: it is not the key of the certificate {dir}/server.pem.",
        ),
        (
            lines("0.0.0.0:8793", "server.pem", "server.key") + "client_ca_file = \"{dir}/empty.pem\"\n",
            "5:18: {dir}/empty.pem cannot be used: it holds no PEM certificate.",
        ),
    ] {
        assert_eq!(load(&pki, &text).map(|_| ()), Err(format!("{{dir}}/config.toml:{expected}")), "{text}");
    }
    assert!(
        load(&pki, &(lines("0.0.0.0:8793", "server.pem", "server.key") + "client_ca_file = \"{dir}/ca.pem\"\n"))
            .is_ok()
    );
}

#[test]
fn what_is_odd_about_the_files_is_said() {
    use std::os::unix::fs::PermissionsExt;
    let pki = Pki::new();
    let tls = pki.tls("127.0.0.1:0", true);
    let mode = |mode| std::fs::set_permissions(pki.path("server.key"), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o600);
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(tls.warnings(at(1_800_000_000)), Vec::<String>::new());
    mode(0o644);
    let warnings = tls.warnings(at(1_800_000_000));
    assert!(matches!(&warnings[..], [key] if key.contains("every user of this host can reach")), "{warnings:?}");
    mode(0o600);
    // The certificates are valid from 1975 to 4096.
    for (now, expected) in [(1_000, "is not valid before"), (67_200_000_000, "expired at")] {
        let warnings = tls.warnings(at(now));
        assert_eq!(warnings.len(), 2, "the server's and its clients' CA: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains(expected)), "{warnings:?}");
    }
}

#[test]
fn an_encrypted_key_has_a_sentence_of_its_own() {
    let pki = Pki::new();
    let text = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(pki.path("server.key"), text).unwrap();
    let error = server_config(&pki.tls("127.0.0.1:0", false)).unwrap_err();
    assert_eq!(error.file, TlsFile::PrivateKey);
    assert!(error.to_string().contains("it is encrypted, and the daemon has no passphrase"), "{error}");
}
