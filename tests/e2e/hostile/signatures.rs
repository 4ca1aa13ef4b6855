//! Signed requests that were changed on their way. `callers/proofs.rs` changes what a signature covers; here are the
//! ways to change the signature itself and what stands around it.

use std::time::SystemTime;

use http::{HeaderMap, Method};
use serde_json::{Value, json};
use test_support::*;

use super::nothing_else_went_upstream;
use crate::callers::proofs::signed;
use crate::callers::{KEYED, SECRET, with_callers};

const OTHER: &str = "
[[callers]]
name = \"other\"
access_key_id = \"LOCALOTHER\"
secret_access_key_file = \"{dir}/other\"
";

/// What is not recognised as a signature at all proves nothing, and who proves nothing may not call.
const STRICT: &str = "
[policy]
require_known_caller = true
";

/// Changes the Authorization header as text.
fn edit(headers: &mut HeaderMap, change: impl Fn(String) -> String) {
    let text = headers["authorization"].to_str().unwrap().to_owned();
    headers.insert("authorization", change(text).parse().unwrap());
}

fn cut(text: String, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in {text}");
    text.replace(from, to)
}

#[tokio::test]
async fn no_change_of_a_signature_or_around_it_is_taken_for_its_caller() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let other = setup.path().join("other");
    std::fs::write(&other, "anotherLocalSecretThatOnlyTestsKnow01234").unwrap();
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let daemon = with_callers(setup, &format!("{KEYED}{OTHER}{STRICT}")).ready().await;
    let (path, body, now) = (converse_path(ON_DEMAND), converse("harmless"), SystemTime::now());
    let fresh = || signed(&daemon, &path, &body, SECRET, now);
    let sound = send(daemon.address(), fresh()).await;
    assert_eq!(daemon.record_of(&sound).await["caller"], "billing");

    type Change = Box<dyn Fn(&mut Request)>;
    let text =
        |change: fn(String) -> String| -> Change { Box::new(move |request| edit(request.headers_mut(), change)) };
    let changes: Vec<(&str, Change)> = vec![
        ("another one's key", text(|text| cut(text, "LOCALBILLING", "LOCALOTHER"))),
        ("the terminator", text(|text| cut(text, "/aws4_request", "/aws5_request"))),
        ("no terminator", text(|text| cut(text, "/aws4_request", ""))),
        ("one more part of the scope", text(|text| cut(text, "/aws4_request", "/x/aws4_request"))),
        (
            "the scope's date",
            text(|text| {
                let day = text.split('/').nth(1).unwrap().to_owned();
                cut(text, &day, "20200101")
            }),
        ),
        ("a truncated signature", text(|text| text[..text.len() - 2].to_owned())),
        ("half a signature", text(|text| text[..text.len() - 32].to_owned())),
        ("no signature", text(|text| text[..text.rfind('=').unwrap() + 1].to_owned())),
        ("a longer signature", text(|text| format!("{text}00"))),
        (
            "a signature in capitals",
            text(|text| {
                let at = text.rfind('=').unwrap();
                format!("{}{}", &text[..at], text[at..].to_ascii_uppercase())
            }),
        ),
        ("another algorithm", text(|text| cut(text, "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"))),
        ("the host is not signed", text(|text| cut(text, ";host;", ";"))),
        ("a header more is named", text(|text| cut(text, "SignedHeaders=", "SignedHeaders=accept;"))),
        ("headers are named in another order", text(|text| cut(text, "content-type;host", "host;content-type"))),
        ("a header is named twice", text(|text| cut(text, ";host;", ";host;host;"))),
        (
            "two signatures in one header",
            text(|text| {
                let signature = text[text.rfind("Signature=").unwrap()..].to_owned();
                format!("{text}, {signature}")
            }),
        ),
        ("the method", Box::new(|request| *request.method_mut() = Method::PUT)),
        (
            "a path that is encoded twice",
            Box::new(|request| {
                *request.uri_mut() = converse_path(ON_DEMAND).replace("%3A", "%253A").parse().unwrap();
            }),
        ),
        (
            "a path that is decoded",
            Box::new(|request| {
                *request.uri_mut() = converse_path(ON_DEMAND).replace("%3A", ":").parse().unwrap();
            }),
        ),
        (
            "a token that was not signed",
            Box::new(|request| {
                request.headers_mut().insert("x-amz-security-token", "swapped".parse().unwrap());
            }),
        ),
        (
            "a second content type",
            Box::new(|request| {
                request.headers_mut().append("content-type", "application/x-json".parse().unwrap());
            }),
        ),
        (
            "no date",
            Box::new(|request| {
                request.headers_mut().remove("x-amz-date");
            }),
        ),
        (
            "a second date",
            Box::new(|request| {
                request.headers_mut().append("x-amz-date", "20250101T000000Z".parse().unwrap());
            }),
        ),
        (
            "a second Authorization",
            Box::new(|request| {
                request.headers_mut().append("authorization", "Bearer x".parse().unwrap());
            }),
        ),
    ];
    for (what, change) in changes {
        for over_http2 in [false, true] {
            let mut request = fresh();
            change(&mut request);
            let answer = if over_http2 {
                Http2::to(daemon.address()).await.send(request).await
            } else {
                send(daemon.address(), request).await
            };
            assert!(matches!(answer.status, 400 | 403 | 404), "{what}, HTTP/2 {over_http2}: {answer:?}");
            assert!(message(&answer).len() < 1_000 && !message(&answer).contains(SECRET), "{what}: {answer:?}");
            let record = daemon.record_of(&answer).await;
            assert_eq!(
                (&record["caller"], &record["identityVerified"], &record["outcome"], &record["attempts"]),
                (&Value::Null, &json!(false), &json!("refused"), &json!(0)),
                "{what}, HTTP/2 {over_http2}: {record}"
            );
        }
    }
    assert_eq!(send(daemon.address(), fresh()).await.status, 200, "the unchanged one is still good");
    nothing_else_went_upstream(&bedrock);
}

/// Not read as if nothing had been signed, which an entry for the user could let pass.
#[tokio::test]
async fn another_algorithm_is_a_bad_signature_and_not_none() {
    let bedrock = bedrock().await;
    let daemon = with_callers(Setup::plain(&bedrock), KEYED).ready().await;
    let signed = |algorithm: &str, key: &str| {
        let mut request = request(Method::POST, &converse_path(ON_DEMAND), converse("harmless"));
        let scope = "20260101/us-gov-west-1/bedrock/aws4_request";
        let text = format!("{algorithm} Credential={key}/{scope}, SignedHeaders=host, Signature={}", "0".repeat(64));
        request.headers_mut().insert("authorization", text.parse().unwrap());
        request
    };
    for algorithm in ["AWS4-HMAC-SHA1", "AWS4-ECDSA-P256-SHA256", "AWS4-HMAC-SHA512", "aws4-hmac-sha256", "AWS4"] {
        let answer = send(daemon.address(), signed(algorithm, "LOCALBILLING")).await;
        let sentence = refused(&answer, 403, "InvalidSignatureException");
        assert!(sentence.contains("AWS4-HMAC-SHA256"), "{sentence}");
        let record = daemon.record_of(&answer).await;
        assert_eq!(
            (&record["caller"], &record["identityVerified"], &record["attempts"]),
            (&Value::Null, &json!(false), &json!(0)),
            "{record}"
        );
        // One with a key of elsewhere proves nothing, as any signature with such a key.
        let answer = send(daemon.address(), signed(algorithm, "AKIAELSEWHERE")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["identityVerified"], false);
    }
    nothing_else_went_upstream(&bedrock);
}
