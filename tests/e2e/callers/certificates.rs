//! Callers by their client certificates.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use test_support::*;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A CA, and what it issues, as PEM files in a folder.
pub(crate) struct Pki {
    dir: tempfile::TempDir,
    ca: Issuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Pki { dir, ca: Issuer::new(params, key) }
    }

    pub(crate) fn issue(&self, file: &str, common_name: &str, name: &str) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        // The key first: whoever looks in between sees a certificate without its key, and keeps the old pair.
        std::fs::write(self.dir.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(self.dir.path().join(format!("{file}.pem")), params.signed_by(&key, &self.ca).unwrap().pem())
            .unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(crate) fn listen(&self, address: &str) -> String {
        format!(
            "addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\n[listen.tls]\naddress = \"{address}\"\ncertificate_file = \"{}\"\nprivate_key_file = \"{}\"\nclient_ca_file = \"{}\"\n",
            self.file("server.pem"),
            self.file("server.key"),
            self.file("ca.pem")
        )
    }

    /// A connection with this CA's trust and maybe a certificate of it, and the server's certificate.
    pub(crate) async fn connect(&self, port: u16, certificate: Option<&str>) -> std::io::Result<(Http1, Vec<u8>)> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        let stream = secured(self.folder(), tcp, certificate).await?;
        let server = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        Ok((Http1::on(stream, &format!("localhost:{port}")).await, server))
    }
}

/// TLS with the trust of the CA in `folder`, and maybe a certificate that it has issued.
pub(crate) async fn secured(
    folder: &Path,
    tcp: TcpStream,
    certificate: Option<&str>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let file = |name: &str| folder.join(name);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(name) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap()],
                PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap(),
            )
            .unwrap(),
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

pub(crate) fn tls_port(daemon: &Daemon) -> u16 {
    daemon.places.last().unwrap().rsplit_once(':').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn client_certificates_name_their_callers_and_are_read_anew() {
    let bedrock = bedrock().await;
    let pki = Pki::new();
    pki.issue("server", "first", "localhost");
    pki.issue("billing", "billing", "app.billing.internal");
    pki.issue("other", "DNS:app.billing.internal", "other.internal");
    let daemon = Setup::plain(&bedrock)
        .listen(&pki.listen("127.0.0.1:0"))
        .with("[[callers]]\nname = \"billing\"\ncertificate_names = [\"DNS:*.billing.internal\"]\n[policy]\nrequire_known_caller = true")
        .ready()
        .await;
    let port = tls_port(&daemon);
    let ask = || request(Method::POST, &converse_path(ON_DEMAND), converse("over TLS"));
    let (mut billing, first) = pki.connect(port, Some("billing")).await.unwrap();
    let answer = billing.send(ask()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["caller"], &record["identityVerified"]), (&json!("billing"), &json!(true)), "{record}");
    // A common name cannot pass for a DNS name; none at all is optional on loopback, and unknown.
    for certificate in [Some("other"), None] {
        let (mut connection, _) = pki.connect(port, certificate).await.unwrap();
        let answer = connection.send(ask()).await;
        refused(&answer, 403, "AccessDeniedException");
        let record = daemon.record_of(&answer).await;
        assert_eq!(record["identityVerified"], certificate.is_some(), "{record}");
    }
    // One of another CA is no certificate.
    let stranger = Pki::new();
    stranger.issue("billing", "billing", "app.billing.internal");
    for file in ["billing.pem", "billing.key"] {
        std::fs::copy(stranger.file(file), pki.file(&file.replace("billing", "stranger"))).unwrap();
    }
    if let Ok((mut connection, _)) = pki.connect(port, Some("stranger")).await {
        connection.start(ask()).await.expect_err("TLS 1.3 tells a client late that it is refused");
    }
    // Plain HTTP on the TLS port gets nothing.
    let plain = raw::exchange(
        std::net::SocketAddr::from(([127, 0, 0, 1], port)),
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    .await;
    assert!(!plain.unwrap_or_default().contains("200 OK"));

    // Renewed: new connections see it within the interval at which the files are looked at, old ones stay.
    pki.issue("server", "second", "localhost");
    let start = std::time::Instant::now();
    loop {
        let (mut connection, seen) = pki.connect(port, Some("billing")).await.unwrap();
        if seen != first {
            assert_eq!(connection.send(ask()).await.status, 200);
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the renewed certificate was never used");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("the renewed certificate was used after {:?}", start.elapsed());
    assert_eq!(billing.send(ask()).await.status, 200, "the old connection stays");
}

#[tokio::test]
async fn beyond_loopback_a_certificate_is_required() {
    let bedrock = bedrock().await;
    let pki = Pki::new();
    pki.issue("server", "server", "localhost");
    pki.issue("client", "client", "client.internal");
    let daemon = Setup::plain(&bedrock).listen(&pki.listen("0.0.0.0:0")).ready().await;
    let port = tls_port(&daemon);
    let ask = || request(Method::POST, &converse_path(ON_DEMAND), converse("x"));
    let (mut connection, _) = pki.connect(port, Some("client")).await.unwrap();
    assert_eq!(connection.send(ask()).await.status, 200);
    if let Ok((mut connection, _)) = pki.connect(port, None).await {
        connection.start(ask()).await.expect_err("no certificate");
    }
    assert_eq!(received(&bedrock, "Converse").len(), 1);
    // Without a CA such an address is not even configured.
    let open =
        pki.listen("0.0.0.0:0").lines().filter(|line| !line.starts_with("client_ca")).collect::<Vec<_>>().join("\n");
    let output = Setup::plain(&bedrock).listen(&open).command(&["check"]).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("client_ca_file"), "{output:?}");
}

/// A reload names a certificate whose file answers once, when the settings are checked, and then no more. The one thread
/// goes on.
#[tokio::test]
async fn a_certificate_that_does_not_answer_holds_nothing_up() {
    let bedrock = bedrock().await;
    let pki = Pki::new();
    pki.issue("server", "first", "localhost");
    let setup = Setup::plain(&bedrock).listen(&pki.listen("127.0.0.1:0")).with("[runtime]\nthreads = 1");
    let mut daemon = setup.ready().await;
    let fifo = pki.folder().join("fifo.pem");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let text = std::fs::read_to_string(daemon.config_path()).unwrap();
    std::fs::write(daemon.config_path(), text.replace("server.pem", "fifo.pem")).unwrap();
    let certificate = std::fs::read(pki.folder().join("server.pem")).unwrap();
    // Each opening waits for its reader. The second one is kept, and says nothing.
    let opened = tokio::task::spawn_blocking(move || {
        std::fs::write(&fifo, certificate).unwrap();
        std::fs::OpenOptions::new().write(true).open(&fifo).unwrap()
    });
    daemon.signal("HUP");
    let silent = within("the second reading", opened).await.unwrap();
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("meanwhile")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
    drop(silent);
}
