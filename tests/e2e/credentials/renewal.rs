//! Sources whose credential is prolonged, replaced by one that cannot work, or does not come at all.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use simulator::{
    AwsKey, DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, DEFAULT_SESSION_TOKEN, DEFAULT_TEMPORARY_ACCESS_KEY_ID,
    DEFAULT_TEMPORARY_SECRET_ACCESS_KEY, ROTATED_BEARER_TOKEN, Simulator, short_term_key,
};
use test_support::*;

use super::{ask, now};

/// A daemon's setup on a profile of files in a directory.
fn on_profile(bedrock: &Simulator, directory: &Path) -> Setup {
    Setup::plain(bedrock)
        .credentials("[credentials]\nsource = \"profile\"\nprofile = \"commercial\"\nrefresh_interval = \"1h\"\n")
        .env("AWS_CONFIG_FILE", directory.join("config").to_str().unwrap())
        .env("AWS_SHARED_CREDENTIALS_FILE", directory.join("credentials").to_str().unwrap())
        .env("PATH", "/usr/bin:/bin")
}

fn refreshes(page: &str) -> f64 {
    metric(page, "bedrock_sidecar_credential_refresh_total{result=\"success\"}").unwrap()
}

/// The session is prolonged, not replaced. Every request was refused once the first end had passed.
#[tokio::test]
async fn a_process_that_gives_the_same_keys_with_a_later_end_is_believed() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("keys.sh");
    let keys = json!({
        "Version": 1, "AccessKeyId": DEFAULT_TEMPORARY_ACCESS_KEY_ID,
        "SecretAccessKey": DEFAULT_TEMPORARY_SECRET_ACCESS_KEY, "SessionToken": DEFAULT_SESSION_TOKEN,
        "Expiration": "LATER",
    });
    let text = format!(
        "#!/bin/sh\nlater=$(date -u -d '+4 seconds' +%Y-%m-%dT%H:%M:%SZ)\necho '{keys}' | sed \"s/LATER/$later/\"\n"
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!("[profile commercial]\ncredential_process = {}\n", script.display());
    std::fs::write(directory.path().join("config"), config).unwrap();
    let daemon = on_profile(&bedrock, directory.path()).ready().await;
    until_async("the third end", || async {
        let answer = ask(&daemon).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
        (refreshes(&daemon.metrics().await) >= 3.0).then_some(())
    })
    .await;
    let page = daemon.metrics().await;
    let left = metric(&page, "bedrock_sidecar_credential_expires_seconds").unwrap();
    assert!((0.0..=4.0).contains(&left), "{left}");
}

#[tokio::test]
async fn a_profile_is_found_when_it_comes_and_its_new_keys_within_the_request() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let credentials = directory.path().join("credentials");
    std::fs::write(directory.path().join("config"), "").unwrap();
    let daemon = on_profile(&bedrock, directory.path()).start().await;
    for _ in 0..2 {
        let sentence = refused(&ask(&daemon).await, 503, "ServiceUnavailableException");
        assert!(sentence.contains("the AWS profile commercial gives no credentials"), "{sentence}");
    }
    let text = format!(
        "[commercial]\naws_access_key_id = {DEFAULT_ACCESS_KEY_ID}\naws_secret_access_key = {DEFAULT_SECRET_ACCESS_KEY}\n"
    );
    std::fs::write(&credentials, text).unwrap();
    daemon.until_ready().await;
    let answer = ask(&daemon).await;
    assert_eq!(answer.status, 200);
    daemon.record_of(&answer).await;
    assert!(!daemon.log_text().contains("already taken"), "{}", daemon.log_text());

    // The old keys stop when the new ones are there.
    let text = format!(
        "[commercial]\naws_access_key_id = {DEFAULT_TEMPORARY_ACCESS_KEY_ID}\n\
         aws_secret_access_key = {DEFAULT_TEMPORARY_SECRET_ACCESS_KEY}\naws_session_token = {DEFAULT_SESSION_TOKEN}\n"
    );
    std::fs::write(&credentials, text).unwrap();
    bedrock.set_aws_keys(vec![AwsKey::default_temporary()]);
    bedrock.clear();
    let answer = ask(&daemon).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let sent = received(&bedrock, "Converse").pop().unwrap();
    assert_eq!(sent.access_key_id.as_deref(), Some(DEFAULT_TEMPORARY_ACCESS_KEY_ID));
    let record = daemon.record_of(&answer).await;
    assert_eq!(record["outcome"], "completed");
}

#[tokio::test]
async fn a_new_credential_that_cannot_work_is_refused_loudly_and_the_old_one_kept() {
    let bedrock = bedrock().await;
    let key = AwsKey::default_long_lived();
    for (bad, says) in [
        (short_term_key(&key, "us-east-1", now() - 4000, 3600), "its short-term Bedrock API key has expired"),
        (short_term_key(&key, "us-west-2", now(), 3600), "is valid in us-west-2 only, and not in us-east-1"),
    ] {
        bedrock.reset_credentials();
        let daemon = Setup::plain(&bedrock).ready().await;
        std::fs::write(daemon.secret_path(), bad).unwrap();
        let line = daemon.says("the source gives a commercial credential that cannot work").await;
        assert_eq!(line["level"], "ERROR");
        assert!(line["reason"].as_str().unwrap().contains(says), "{line}");
        let answer = ask(&daemon).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
        assert_eq!(daemon.admin_get("/ready").await.status, 200);
        let problem = daemon.admin_get("/status").await.json()["credential"]["problem"].as_str().unwrap().to_owned();
        assert!(problem.contains(says) && problem.contains("the one before stays in use"), "{problem}");
        // The next one that works is taken over.
        std::fs::write(daemon.secret_path(), ROTATED_BEARER_TOKEN).unwrap();
        bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
        assert_eq!(ask(&daemon).await.status, 200);
    }
}

fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Nobody writes to it, so that reading it would never end.
#[tokio::test]
async fn a_file_that_blocks_holds_up_neither_requests_nor_the_end() {
    let bedrock = bedrock().await;
    let of_secret = Setup::plain(&bedrock);
    std::fs::remove_file(of_secret.secret_path()).unwrap();
    fifo(&of_secret.secret_path());
    let mut daemon = of_secret.start().await;
    let answer = ask(&daemon).await;
    let sentence = refused(&answer, 503, "ServiceUnavailableException");
    assert!(sentence.contains("cannot be read: it is not a regular file"), "{sentence}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");
    assert_eq!(daemon.admin_get("/ready").await.status, 503);
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());

    // The files of a profile, which the AWS SDK would read.
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config"), "").unwrap();
    let credentials = directory.path().join("credentials");
    let text = format!(
        "[commercial]\naws_access_key_id = {DEFAULT_ACCESS_KEY_ID}\naws_secret_access_key = {DEFAULT_SECRET_ACCESS_KEY}\n"
    );
    std::fs::write(&credentials, text).unwrap();
    let mut daemon = on_profile(&bedrock, directory.path()).ready().await;
    // In one step: between two, the daemon may find no file at all.
    let blocks = directory.path().join("blocks");
    fifo(&blocks);
    std::fs::rename(&blocks, &credentials).unwrap();
    let line = daemon.says("the commercial credential could not be read; trying again").await;
    let expected =
        format!("the file {} of the AWS configuration cannot be read: it is not a regular file", credentials.display());
    assert_eq!(line["reason"], expected, "{line}");
    let answer = ask(&daemon).await;
    assert_eq!(answer.status, 200, "the keys that it has work: {answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
}
