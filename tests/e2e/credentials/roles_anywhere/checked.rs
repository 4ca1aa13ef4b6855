//! `check`, and what it says of certificates.

use rcgen::KeyPair;
use test_support::*;

use super::{Host, sessions};

async fn said(setup: &Setup) -> (Option<i32>, String) {
    let output = setup.command(&["check", "--online"]).await;
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn check_online_says_how_long_certificate_and_keys_hold() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 3600);
    let (code, text) = said(&host.setup(&bedrock)).await;
    assert_eq!(code, Some(0), "{text}");
    let line = |begins: &str| {
        let found = text.lines().find(|line| line.starts_with(begins));
        found.unwrap_or_else(|| panic!("no {begins:?} in\n{text}")).to_owned()
    };
    let source = line("ok    IAM Roles Anywhere for arn:aws:iam::123456789012:role/bedrock-sidecar-hosts: ");
    assert!(source.contains("AWS keys with a session token, which expire in 59 min"), "{source}");
    let certificate = line(&format!("ok    certificate {}: ", host.certificate().display()));
    let days: u64 = certificate.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!(days > 365 && certificate.contains(" days left"), "{certificate}");
    assert_eq!(sessions(&bedrock).len(), 1);
    line("ok    key accepted by us-east-1 (ListFoundationModels): yes");
}

#[tokio::test]
async fn check_online_says_that_a_certificate_has_expired() {
    let bedrock = bedrock().await;
    let host = Host::new();
    let key = KeyPair::generate().unwrap();
    host.put(&host.authority.issue(&key, 2021), &key.serialize_pem());
    host.let_in(&bedrock, 3600);
    let (code, text) = said(&host.setup(&bedrock)).await;
    assert_eq!(code, Some(1), "{text}");
    let expired = format!("FAIL  certificate {}: it has expired; renew it", host.certificate().display());
    assert!(text.lines().any(|line| line.starts_with(&expired)), "no {expired:?} in\n{text}");

    std::fs::remove_file(host.certificate()).unwrap();
    let (code, text) = said(&host.setup(&bedrock)).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(&format!("FAIL  the certificate {} cannot be read: No such file", host.certificate().display())),
        "{text}"
    );
}

#[tokio::test]
async fn a_private_key_that_everybody_can_read_is_warned_of() {
    let bedrock = bedrock().await;
    let host = Host::new();
    host.let_in(&bedrock, 3600);
    std::fs::set_permissions(host.key(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = host.setup(&bedrock).command(&["check"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = format!("warn  every user of this host can reach the secret {}", host.key().display());
    assert!(text.contains(&expected), "{text}");
    let daemon = host.setup(&bedrock).ready().await;
    daemon.says(&format!(
        "every user of this host can reach the secret {} (mode 644); run chmod 0600 on it, owned by the daemon's user.",
        host.key().display()
    ))
    .await;
}
