//! What goes wrong with certificates, files and IAM Roles Anywhere, and what is said of it.

use rcgen::KeyPair;
use serde_json::json;
use simulator::{Effect, Fault, RolesAnywhere};
use test_support::*;

use super::{ANCHOR, Authority, Host, PROFILE, ROLE, refused_for_want_of_keys, served, sessions};

#[tokio::test]
async fn what_iam_roles_anywhere_refuses_is_told_with_what_to_do() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 3600);
    let known = |arns: [&str; 3], ca_pem: &str| RolesAnywhere {
        trust_anchor_arn: arns[0].to_owned(),
        ca_pem: ca_pem.to_owned(),
        profile_arn: arns[1].to_owned(),
        role_arn: arns[2].to_owned(),
        session_seconds: 3600,
    };
    let ours = host.authority.pem.as_str();
    let others = Authority::new().pem;
    let file = host.certificate().display().to_string();
    for (account, expected) in [
        (
            known([&format!("{ANCHOR}x"), PROFILE, ROLE], ours),
            "ResourceNotFoundException (404): simulator: the account has no trust anchor with this ARN; correct trust_anchor_arn, profile_arn and role_arn.",
        ),
        (
            known([ANCHOR, &format!("{PROFILE}x"), ROLE], ours),
            "ResourceNotFoundException (404): simulator: the account has no profile with this ARN; correct trust_anchor_arn, profile_arn and role_arn.",
        ),
        (
            known([ANCHOR, PROFILE, &format!("{ROLE}x")], ours),
            &format!("AccessDeniedException (403): Unable to assume role for {ROLE}; check that the trust anchor"),
        ),
        (
            known([ANCHOR, PROFILE, ROLE], &others),
            "AccessDeniedException (403): Untrusted signing certificate; check that the trust anchor has the certificate's CA and is enabled, and that profile and role let it in.",
        ),
    ] {
        bedrock.set_roles_anywhere(Some(account));
        let mut daemon = host.setup(&bedrock).start().await;
        let sentence = refused_for_want_of_keys(&daemon).await;
        let begins = format!(
            "bedrock-sidecar: no commercial credential: IAM Roles Anywhere gives no keys for the certificate {file}: "
        );
        assert!(sentence.starts_with(&begins) && sentence.contains(expected), "{sentence}");
        let ready = daemon.admin_get("/ready").await;
        assert_eq!((ready.status, &ready.json()["ready"]), (503, &json!(false)));
        daemon.signal("TERM");
        assert!(daemon.ended().await.success());
    }
    assert!(received(&bedrock, "Converse").is_empty());
}

#[tokio::test]
async fn an_expired_certificate_is_told_and_its_successor_heals() {
    let bedrock = bedrock().await;
    let host = Host::new();
    let key = KeyPair::generate().unwrap();
    host.put(&host.authority.issue(&key, 2021), &key.serialize_pem());
    host.let_in(&bedrock, 3600);
    let daemon = host.setup(&bedrock).start().await;
    let sentence = refused_for_want_of_keys(&daemon).await;
    assert!(
        sentence.ends_with(
            "AccessDeniedException (403): Certificate is expired; it expired at 2021-01-01T00:00:00Z, so renew it."
        ),
        "{sentence}"
    );
    let line = daemon.says("this host's certificate is about to expire; renew it").await;
    assert_eq!(line["days"], 0);
    host.renew();
    daemon.until_ready().await;
    served(&daemon, &bedrock).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 3600);
    let certificate = std::fs::read_to_string(host.certificate()).unwrap();
    let key = std::fs::read_to_string(host.key()).unwrap();
    let (certificate_file, key_file) = (host.certificate().display().to_string(), host.key().display().to_string());
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let daemon = host.setup(&bedrock).ready().await;
    // The session that has begun serves on, whatever the files hold.
    for (certificate, key, expected) in [
        ("", key.as_str(), format!("the certificate {certificate_file} cannot be used: it holds no PEM certificate")),
        (
            certificate.as_str(),
            "",
            format!("the private key {key_file} cannot be used: it holds no private key in PEM"),
        ),
        (
            certificate.as_str(),
            encrypted.as_str(),
            format!("the private key {key_file} cannot be used: it is encrypted"),
        ),
    ] {
        host.put(certificate, key);
        until_async("it to be said", || async {
            let lines = daemon.lines();
            let mut reasons = lines.iter().filter_map(|line| line["reason"].as_str());
            reasons.any(|reason| reason.contains(&expected)).then_some(())
        })
        .await;
        served(&daemon, &bedrock).await;
    }
    assert!(!daemon.log_text().contains(key.lines().nth(1).unwrap()));
    std::fs::remove_file(host.key()).unwrap();
    let daemon = host.setup(&bedrock).start().await;
    let sentence = refused_for_want_of_keys(&daemon).await;
    assert!(sentence.contains(&format!("the private key {key_file} cannot be read: No such file")), "{sentence}");
}

#[tokio::test]
async fn a_passing_fault_is_not_felt_and_a_lasting_one_is_told() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 3600);
    bedrock.inject(Fault::once(Effect::ServiceUnavailable).on("CreateSession"));
    let daemon = host.setup(&bedrock).ready().await;
    served(&daemon, &bedrock).await;
    assert_eq!(sessions(&bedrock).iter().map(|one| one.status).collect::<Vec<_>>(), [Some(503), Some(201)]);
    let failures = "bedrock_sidecar_credential_refresh_total{result=\"failure\"}";
    assert_eq!(metric(&daemon.metrics().await, failures), Some(0.0));

    bedrock.inject(Fault::once(Effect::InternalServerError).times(0).on("CreateSession"));
    let daemon = host.setup(&bedrock).start().await;
    let sentence = refused_for_want_of_keys(&daemon).await;
    assert!(sentence.contains("IAM Roles Anywhere cannot give keys now: InternalServerException (500)"), "{sentence}");
    assert!(metric(&daemon.metrics().await, failures).unwrap() >= 1.0);
    bedrock.clear_faults();
    daemon.until_ready().await;
    served(&daemon, &bedrock).await;
}

#[tokio::test]
async fn a_service_that_is_silent_or_gone_holds_up_neither_requests_nor_the_end() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 3600);
    bedrock.inject(Fault::once(Effect::SlowFirstByte { ms: 600_000 }).times(0).on("CreateSession"));
    let mut daemon = host.setup(&bedrock).start().await;
    let sentence = refused_for_want_of_keys(&daemon).await;
    assert!(sentence.contains("the source has not been read yet"), "{sentence}");
    assert_eq!(daemon.admin_get("/ready").await.status, 503);
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());

    let gone = format!("[credentials]\n{}\n", host.keys("http://127.0.0.1:1"));
    let daemon = Setup::plain(&bedrock).credentials(&gone).start().await;
    let sentence = refused_for_want_of_keys(&daemon).await;
    assert!(sentence.contains("IAM Roles Anywhere (http://127.0.0.1:1) cannot be asked: "), "{sentence}");
}

#[tokio::test]
async fn keys_in_use_serve_on_while_there_are_no_new_ones() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 25);
    let daemon = host.setup(&bedrock).ready().await;
    bedrock.inject(Fault::once(Effect::InternalServerError).times(0).on("CreateSession"));
    daemon.says("the commercial credential could not be read; trying again").await;
    served(&daemon, &bedrock).await;
    assert_eq!(daemon.admin_get("/ready").await.status, 200);
    // Until they have ended, too.
    let sentence = until_async("the end of the session", || async {
        let answer = super::super::ask(&daemon).await;
        let record = daemon.record_of(&answer).await;
        assert_eq!(record["statusCode"], answer.status, "{record}");
        (answer.status != 200).then(|| refused(&answer, 503, "ServiceUnavailableException"))
    })
    .await;
    assert!(
        sentence.contains(
            "the commercial AWS keys with a session token have expired and IAM Roles Anywhere cannot give keys now"
        ),
        "{sentence}"
    );
    bedrock.clear_faults();
    until_async("new keys", || async { (super::super::ask(&daemon).await.status == 200).then_some(()) }).await;
    served(&daemon, &bedrock).await;
}
