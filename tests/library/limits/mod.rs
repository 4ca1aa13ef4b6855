//! The limits as the request pipeline uses them: exact counts under many threads and a virtual clock, turns, settlement,
//! reload and restarts.

mod counting;
mod over_time;
mod settlement;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use bedrock_sidecar::caller::User;
use bedrock_sidecar::error::{Refusal, RefusalKind};
use bedrock_sidecar::limits::{Behind, Estimate, LimitRequest, Limits};
use bedrock_sidecar::record::Usage;
use bedrock_sidecar::service_tier::AskedTier;
use bedrock_sidecar::settings::limits::{self as settings, Rates};

const MINUTE: Duration = Duration::from_secs(60);

fn host(rates: Rates) -> settings::Limits {
    settings::Limits { host: rates, max_waiting: 1_000, ..settings::Limits::default() }
}

fn ask(tokens: u64) -> LimitRequest<'static> {
    let estimate = Estimate { input: tokens / 2, output: tokens - tokens / 2 };
    LimitRequest {
        caller: None,
        user: User::Unknown,
        model: None,
        behind: &Behind::Itself,
        estimate,
        tier: AskedTier::Unsaid,
    }
}

fn of(caller: &str) -> LimitRequest<'_> {
    LimitRequest { caller: Some(caller), ..ask(0) }
}

/// With limits of a caller's own.
fn with(limits: settings::Limits, caller: &str, rates: Rates) -> settings::Limits {
    settings::Limits { callers: Arc::new([(caller.into(), rates)].into()), ..limits }
}

fn used(input: u64, output: u64) -> Usage {
    Usage { input_tokens: Some(input), output_tokens: Some(output), ..Usage::default() }
}

async fn refused(limits: &Limits, ask: LimitRequest<'_>) -> Refusal {
    let refusal = limits.admit(ask).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Throttling);
    refusal
}

/// Lets every task run until it waits.
async fn settle_down() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

async fn futures<F: Future>(count: usize, mut make: impl FnMut() -> F) -> Vec<F::Output> {
    let mut results = Vec::new();
    for _ in 0..count {
        results.push(make().await);
    }
    results
}
