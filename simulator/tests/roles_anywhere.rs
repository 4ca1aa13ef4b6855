//! IAM Roles Anywhere, by requests that are signed here: what it takes, and each thing that it refuses.

#![allow(clippy::unwrap_used)]

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber, SigningKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use simulator::{Options, RolesAnywhere, Simulator};

const ANCHOR: &str = "arn:aws:rolesanywhere:us-east-1:123456789012:trust-anchor/a";
const PROFILE: &str = "arn:aws:rolesanywhere:us-east-1:123456789012:profile/p";
const ROLE: &str = "arn:aws:iam::123456789012:role/hosts";

/// Changes one thing of a request.
type Spoil = fn(&mut Request);

/// A signed request, each part of which a test may spoil before it is signed or after.
struct Request {
    algorithm: &'static str,
    serial: String,
    scope_region: &'static str,
    time: i64,
    certificate: Vec<u8>,
    signed: Vec<&'static str>,
    body: Value,
    /// Sent in place of what was signed.
    sent_body: Option<Value>,
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Host {
    simulator: Simulator,
    issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    certificate: Vec<u8>,
}

impl Host {
    async fn new() -> Host {
        let simulator = Simulator::start(Options::default()).await.unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let of_ca = KeyPair::generate().unwrap();
        simulator.set_roles_anywhere(Some(RolesAnywhere {
            trust_anchor_arn: ANCHOR.into(),
            ca_pem: params.self_signed(&of_ca).unwrap().pem(),
            profile_arn: PROFILE.into(),
            role_arn: ROLE.into(),
            session_seconds: 900,
        }));
        let (issuer, key) = (Issuer::new(params, of_ca), KeyPair::generate().unwrap());
        let certificate = issue(&issuer, &key, |_| {});
        Host { simulator, issuer, key, certificate }
    }

    fn request(&self) -> Request {
        Request {
            algorithm: "AWS4-X509-ECDSA-SHA256",
            serial: "1311768467463790320".into(),
            scope_region: "us-east-1",
            time: now(),
            certificate: self.certificate.clone(),
            signed: vec!["content-type", "host", "x-amz-date", "x-amz-x509"],
            body: json!({ "profileArn": PROFILE, "roleArn": ROLE, "trustAnchorArn": ANCHOR }),
            sent_body: None,
        }
    }

    async fn send(&self, request: Request) -> (u16, Value) {
        let host = self.simulator.plain_endpoint().trim_start_matches("http://").to_owned();
        let date = jiff::Timestamp::from_second(request.time).unwrap().strftime("%Y%m%dT%H%M%SZ").to_string();
        let body = request.body.to_string();
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("host", host.clone()),
            ("x-amz-date", date.clone()),
            ("x-amz-x509", STANDARD.encode(&request.certificate)),
        ];
        let covered: String = headers
            .iter()
            .filter(|(name, _)| request.signed.contains(name))
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let names = request.signed.join(";");
        let canonical = format!("POST\n/sessions\n\n{covered}\n{names}\n{}", hash(body.as_bytes()));
        let scope = format!("{}/{}/rolesanywhere/aws4_request", &date[..8], request.scope_region);
        let to_sign = format!("{}\n{date}\n{scope}\n{}", request.algorithm, hash(canonical.as_bytes()));
        let signature: String =
            self.key.sign(to_sign.as_bytes()).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        let authorization = format!(
            "{} Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            request.algorithm, request.serial
        );
        let mut sent = hyper::Request::post("/sessions").header("authorization", authorization);
        for (name, value) in headers {
            sent = sent.header(name, value);
        }
        let body = request.sent_body.map_or(body, |other| other.to_string());
        let stream = tokio::net::TcpStream::connect(&host).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(sent.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

fn issue(issuer: &Issuer<'static, KeyPair>, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "host");
    params.serial_number = Some(SerialNumber::from(0x1234_5678_9abc_def0_u64));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    change(&mut params);
    params.signed_by(key, issuer).unwrap().der().to_vec()
}

#[tokio::test]
async fn keys_are_given_for_a_signature() {
    let host = Host::new().await;
    let (status, answer) = host.send(host.request()).await;
    assert_eq!(status, 201, "{answer}");
    let keys = &answer["credentialSet"][0]["credentials"];
    assert!(keys["accessKeyId"].as_str().unwrap().starts_with("ASIA"), "{answer}");
    let ends: jiff::Timestamp = keys["expiration"].as_str().unwrap().parse().unwrap();
    assert!((now() + 890..=now() + 900).contains(&ends.as_second()), "{ends}");
    let received = host.simulator.requests().pop().unwrap();
    assert_eq!((received.auth.as_str(), received.operation.as_deref()), ("x509", Some("CreateSession")));
}

#[tokio::test]
async fn what_is_not_as_it_was_signed_is_refused() {
    let host = Host::new().await;
    let spoiled: [(&str, Spoil, u16); 8] = [
        ("another algorithm", |request| request.algorithm = "AWS4-X509-RSA-SHA256", 403),
        ("another serial number", |request| request.serial = "1".into(), 403),
        ("another region", |request| request.scope_region = "us-west-2", 403),
        ("a body of its own", |request| request.sent_body = Some(json!({ "profileArn": PROFILE })), 403),
        ("an old date", |request| request.time -= 400, 403),
        ("a date to come", |request| request.time += 400, 403),
        (
            "a certificate that is not signed",
            |request| {
                request.signed.retain(|name| *name != "x-amz-x509");
            },
            403,
        ),
        ("a member that there is not", |request| request.body["sessionPolicy"] = "x".into(), 400),
    ];
    for (what, spoil, expected) in spoiled {
        let mut request = host.request();
        spoil(&mut request);
        let (status, answer) = host.send(request).await;
        assert_eq!(status, expected, "{what}: {answer}");
        assert!(answer.get("credentialSet").is_none(), "{what}");
    }
}

#[tokio::test]
async fn certificates_that_do_not_hold_are_refused() {
    let host = Host::new().await;
    let other = KeyPair::generate().unwrap();
    let (mut of_other, of_ca) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
    of_other.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let stranger = Issuer::new(of_other, of_ca);
    for (what, certificate) in [
        ("expired", issue(&host.issuer, &host.key, |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1))),
        (
            "not yet valid",
            issue(&host.issuer, &host.key, |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1)),
        ),
        (
            "not for signatures",
            issue(&host.issuer, &host.key, |params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        ),
        ("a CA's", issue(&host.issuer, &host.key, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("of another key", issue(&host.issuer, &other, |_| {})),
        ("of another CA", issue(&stranger, &host.key, |_| {})),
    ] {
        let (status, answer) = host.send(Request { certificate, ..host.request() }).await;
        assert_eq!(status, 403, "{what}: {answer}");
        assert!(answer.get("credentialSet").is_none(), "{what}");
    }
    host.simulator.set_roles_anywhere(None);
    assert_eq!(host.send(host.request()).await.0, 404, "no trust anchor");
}
