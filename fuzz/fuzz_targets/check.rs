//! What must hold for every input; tests/callers_fuzz.rs runs it on the seeds and on mutations of them.

use std::time::{Duration, SystemTime};

use bedrock_sidecar::caller::authorization::{Authorization, Claim, claim, parse};
use bedrock_sidecar::caller::signing_key::SigningKeys;
use bedrock_sidecar::caller::sigv4::{self, Request};
use bedrock_sidecar::settings::callers::Secret;
use http::{HeaderMap, HeaderValue};

/// The reader of signatures, header form and presigned form, must not panic, must read back what it has read, and nothing
/// made up may verify. The input's lines: Authorization, query, path, x-amz-date, body. True if a signature was read.
pub fn authorization(data: &[u8]) -> bool {
    let mut lines = data.splitn(5, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (authorization, query, path, date, body) = (line(), line(), line(), line(), line());
    let mut headers = HeaderMap::new();
    for (name, value) in [("authorization", authorization), ("x-amz-date", date)] {
        if !value.is_empty()
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            headers.insert(name, value);
        }
    }
    let query = String::from_utf8_lossy(query);
    let query = (!query.is_empty()).then_some(query.as_ref());
    let Ok(Claim::Signature(read)) = claim(&headers, query) else { return false };
    if read.presigned.is_none() {
        read_back(&read);
    }
    let path = String::from_utf8_lossy(path);
    let request = Request { method: "POST", path: &path, query, authority: "localhost", headers: &headers, body };
    let keys = SigningKeys::new(Secret::new("a secret that the fuzzer cannot know"));
    // 2026-11-22, the day of the seeds.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_375_674);
    assert!(sigv4::verify(&read, &request, &keys, &[], now).is_err());
    true
}

fn read_back(read: &Authorization<'_>) {
    let text = format!(
        "Credential={}/{}, SignedHeaders={}, Signature={}",
        read.access_key_id, read.scope, read.signed_headers, read.signature
    );
    assert_eq!(parse(&text).as_ref(), Ok(read));
}
