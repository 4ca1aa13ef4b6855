//! Every form in which a secret is kept, and what is signed with it.

use http::Method;
use serde_json::json;
use simulator::{
    AwsKey, DEFAULT_ACCESS_KEY_ID, DEFAULT_BEARER_TOKEN, DEFAULT_SECRET_ACCESS_KEY, DEFAULT_SESSION_TOKEN,
    DEFAULT_TEMPORARY_ACCESS_KEY_ID, DEFAULT_TEMPORARY_SECRET_ACCESS_KEY, short_term_key,
};
use test_support::*;

use super::{ask, long_lived, now, temporary};

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// As `base64` and openssl write it.
fn wrapped(encoded: &str) -> String {
    encoded.as_bytes().chunks(76).map(|line| format!("{}\n", std::str::from_utf8(line).unwrap())).collect()
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
        (wrapped(&base64(key)), "bearer"),
        (json!({ "bedrock_api_key": wrapped(&base64(&short)) }).to_string(), "bearer"),
        (json!({ "bedrock_api_key": "", "bearer_token": key }).to_string(), "bearer"),
        (json!({ "aws_access_key_id": base64(id), "aws_secret_access_key": base64(secret) }).to_string(), "sigv4"),
        (json!({ "access_key": id, "secret_key": base64(secret) }).to_string(), "sigv4"),
        (
            json!({
                "aws_access_key_id": base64(temporary_id),
                "aws_secret_access_key": base64(temporary_secret),
                "aws_session_token": base64(DEFAULT_SESSION_TOKEN),
            })
            .to_string(),
            "sigv4",
        ),
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
        let answer = ask(&daemon).await;
        let sentence = refused(&answer, 503, "ServiceUnavailableException");
        assert!(sentence.contains(says), "{secret:?}: {sentence}");
        daemon.record_of(&answer).await;
        for text in [&reason, &sentence, &daemon.log_text(), &daemon.metrics().await] {
            assert!(!text.contains("CANARY"), "quoted: {text}");
        }
    }
    assert_eq!(bedrock.requests().len(), 0, "nothing is contacted without a credential");
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
