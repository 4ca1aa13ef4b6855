//! What reading bodies costs, and writing the line of a request: `cargo bench --bench scan`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints what it measured")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;

use bedrock_sidecar::limits::estimate;
use bedrock_sidecar::measured::{Listing, log_line, metered, names_model};
use bedrock_sidecar::operation::TokenEstimate::FromBody;
use bedrock_sidecar::record::{Outcome, Record, Usage};

const JSON: &str = "application/json";
const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

fn main() {
    requests();
    answers();
    events();
    let record = record();
    measure("log line", 200_000, 0, || drop(black_box(log_line(black_box(&record), "i-0123456789abcdef0"))));
    let geographies = ["us".to_owned(), "global".to_owned()];
    let models: Vec<String> = (0..60).map(|number| format!("vendor.model-{number}-20250514-v1:0")).collect();
    let listing = Listing::new(&models, &geographies);
    measure("system profile that is there", 200_000, 0, || {
        black_box(listing.has_profile(black_box(&models[40]), &geographies));
    });
    measure("system profile that is not there", 20_000, 0, || {
        black_box(listing.has_profile(black_box("amazon.titan-embed-text-v2:0"), &geographies));
    });
}

fn requests() {
    let text = |length: usize| "Plain words of a prompt, and a quote: \\\"so\\\".\\n".repeat(length / 48);
    let chat = format!(
        r#"{{"model":"openai.gpt-oss-120b-1:0","messages":[{{"role":"user","content":"{}"}}],"max_completion_tokens":512}}"#,
        text(1024)
    );
    let image = format!(
        r#"{{"messages":[{{"image":"data:image/png;base64,{}"}}],"max_tokens":512,"model":"x.y"}}"#,
        "iVBORw0KGgo".repeat(1_800_000)
    );
    let tool =
        r#"{"toolSpec":{"name":"f","inputSchema":{"json":{"type":"object","properties":{"x":{"type":"number"}}}}}},"#;
    let tools = format!(r#"{{"tools":[{}null],"max_tokens":512,"model":"x.y"}}"#, tool.repeat(200));
    let numbers = format!(r#"{{"x":[{}0],"max_tokens":512,"model":"x.y"}}"#, "-0.0123456,".repeat(100_000));
    for (what, body, times) in [
        ("chat of 1 KiB", &chat, 200_000),
        ("20 MB of base64", &image, 100),
        ("20 KB of tools", &tools, 5_000),
        ("1 MB of numbers", &numbers, 300),
    ] {
        measure(&format!("estimate, {what}"), times, body.len(), || {
            black_box(estimate(FromBody, black_box(body.as_bytes())));
        });
        measure(&format!("model in the body, {what}"), times, body.len(), || {
            assert!(names_model(black_box(body.as_bytes())));
        });
    }
}

fn answers() {
    let text = "Plain words of an answer, and a quote: \\\"so\\\".\\n".repeat(41);
    let converse = format!(
        r#"{{"metrics":{{"latencyMs":7}},"output":{{"message":{{"content":[{{"text":"{text}"}}],"role":"assistant"}}}},"stopReason":"end_turn","usage":{{"inputTokens":30,"outputTokens":500,"totalTokens":530}}}}"#
    );
    let embedding =
        format!(r#"{{"embedding":[{}0.5],"inputTextTokenCount":7}}"#, "-0.012345678901234567,".repeat(1_400));
    let embeddings =
        format!(r#"{{"embeddings":{{"float":[[{}0.5]]}},"id":"x"}}"#, "-0.012345678901234567,".repeat(100_000));
    let pretty = format!(
        "{{\n{}  \"usage\": {{\"inputTokens\": 3}}\n}}",
        "  \"x\": [\n    {\n      \"y\": 1\n    }\n  ],\n".repeat(700)
    );
    for (what, body, times) in [
        ("Converse, 2 KiB", &converse, 200_000),
        ("embedding, 30 KB", &embedding, 10_000),
        ("embeddings, 2 MB", &embeddings, 100),
        ("indented, 30 KB", &pretty, 5_000),
    ] {
        let pieces: Vec<Bytes> = body.as_bytes().chunks(16 * 1024).map(Bytes::copy_from_slice).collect();
        measure(&format!("answer, {what}"), times, body.len(), || {
            black_box(metered(JSON, black_box(&pieces)));
        });
    }
}

/// Streams of 1,000 events; the figure is that of one event.
fn events() {
    let delta = r#"{"contentBlockIndex":0,"delta":{"text":" some words of an answer"},"p":"abcdefghijklmnopqrstuvwx"}"#;
    let own =
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" some words of an answer"}}"#;
    let chunk =
        format!(r#"{{"bytes":"{}","p":"abcdefghijklmnopqr"}}"#, base64::engine::general_purpose::STANDARD.encode(own));
    for (what, name, payload) in
        [("ConverseStream", "contentBlockDelta", delta), ("InvokeModelWithResponseStream", "chunk", &chunk)]
    {
        let frame = frame(name, payload);
        let alone = vec![Bytes::from(frame.clone()); 1_000];
        measure(&format!("1,000 events of {what}, each in a piece of its own"), 500, 0, || {
            black_box(metered(EVENT_STREAM, black_box(&alone)));
        });
        let stream = frame.repeat(1_000);
        let pieces: Vec<Bytes> = stream.chunks(1_000).map(Bytes::copy_from_slice).collect();
        measure(&format!("1,000 events of {what}, in pieces of 1,000 bytes"), 500, 0, || {
            black_box(metered(EVENT_STREAM, black_box(&pieces)));
        });
    }
    let line = Bytes::from(format!("data: {own}\n\n"));
    let alone = vec![line; 1_000];
    measure("1,000 server-sent events, each in a piece of its own", 500, 0, || {
        black_box(metered("text/event-stream", black_box(&alone)));
    });
}

fn frame(event: &str, payload: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [(":event-type", event), (":content-type", "application/json"), (":message-type", "event")] {
        headers.push(u8::try_from(name.len()).unwrap());
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
    let mut frame = Vec::new();
    frame.extend_from_slice(&length(16 + headers.len() + payload.len()));
    frame.extend_from_slice(&length(headers.len()));
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame.extend_from_slice(&headers);
    frame.extend_from_slice(payload.as_bytes());
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame
}

fn record() -> Record {
    Record {
        request_id: "0193a6f0-5b2c-7d34-8a1e-3f5b9c2d7e10".to_owned(),
        started_ms: 1_795_375_674_123,
        operation: "InvokeModel".into(),
        model_id: "anthropic.claude-sonnet-4-20250514-v1:0".to_owned(),
        inference_profile_used: Some("us.anthropic.claude-sonnet-4-20250514-v1:0".to_owned()),
        destination_region: "us-east-1".to_owned(),
        upstream_request_id: Some("7c1f0a3e-4f1b-4b52-9d58-1f2f6f0f8a11".to_owned()),
        user_arn: "arn:aws-us-gov:sts::111122223333:assumed-role/App/i-0123456789abcdef0".to_owned(),
        source_ip: "127.0.0.1".to_owned(),
        caller: Some("billing".to_owned()),
        caller_uid: Some(1001),
        access_key_id: Some("ASIAIOSFODNN7EXAMPLE".to_owned()),
        request_size: 1024,
        response_size: 2048,
        latency: 12,
        first_byte_latency: Some(11),
        usage: Usage { input_tokens: Some(30), output_tokens: Some(500), ..Usage::default() },
        success: true,
        status_code: 200,
        attempts: 1,
        outcome: Outcome::Completed,
        ..Record::default()
    }
}

/// The fastest of ten rounds: what the code costs, not what the machine was doing. With `bytes`, also how many of them pass
/// in a second.
fn measure(what: &str, times: u32, bytes: usize, mut run: impl FnMut()) {
    let round = times / 10;
    let once = |_| {
        let start = Instant::now();
        (0..round).for_each(|_| run());
        start.elapsed() / round
    };
    let best = (0..10).map(once).min().unwrap_or(Duration::MAX);
    match u32::try_from(bytes) {
        Ok(bytes) if bytes > 0 => {
            println!("{what}: {best:?}, {:.2} GB/s", f64::from(bytes) / best.as_nanos().max(1) as f64)
        }
        _ => println!("{what}: {best:?}"),
    }
}
