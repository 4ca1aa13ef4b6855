//! The reader of signatures: header form and presigned form. It must not panic, must read back what it has read, and
//! nothing made up may verify.
#![no_main]

use std::time::{Duration, SystemTime};

use bedrock_sidecar::caller::authorization::{Authorization, Claim, claim, parse};
use bedrock_sidecar::caller::sigv4::{self, Request};
use bedrock_sidecar::caller::signing_key::SigningKeys;
use bedrock_sidecar::settings::callers::Secret;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

// The input's lines: Authorization, query, path, x-amz-date, body.
fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(5, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (authorization, query, path, date, body) = (line(), line(), line(), line(), line());
    let mut headers = HeaderMap::new();
    for (name, value) in [("authorization", authorization), ("x-amz-date", date)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    let query = String::from_utf8_lossy(query);
    let query = (!query.is_empty()).then_some(query.as_ref());
    let Ok(Claim::Signature(read)) = claim(&headers, query) else { return };
    if read.presigned.is_none() {
        read_back(&read);
    }
    let path = String::from_utf8_lossy(path);
    let request = Request { method: "POST", path: &path, query, authority: "localhost", headers: &headers, body };
    let keys = SigningKeys::new(Secret::new("a secret that the fuzzer cannot know"));
    // 2026-11-22, the day of the seeds.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_375_674);
    assert!(sigv4::verify(&read, &request, &keys, &[], now).is_err());
});

fn read_back(read: &Authorization<'_>) {
    let text = format!(
        "Credential={}/{}, SignedHeaders={}, Signature={}",
        read.access_key_id, read.scope, read.signed_headers, read.signature
    );
    assert_eq!(parse(&text).as_ref(), Ok(read));
}
