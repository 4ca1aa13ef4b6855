//! A certificate in place of a key: the daemon exchanges it at IAM Roles Anywhere, which the simulator plays, for keys of a role.

mod checked;
mod failures;
mod helper;
mod sessions;

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use simulator::{Received, RolesAnywhere, Simulator};
use test_support::*;

const ANCHOR: &str = "arn:aws:rolesanywhere:us-east-1:123456789012:trust-anchor/a1b2c3d4-5678-90ab-cdef-EXAMPLE11111";
const PROFILE: &str = "arn:aws:rolesanywhere:us-east-1:123456789012:profile/a1b2c3d4-5678-90ab-cdef-EXAMPLE22222";
const ROLE: &str = "arn:aws:iam::123456789012:role/bedrock-sidecar-hosts";

/// A certification authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let (params, key) = Authority::params("hosts' CA");
        Authority { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// One that this one has signed.
    fn below(&self) -> Authority {
        let (params, key) = Authority::params("hosts' intermediate CA");
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    fn params(name: &str) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        (params, KeyPair::generate().unwrap())
    }

    /// A host's certificate that ends in the year `until`, as PEM.
    fn issue(&self, key: &KeyPair, until: i32) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "host.example.gov");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Without it, rcgen leaves the key usages out too.
        params.use_authority_key_identifier_extension = true;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.signed_by(key, &self.issuer).unwrap().pem()
    }
}

/// The files of a host, and the account that lets it in.
struct Host {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Host {
    /// With a certificate for a key on the curve P-256.
    fn new() -> Host {
        let host = Host { directory: tempfile::tempdir().unwrap(), authority: Authority::new() };
        host.renew();
        host
    }

    /// Puts another key and its certificate in place.
    fn renew(&self) {
        let key = KeyPair::generate().unwrap();
        self.put(&self.authority.issue(&key, 2049), &key.serialize_pem());
    }

    /// The key first: whoever looks in between sees that they do not fit.
    fn put(&self, certificate: &str, key: &str) {
        for (path, text) in [(self.key(), key), (self.certificate(), certificate)] {
            let new = self.directory.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            std::fs::rename(&new, path).unwrap();
        }
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("host.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("host.key")
    }

    /// Lets certificates of the host's authority in, for sessions of so many seconds.
    fn let_in(&self, bedrock: &Simulator, session_seconds: u32) {
        bedrock.set_roles_anywhere(Some(RolesAnywhere {
            trust_anchor_arn: ANCHOR.to_owned(),
            ca_pem: self.authority.pem.clone(),
            profile_arn: PROFILE.to_owned(),
            role_arn: ROLE.to_owned(),
            session_seconds,
        }));
    }

    /// The keys of the table, a line each.
    fn keys(&self, endpoint: &str) -> String {
        keys(endpoint, &self.certificate(), &self.key()).join("\n")
    }

    fn setup(&self, bedrock: &Simulator) -> Setup {
        Setup::plain(bedrock).credentials(&format!("[credentials]\n{}\n", self.keys(&bedrock.plain_endpoint())))
    }
}

fn keys(endpoint: &str, certificate: &Path, key: &Path) -> [String; 7] {
    [
        "source = \"roles_anywhere\"".to_owned(),
        format!("trust_anchor_arn = \"{ANCHOR}\""),
        format!("profile_arn = \"{PROFILE}\""),
        format!("role_arn = \"{ROLE}\""),
        format!("certificate_file = \"{}\"", certificate.display()),
        format!("private_key_file = \"{}\"", key.display()),
        format!("endpoint = \"{endpoint}\""),
    ]
}

fn sessions(bedrock: &Simulator) -> Vec<Received> {
    received(bedrock, "CreateSession")
}

/// A request that is served with the keys of a session, and has its record.
async fn served(daemon: &Daemon, bedrock: &Simulator) -> Received {
    let answer = super::ask(daemon).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&"completed".into(), &200.into()), "{record}");
    assert_eq!(record["modelId"], ON_DEMAND);
    assert_eq!(record["responseSize"], answer.body.len());
    assert!(record["inputTokens"].as_u64().unwrap() > 0 && record["outputTokens"].as_u64().unwrap() > 0, "{record}");
    let sent = received(bedrock, "Converse").pop().unwrap();
    assert_eq!((sent.auth.as_str(), sent.status, &sent.leaks), ("sigv4", Some(200), &Vec::new()), "{sent:?}");
    assert!(sent.header("x-amz-security-token").unwrap().contains("simulator+roles/anywhere"), "{sent:?}");
    sent
}

/// A request that is refused because there are no keys, and its record. Returns the sentence.
async fn refused_for_want_of_keys(daemon: &Daemon) -> String {
    let answer = super::ask(daemon).await;
    let sentence = refused(&answer, 503, "ServiceUnavailableException");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&"refused".into(), &503.into()), "{record}");
    assert_eq!((&record["modelId"], &record["attempts"]), (&ON_DEMAND.into(), &0.into()), "{record}");
    assert!(record.get("inputTokens").is_none(), "{record}");
    sentence
}
