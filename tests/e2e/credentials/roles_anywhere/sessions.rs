//! Sessions that begin, are renewed, and follow the files of the host.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use simulator::{Effect, Fault};
use test_support::*;

use super::{Host, served, sessions};

/// The parts of an Authorization header.
fn authorization(sent: &simulator::Received) -> (String, String, String) {
    let text = sent.header("authorization").unwrap();
    let (algorithm, rest) = text.split_once(" Credential=").unwrap();
    let (credential, rest) = rest.split_once(", SignedHeaders=").unwrap();
    let (signed, _) = rest.split_once(", Signature=").unwrap();
    (algorithm.to_owned(), credential.to_owned(), signed.to_owned())
}

#[tokio::test]
async fn keys_of_a_session_serve_requests_and_nothing_of_the_private_key_is_told() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 3600);
    let daemon = host.setup(&bedrock).ready().await;
    let sent = served(&daemon, &bedrock).await;
    served(&daemon, &bedrock).await;

    let began = sessions(&bedrock);
    assert_eq!(began.len(), 1, "one session serves both");
    let (algorithm, credential, signed) = authorization(&began[0]);
    assert_eq!(algorithm, "AWS4-X509-ECDSA-SHA256");
    assert!(credential.ends_with("/us-east-1/rolesanywhere/aws4_request"), "{credential}");
    assert_eq!(signed, "content-type;host;x-amz-date;x-amz-x509");
    assert_eq!((began[0].status, &began[0].leaks, began[0].auth.as_str()), (Some(201), &Vec::new(), "x509"));
    assert_eq!(began[0].header("user-agent"), sent.header("user-agent"));

    let page = daemon.metrics().await;
    let left = metric(&page, "bedrock_sidecar_credential_expires_seconds").unwrap();
    assert!((3000.0..=3600.0).contains(&left), "{left}");
    let certificate = metric(&page, "bedrock_sidecar_credential_certificate_expires_seconds").unwrap();
    assert!(certificate > left, "it outlives the keys: {certificate}");
    assert_eq!(metric(&page, "bedrock_sidecar_credential_refresh_total{result=\"success\"}"), Some(1.0));
    let status = daemon.admin_get("/status").await.text();
    assert!(status.contains("AWS keys with a session token"), "{status}");
    // The log, what admins are shown, and what Bedrock got.
    let key = std::fs::read_to_string(host.key()).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let token = sent.header("x-amz-security-token").unwrap();
    daemon.has_said_all().await;
    for (place, text) in [("log", daemon.log_text()), ("metrics", page), ("status", status)] {
        assert!(!text.contains(secret) && !text.contains(token), "{place}: {text}");
    }
    assert!(bedrock.requests().iter().all(|one| !format!("{one:?}").contains(secret)));
}

/// RSA, by a chain of certificates, in the other forms of PEM, to a daemon that uses TLS towards Bedrock.
#[tokio::test]
async fn rsa_keys_and_intermediate_certificates_are_taken() {
    let bedrock = bedrock().await;
    let host = Host::new();
    let between = host.authority.below();
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    // PKCS#8 is a head of 26 bytes before PKCS#1.
    let pkcs1 = STANDARD.encode(&key.serialize_der()[26..]);
    let pkcs1 = format!("-----BEGIN RSA PRIVATE KEY-----\n{pkcs1}\n-----END RSA PRIVATE KEY-----\n");
    // The root that some bundles end with is not sent.
    let bundle = format!("{}{}{}", between.issue(&key, 2049), between.pem, host.authority.pem);
    host.put(&bundle, &pkcs1);
    host.let_in(&bedrock, 3600);
    let section = format!("[credentials]\n{}\n", host.keys(&bedrock.plain_endpoint()));
    let daemon = Setup::tls(&bedrock).credentials(&section).ready().await;
    assert!(served(&daemon, &bedrock).await.tls);
    let began = sessions(&bedrock).pop().unwrap();
    let (algorithm, _, signed) = authorization(&began);
    assert_eq!(algorithm, "AWS4-X509-RSA-SHA256");
    assert_eq!(signed, "content-type;host;x-amz-date;x-amz-x509;x-amz-x509-chain");
    let chain = STANDARD.decode(began.header("x-amz-x509-chain").unwrap()).unwrap();
    assert!(between.pem.replace('\n', "").contains(&STANDARD.encode(&chain)), "the intermediate one alone");
}

#[tokio::test]
async fn sessions_are_renewed_before_they_end_and_no_request_feels_it() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 12);
    let daemon = host.setup(&bedrock).ready().await;
    let mut keys = std::collections::BTreeSet::new();
    while keys.len() < 3 {
        keys.insert(served(&daemon, &bedrock).await.access_key_id.unwrap());
        assert!(sessions(&bedrock).len() < 10, "one after the other, and no storm of them");
    }
    assert!(received(&bedrock, "Converse").iter().all(|sent| sent.status == Some(200)), "none was refused");
}

#[tokio::test]
async fn a_new_certificate_is_taken_over_within_seconds() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 3600);
    let daemon = host.setup(&bedrock).ready().await;
    let before = authorization(&sessions(&bedrock)[0]).1;
    host.renew();
    until_async("a session of the new certificate", || async {
        served(&daemon, &bedrock).await;
        sessions(&bedrock).iter().find(|one| authorization(one).1 != before && one.status == Some(201)).map(|_| ())
    })
    .await;

    // A key that does not fit changes nothing, and is told.
    let other = KeyPair::generate().unwrap();
    let certificate = std::fs::read_to_string(host.certificate()).unwrap();
    host.put(&certificate, &other.serialize_pem());
    let line = daemon.says("the commercial credential could not be read; trying again").await;
    assert!(line["reason"].as_str().unwrap().contains("is not that of the certificate"), "{line}");
    served(&daemon, &bedrock).await;
    assert_eq!(daemon.admin_get("/ready").await.status, 200);
}

#[tokio::test]
async fn keys_that_bedrock_refuses_are_replaced_within_the_request() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 3600);
    let daemon = host.setup(&bedrock).ready().await;
    let first = served(&daemon, &bedrock).await.access_key_id;
    bedrock.expire_credentials();
    bedrock.clear();
    let answer = super::super::ask(&daemon).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&"completed".into(), &2.into()), "{record}");
    let sent = received(&bedrock, "Converse");
    assert_eq!(sent.iter().map(|one| one.status).collect::<Vec<_>>(), [Some(403), Some(200)]);
    assert_ne!(sent[1].access_key_id, first);
    assert_eq!(sessions(&bedrock).len(), 1);
}

/// Each session has new keys, so it is not by their sameness that refusals in a row are told.
#[tokio::test]
async fn keys_that_bedrock_always_refuses_cost_few_sessions() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 3600);
    let daemon = host.setup(&bedrock).ready().await;
    for _ in 0..10 {
        bedrock.expire_credentials();
        let answer = super::super::ask(&daemon).await;
        let record = daemon.record_of(&answer).await;
        assert_eq!(record["statusCode"], answer.status, "{record}");
    }
    assert!(sessions(&bedrock).len() <= 3, "{:?}", sessions(&bedrock));
}

#[tokio::test]
async fn a_clock_that_is_off_is_made_up_for() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 7200);
    bedrock.inject(Fault::once(Effect::ClockSkew { seconds: 1800 }).times(0).on("CreateSession"));
    let daemon = host.setup(&bedrock).ready().await;
    served(&daemon, &bedrock).await;
    assert_eq!(sessions(&bedrock).iter().map(|one| one.status).collect::<Vec<_>>(), [Some(403), Some(201)]);
    daemon.says("IAM Roles Anywhere has another time than this host; synchronise the clock").await;
}

/// One upstream has a credential of its own, and the others are none the wiser.
#[tokio::test]
async fn an_upstream_may_have_a_certificate_of_its_own() {
    let (east, west) =
        (bedrock().await, bedrock_with(simulator::Options { region: "us-west-2".into(), ..Default::default() }).await);
    let host = Host::new();
    host.let_in(&east, 3600);
    let own = host.keys(&east.plain_endpoint()).replace('\n', ", ");
    let upstreams = format!(
        "{}credentials = {{ {own} }}\n{}",
        upstream("us-east-1", &east.plain_endpoint(), None),
        upstream("us-west-2", &west.plain_endpoint(), None)
    );
    let daemon = Setup::plain(&east).upstreams(&upstreams).ready().await;
    served(&daemon, &east).await;
    east.refuse_connections(true);
    let answer = super::super::ask(&daemon).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["destinationRegion"]), (&"completed".into(), &"us-west-2".into()));
    assert_eq!(received(&west, "Converse").pop().unwrap().auth, "bearer");
    let page = daemon.metrics().await;
    let own = "bedrock_sidecar_upstream_credential_expires_seconds{region=\"us-east-1\"}";
    assert!(metric(&page, own).unwrap() > 3000.0, "{page}");
}
