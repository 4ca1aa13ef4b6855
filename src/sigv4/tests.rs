use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request as oracle;
use http::header::CONTENT_TYPE;

use super::*;

const NOW: Duration = Duration::from_secs(1_795_000_000);

fn keys(token: Option<&str>) -> Credentials {
    Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token.map(str::to_owned), None, "test")
}

fn signing(token: Option<&str>) -> SigningCredentials {
    SigningCredentials::new(keys(token))
}

/// The example of AWS's documentation, "Create a signed AWS API request": each step has its published value.
#[test]
fn the_documented_example_has_the_documented_values() {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8".parse().unwrap());
    headers.insert("x-amz-date", "20150830T123600Z".parse().unwrap());
    let canonical = Canonical {
        method: "GET",
        path: "/",
        query: &sorted("Version=2010-05-08&Action=ListUsers"),
        authority: "iam.amazonaws.com",
        headers: &headers,
        signed_headers: "content-type;host;x-amz-date",
        body_hash: &hash(b""),
    };
    let text = canonical.text().unwrap();
    assert_eq!(hash(&text), "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59");
    let scope = "20150830/us-east-1/iam/aws4_request";
    let key = signing(None).signing_key(scope);
    assert_eq!(
        signature(&key, "20150830T123600Z", scope, text),
        "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    );
}

/// Method, query, headers, the signed ones' names, signature.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str, &'static str);

/// The published test suite's cases that a request of ours can be: host `example.amazonaws.com`, service `service`.
#[test]
fn the_published_test_suite_agrees() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let cases: [Case; 5] = [
        // get-vanilla
        ("GET", "", &[], "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        // get-vanilla-query-order-key-case
        (
            "GET",
            "Param2=value2&Param1=value1",
            &[],
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        // get-header-value-trim
        (
            "GET",
            "",
            &[("my-header1", " value1"), ("my-header2", " \"a   b   c\"")],
            "host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        // post-vanilla
        ("POST", "", &[], "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        // post-vanilla-query
        (
            "POST",
            "Param1=value1",
            &[],
            "host;x-amz-date",
            "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
        ),
    ];
    let scope = "20150830/us-east-1/service/aws4_request";
    let key = signing(None).signing_key(scope);
    for (method, query, extra, signed_headers, expected) in cases {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-date", "20150830T123600Z".parse().unwrap());
        for (name, value) in extra {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let query = sorted(query);
        let authority = "example.amazonaws.com";
        let canonical = Canonical {
            method,
            path: "/",
            query: &query,
            authority,
            headers: &headers,
            signed_headers,
            body_hash: empty,
        };
        assert_eq!(signature(&key, "20150830T123600Z", scope, canonical.text().unwrap()), expected, "{method} {query}");
    }
}

#[test]
fn a_signature_covers_only_headers_that_are_there() {
    let mut headers = HeaderMap::new();
    let request = Unsigned {
        service: Service::Bedrock,
        region: "us-east-1",
        method: "GET",
        path: "/foundation-models",
        query: None,
        authority: "bedrock.us-east-1.amazonaws.com",
        covered: &[CONTENT_TYPE],
        body_hash: &hash(b""),
        now: UNIX_EPOCH + NOW,
    };
    sign(&mut headers, &signing(None), &request).unwrap();
    assert!(headers[AUTHORIZATION].to_str().unwrap().contains("SignedHeaders=host;x-amz-date, "));
    assert!(headers.values().all(HeaderValue::is_sensitive));
    // Nobody knows what text a server takes other bytes for.
    for (value, covered) in [(&b"text/plain"[..], true), (b"text/\xe9", false), ("text/é".as_bytes(), false)] {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(value).unwrap());
        sign(&mut headers, &signing(None), &request).unwrap();
        let text = headers[AUTHORIZATION].to_str().unwrap();
        assert_eq!(text.contains("SignedHeaders=content-type;host;x-amz-date, "), covered, "{text}");
    }
    let refused = sign(&mut HeaderMap::new(), &signing(Some("a\nb")), &request).unwrap_err();
    assert!(refused.contains("control characters") && !refused.contains("a\nb"), "{refused}");
}

/// One key pair signs on two days, and after it another one: no signature is made with a key of another day or secret.
#[test]
fn another_day_and_a_rotation_have_signing_keys_of_their_own() {
    let sign_with = |held: &SigningCredentials, now: SystemTime| {
        let mut headers = HeaderMap::new();
        let request = Unsigned {
            service: Service::Bedrock,
            region: "us-east-1",
            method: "POST",
            path: "/model/m/converse",
            query: None,
            authority: HOST_NAME,
            covered: &[],
            body_hash: &hash(b"{}"),
            now,
        };
        sign(&mut headers, held, &request).unwrap();
        headers[AUTHORIZATION].to_str().unwrap().to_owned()
    };
    let (today, tomorrow) = (UNIX_EPOCH + NOW, UNIX_EPOCH + NOW + Duration::from_secs(86_400));
    let rotated = || SigningCredentials::new(Credentials::new("AKIDNEXT", "another/secret", None, None, "test"));
    let (held, next) = (signing(None), rotated());
    for _ in 0..2 {
        for now in [today, tomorrow] {
            assert_eq!(sign_with(&held, now), sign_with(&signing(None), now));
            assert_eq!(sign_with(&next, now), sign_with(&rotated(), now));
        }
    }
}

#[test]
fn dates_are_written_as_aws_wants_them() {
    let at = |seconds| format_date(UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(0), "19700101T000000Z");
    assert_eq!(at(1_440_938_160), "20150830T123600Z");
    assert_eq!(at(951_827_696), "20000229T123456Z");
    assert_eq!(at(253_402_207_199), "99991230T215959Z");
}

/// A request of any shape that the daemon may send.
#[derive(Debug)]
struct Random {
    service: Service,
    method: &'static str,
    path: String,
    query: Option<String>,
    content_type: Option<String>,
    token: Option<String>,
    body: Vec<u8>,
    now: SystemTime,
}

/// xorshift64*: the same requests in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % sides
    }

    fn text(&mut self, alphabet: &[&str], longest: usize) -> String {
        (0..self.below(longest + 1)).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }

    fn request(&mut self) -> Random {
        const PATH: [&str; 14] = ["a", "Z", "9", "-", "_", "~", ".x", ":", "%3A", "%2F", "%20", "%C3%BC", "/s", "@"];
        const QUERY: [&str; 16] =
            ["a", "B", "=", "&", "%2F", "%2f", "%3D", "+", "%20", "%C3%A9", "~", "*", ":", "/", "a=1", "b"];
        // No tabs: at the ends of a value HTTP drops them, and AWS's signer does not.
        const VALUE: [&str; 6] = ["application/json", " ", "  ", ";", "charset=utf-8", "x"];
        let maybe = |dice: &mut Dice, text: fn(&mut Dice) -> String| (dice.below(2) == 0).then(|| text(dice));
        let service = [Service::S3, Service::Bedrock, Service::BedrockMantle, Service::BedrockEvents][self.below(4)];
        Random {
            service,
            method: ["GET", "POST", "PUT", "DELETE"][self.below(4)],
            path: format!("/m{}", self.text(&PATH, 24)),
            query: maybe(self, |dice| dice.text(&QUERY, 12)),
            content_type: maybe(self, |dice| dice.text(&VALUE, 6)),
            token: maybe(self, |dice| dice.text(&["t", "/", "+", "=", "9"], 40)).filter(|token| !token.is_empty()),
            body: (0..self.below(300)).map(|_| u8::try_from(self.below(256)).unwrap()).collect(),
            now: UNIX_EPOCH + NOW + Duration::from_secs(u64::try_from(self.below(900_000_000)).unwrap()),
        }
    }
}

const HOST_NAME: &str = "bedrock-runtime-fips.us-east-1.amazonaws.com";

fn ours(random: &Random) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(text) = &random.content_type {
        headers.insert(CONTENT_TYPE, text.parse().unwrap());
    }
    let request = Unsigned {
        service: random.service,
        region: "us-east-1",
        method: random.method,
        path: &random.path,
        query: random.query.as_deref(),
        authority: HOST_NAME,
        covered: &[CONTENT_TYPE],
        body_hash: match random.service {
            Service::BedrockEvents => events::PAYLOAD,
            _ => &hash(&random.body),
        },
        now: random.now,
    };
    sign(&mut headers, &signing(random.token.as_deref()), &request).unwrap();
    headers.remove(CONTENT_TYPE);
    headers
}

fn of_aws(random: &Random) -> HeaderMap {
    let mut settings = oracle::SigningSettings::default();
    let service = match random.service {
        Service::Bedrock => "bedrock",
        Service::BedrockEvents => {
            settings.payload_checksum_kind = oracle::PayloadChecksumKind::XAmzSha256;
            "bedrock"
        }
        Service::BedrockMantle => "bedrock-mantle",
        Service::S3 => {
            settings.percent_encoding_mode = oracle::PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = oracle::UriPathNormalizationMode::Disabled;
            settings.payload_checksum_kind = oracle::PayloadChecksumKind::XAmzSha256;
            "s3"
        }
    };
    let identity = keys(random.token.as_deref()).into();
    let params = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name(service)
        .time(random.now)
        .settings(settings)
        .build()
        .unwrap();
    let query = random.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let uri = format!("https://{HOST_NAME}{}{query}", random.path);
    let covered = random.content_type.iter().map(|text| ("content-type", text.as_str()));
    let covered = covered.chain([("host", HOST_NAME)]);
    let body = match random.service {
        Service::BedrockEvents => oracle::SignableBody::Precomputed(events::PAYLOAD.to_owned()),
        _ => oracle::SignableBody::Bytes(&random.body),
    };
    let signable = oracle::SignableRequest::new(random.method, uri, covered, body).unwrap();
    let (instructions, _) = oracle::sign(signable, &params.into()).unwrap().into_parts();
    let header = |(name, value): (&str, &str)| (HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    instructions.headers().map(header).collect()
}

/// Without the mark that hides what is sensitive.
fn shown<'a>((name, value): (&'a HeaderName, &'a HeaderValue)) -> (&'a str, &'a str) {
    (name.as_str(), value.to_str().unwrap())
}

/// AWS's signer hashes with RustCrypto and shares no code with ours.
#[test]
fn the_signer_of_aws_says_the_same_of_any_request() {
    let mut dice = Dice(0x5EED);
    let mut with_query = 0;
    for round in 0..4_000 {
        let random = dice.request();
        with_query += usize::from(random.query.as_ref().is_some_and(|query| query.contains('%')));
        let text = |headers: &HeaderMap| format!("{:?}", BTreeMap::from_iter(headers.iter().map(shown)));
        assert_eq!(text(&ours(&random)), text(&of_aws(&random)), "round {round}: {random:?}");
    }
    assert!(with_query > 500, "{with_query}");
}

/// Not a bound, a reading: `cargo test --release --lib signing_costs -- --nocapture`.
#[test]
fn signing_costs() {
    let random = Random {
        service: Service::Bedrock,
        method: "POST",
        path: "/model/us.anthropic.claude-opus-4-1-20250805-v1%3A0/converse".to_owned(),
        query: None,
        content_type: Some("application/json".to_owned()),
        token: None,
        body: vec![b'x'; 1024],
        now: UNIX_EPOCH + NOW,
    };
    for (name, sign) in [("ours", ours as fn(&Random) -> HeaderMap), ("aws-sigv4", of_aws)] {
        let began = std::time::Instant::now();
        for _ in 0..1_000 {
            assert!(sign(&random).contains_key(AUTHORIZATION));
        }
        println!("{name}: {:?} a signature", began.elapsed() / 1_000);
    }
}
