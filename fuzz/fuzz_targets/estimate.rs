//! Any bytes as a request body: the estimate ends, in time that grows with the body alone, and stays within its bounds;
//! and where the body is JSON whose top level has one `max_tokens`, it is found as serde_json finds it.

#![no_main]

use bedrock_sidecar::limits::estimate;
use bedrock_sidecar::operation::TokenEstimate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let estimate = estimate(TokenEstimate::FromBody, body);
    assert!(estimate.output <= 1_000_000);
    assert!(estimate.input <= body.len() as u64 + 1);
    if let Ok(serde_json::Value::Object(top)) = serde_json::from_slice::<serde_json::Value>(body)
        && let Some(most) = top.get("max_tokens").and_then(serde_json::Value::as_u64)
    {
        // Of duplicates serde_json keeps the last, we the largest.
        assert!(estimate.output >= most.min(1_000_000));
    }
});
