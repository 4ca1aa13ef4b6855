//! What the limits cost a request that passes, without contention: `cargo bench --bench limits`. The target is 1 µs.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints what it measured")]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bedrock_sidecar::caller::User;
use bedrock_sidecar::config::Glob;
use bedrock_sidecar::limits::{Behind, Estimate, LimitRequest, Limits, SystemClock, estimate};
use bedrock_sidecar::operation::TokenEstimate::FromBody;
use bedrock_sidecar::record::Usage;
use bedrock_sidecar::service_tier::AskedTier;
use bedrock_sidecar::settings::limits::{self as settings, Rates};

fn main() {
    let all = Rates {
        requests_per_minute: Some(u64::from(u32::MAX)),
        concurrent_requests: Some(1_000),
        tokens_per_minute: Some(u64::MAX / 4),
        tokens_per_day: Some(u64::MAX / 4),
        ..Rates::default()
    };
    let none = settings::Limits { max_waiting: 100, ..settings::Limits::default() };
    let host = settings::Limits { host: all, ..none.clone() };
    let every = settings::Limits {
        models: vec![(Glob::new("anthropic.*"), all), (Glob::new("amazon.*"), all)],
        callers: std::sync::Arc::new([("billing".into(), all)].into()),
        ..host.clone()
    };
    let plain = LimitRequest {
        caller: None,
        user: User::Unknown,
        model: Some("us.anthropic.claude-sonnet-4-20250514-v1:0"),
        behind: &Behind::Itself,
        estimate: Estimate { input: 300, output: 1_000 },
        tier: AskedTier::Unsaid,
    };
    let caller = LimitRequest { caller: Some("billing"), ..plain };
    for (what, settings, ask) in [
        ("no limits", &none, plain),
        ("four limits of the host", &host, plain),
        ("four limits each of host, caller and model", &every, caller),
    ] {
        let limits = Limits::new(settings, SystemClock);
        let usage = Usage { input_tokens: Some(280), output_tokens: Some(400), ..Usage::default() };
        measure(what, 1_000_000, || {
            let mut admission = ready(limits.admit(ask)).unwrap();
            admission.settle(&usage);
        });
    }
    let small = format!(
        r#"{{"messages":[{{"role":"user","content":[{{"text":"{:x<900}"}}]}}],"inferenceConfig":{{"maxTokens":512}}}}"#,
        ""
    );
    measure("estimate of 1 KiB", 1_000_000, || {
        std::hint::black_box(estimate(FromBody, std::hint::black_box(small.as_bytes())));
    });
    let large = format!(r#"{{"messages":[{{"bytes":"{}"}}],"max_tokens":512}}"#, "iVBORw0KGgo".repeat(1_800_000));
    measure("estimate of 20 MB of base64", 100, || {
        std::hint::black_box(estimate(FromBody, std::hint::black_box(large.as_bytes())));
    });
}

/// The fastest of ten rounds: what the code costs, not what the machine was doing.
fn measure(what: &str, times: u32, mut run: impl FnMut()) {
    let round = times / 10;
    let best = (0..10)
        .map(|_| {
            let start = Instant::now();
            (0..round).for_each(|_| run());
            start.elapsed() / round
        })
        .min()
        .unwrap();
    println!("{what}: {best:?}");
}

fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing waits here"),
    }
}
