//! Who may call, from outside: the real binary, the real Rust SDK, processes of other users, client certificates.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests state expectations by unwrapping"
)]

mod common;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::config::retry::RetryConfig;
use aws_sdk_bedrockruntime::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_bedrockruntime::error::ProvideErrorMetadata;
use aws_sdk_bedrockruntime::types::{ContentBlock, ConversationRole, Message};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign};
use common::client::Reader;
use common::*;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};

const KEY: &str = "LOCALBILLING";
const SECRET: &str = "localSecretThatOnlyTestsKnow0123456789ABC";
const TOKEN: &str = "a-token-that-only-these-tests-know";
const ALICE: u32 = 61_001;
const BOB: u32 = 61_002;

/// `{dir}` in `text` is a folder with the files `key` and `token`.
fn with_callers(setup: Setup, text: &str) -> Setup {
    let dir = setup.path().display().to_string();
    for (name, content) in [("key", SECRET), ("token", TOKEN)] {
        let path = setup.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    setup.with(&text.replace("{dir}", &dir))
}

const KEYED: &str = r#"
[[callers]]
name = "billing"
access_key_id = "LOCALBILLING"
secret_access_key_file = "{dir}/key"
[[callers]]
name = "reports"
bearer_token_file = "{dir}/token"
"#;

fn app(daemon: &Daemon, id: &str, secret: &str) -> Client {
    let keys = Credentials::new(id, secret, Some("token-CANARY".into()), None, "test");
    let config = aws_sdk_bedrockruntime::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-gov-west-1"))
        .credentials_provider(keys)
        .endpoint_url(format!("http://{}", daemon.address()))
        .retry_config(RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

fn user(text: &str) -> Message {
    Message::builder().role(ConversationRole::User).content(ContentBlock::Text(text.to_owned())).build().unwrap()
}

/// A Converse request as an SDK signs it.
fn signed(daemon: &Daemon, path: &str, body: &str, secret: &str, at: SystemTime) -> Request<Full<bytes::Bytes>> {
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
    let signable = SignableRequest::new("POST", &uri, plain.into_iter(), SignableBody::Bytes(body.as_bytes())).unwrap();
    let (instructions, _) = sign(signable, &params.into()).unwrap().into_parts();
    let mut request = request(Method::POST, path, body.to_owned());
    for (name, value) in instructions.headers() {
        request.headers_mut().insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    request
}

/// Line number, from 1, of the first line of the configuration with this text.
fn line_of(daemon: &Daemon, text: &str) -> usize {
    let config = std::fs::read_to_string(daemon.directory.path().join("config.toml")).unwrap();
    1 + config.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text} in {config}"))
}

async fn reload(daemon: &Daemon, old: &str, new: &str) {
    let path = daemon.directory.path().join("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(old), "{text}");
    std::fs::write(&path, text.replace(old, new)).unwrap();
    let count =
        |daemon: &Daemon| daemon.lines().iter().filter(|line| line["message"] == "configuration reloaded").count();
    let before = count(daemon);
    daemon.signal("HUP");
    until("the reload", || Some(()).filter(|()| count(daemon) > before)).await;
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

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
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

#[tokio::test]
async fn the_rust_sdk_is_known_by_its_local_key_and_refused_with_a_wrong_secret() {
    let bedrock = bedrock().await;
    let daemon = with_callers(Setup::tls(&bedrock), KEYED).ready().await;
    let good = app(&daemon, KEY, SECRET);
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

    let wrong = app(&daemon, KEY, "anotherSecretOfTheSameLength0123456789ABC");
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
    let strange = app(&daemon, "ASIAGOVCLOUD", "gov-secret-CANARY");
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

    type Change = Box<dyn Fn(&mut Request<Full<bytes::Bytes>>)>;
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
    let refusals = daemon.lines().into_iter().filter(|line| line["message"] == "request refused").count();
    assert!(refusals >= 14, "each refusal is an event: {refusals}");
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
    assert_nothing_leaked(&bedrock, &["AKIAX", TOKEN, "us-gov", "20260101", "QUtJQVg6eA"]);
    assert!(!daemon.log_text().contains("AKIAX-session") && !daemon.log_text().contains(TOKEN));

    // The same ones where only known callers may call.
    let strict =
        with_callers(Setup::plain(&bedrock), &format!("{KEYED}\n[policy]\nrequire_known_caller = true")).ready().await;
    let reached = bedrock.requests().iter().filter(|one| one.method == "POST").count();
    for value in ["Bearer another", "AWS4-HMAC-SHA256 Credential=AKIAX/, Signature=00"] {
        let sentence = refused(&send(strict.address(), with(value)).await, 403, "AccessDeniedException");
        let place = format!("config.toml:{}", line_of(&strict, "require_known_caller"));
        assert!(sentence.contains("require_known_caller") && sentence.contains(&place), "{sentence}");
    }
    assert_eq!(bedrock.requests().iter().filter(|one| one.method == "POST").count(), reached);
    assert_eq!(send(strict.address(), with(&format!("Bearer {TOKEN}"))).await.status, 200);
    assert_eq!(strict.get("/health").await.status, 200);
}

/// Whether this process may become other users.
fn can_be_others(test: &str) -> bool {
    let able = own_uid() == 0 && Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !able {
        println!("NOT RUN: {test} (needs root and setpriv)");
    }
    able
}

/// This binary again, as another user: sends `text` to `place` so many times, and prints what comes.
fn other_user(uid: u32, part: &str, place: &str, text: &str) -> Child {
    Command::new("setpriv")
        .args(["--reuid", &uid.to_string(), "--regid", &uid.to_string(), "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "another_process", "--nocapture"])
        .env("E2E_PART", part)
        .env("E2E_PLACE", place)
        .env("E2E_TEXT", text)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn said_by(child: Child) -> String {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const HIT_AND_RUN: usize = 400;

/// Not a test of its own: the other side of those below.
#[test]
fn another_process() {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let (part, place, text) = (var("E2E_PART"), var("E2E_PLACE"), var("E2E_TEXT"));
    match part.as_str() {
        "" => {}
        "ask" => {
            let mut answer = String::new();
            if place.starts_with('/') {
                let mut stream = std::os::unix::net::UnixStream::connect(place).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                stream.read_to_string(&mut answer).unwrap();
            } else {
                let mut stream = std::net::TcpStream::connect(place).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                stream.read_to_string(&mut answer).unwrap();
            }
            println!("{answer}");
        }
        "hit_and_run" => {
            for _ in 0..HIT_AND_RUN {
                std::net::TcpStream::connect(&place).unwrap().write_all(text.as_bytes()).unwrap();
            }
        }
        other => panic!("no part {other}"),
    }
}

#[tokio::test]
async fn users_are_told_apart_over_ipv4_ipv6_and_the_unix_socket() {
    if !can_be_others("users_are_told_apart_over_ipv4_ipv6_and_the_unix_socket") {
        return;
    }
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let socket = setup.path().join("bedrock.sock");
    std::fs::set_permissions(setup.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let listen = format!(
        "addresses = [\"127.0.0.1:0\", \"[::1]:0\"]\nadmin_address = \"127.0.0.1:0\"\nunix_socket = \"{}\"\n",
        socket.display()
    );
    let daemon = setup
        .listen(&listen)
        .with(&format!("[[callers]]\nname = \"alice\"\nusers = [\"{ALICE}\"]\n[policy]\nrequire_known_caller = true"))
        .ready()
        .await;
    assert_eq!(daemon.places.len(), 3, "{:?}", daemon.places);
    let rule = format!("require_known_caller at config.toml:{}", line_of(&daemon, "require_known_caller"));
    for place in &daemon.places {
        let host = if place.starts_with('/') { "localhost" } else { place };
        let body = converse(&format!("from {place}"));
        let text = format!(
            "POST {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            converse_path(ON_DEMAND),
            body.len()
        );
        let answer = said_by(other_user(ALICE, "ask", place, &text)).await;
        assert!(answer.contains("HTTP/1.1 200 OK"), "{place}: {answer}");
        let answer = said_by(other_user(BOB, "ask", place, &text)).await;
        assert!(answer.contains("HTTP/1.1 403 Forbidden") && answer.contains("AccessDeniedException"), "{answer}");
        assert!(answer.contains(&rule), "{place}: {answer}");
    }
    let of = |uid: u32| daemon.records().into_iter().filter(|one| one["callerUid"] == uid).collect::<Vec<_>>();
    until("all lines", || Some(()).filter(|()| of(ALICE).len() == 3 && of(BOB).len() == 3)).await;
    for record in of(ALICE) {
        assert_eq!(
            (&record["caller"], &record["identityVerified"], &record["statusCode"]),
            (&json!("alice"), &json!(false), &json!(200)),
            "a uid is no proof of identity: {record}"
        );
    }
    for record in of(BOB) {
        assert_eq!((&record["caller"], &record["outcome"]), (&Value::Null, &json!("refused")), "{record}");
    }
    assert_eq!(received(&bedrock, "Converse").len(), 3);
}

#[tokio::test]
async fn who_writes_and_closes_at_once_is_never_taken_for_root() {
    if !can_be_others("who_writes_and_closes_at_once_is_never_taken_for_root") {
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .with(&format!(
            "[[callers]]\nname = \"root\"\nusers = [\"0\"]\n[[callers]]\nname = \"alice\"\nusers = [\"{ALICE}\"]\ndata_classification = \"internal\""
        ))
        .ready()
        .await;
    let text = raw::converse(daemon.address(), ON_DEMAND, "hit and run", "");
    said_by(other_user(ALICE, "hit_and_run", &daemon.address().to_string(), &text)).await;
    // Connections are accepted in their order, so all those are in when this one is.
    let body = converse("last");
    let last = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nX-Last: 1\r\nContent-Length: {}\r\n\r\n{body}",
        converse_path("amazon.nova-pro-v1:0"),
        daemon.address(),
        body.len()
    );
    said_by(other_user(ALICE, "ask", &daemon.address().to_string(), &last)).await;
    daemon.record("the last one", |record| record["modelId"] == "amazon.nova-pro-v1:0").await;
    until_async("the end of all", || async {
        (metric(&daemon.metrics().await, "bedrock_sidecar_in_flight") == Some(0.0)).then_some(())
    })
    .await;
    let records = daemon.records();
    let mine = records.iter().filter(|record| record["caller"] == "alice" && record["callerUid"] == ALICE).count();
    let unknown = records.iter().filter(|record| record["caller"].is_null() && record["callerUid"].is_null()).count();
    println!("connect, write, close: {mine} known, {unknown} unknown of {}", records.len());
    assert_eq!(mine + unknown, records.len(), "{records:?}");
    assert!(mine >= 1 && records.len() > 1);
}

#[tokio::test]
async fn policy_decides_by_model_and_operation_and_deny_beats_allow() {
    let bedrock = bedrock().await;
    let text = format!(
        r#"
[[callers]]
name = "me"
users = ["{}"]
models = ["amazon.*", "*haiku*"]
deny_models = ["*premier*"]
operations = ["Converse*", "List*", "CreateInferenceProfile"]
deny_operations = ["ConverseStream"]
[log]
level = "debug"
"#,
        own_uid()
    );
    let daemon = with_callers(Setup::plain(&bedrock), &text).ready().await;
    let at = |what: &str, text: &str| format!("{what} at config.toml:{}", line_of(&daemon, text));
    let ok = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!(ok.status, 200, "{ok:?}");
    assert_eq!(daemon.record_of(&ok).await["caller"], "me");
    let allowed = daemon.says("request allowed").await;
    assert_eq!((&allowed["caller"], &allowed["operation"]), (&json!("me"), &json!("Converse")), "{allowed}");
    assert_eq!(daemon.post(&converse_path("anthropic.claude-3-haiku-20240307-v1:0"), converse("x")).await.status, 200);
    assert_eq!(daemon.get("/foundation-models").await.status, 200);
    let reached = received(&bedrock, "Converse").len();

    let invoke = format!("/model/{}/invoke", encoded(ON_DEMAND));
    let refusals = [
        (converse_path(PROFILE_ONLY), at("deny_models", "deny_models = ")),
        (converse_path(&format!("us.{PROFILE_ONLY}")), at("deny_models", "deny_models = ")),
        (converse_path(&PROFILE_ONLY.to_uppercase()), at("deny_models", "deny_models = ")),
        (
            converse_path(&format!("arn:aws:bedrock:us-east-1::foundation-model/{PROFILE_ONLY}")),
            at("deny_models", "deny_models = "),
        ),
        (converse_path("mistral.mistral-large-2402-v1:0"), at("models", "\nmodels = ".trim())),
        (stream_path(ON_DEMAND), at("deny_operations", "deny_operations = ")),
        (invoke, at("operations", "operations = [\"Converse*")),
    ];
    for (path, rule) in refusals {
        let answer = daemon.post(&path, converse("x")).await;
        let sentence = refused(&answer, 403, "AccessDeniedException");
        let line = rule.split_once(" at ").unwrap();
        assert!(sentence.contains(line.0) && sentence.contains("\"me\""), "{path}: {sentence}");
        if !line.0.starts_with("models") {
            assert!(sentence.contains(&rule), "{path}: {sentence} {rule}");
        }
        let record = daemon.record_of(&answer).await;
        assert_eq!(
            (&record["caller"], &record["outcome"], &record["attempts"]),
            (&json!("me"), &json!("refused"), &json!(0))
        );
        assert_eq!(record["errorMessage"], sentence.as_str());
        until("the event", || {
            daemon.lines().into_iter().find(|one| {
                one["message"] == "request refused" && one["reason"].as_str().is_some_and(|why| sentence.ends_with(why))
            })
        })
        .await;
    }
    let profile = json!({
        "inferenceProfileName": "p",
        "modelSource": { "copyFrom": format!("arn:aws:bedrock:us-east-1::foundation-model/{PROFILE_ONLY}") },
    });
    refused(&daemon.post("/inference-profiles", profile.to_string()).await, 403, "AccessDeniedException");
    let seed = json!({ "modelId": ON_DEMAND, "contentType": "application/json", "body": converse("x") }).to_string();
    let answer = daemon.post("/v1/bedrock/invoke-model", seed).await;
    assert_eq!(answer.status, 403, "the seed's API is under the same policy: {answer:?}");
    assert_eq!(received(&bedrock, "Converse").len(), reached);
    assert!(received(&bedrock, "InvokeModel").is_empty() && received(&bedrock, "ConverseStream").is_empty());
}

#[tokio::test]
async fn data_classification_may_be_raised_and_never_lowered() {
    let bedrock = bedrock().await;
    let text = format!(
        r#"
[[callers]]
name = "reports"
bearer_token_file = "{{dir}}/token"
[[callers]]
name = "me"
users = ["{}"]
data_classification = "internal"
[policy]
data_classifications = ["public", "internal", "secret"]
"#,
        own_uid()
    );
    let daemon = with_callers(Setup::plain(&bedrock), &text).ready().await;
    let list = format!("data_classifications at config.toml:{}", line_of(&daemon, "data_classifications = "));
    let ask = async |token: Option<&str>, level: Option<&str>| {
        let mut request = request(Method::POST, &converse_path(ON_DEMAND), converse("x"));
        if let Some(level) = level {
            request.headers_mut().insert("x-data-classification", level.parse().unwrap());
        }
        if let Some(token) = token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        send(daemon.address(), request).await
    };
    for (token, level, recorded) in [
        (None, None, "internal"),
        (None, Some("internal"), "internal"),
        (None, Some("secret"), "secret"),
        (Some(TOKEN), Some("public"), "public"),
    ] {
        let answer = ask(token, level).await;
        assert_eq!(answer.status, 200, "{level:?}: {answer:?}");
        assert_eq!(daemon.record_of(&answer).await["dataClassification"], recorded);
    }
    for (token, level, words) in [
        (None, Some("public"), "is below the caller's \"internal\""),
        (None, Some("cosmic"), "is not in"),
        (Some(TOKEN), None, "has no data classification"),
    ] {
        let answer = ask(token, level).await;
        let sentence = refused(&answer, 403, "AccessDeniedException");
        assert!(sentence.contains(words) && sentence.contains(&list), "{sentence}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["dataClassification"]), (&json!("refused"), &Value::Null), "{record}");
    }
    refused(&ask(None, Some("not a level!")).await, 400, "ValidationException");
    let sent = received(&bedrock, "Converse");
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|one| one.header("x-data-classification").is_none()), "it is ours, not Bedrock's");
}

/// A CA, and what it issues, as PEM files in a folder.
struct Pki {
    dir: tempfile::TempDir,
    ca: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Pki {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Pki { dir, ca: Issuer::new(params, key) }
    }

    fn issue(&self, file: &str, common_name: &str, name: &str) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        // The key first: whoever looks in between sees a certificate without its key, and keeps the old pair.
        std::fs::write(self.dir.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(self.dir.path().join(format!("{file}.pem")), params.signed_by(&key, &self.ca).unwrap().pem())
            .unwrap();
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn listen(&self, address: &str) -> String {
        format!(
            "addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\n[listen.tls]\naddress = \"{address}\"\ncertificate_file = \"{}\"\nprivate_key_file = \"{}\"\nclient_ca_file = \"{}\"\n",
            self.file("server.pem"),
            self.file("server.key"),
            self.file("ca.pem")
        )
    }

    /// A connection with this CA's trust and maybe a certificate of it, and the server's certificate.
    async fn connect(&self, port: u16, certificate: Option<&str>) -> std::io::Result<(Http1, Vec<u8>)> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(name) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(self.file(&format!("{name}.pem"))).unwrap()],
                    PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).unwrap(),
                )
                .unwrap(),
        };
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await?;
        let server = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        Ok((Http1::on(stream, &format!("localhost:{port}")).await, server))
    }
}

fn tls_port(daemon: &Daemon) -> u16 {
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

#[tokio::test]
async fn a_reload_changes_callers_at_once_and_leaves_streams_alone() {
    let bedrock = bedrock().await;
    let text = format!("{KEYED}\n[policy]\nrequire_known_caller = true\n");
    let daemon = with_callers(Setup::plain(&bedrock), &text).ready().await;
    let path = converse_path(ON_DEMAND);
    let ask = |path: &str| {
        let mut request = request(Method::POST, path, converse("events 5"));
        request.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
        request
    };
    let whole = send(daemon.address(), ask(&stream_path(ON_DEMAND))).await;
    assert_eq!(whole.status, 200);
    bedrock.gate().close();
    let mut connection = Http1::to(daemon.address()).await;
    let mut reader = Reader::new(connection.start(ask(&stream_path(ON_DEMAND))).await.unwrap());
    bedrock.gate().release(2);
    reader.until(60).await.unwrap();

    let mut idle = Http1::to(daemon.address()).await;
    assert_eq!(idle.send(ask(&path)).await.status, 200);
    // The token is another one now: at once, also on connections that are open.
    std::fs::write(daemon.directory.path().join("token"), "the-token-that-came-after-it").unwrap();
    reload(&daemon, "name = \"reports\"", "name = \"renamed\"").await;
    refused(&idle.send(ask(&path)).await, 403, "AccessDeniedException");
    let mut renewed = request(Method::POST, &path, converse("x"));
    renewed.headers_mut().insert("authorization", "Bearer the-token-that-came-after-it".parse().unwrap());
    let answer = idle.send(renewed).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["caller"], "renamed");
    reload(&daemon, "require_known_caller = true", "require_known_caller = false").await;
    assert_eq!(idle.send(ask(&path)).await.status, 200);

    bedrock.gate().open();
    reader.end().await.unwrap();
    assert_eq!(reader.bytes, whole.body, "not a byte of the stream was lost");
    let record = daemon.record("the stream", |record| {
        record["operation"] == "ConverseStream" && record["caller"] == "reports" && record["latency"].as_u64() > Some(0)
    });
    assert_eq!(record.await["outcome"], "completed");
}
