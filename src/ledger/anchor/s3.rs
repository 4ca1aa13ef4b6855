//! Anchors as objects in a bucket of S3: a key that sorts by time, a small JSON object, and the request that puts it there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::config::ObjectLockMode;
use crate::credentials::source::aws_sdk_config;
use crate::ledger::chain::Chain;
use crate::ledger::timestamp::timestamp;
use crate::sdk_failure::without_credentials;
use crate::settings::S3Anchor;
use crate::sigv4::{self, Service, SigningCredentials, Unsigned};
use crate::upstream::pool::{Effort, Outgoing, Pool};
use crate::upstream::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// S3's errors are far smaller.
const MAX_ANSWER: usize = 64 * 1024;
/// What S3 leaves as it is in a path before it checks a signature.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A bucket, and how to write to it.
#[derive(Debug)]
pub(super) struct Bucket {
    settings: S3Anchor,
    pool: Arc<Pool>,
    credentials: SharedCredentialsProvider,
}

impl Bucket {
    /// Prepares connections and credentials; S3 is not contacted yet.
    pub(super) async fn new(settings: &S3Anchor) -> Result<Bucket, String> {
        let tls = if settings.endpoint.tls { Some(tls::config(None)?) } else { None };
        let pool = Pool::new(settings.endpoint.clone(), tls, CONNECT_TIMEOUT)?;
        let credentials = aws_sdk_config(&settings.region)
            .await
            .credentials_provider()
            .ok_or("this host has no AWS credentials for S3; give it a role")?;
        Ok(Bucket { settings: settings.clone(), pool, credentials })
    }

    pub(super) fn is_of(&self, settings: &S3Anchor) -> bool {
        self.settings == *settings
    }

    /// Stores the end of the chain as an object of its own.
    ///
    /// # Errors
    /// A sentence that tells the admin what to mend.
    pub(super) async fn put(&self, chain: &Chain, now_ms: i64) -> Result<(), String> {
        let credentials = self.credentials.provide_credentials().await.map_err(|error| {
            format!("S3 cannot be asked for the bucket {}: {}", self.settings.bucket, without_credentials(&error))
        })?;
        let request = |_| request(&self.settings, &credentials, chain, now_ms);
        let sent = self.pool.send(ANSWER_TIMEOUT, &mut Effort::default(), request).await;
        let (response, lease) = sent.map_err(|error| format!("{}: {error}", self.settings.bucket))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        if status == StatusCode::OK {
            if body.is_ok() {
                lease.give_back();
            }
            return Ok(());
        }
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(refusal(&self.settings, status, &String::from_utf8_lossy(&body)))
    }
}

/// The signed request that stores the end of the chain.
fn request(settings: &S3Anchor, credentials: &Credentials, chain: &Chain, now_ms: i64) -> Result<Outgoing, String> {
    let body = content(chain, now_ms);
    let checksum = STANDARD.encode(digest::digest(&digest::SHA256, &body));
    let bucket = if settings.bucket_in_path { format!("/{}", settings.bucket) } else { String::new() };
    let path = format!("{bucket}/{}", key(settings, chain, now_ms));
    let path = utf8_percent_encode(&path, ENCODED).to_string();
    let text = |text: &str| HeaderValue::from_str(text).map_err(|error| error.to_string());
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-amz-checksum-sha256", text(&checksum)?);
    headers.insert("x-amz-sdk-checksum-algorithm", HeaderValue::from_static("SHA256"));
    if let Some(lock) = settings.lock {
        let mode = match lock.mode {
            ObjectLockMode::Governance => "GOVERNANCE",
            ObjectLockMode::Compliance => "COMPLIANCE",
        };
        headers.insert("x-amz-object-lock-mode", HeaderValue::from_static(mode));
        let until = instant(now_ms.saturating_add(i64::from(lock.days) * 86_400_000));
        let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        headers.insert("x-amz-object-lock-retain-until-date", text(&until)?);
    }

    let covered: Vec<HeaderName> = headers.keys().cloned().collect();
    let unsigned = Unsigned {
        service: Service::S3,
        region: &settings.region,
        method: Method::PUT.as_str(),
        path: &path,
        query: None,
        authority: &settings.endpoint.authority(),
        covered: &covered,
        body_hash: &sigv4::hash(&body),
        now: SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms.try_into().unwrap_or(0)),
    };
    sigv4::sign(&mut headers, &SigningCredentials::new(credentials.clone()), &unsigned)?;

    let uri = format!("{}{path}", settings.endpoint);
    let mut request = Request::new(Bytes::from(body).into());
    *request.method_mut() = Method::PUT;
    *request.uri_mut() = uri.parse().map_err(|_| format!("{uri} is no URL"))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Keys of one chain sort by time.
fn key(settings: &S3Anchor, chain: &Chain, now_ms: i64) -> String {
    let time = instant(now_ms).strftime("%Y-%m-%dT%H%M%SZ");
    format!("{}{}/{}/{time}-{}.json", settings.prefix, chain.host_id, chain.chain_id, chain.seq)
}

fn instant(ms: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// The fields of a line in the log, so that one reader serves both.
fn content(chain: &Chain, now_ms: i64) -> Vec<u8> {
    let anchor = json!({
        "timestamp": timestamp(now_ms),
        "message": "audit: the end of the chain",
        "chainId": chain.chain_id,
        "chainSeq": chain.seq,
        "chainHash": chain.hash,
        "hostId": chain.host_id,
    });
    format!("{anchor}\n").into_bytes()
}

/// What S3's answer means, and what mends it.
fn refusal(settings: &S3Anchor, status: StatusCode, body: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once("</")?;
        Some(text.chars().filter(|c| !c.is_control()).take(200).collect::<String>())
    };
    let bucket = &settings.bucket;
    let code = element("Code").unwrap_or_default();
    let remedy = match (code.as_str(), status.as_u16()) {
        ("AccessDenied", _) if settings.lock.is_some() => {
            "; allow this host's role s3:PutObject and s3:PutObjectRetention on its objects"
        }
        ("AccessDenied", _) => "; allow this host's role s3:PutObject on its objects",
        ("NoSuchBucket", _) => "; create it or correct bucket under [audit.anchor]",
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "TemporaryRedirect", _) | (_, 301) => {
            "; correct region under [audit.anchor]"
        }
        ("RequestTimeTooSkewed", _) => "; synchronise this host's clock (chronyc tracking)",
        ("InvalidRequest", _) if settings.lock.is_some() => "; the bucket needs Object Lock",
        _ => "",
    };
    let message = element("Message").map(|message| format!(": {message}")).unwrap_or_default();
    format!("the bucket {bucket} has refused it: {} {code}{message}{remedy}", status.as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;
    use crate::settings::anchor::ObjectLock;

    const NOW: i64 = 1_795_560_627_123;

    fn settings(bucket_in_path: bool) -> S3Anchor {
        S3Anchor {
            bucket: "audit-anchors".into(),
            prefix: "bedrock/über uns/".into(),
            region: "us-gov-west-1".into(),
            endpoint: Endpoint::https(if bucket_in_path { "s3.test" } else { "audit-anchors.s3.test" }),
            bucket_in_path,
            lock: Some(ObjectLock { mode: ObjectLockMode::Compliance, days: 30 }),
        }
    }

    fn signed(settings: &S3Anchor) -> Outgoing {
        let chain = Chain { host_id: "i-0123".into(), chain_id: "0197-c".into(), seq: 14, hash: "9f2c".into() };
        let keys = Credentials::new("AKIDEXAMPLE", "secret/key", Some("session+token".into()), None, "test");
        request(settings, &keys, &chain, NOW).unwrap()
    }

    fn header<'a>(request: &'a Outgoing, name: &str) -> &'a str {
        request.headers()[name].to_str().unwrap()
    }

    /// The signatures are those of botocore's S3SigV4Auth for the same requests.
    #[tokio::test]
    async fn a_request_is_signed_as_s3_wants_it() {
        let request = signed(&settings(false));
        assert_eq!(
            request.uri().to_string(),
            "https://audit-anchors.s3.test/bedrock/%C3%BCber%20uns/i-0123/0197-c/2026-11-24T225027Z-14.json"
        );
        assert_eq!(header(&request, "x-amz-object-lock-mode"), "COMPLIANCE");
        assert_eq!(header(&request, "x-amz-object-lock-retain-until-date"), "2026-12-24T22:50:27Z");
        assert_eq!(header(&request, "x-amz-checksum-sha256"), "OnPg6xLBq0mKcUM/yA1gJvijQNv7lx7SaDHy9RDw7Pc=");
        assert_eq!(
            header(&request, "x-amz-content-sha256"),
            "3a73e0eb12c1ab498a71433fc80d6026f8a340dbfb971ed26831f2f510f0ecf7"
        );
        assert_eq!(
            header(&request, "authorization"),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/us-gov-west-1/s3/aws4_request, SignedHeaders=content-type;host;x-amz-checksum-sha256;x-amz-content-sha256;x-amz-date;x-amz-object-lock-mode;x-amz-object-lock-retain-until-date;x-amz-sdk-checksum-algorithm;x-amz-security-token, Signature=89da88dfb289ed4b2cca5964caf1f8eab6a2144ea042667a8277a5e63f55d59e"
        );
        assert!(request.headers()["authorization"].is_sensitive());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "{\"chainHash\":\"9f2c\",\"chainId\":\"0197-c\",\"chainSeq\":14,\"hostId\":\"i-0123\",\"message\":\"audit: the end of the chain\",\"timestamp\":\"2026-11-24T22:50:27.123Z\"}\n"
        );

        let request = signed(&settings(true));
        assert_eq!(
            request.uri().to_string(),
            "https://s3.test/audit-anchors/bedrock/%C3%BCber%20uns/i-0123/0197-c/2026-11-24T225027Z-14.json"
        );
        assert_eq!(
            header(&request, "authorization"),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/us-gov-west-1/s3/aws4_request, SignedHeaders=content-type;host;x-amz-checksum-sha256;x-amz-content-sha256;x-amz-date;x-amz-object-lock-mode;x-amz-object-lock-retain-until-date;x-amz-sdk-checksum-algorithm;x-amz-security-token, Signature=d4aea1a121abb9d2e25674067a2deebb969005474a3a20e115cbe57aa22a68fd"
        );
        let unlocked = signed(&S3Anchor { lock: None, ..settings(true) });
        assert!(!unlocked.headers().keys().any(|name| name.as_str().starts_with("x-amz-object-lock")));
    }

    #[test]
    fn a_refusal_says_what_to_mend() {
        let answer = |code: &str| format!("<Error><Code>{code}</Code><Message>Access\nDenied</Message></Error>");
        let says = |code: &str| refusal(&settings(false), StatusCode::FORBIDDEN, &answer(code));
        assert_eq!(
            says("AccessDenied"),
            "the bucket audit-anchors has refused it: 403 AccessDenied: AccessDenied; allow this host's role s3:PutObject and s3:PutObjectRetention on its objects"
        );
        assert!(says("NoSuchBucket").ends_with("; create it or correct bucket under [audit.anchor]"));
        assert!(says("RequestTimeTooSkewed").contains("clock"));
        let empty = refusal(&settings(false), StatusCode::MOVED_PERMANENTLY, "");
        assert_eq!(empty, "the bucket audit-anchors has refused it: 301 ; correct region under [audit.anchor]");
    }
}
