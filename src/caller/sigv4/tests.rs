use super::super::authorization::{Claim, claim};
use super::*;
use crate::settings::callers::Secret;
use base64::Engine;
use http::{HeaderName, HeaderValue};

/// Requests of real SDKs as they arrived at a socket on 2026-11-22; tests/callers_vectors made them.
const VECTORS: &str = include_str!("vectors.jsonl");
const SECRET: &str = "localSecretThatOnlyTestsKnow0123456789ABC";

#[derive(serde::Deserialize)]
struct Vector {
    name: String,
    method: String,
    path: String,
    authority: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// A request that a test may tamper with.
#[derive(Clone)]
struct Owned {
    name: String,
    method: String,
    path: String,
    query: Option<String>,
    authority: String,
    headers: HeaderMap,
    body: Vec<u8>,
    now: SystemTime,
}

impl Owned {
    fn verify(&self) -> Result<(), Refusal> {
        let authorization = match claim(&self.headers, self.query.as_deref())? {
            Claim::Signature(authorization) => authorization,
            other => panic!("{}: {other:?}", self.name),
        };
        let request = Request {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            authority: &self.authority,
            headers: &self.headers,
            payload: Payload::Whole(&self.body),
        };
        verify(&authorization, &request, &SigningKeys::new(Secret::new(SECRET)), &["us-east-1".to_owned()], self.now)
    }

    fn refused(&self, what: &str) -> Refusal {
        match self.verify() {
            Ok(()) => panic!("{}: {what} was not noticed", self.name),
            Err(refusal) => refusal,
        }
    }

    fn signature(&self) -> String {
        self.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    fn with_authorization(&self, edit: impl Fn(String) -> String) -> Owned {
        let mut other = self.clone();
        other.headers.insert("authorization", edit(self.signature()).parse().unwrap());
        other
    }
}

fn vectors() -> Vec<Owned> {
    let vectors: Vec<Owned> = VECTORS.lines().map(vector).collect();
    assert_eq!(vectors.len(), 13);
    vectors
}

fn vector(line: &str) -> Owned {
    let vector: Vector = serde_json::from_str(line).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in &vector.headers {
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let (path, query) = match vector.path.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (vector.path, None),
    };
    let presigned = query.as_deref().and_then(|query| query.split("X-Amz-Date=").nth(1)).map(|date| &date[..16]);
    let date = headers.get("x-amz-date").map(|date| date.to_str().unwrap()).or(presigned).unwrap();
    let now = parse_date(date).unwrap() + Duration::from_secs(2);
    let body = base64::engine::general_purpose::STANDARD.decode(vector.body).unwrap();
    Owned { name: vector.name, method: vector.method, path, query, authority: vector.authority, headers, body, now }
}

#[test]
fn requests_of_real_sdks_verify() {
    for request in vectors() {
        request.verify().unwrap_or_else(|refusal| panic!("{}: {refusal}", request.name));
    }
}

#[test]
fn every_signed_part_is_covered() {
    for good in vectors() {
        let tamper = |what: &str, edit: &dyn Fn(&mut Owned)| {
            let mut bad = good.clone();
            edit(&mut bad);
            let refusal = bad.refused(what);
            assert_eq!(refusal.kind, RefusalKind::SignatureDoesNotMatch, "{}: {what}", good.name);
        };
        tamper("method", &|bad| bad.method = "PUT".to_owned());
        tamper("authority", &|bad| bad.authority = "127.0.0.1:19000".to_owned());
        tamper("longer body", &|bad| bad.body.push(b' '));
        tamper("no query", &|bad| {
            let query = bad.query.take().unwrap_or_default();
            let date = query.split('&').filter(|pair| pair.starts_with("X-Amz-")).collect::<Vec<_>>().join("&");
            bad.query = Some(if date.is_empty() { "a=b".to_owned() } else { format!("{date}&a=b") });
        });
        for at in 0..good.path.len() {
            tamper("path byte", &|bad| {
                let mut path = bad.path.clone().into_bytes();
                path[at] = if path[at] == b'x' { b'y' } else { b'x' };
                bad.path = String::from_utf8(path).unwrap();
            });
        }
        tamper("path decoded", &|bad| {
            bad.path = bad.path.replace("%3A", ":").replace("inference-p", "inference-P") + "/"
        });
        for at in 0..good.body.len() {
            tamper("body byte", &|bad| bad.body[at] ^= 1);
        }
    }
}

#[test]
fn an_encoded_path_is_not_its_decoded_twin() {
    for good in vectors().into_iter().filter(|good| good.path.contains("%3A")) {
        let mut bad = good.clone();
        bad.path = bad.path.replace("%3A", ":");
        bad.refused("decoded path");
        bad.path = good.path.replace("%3A", "%3a");
        bad.refused("lower-case encoding");
    }
}

#[test]
fn every_signed_header_is_covered() {
    for good in vectors() {
        let Ok(Claim::Signature(authorization)) = claim(&good.headers, good.query.as_deref()) else { unreachable!() };
        for name in authorization.signed_headers.split(';').filter(|name| !matches!(*name, "host" | ":authority")) {
            let mut bad = good.clone();
            bad.headers.remove(name);
            bad.refused(&format!("the absence of {name}"));
            let mut bad = good.clone();
            bad.headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_static("x"));
            bad.refused(&format!("a second {name}"));
        }
        let mut bad = good.clone();
        bad.headers.insert("x-amz-target", HeaderValue::from_static("Other"));
        bad.refused("an unsigned x-amz- header");
    }
}

#[test]
fn every_digit_of_a_signature_counts() {
    for good in vectors().into_iter().filter(|good| !good.signature().is_empty()) {
        let start = good.signature().rfind('=').unwrap() + 1;
        for at in start..start + 64 {
            let bad = good.with_authorization(|text| {
                let mut bytes = text.into_bytes();
                bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
                String::from_utf8(bytes).unwrap()
            });
            let refusal = bad.refused("a digit");
            assert!(refusal.message.starts_with("The request signature we calculated does not match"), "{refusal}");
        }
    }
}

#[test]
fn the_scope_is_bedrock_in_govcloud_or_an_upstream_on_the_day_of_the_date() {
    let good = vectors().remove(0);
    let scoped = |from: &str, to: &str| good.with_authorization(|text| text.replace(from, to)).refused(to).message;
    assert_eq!(scoped("/bedrock/", "/s3/"), "Credential should be scoped to correct service: 'bedrock'.");
    assert_eq!(scoped("/bedrock/", "/execute-api/"), "Credential should be scoped to correct service: 'bedrock'.");
    assert!(scoped("/bedrock/", "/bedrock-mantle/").starts_with("The request signature"));
    let mut legacy = good.with_authorization(|text| text.replace("/bedrock/", "/execute-api/"));
    legacy.path = "/v1/bedrock/invoke-model".to_owned();
    assert!(legacy.refused("the service of the legacy REST API").message.starts_with("The request signature"));
    assert!(scoped("us-gov-west-1", "eu-west-1").starts_with("Credential should be scoped to a valid region"));
    // Accepted as a region, so it is the signature that fails.
    assert!(scoped("us-gov-west-1", "us-east-1").starts_with("The request signature"));
    assert!(scoped("us-gov-west-1", "us-gov-east-1").starts_with("The request signature"));
    assert!(scoped("/20261122/", "/20261121/").starts_with("Date in Credential scope does not match"));
}

#[test]
fn dates_may_be_five_minutes_off() {
    for good in vectors() {
        let at = |seconds: i64| {
            let mut other = good.clone();
            other.now = match u64::try_from(seconds) {
                Ok(later) => good.now + Duration::from_secs(later),
                Err(_) => good.now - Duration::from_secs(seconds.unsigned_abs()),
            };
            other
        };
        let presigned = good.signature().is_empty();
        let latest = if presigned { 600 } else { 300 } - 2;
        at(latest).verify().unwrap();
        at(-302).verify().unwrap();
        let refusal = at(latest + 1).refused("an old date");
        assert!(refusal.message.starts_with("Signature expired: 2026"), "{refusal}");
        let refusal = at(-303).refused("a future date");
        assert!(refusal.message.starts_with("Signature not yet current: 2026"), "{refusal}");
    }
}

#[test]
fn a_declared_body_hash_must_be_the_hash() {
    for good in vectors().into_iter().filter(|good| good.headers.contains_key("x-amz-content-sha256")) {
        for declared in ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-EVENTS", ""] {
            let mut bad = good.clone();
            bad.headers.insert("x-amz-content-sha256", HeaderValue::from_static(declared));
            bad.refused(declared);
        }
    }
}

#[test]
fn the_independent_signer_of_aws_agrees() {
    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};

    let now = UNIX_EPOCH + Duration::from_secs(1_795_000_000);
    for (path, query) in [
        ("/model/a%3A0/invoke", None),
        ("/model/a:0/invoke", None),
        ("/model/arn%3Aaws%3Abedrock%3A%3A1%3Ax%2Fy/converse", None),
        ("/inference-profiles", Some("nextToken=a%2Fb%20c&maxResults=5&a=")),
        ("/", Some("b&a")),
    ] {
        for checksum in [PayloadChecksumKind::NoHeader, PayloadChecksumKind::XAmzSha256] {
            let mut settings = SigningSettings::default();
            settings.payload_checksum_kind = checksum;
            settings.uri_path_normalization_mode = aws_sigv4::http_request::UriPathNormalizationMode::Disabled;
            let identity = Credentials::new("KEY", SECRET, Some("to/ken==".to_owned()), None, "test").into();
            let params = aws_sigv4::sign::v4::SigningParams::builder()
                .identity(&identity)
                .region("us-gov-west-1")
                .name("bedrock")
                .time(now)
                .settings(settings)
                .build()
                .unwrap();
            let uri = format!("http://127.0.0.1:8790{path}{}", query.map(|q| format!("?{q}")).unwrap_or_default());
            let plain = [("content-type", "application/json"), ("x-many", "  a   b ")];
            let signable =
                SignableRequest::new("POST", &uri, plain.into_iter(), SignableBody::Bytes(b"{\"a\":1}")).unwrap();
            let (instructions, _) = sign(signable, &params.into()).unwrap().into_parts();
            let mut headers = HeaderMap::new();
            for (name, value) in plain.into_iter().chain(instructions.headers()) {
                headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let request = Owned {
                name: uri.clone(),
                method: "POST".to_owned(),
                path: path.to_owned(),
                query: query.map(str::to_owned),
                authority: "127.0.0.1:8790".to_owned(),
                headers,
                body: b"{\"a\":1}".to_vec(),
                now,
            };
            request.verify().unwrap_or_else(|refusal| panic!("{uri}: {refusal}"));
        }
    }
}

#[test]
fn dates_are_strict() {
    assert_eq!(parse_date("19700101T000001Z"), Some(UNIX_EPOCH + Duration::from_secs(1)));
    assert_eq!(format_date(parse_date("20261122T192754Z").unwrap()), "20261122T192754Z");
    for wrong in ["", "20261322T192754Z", "20260230T000000Z", "2026112 T192754Z", "20261122T192754", "-0261122T192754Z"]
    {
        assert_eq!(parse_date(wrong), None, "{wrong}");
    }
    assert_eq!(parse_date("é0261122T92754Z"), None);
}

/// Not a bound, a reading: `cargo test --release --lib verification_costs -- --nocapture`.
#[test]
fn verification_costs() {
    let good = vectors().remove(1);
    let keys = SigningKeys::new(Secret::new(SECRET));
    let body = vec![b'x'; 1024];
    let Ok(Claim::Signature(authorization)) = claim(&good.headers, None) else { unreachable!() };
    let request = Request {
        method: &good.method,
        path: &good.path,
        query: None,
        authority: &good.authority,
        headers: &good.headers,
        payload: Payload::Whole(&body),
    };
    let rounds = if cfg!(debug_assertions) { 100 } else { 20_000 };
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(verify(&authorization, &request, &keys, &[], good.now).is_ok());
    }
    std::println!("sigv4::verify, 1 KiB body: {} ns", start.elapsed().as_nanos() / rounds);
}
