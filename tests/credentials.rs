//! Where the commercial credential comes from, what forms it may have, and how it is replaced without an outage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state expectations by unwrapping")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use common::*;
use http::Method;
use serde_json::json;
use simulator::{
    AwsKey, DEFAULT_ACCESS_KEY_ID, DEFAULT_BEARER_TOKEN, DEFAULT_SECRET_ACCESS_KEY, DEFAULT_SESSION_TOKEN,
    DEFAULT_TEMPORARY_ACCESS_KEY_ID, DEFAULT_TEMPORARY_SECRET_ACCESS_KEY, Effect, Fault, ROTATED_BEARER_TOKEN,
    Simulator, short_term_key,
};

async fn ask(daemon: &Daemon) -> Answer {
    daemon.post(&converse_path(ON_DEMAND), converse("hello")).await
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn long_lived() -> String {
    json!({ "aws_access_key_id": DEFAULT_ACCESS_KEY_ID, "aws_secret_access_key": DEFAULT_SECRET_ACCESS_KEY })
        .to_string()
}

fn temporary() -> String {
    json!({
        "aws_access_key_id": DEFAULT_TEMPORARY_ACCESS_KEY_ID,
        "aws_secret_access_key": DEFAULT_TEMPORARY_SECRET_ACCESS_KEY,
        "aws_session_token": DEFAULT_SESSION_TOKEN,
    })
    .to_string()
}

/// Every form in which a secret is kept, against an upstream that verifies byte for byte.
#[tokio::test]
async fn every_form_of_a_secret_is_understood() {
    let bedrock = bedrock().await;
    let key = DEFAULT_BEARER_TOKEN;
    let (id, secret) = (DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY);
    let (temporary_id, temporary_secret) = (DEFAULT_TEMPORARY_ACCESS_KEY_ID, DEFAULT_TEMPORARY_SECRET_ACCESS_KEY);
    let short = short_term_key(&AwsKey::default_temporary(), "us-east-1", now(), 3600);
    let forms = [
        (key.to_owned(), "bearer"),
        (format!("{key}\n"), "bearer"),
        (format!("\"{key}\""), "bearer"),
        (base64(key), "bearer"),
        (base64(key).trim_end_matches('=').to_owned(), "bearer"),
        (json!({ "bedrock_api_key": key, "region": "us-east-1" }).to_string(), "bearer"),
        (json!({ "bedrock_bearer_token": key }).to_string(), "bearer"),
        (json!({ "bearer_token": key }).to_string(), "bearer"),
        (json!({ "bedrock_api_key": base64(key) }).to_string(), "bearer"),
        (short.clone(), "bearer"),
        (json!({ "bedrock_api_key": short }).to_string(), "bearer"),
        (base64(&short), "bearer"),
        (long_lived(), "sigv4"),
        (temporary(), "sigv4"),
        (json!({ "access_key": id, "secret_key": secret }).to_string(), "sigv4"),
        (
            json!({ "aws_access_key_id": id, "aws_secret_access_key": secret, "aws_session_token": "", "region": "us-east-1" })
                .to_string(),
            "sigv4",
        ),
        (format!("{id}:{secret}"), "sigv4"),
        (base64(&format!("{id}:{secret}")), "sigv4"),
        (format!("{temporary_id}:{temporary_secret}:{DEFAULT_SESSION_TOKEN}"), "sigv4"),
        (base64(&format!("{temporary_id}:{temporary_secret}:{DEFAULT_SESSION_TOKEN}")), "sigv4"),
        (json!({ "bedrock_api_key": base64(&format!("{id}:{secret}")) }).to_string(), "sigv4"),
    ];
    for (at, (form, auth)) in forms.iter().enumerate() {
        let daemon = Setup::plain(&bedrock).secret(form).ready().await;
        bedrock.clear();
        let answer = ask(&daemon).await;
        assert_eq!(answer.status, 200, "form {at}: {answer:?}");
        let sent = &received(&bedrock, "Converse")[0];
        assert_eq!(sent.auth, *auth, "form {at}");
        let has_sigv4 = sent.headers.iter().any(|(name, _)| name.starts_with("x-amz-"));
        assert_eq!(has_sigv4, *auth == "sigv4", "form {at}: one kind of proof, never both");
        let is_temporary = sent.access_key_id.as_deref() == Some(temporary_id);
        assert_eq!(sent.header("x-amz-security-token").is_some(), is_temporary, "form {at}");
    }
}

#[tokio::test]
async fn what_is_no_credential_is_refused_with_the_accepted_forms_and_never_quoted() {
    let bedrock = bedrock().await;
    for (secret, says) in [
        ("", "the secret is empty"),
        ("CANARY+1-at-123456789012:CANARYSECRET", "in no form that Bedrock knows"),
        ("CANARY-sk-123", "in no form that Bedrock knows"),
        ("{\"bedrock_api_key\": \"CANARY", "is not valid JSON"),
        ("{\"password\": \"CANARY\"}", "has none of the keys bedrock_api_key"),
        ("{\"aws_access_key_id\": \"AKIACANARY\"}", "no aws_secret_access_key"),
        ("{\"secret_key\": \"CANARY\"}", "no aws_access_key_id"),
        ("ASIACANARY:CANARY", "needs its aws_session_token"),
        ("bedrock-api-key-CANARY", "cannot be decoded"),
        ("ABSKCANARY CANARY", "characters that no API key has"),
        (
            "{\"bedrock_api_key\": \"ABSKCANARY\", \"region\": \"nowhere\"}",
            "\"region\" is not the name of an AWS region",
        ),
    ] {
        let daemon = Setup::plain(&bedrock).secret(secret).start().await;
        let ready = daemon.admin_get("/ready").await;
        assert_eq!(ready.status, 503, "{secret:?}");
        let reason = ready.json()["reasons"][0].as_str().unwrap().to_owned();
        assert!(reason.contains(says), "{secret:?}: {reason}");
        let sentence = refused(&ask(&daemon).await, 503, "ServiceUnavailableException");
        assert!(sentence.contains(says), "{secret:?}: {sentence}");
        for text in [&reason, &sentence, &daemon.log_text(), &daemon.metrics().await] {
            assert!(!text.contains("CANARY"), "quoted: {text}");
        }
    }
    assert_eq!(bedrock.requests().len(), 0, "nothing is contacted without a credential");
}

#[tokio::test]
async fn a_missing_secret_is_waited_for() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    std::fs::remove_file(setup.secret_path()).unwrap();
    let daemon = setup.start().await;
    assert_eq!(daemon.admin_get("/health").await.status, 200, "alive, and not ready");
    let ready = daemon.admin_get("/ready").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (503, &json!(false)));
    let answer = ask(&daemon).await;
    let sentence = refused(&answer, 503, "ServiceUnavailableException");
    assert!(sentence.contains("no commercial credential: the credentials file"), "{sentence}");
    assert!(sentence.contains("cannot be read: No such file or directory"), "{sentence}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");

    std::fs::write(daemon.secret_path(), DEFAULT_BEARER_TOKEN).unwrap();
    daemon.until_ready().await;
    assert_eq!(ask(&daemon).await.status, 200, "healed without a restart");
}

#[tokio::test]
async fn a_changed_file_is_taken_over_without_a_refused_request() {
    let bedrock = bedrock().await;
    bedrock.set_bearer_tokens(vec![DEFAULT_BEARER_TOKEN.into(), ROTATED_BEARER_TOKEN.into()]);
    let daemon = Setup::tls(&bedrock).ready().await;
    assert_eq!(ask(&daemon).await.status, 200);
    // As systemd and config management replace files: by renaming.
    let new = daemon.directory.path().join("new");
    std::fs::write(&new, ROTATED_BEARER_TOKEN).unwrap();
    std::fs::rename(&new, daemon.secret_path()).unwrap();
    let rotated = format!("Bearer {ROTATED_BEARER_TOKEN}");
    until_async("the new key in use", || async {
        bedrock.clear();
        assert_eq!(ask(&daemon).await.status, 200);
        received(&bedrock, "Converse")[0].header("authorization").filter(|sent| *sent == rotated).map(|_| ())
    })
    .await;
    // Another kind of credential altogether.
    std::fs::write(daemon.secret_path(), temporary()).unwrap();
    until_async("the AWS keys in use", || async {
        bedrock.clear();
        assert_eq!(ask(&daemon).await.status, 200);
        (received(&bedrock, "Converse")[0].auth == "sigv4").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_file_of_systemds_credentials_directory_is_found() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("commercial"), DEFAULT_BEARER_TOKEN).unwrap();
    let daemon = Setup::plain(&bedrock)
        .credentials("[credentials]\nsource = \"file\"\nfile = \"$CREDENTIALS_DIRECTORY/commercial\"\n")
        .env("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap())
        .ready()
        .await;
    assert_eq!(ask(&daemon).await.status, 200);
}

#[tokio::test]
async fn the_environment_gives_either_kind() {
    let bedrock = bedrock().await;
    let section = "[credentials]\nsource = \"environment\"\n";
    let bearer = Setup::plain(&bedrock)
        .credentials(section)
        .env("AWS_BEARER_TOKEN_BEDROCK", DEFAULT_BEARER_TOKEN)
        .env("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
        .env("AWS_SECRET_ACCESS_KEY", "unknown")
        .ready()
        .await;
    let keys = Setup::plain(&bedrock)
        .credentials(section)
        .env("AWS_ACCESS_KEY_ID", DEFAULT_TEMPORARY_ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", DEFAULT_TEMPORARY_SECRET_ACCESS_KEY)
        .env("AWS_SESSION_TOKEN", DEFAULT_SESSION_TOKEN)
        .ready()
        .await;
    bedrock.clear();
    assert_eq!((ask(&bearer).await.status, ask(&keys).await.status), (200, 200));
    let sent: Vec<_> = received(&bedrock, "Converse").into_iter().map(|one| one.auth).collect();
    assert_eq!(sent, ["bearer", "sigv4"]);

    let none = Setup::plain(&bedrock).credentials(section).start().await;
    let sentence = refused(&ask(&none).await, 503, "ServiceUnavailableException");
    assert!(sentence.contains("set AWS_BEARER_TOKEN_BEDROCK"), "{sentence}");
}

#[tokio::test]
async fn a_profile_gives_its_keys_or_those_of_its_process() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let (config, shared) = (directory.path().join("config"), directory.path().join("credentials"));
    let script = directory.path().join("keys.sh");
    let keys = json!({
        "Version": 1, "AccessKeyId": DEFAULT_TEMPORARY_ACCESS_KEY_ID,
        "SecretAccessKey": DEFAULT_TEMPORARY_SECRET_ACCESS_KEY, "SessionToken": DEFAULT_SESSION_TOKEN,
        "Expiration": "2099-01-01T00:00:00Z",
    });
    std::fs::write(&script, format!("#!/bin/sh\necho '{keys}'\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(&config, format!("[profile process]\ncredential_process = {}\n", script.display())).unwrap();
    std::fs::write(
        &shared,
        format!("[static]\naws_access_key_id = {DEFAULT_ACCESS_KEY_ID}\naws_secret_access_key = {DEFAULT_SECRET_ACCESS_KEY}\n"),
    )
    .unwrap();
    for (profile, id) in [("static", DEFAULT_ACCESS_KEY_ID), ("process", DEFAULT_TEMPORARY_ACCESS_KEY_ID)] {
        let daemon = Setup::plain(&bedrock)
            .credentials(&format!("[credentials]\nsource = \"profile\"\nprofile = \"{profile}\"\n"))
            .env("AWS_CONFIG_FILE", config.to_str().unwrap())
            .env("AWS_SHARED_CREDENTIALS_FILE", shared.to_str().unwrap())
            .env("PATH", "/usr/bin:/bin")
            // The profile is named, so that these must not be taken instead.
            .env("AWS_ACCESS_KEY_ID", "AKIAHOSTKEYS")
            .env("AWS_SECRET_ACCESS_KEY", "host")
            .ready()
            .await;
        bedrock.clear();
        assert_eq!(ask(&daemon).await.status, 200, "{profile}");
        assert_eq!(received(&bedrock, "Converse")[0].access_key_id.as_deref(), Some(id), "{profile}");
    }
    let nothing = Setup::plain(&bedrock)
        .credentials("[credentials]\nsource = \"profile\"\nprofile = \"nobody\"\n")
        .env("AWS_CONFIG_FILE", config.to_str().unwrap())
        .env("AWS_SHARED_CREDENTIALS_FILE", shared.to_str().unwrap())
        .start()
        .await;
    let sentence = refused(&ask(&nothing).await, 503, "ServiceUnavailableException");
    assert!(sentence.contains("the AWS profile nobody gives no credentials"), "{sentence}");
}

/// The canonical path is encoded twice; the query is sorted; what clients send unsigned may change in transit.
#[tokio::test]
async fn signatures_verify_for_every_kind_of_path_and_body() {
    let bedrock = bedrock().await;
    for secret in [long_lived(), temporary()] {
        for setup in [Setup::plain(&bedrock), Setup::tls(&bedrock)] {
            let daemon = setup.secret(&secret).ready().await;
            bedrock.clear();
            let arn = format!("arn:aws:bedrock:us-east-1::foundation-model/{ON_DEMAND}");
            let mut odd = request(Method::POST, &converse_path(&arn), converse("é \u{1F600} \"quoted\""));
            odd.headers_mut().insert("content-type", "application/json; charset=utf-8".parse().unwrap());
            odd.headers_mut().insert("user-agent", "aws-sdk-rust/1.0 ".parse().unwrap());
            odd.headers_mut().insert("x-custom", "a  b".parse().unwrap());
            assert_eq!(send(daemon.address(), odd).await.status, 200);
            let mut bare = request(Method::POST, &converse_path(ON_DEMAND), converse("no content type"));
            bare.headers_mut().remove("content-type");
            assert_eq!(send(daemon.address(), bare).await.status, 200);
            for path in [
                "/inference-profiles?type=SYSTEM_DEFINED&maxResults=2",
                "/foundation-models?byProvider=Mistral%20AI&byOutputModality=TEXT",
                "/foundation-models",
                "/inference-profiles/us.amazon.nova-premier-v1%3A0",
            ] {
                assert_eq!(daemon.get(path).await.status, 200, "{path}");
            }
            // A page's token has characters that must be encoded in the query.
            let page = daemon.get("/inference-profiles?maxResults=2").await.json();
            let token = page["nextToken"].as_str().unwrap().replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            assert_eq!(daemon.get(&format!("/inference-profiles?nextToken={token}&maxResults=2")).await.status, 200);
            for sent in bedrock.requests() {
                assert_eq!((sent.auth.as_str(), sent.status), ("sigv4", Some(200)), "{}", sent.path);
                let signed = sent.header("authorization").unwrap();
                let names = signed.split("SignedHeaders=").nth(1).unwrap().split(',').next().unwrap();
                for name in names.split(';') {
                    assert!(
                        matches!(
                            name,
                            "host" | "content-type" | "x-amz-date" | "x-amz-security-token" | "x-amz-content-sha256"
                        ),
                        "{name} is signed, and may change on the way"
                    );
                }
            }
        }
    }
}

/// Counts requests and failures of clients that never stop.
async fn under_load<F: Future<Output = ()>>(daemon: &Daemon, during: impl FnOnce() -> F) -> (u64, Vec<String>) {
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (stop, served, address) = (Arc::clone(&stop), Arc::clone(&served), daemon.address());
        clients.spawn(async move {
            let mut connection = Http1::to(address).await;
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.send(request(Method::POST, &converse_path(ON_DEMAND), converse("load"))).await;
                served.fetch_add(1, Ordering::Relaxed);
                if answer.status != 200 {
                    failures.push(format!("{answer:?}"));
                }
            }
            failures
        });
    }
    until("the load to run", || Some(()).filter(|()| served.load(Ordering::Relaxed) > 50)).await;
    during().await;
    let reached = served.load(Ordering::Relaxed) + 50;
    until("more load", || Some(()).filter(|()| served.load(Ordering::Relaxed) > reached)).await;
    stop.store(true, Ordering::Relaxed);
    let failures = clients.join_all().await.concat();
    (served.load(Ordering::Relaxed), failures)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_fails_no_request() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[models]\ncreate_profiles = false").ready().await;
    let path = daemon.secret_path();
    let (served, failures) = under_load(&daemon, || async {
        // The new key is in the secret before the old one stops: the daemon learns of it by a refusal.
        std::fs::write(&path, ROTATED_BEARER_TOKEN).unwrap();
        bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
        let rotated = format!("Bearer {ROTATED_BEARER_TOKEN}");
        until("the new key in use", || {
            bedrock.requests().iter().rev().find(|one| one.header("authorization") == Some(&rotated)).map(|_| ())
        })
        .await;
    })
    .await;
    assert!(failures.is_empty(), "{} of {served} failed: {:?}", failures.len(), failures.first());
}

async fn concurrent(daemon: &Daemon, count: usize) -> Vec<Answer> {
    let connection = Http2::to(daemon.address()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let connection = connection.clone();
        tasks.spawn(async move {
            connection.send(request(Method::POST, &converse_path(ON_DEMAND), converse("hello"))).await
        });
    }
    tasks.join_all().await
}

fn refreshes(page: &str) -> f64 {
    metric(page, "bedrock_sidecar_credential_refresh_total{result=\"success\"}").unwrap()
        + metric(page, "bedrock_sidecar_credential_refresh_total{result=\"failure\"}").unwrap()
}

/// Every sign of a stale key that Bedrock gives: one read of the source for all requests in flight, and one retry each.
#[tokio::test]
async fn a_stale_key_is_read_anew_once_for_all_and_each_request_retried_once() {
    let bedrock = bedrock().await;
    // Requests, and nothing else, may cause reads of the source.
    let daemon = Setup::tls(&bedrock)
        .credentials("[credentials]\nsource = \"environment\"\n")
        .env("AWS_BEARER_TOKEN_BEDROCK", DEFAULT_BEARER_TOKEN)
        .ready()
        .await;
    for effect in [
        Effect::InvalidKey,
        Effect::InvalidKeyFormat,
        Effect::ExpiredKey,
        Effect::ExpiredToken,
        Effect::UnrecognizedClient,
    ] {
        let before = refreshes(&daemon.metrics().await);
        bedrock.clear();
        bedrock.inject(Fault::once(effect.clone()).times(0).on("Converse"));
        let answers = concurrent(&daemon, 10).await;
        for answer in &answers {
            assert_eq!(answer.status, 403, "{effect:?}: the upstream's answer, then: {answer:?}");
            assert!(!answer.text().contains("bedrock-sidecar"), "{effect:?}: {}", answer.text());
        }
        assert_eq!(received(&bedrock, "Converse").len(), 20, "{effect:?}: one retry each");
        let read = refreshes(&daemon.metrics().await) - before;
        assert!((1.0..=2.0).contains(&read), "{effect:?}: {read} reads for 10 requests at once");
        bedrock.clear_faults();

        // One refusal only: nobody notices.
        bedrock.inject(Fault::once(effect.clone()).on("Converse"));
        let answer = ask(&daemon).await;
        assert_eq!(answer.status, 200, "{effect:?}: {answer:?}");
        assert_eq!(daemon.record_of(&answer).await["attempts"], 2);
    }
}

#[tokio::test]
async fn a_403_that_is_not_about_the_key_passes_at_once() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let before = refreshes(&daemon.metrics().await);
    for message in [
        "You don't have access to the model with the specified model ID.",
        "User: arn:aws:iam::1:user/x is not authorized to perform: bedrock:InvokeModel on resource: x",
        "User: x is not authorized to perform: bedrock:InvokeModel with an explicit deny in a service control policy",
    ] {
        let error = Effect::Error {
            status: 403,
            error_type: "AccessDeniedException".into(),
            message: message.into(),
            capital: false,
            headers: Default::default(),
        };
        let asked = || request(Method::POST, &converse_path(ON_DEMAND), converse("hello"));
        bedrock.inject(Fault::once(error.clone()));
        let expected = direct(&bedrock, asked()).await;
        bedrock.inject(Fault::once(error));
        bedrock.clear();
        same(&send(daemon.address(), asked()).await, &expected);
        assert_eq!(received(&bedrock, "Converse").len(), 1);
    }
    assert_eq!(refreshes(&daemon.metrics().await), before);
}

#[tokio::test]
async fn a_key_that_is_revoked_and_replaced_heals_within_the_request() {
    let bedrock = bedrock().await;
    for (new, change) in [(ROTATED_BEARER_TOKEN.to_owned(), "bearer"), (temporary(), "sigv4")] {
        bedrock.reset_credentials();
        let daemon = Setup::tls(&bedrock).ready().await;
        bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
        std::fs::write(daemon.secret_path(), new).unwrap();
        bedrock.clear();
        let answer = ask(&daemon).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(received(&bedrock, "Converse").last().unwrap().auth, change);
    }
}

#[tokio::test]
async fn a_short_term_key_of_another_region_is_refused_with_a_sentence() {
    let bedrock = bedrock().await;
    let key = short_term_key(&AwsKey::default_long_lived(), "us-west-2", now(), 3600);
    let daemon = Setup::plain(&bedrock).secret(&key).start().await;
    bedrock.clear();
    let sentence = refused(&ask(&daemon).await, 503, "ServiceUnavailableException");
    assert!(sentence.contains("is valid in us-west-2 only, and the upstream is us-east-1"), "{sentence}");
    assert_eq!(bedrock.requests().len(), 0);
    let log = daemon.log_text();
    assert!(!log.contains(&key[16..60]), "the key stands in the log");
}

#[tokio::test]
async fn an_expired_short_term_key_is_not_sent_and_a_new_one_is_found() {
    let bedrock = bedrock().await;
    let key = AwsKey::default_long_lived();
    let expired = short_term_key(&key, "us-east-1", now() - 4000, 3600);
    let daemon = Setup::plain(&bedrock).secret(&expired).start().await;
    bedrock.clear();
    let sentence = refused(&ask(&daemon).await, 503, "ServiceUnavailableException");
    assert!(sentence.contains("the commercial short-term Bedrock API key has expired"), "{sentence}");
    assert_eq!(daemon.admin_get("/ready").await.status, 503);
    assert_eq!(bedrock.requests().len(), 0, "an expired key is not even tried");
    std::fs::write(daemon.secret_path(), short_term_key(&key, "us-east-1", now(), 3600)).unwrap();
    daemon.until_ready().await;
    assert_eq!(ask(&daemon).await.status, 200);
}

#[tokio::test]
async fn a_short_term_key_is_replaced_before_it_expires() {
    let bedrock = bedrock().await;
    let key = AwsKey::default_long_lived();
    // It has eight seconds to live, which is less than the lead of five minutes; the source has a better one ready.
    let daemon = Setup::plain(&bedrock).secret(&short_term_key(&key, "us-east-1", now() - 3592, 3600)).ready().await;
    let fresh = short_term_key(&key, "us-east-1", now(), 3600);
    std::fs::write(daemon.secret_path(), &fresh).unwrap();
    let authorization = format!("Bearer {fresh}");
    until_async("the fresh key in use", || async {
        bedrock.clear();
        assert_eq!(ask(&daemon).await.status, 200, "never an expired one");
        received(&bedrock, "Converse")[0].header("authorization").filter(|sent| *sent == authorization).map(|_| ())
    })
    .await;
}

async fn skewed(bedrock: &Simulator, seconds: i64) {
    bedrock.inject(Fault::once(Effect::ClockSkew { seconds }).times(0));
}

#[tokio::test]
async fn a_clock_that_is_off_is_healed_once() {
    for seconds in [3600, -3600] {
        let bedrock = bedrock().await;
        skewed(&bedrock, seconds).await;
        let daemon = Setup::plain(&bedrock).secret(&long_lived()).ready().await;
        for _ in 0..3 {
            assert_eq!(ask(&daemon).await.status, 200);
        }
        let refused = bedrock.requests().into_iter().filter(|one| one.status == Some(403)).count();
        assert_eq!(refused, 1, "learned once, at the first call");
        let warnings = daemon
            .lines()
            .into_iter()
            .filter(|line| line["message"].as_str().unwrap_or_default().contains("clock differs"));
        assert_eq!(warnings.count(), 1);
        // The clock is set right: that is noticed too.
        bedrock.clear_faults();
        assert_eq!(ask(&daemon).await.status, 200);
    }
}

#[tokio::test]
async fn an_upstream_that_always_says_skewed_is_not_asked_for_ever() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).secret(&long_lived()).ready().await;
    bedrock.clear();
    bedrock.inject(
        Fault::once(Effect::Error {
            status: 403,
            error_type: "InvalidSignatureException".into(),
            message: "Signature expired: 20200101T000000Z is now earlier than 20200101T000500Z".into(),
            capital: false,
            headers: Default::default(),
        })
        .times(0)
        .on("Converse"),
    );
    let answer = ask(&daemon).await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (403, Some("InvalidSignatureException")));
    assert!(received(&bedrock, "Converse").len() <= 2);
}

#[tokio::test]
async fn a_source_that_breaks_keeps_the_key_that_works() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    std::fs::write(daemon.secret_path(), "broken").unwrap();
    daemon.says("the commercial credential could not be read; trying again").await;
    assert_eq!(ask(&daemon).await.status, 200);
    assert_eq!(daemon.admin_get("/ready").await.status, 200);
    let failures = "bedrock_sidecar_credential_refresh_total{result=\"failure\"}";
    assert!(metric(&daemon.metrics().await, failures).unwrap() >= 1.0);
}

/// The keys of the profile belong to the commercial account, so that its role is asked for in the commercial partition,
/// whatever region this GovCloud host is in.
#[tokio::test]
async fn a_profile_may_assume_a_role_of_the_commercial_account() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>{DEFAULT_TEMPORARY_ACCESS_KEY_ID}</AccessKeyId>\
         <SecretAccessKey>{DEFAULT_TEMPORARY_SECRET_ACCESS_KEY}</SecretAccessKey>\
         <SessionToken>{DEFAULT_SESSION_TOKEN}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
         </AssumeRoleResult></AssumeRoleResponse>"
    );
    let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            // The body is the last that comes: its parameters end with the version.
            while !String::from_utf8_lossy(&request).contains("Version=2011-06-15") {
                match stream.read(&mut buffer).await {
                    Ok(read @ 1..) => request.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            let _ = stream.write_all(format!("{head}{answer}").as_bytes()).await;
            let _ = asked.send(String::from_utf8_lossy(&request).into_owned());
        }
    });
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config");
    std::fs::write(
        &config,
        "[profile base]\naws_access_key_id = AKIABASE\naws_secret_access_key = base\n\
         [profile commercial]\nrole_arn = arn:aws:iam::123456789012:role/bedrock\nsource_profile = base\nregion = us-west-2\n",
    )
    .unwrap();
    let daemon = Setup::plain(&bedrock)
        .credentials("[credentials]\nsource = \"profile\"\nprofile = \"commercial\"\n")
        .env("AWS_CONFIG_FILE", config.to_str().unwrap())
        .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        .env("AWS_ENDPOINT_URL_STS", &endpoint)
        .env("AWS_REGION", "us-gov-west-1")
        .ready()
        .await;
    bedrock.clear();
    assert_eq!(ask(&daemon).await.status, 200);
    let sent = received(&bedrock, "Converse").pop().unwrap();
    assert_eq!(sent.access_key_id.as_deref(), Some(DEFAULT_TEMPORARY_ACCESS_KEY_ID));
    let request = within("the call to STS", asks.recv()).await.unwrap();
    assert!(request.contains("Action=AssumeRole&") && request.contains("role%2Fbedrock"), "{request}");
    assert!(request.contains("Credential=AKIABASE/") && request.contains("/us-west-2/sts/aws4_request"), "{request}");
}
