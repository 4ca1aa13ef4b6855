//! Local keys and tokens: who has one is known by its name, and what is forged is refused.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_bedrockruntime::error::ProvideErrorMetadata;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign};
use http::{HeaderName, HeaderValue, Method};
use http_body_util::Full;
use serde_json::{Value, json};
use test_support::users::own_uid;
use test_support::*;

use super::{KEYED, SECRET, TOKEN, with_callers};
use crate::app::{app, user};

const KEY: &str = "LOCALBILLING";

fn keys(id: &str, secret: &str) -> Credentials {
    Credentials::new(id, secret, Some("token-CANARY".into()), None, "test")
}

/// A Converse request as an SDK signs it.
pub(crate) fn signed(daemon: &Daemon, path: &str, body: &str, secret: &str, at: SystemTime) -> Request {
    signed_as(Method::POST, daemon, path, body, secret, at)
}

fn signed_as(method: Method, daemon: &Daemon, path: &str, body: &str, secret: &str, at: SystemTime) -> Request {
    let mut settings = SigningSettings::default();
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let identity = Credentials::new(KEY, secret, None, None, "test").into();
    let params = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region("us-gov-west-1")
        .name("bedrock")
        .time(at)
        .settings(settings)
        .build()
        .unwrap();
    let uri = format!("http://{}{path}", daemon.address());
    let plain = [("content-type", "application/json")];
    let signable =
        SignableRequest::new(method.as_str(), &uri, plain.into_iter(), SignableBody::Bytes(body.as_bytes())).unwrap();
    let (instructions, _) = sign(signable, &params.into()).unwrap().into_parts();
    let mut request = request(method, path, body.to_owned());
    request.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in instructions.headers() {
        request.headers_mut().insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    request
}

/// The 403 of a signature that does not verify, in AWS's own words; they do not all end with a full stop.
#[track_caller]
fn forged(answer: &Answer) -> String {
    assert_eq!(
        (answer.status, answer.header("x-amzn-errortype")),
        (403, Some("InvalidSignatureException")),
        "{answer:?}"
    );
    message(answer)
}

fn assert_nothing_leaked(bedrock: &simulator::Simulator, words: &[&str]) {
    for sent in bedrock.requests() {
        assert_eq!(sent.leaks, Vec::<String>::new());
        let all = format!("{:?} {} {}", sent.headers, sent.path, String::from_utf8_lossy(&sent.body));
        for word in words {
            assert!(!all.contains(word), "{word} in {all}");
        }
    }
}

/// A signed request is judged after its body; the legacy paths that read no body judge it too.
#[tokio::test]
async fn a_signature_opens_nothing_on_the_legacy_paths() {
    let bedrock = bedrock().await;
    let keyed = KEYED.replace("name = \"billing\"", "name = \"billing\"\ndeny_operations = [\"DashboardRequests\"]");
    let text = format!("[policy]\nrequire_known_caller = true\n{keyed}");
    let daemon = with_callers(Setup::plain(&bedrock), &text).ready().await;
    let now = SystemTime::now();
    let get = |path: &str| signed_as(Method::GET, &daemon, path, "", SECRET, now);
    let denied = send(daemon.address(), get("/v1/dashboard/requests")).await;
    assert_eq!(denied.status, 403, "{denied:?}");
    assert!(denied.text().contains("deny_operations"), "{denied:?}");
    let record = daemon.record_of(&denied).await;
    assert_eq!((&record["outcome"], &record["caller"]), (&json!("refused"), &json!("billing")), "{record}");
    assert_eq!(send(daemon.address(), get("/v1/bedrock/invoke-model")).await.status, 200);
    for path in ["/v1/dashboard/requests", "/v1/bedrock/invoke-model", "/v1/bedrock/models"] {
        let stranger = daemon.get(path).await;
        assert_eq!(stranger.status, 403, "{path}: {stranger:?}");
        assert!(stranger.text().contains("require_known_caller"), "{path}: {stranger:?}");
    }
}

#[tokio::test]
async fn the_rust_sdk_is_known_by_its_local_key_and_refused_with_a_wrong_secret() {
    let bedrock = bedrock().await;
    let daemon = with_callers(Setup::tls(&bedrock), KEYED).ready().await;
    let good = app(&daemon, keys(KEY, SECRET));
    good.converse().model_id(PROFILE_ONLY).messages(user("signed")).send().await.unwrap();
    let record = daemon.record("the signed request", |record| record["statusCode"] == 200).await;
    assert_eq!(
        (&record["caller"], &record["identityVerified"], &record["accessKeyId"], &record["callerUid"]),
        (&json!("billing"), &json!(true), &json!(KEY), &json!(own_uid())),
        "{record}"
    );
    let mut stream =
        good.converse_stream().model_id(PROFILE_ONLY).messages(user("events 3")).send().await.unwrap().stream;
    while stream.recv().await.unwrap().is_some() {}
    let record = daemon.record("the signed stream", |record| record["operation"] == "ConverseStream").await;
    assert_eq!((&record["caller"], &record["identityVerified"]), (&json!("billing"), &json!(true)), "{record}");
    let reached = bedrock.requests().len();

    let wrong = app(&daemon, keys(KEY, "anotherSecretOfTheSameLength0123456789ABC"));
    let error = wrong.converse().model_id(PROFILE_ONLY).messages(user("forged")).send().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidSignatureException"), "{error:?}");
    assert!(error.message().unwrap().contains("does not match the signature you provided"), "{error:?}");
    let record = daemon.record("the forged request", |record| record["statusCode"] == 403).await;
    assert_eq!((&record["identityVerified"], &record["outcome"]), (&json!(false), &json!("refused")), "{record}");
    assert_eq!(
        (&record["caller"], &record["accessKeyId"]),
        (&Value::Null, &json!(KEY)),
        "a claim, not a caller: {record}"
    );
    assert_eq!(bedrock.requests().len(), reached, "nothing of it went upstream");

    // A key that nobody knows here proves nothing, and is no fault.
    let strange = app(&daemon, keys("ASIAGOVCLOUD", "gov-secret-CANARY"));
    strange.converse().model_id(PROFILE_ONLY).messages(user("strange")).send().await.unwrap();
    let record = daemon.record("the strange key", |record| record["accessKeyId"] == "ASIAGOVCLOUD").await;
    assert_eq!((&record["caller"], &record["identityVerified"]), (&Value::Null, &json!(false)), "{record}");
    assert_nothing_leaked(&bedrock, &["CANARY", KEY, "ASIAGOVCLOUD", "us-gov"]);
    for secret in ["CANARY", SECRET, TOKEN] {
        assert!(!daemon.log_text().contains(secret), "{secret} in the log");
    }
}

#[tokio::test]
async fn whatever_is_changed_in_a_signed_request_spoils_it() {
    let bedrock = bedrock().await;
    let daemon = with_callers(Setup::plain(&bedrock), KEYED).ready().await;
    let (path, body, now) = (converse_path(ON_DEMAND), converse("to be signed"), SystemTime::now());
    let fresh = || signed(&daemon, &path, &body, SECRET, now);
    let sound = send(daemon.address(), fresh()).await;
    assert_eq!(sound.status, 200, "{sound:?}");
    assert_eq!(daemon.record_of(&sound).await["caller"], "billing");
    // Like AWS: the same request again within its five minutes.
    assert_eq!(send(daemon.address(), fresh()).await.status, 200);
    let over_http2 = Http2::to(daemon.address()).await.send(fresh()).await;
    assert_eq!(over_http2.status, 200, "{over_http2:?}");
    let reached = bedrock.requests().len();

    type Change = Box<dyn Fn(&mut Request)>;
    let uri = |uri: String| -> Change { Box::new(move |request| *request.uri_mut() = uri.parse().unwrap()) };
    let header = |name: &'static str, value: &'static str| -> Change {
        Box::new(move |request| {
            request.headers_mut().insert(name, value.parse().unwrap());
        })
    };
    let other_body = converse("to be forged");
    let changes: Vec<(&str, Change)> = vec![
        ("body", Box::new(move |request| *request.body_mut() = Full::new(other_body.clone().into()))),
        ("replayed on another model", uri(converse_path("amazon.nova-pro-v1:0"))),
        ("replayed on another operation", uri(stream_path(ON_DEMAND))),
        ("with a query", uri(format!("{path}?x=1"))),
        ("a signed header", header("content-type", "application/x-json")),
        ("the host", header("host", "localhost:1")),
        ("an x-amz header that is not signed", header("x-amz-more", "1")),
        ("a date", header("x-amz-date", "20250101T000000Z")),
        ("a hash of another body", header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")),
        (
            "one digit of the signature",
            Box::new(|request| {
                let text = request.headers()["authorization"].to_str().unwrap().to_owned();
                let last = if text.ends_with('0') { "1" } else { "0" };
                let forged = format!("{}{last}", &text[..text.len() - 1]);
                request.headers_mut().insert("authorization", forged.parse().unwrap());
            }),
        ),
        (
            "the scope's region",
            Box::new(|request| {
                let text =
                    request.headers()["authorization"].to_str().unwrap().replace("us-gov-west-1", "us-gov-east-1");
                request.headers_mut().insert("authorization", text.parse().unwrap());
            }),
        ),
        (
            "the scope's service",
            Box::new(|request| {
                let text = request.headers()["authorization"].to_str().unwrap().replace("/bedrock/", "/s3/");
                request.headers_mut().insert("authorization", text.parse().unwrap());
            }),
        ),
    ];
    for (what, change) in changes {
        let mut request = fresh();
        change(&mut request);
        let answer = send(daemon.address(), request).await;
        let sentence = forged(&answer);
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["caller"], &record["identityVerified"]), (&Value::Null, &json!(false)), "{what}: {record}");
        assert!(!sentence.contains(SECRET), "{what}: {sentence}");
    }
    // Another method does not even name an operation.
    let mut get = fresh();
    *get.method_mut() = Method::GET;
    assert_eq!(send(daemon.address(), get).await.status, 404);
    for (at, word) in [
        (now - Duration::from_secs(900), "Signature expired"),
        (now + Duration::from_secs(900), "Signature not yet current"),
    ] {
        let sentence = forged(&send(daemon.address(), signed(&daemon, &path, &body, SECRET, at)).await);
        assert!(sentence.contains(word), "{sentence}");
    }
    // What names our key and cannot be read was meant for us.
    let mut broken = fresh();
    broken.headers_mut().insert(
        "authorization",
        format!("AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-gov-west-1/bedrock/aws4_request, Signature=00")
            .parse()
            .unwrap(),
    );
    refused(&send(daemon.address(), broken).await, 400, "ValidationException");
    assert_eq!(bedrock.requests().len(), reached, "nothing of these went upstream");
    eventually("an event for each refusal", || {
        daemon.lines().iter().filter(|line| line["message"] == "request refused").count() >= 14
    })
    .await;
}

#[tokio::test]
async fn bearer_tokens_and_what_cannot_be_read() {
    let bedrock = bedrock().await;
    let daemon = with_callers(Setup::plain(&bedrock), KEYED).ready().await;
    let with = |value: &str| {
        let mut request = request(Method::POST, &converse_path(ON_DEMAND), converse("x"));
        request.headers_mut().insert("authorization", value.parse().unwrap());
        request
    };
    let answer = send(daemon.address(), with(&format!("Bearer {TOKEN}"))).await;
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["caller"], &record["identityVerified"]), (&json!("reports"), &json!(true)), "{record}");
    for unproven in [
        "Bearer AKIAX-another-token",
        "Bearer ",
        "AWS4-HMAC-SHA256 Credential=AKIAX/20260101/us-gov-west-1/bedrock/aws4_request, Signature=00",
        "AWS4-HMAC-SHA256 Credential=AKIAX/20260101/us-gov-west-1/bedrock/aws4_request, SignedHeaders=host, Signature=zz",
        "AWS4-HMAC-SHA256 AKIAX",
        "AWS4-ECDSA-P256-SHA256 Credential=AKIAX/20260101/bedrock/aws4_request, SignedHeaders=host, Signature=00",
        "Basic QUtJQVg6eA==",
        "AKIAX",
    ] {
        let mut request = with(unproven);
        request.headers_mut().insert("x-amz-security-token", "AKIAX-session".parse().unwrap());
        request.headers_mut().insert("x-amz-date", "20260101T000000Z".parse().unwrap());
        let answer = send(daemon.address(), request).await;
        assert_eq!(answer.status, 200, "{unproven}: {answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["caller"], &record["identityVerified"]), (&Value::Null, &json!(false)), "{unproven}");
    }
    // Presigned, by a key that nobody knows.
    let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAX%2F20260101%2Fus-gov-west-1%2Fbedrock%2Faws4_request&X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
    let answer = daemon.post(&format!("{}?{query}", converse_path(ON_DEMAND)), converse("x")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    daemon.record_of(&answer).await;
    assert_nothing_leaked(&bedrock, &["AKIAX", TOKEN, "us-gov", "20260101", "QUtJQVg6eA"]);
    assert!(!daemon.log_text().contains("AKIAX-session") && !daemon.log_text().contains(TOKEN));

    // The same ones where only known callers may call.
    let strict =
        with_callers(Setup::plain(&bedrock), &format!("{KEYED}\n[policy]\nrequire_known_caller = true")).ready().await;
    let reached = bedrock.requests().iter().filter(|one| one.method == "POST").count();
    for value in ["Bearer another", "AWS4-HMAC-SHA256 Credential=AKIAX/, Signature=00"] {
        let sentence = refused(&send(strict.address(), with(value)).await, 403, "AccessDeniedException");
        let place = format!("config.toml:{}", strict.line_of("require_known_caller"));
        assert!(sentence.contains("require_known_caller") && sentence.contains(&place), "{sentence}");
    }
    assert_eq!(bedrock.requests().iter().filter(|one| one.method == "POST").count(), reached);
    assert_eq!(send(strict.address(), with(&format!("Bearer {TOKEN}"))).await.status, 200);
    assert_eq!(strict.get("/health").await.status, 200);
}
