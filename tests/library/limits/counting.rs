//! Exact counts, under many threads and whatever upstreams report.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bedrock_sidecar::config::Glob;
use bedrock_sidecar::limits::{Admission, LimitRequest, Limits, VirtualClock};
use bedrock_sidecar::record::Usage;
use bedrock_sidecar::settings::limits::{self as settings, Price, Prices, Rates};

use super::{ask, futures, host, of, refused, used, with};

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_storm_is_counted_exactly() {
    let clock = VirtualClock::new();
    let rates = Rates { requests_per_minute: Some(600), request_burst: Some(50), ..Rates::default() };
    let limits = Limits::new(&host(rates), clock.clone());
    let admitted = Arc::new(AtomicU64::new(0));
    // What the clock says, and what must have been admitted by then: the burst, and ten a second.
    for (advance, total) in [(0, 50), (0, 50), (100, 51), (1_000, 61), (4_999, 110), (1, 111), (600_000, 161)] {
        clock.advance(Duration::from_millis(advance));
        let storm: Vec<_> = (0..16)
            .map(|_| {
                let (limits, admitted) = (limits.clone(), admitted.clone());
                tokio::spawn(async move {
                    for _ in 0..200 {
                        if let Ok(admission) = limits.admit(ask(10)).await {
                            admitted.fetch_add(1, Ordering::SeqCst);
                            drop(admission);
                        }
                    }
                })
            })
            .collect();
        for task in storm {
            task.await.unwrap();
        }
        assert_eq!(admitted.load(Ordering::SeqCst), total, "after {advance} ms more");
    }
    let status = limits.status();
    assert_eq!(status.limited[0].count, 7 * 16 * 200 - 161);
    assert_eq!((status.limited[0].limit, status.limited[0].scope), ("requests_per_minute", "host"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn never_more_than_so_many_at_once_and_all_come_back() {
    let limits = Limits::new(&host(Rates { concurrent_requests: Some(7), ..Rates::default() }), VirtualClock::new());
    let (running, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let (limits, running, most) = (limits.clone(), running.clone(), most.clone());
            tokio::spawn(async move {
                for turn in 0..300 {
                    let Ok(admission) = limits.admit(ask(1)).await else { continue };
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    if turn % 3 == 0 { admission.cancel() } else { drop(admission) }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= 7);
    assert_eq!(limits.status().scopes[0].running, 0);
    let held: Vec<Admission> = futures(7, || limits.admit(ask(1))).await.into_iter().map(Result::unwrap).collect();
    refused(&limits, ask(1)).await;
    drop(held);
    drop(limits.admit(ask(1)).await.unwrap());
}

/// An upstream may report any numbers: they are counted as far as they go, and what is full stays full.
#[tokio::test]
async fn no_reported_usage_makes_a_count_overflow_or_start_anew() {
    let most = u64::MAX;
    let price = Price { input: most, output: most, cache_read: most, cache_write: most, cache_write_1h: most };
    let rates = Rates {
        tokens_per_minute: Some(most),
        tokens_per_day: Some(most),
        usd_per_day: Some(most),
        usd_per_month: Some(most),
        ..Rates::default()
    };
    let settings = settings::Limits { prices: Arc::new(Prices::new(vec![(Glob::new("*"), price)])), ..host(rates) };
    for usage in [
        used(0, 0),
        used(most, most),
        Usage {
            input_tokens: Some(most),
            output_tokens: Some(most),
            cache_read_tokens: Some(most),
            cache_write_tokens: Some(most),
            cache_write_1h_tokens: Some(most),
        },
        Usage { cache_write_1h_tokens: Some(most), ..Usage::default() },
    ] {
        let limits = Limits::new(&settings, VirtualClock::default());
        let model = |tokens| LimitRequest { model: Some("a.b"), ..ask(tokens) };
        let mut admitted = Vec::new();
        for _ in 0..3 {
            admitted.push(limits.admit(model(0)).await.unwrap());
        }
        for admission in &mut admitted {
            admission.settle(&usage);
            // Once more, when the last count has come.
            admission.settle(&usage);
        }
        let is_used_up = usage.input_tokens == Some(most);
        assert_eq!(limits.admit(model(1)).await.is_err(), is_used_up, "{usage:?}");
    }
}

/// An upstream that reports the largest numbers there are uses everything up, and makes nothing overflow.
#[tokio::test]
async fn the_largest_counts_use_everything_up() {
    let clock = VirtualClock::new();
    let rates = Rates {
        tokens_per_minute: Some(1_000),
        tokens_per_day: Some(1_000_000),
        usd_per_day: Some(1_000_000_000),
        usd_per_month: Some(2_000_000_000),
        ..Rates::default()
    };
    let mut settings = host(rates);
    let price = Price { input: u64::MAX, output: u64::MAX, ..Price::default() };
    settings.prices = Arc::new(Prices::new(vec![(Glob::new("*"), price)]));
    let limits = Limits::new(&settings, clock.clone());
    // What costs nothing is always admitted.
    let claude = |tokens| LimitRequest { model: Some("anthropic.claude"), ..ask(tokens) };
    let (mut first, mut second) = (limits.admit(claude(0)).await.unwrap(), limits.admit(claude(0)).await.unwrap());
    for admission in [&mut first, &mut second] {
        let usage = Usage { cache_write_tokens: Some(u64::MAX), ..used(u64::MAX, u64::MAX) };
        assert_eq!(admission.cost(&usage), Some(u64::MAX));
        admission.settle(&usage);
        admission.settle_broken_off(&usage, u64::MAX);
    }
    drop((first, second));
    assert_eq!(limits.status().scopes[0].nano_usd_today, u64::MAX);
    refused(&limits, claude(2)).await;
    // A day later too: the month's budget is used up, and the minute's bucket is far below zero.
    clock.advance(Duration::from_secs(86_400));
    refused(&limits, claude(2)).await;
}

#[tokio::test]
async fn all_limits_that_apply_must_admit_and_the_others_lose_nothing() {
    let clock = VirtualClock::new();
    let mut settings = host(Rates { requests_per_minute: Some(10), ..Rates::default() });
    settings.models = vec![(Glob::new("anthropic.*"), Rates { requests_per_minute: Some(2), ..Rates::default() })];
    let rates = Rates { requests_per_minute: Some(3), ..Rates::default() };
    let limits = Limits::new(&with(settings, "a", rates), clock.clone());
    let claude = |caller| LimitRequest { model: Some("us.anthropic.claude"), ..of(caller) };
    for _ in 0..2 {
        drop(limits.admit(claude("a")).await.unwrap());
    }
    let refusal = refused(&limits, claude("a")).await;
    assert_eq!(
        refusal.message,
        "the group of models \"anthropic.*\" has used up requests_per_minute = 2; try again in 30 s."
    );
    drop(limits.admit(LimitRequest { model: Some("meta.llama"), ..of("a") }).await.unwrap());
    let refusal = refused(&limits, of("a")).await;
    assert_eq!(refusal.message, "the caller \"a\" has used up requests_per_minute = 3; try again in 20 s.");
    // Seven are left of the host's ten, and the refusals took none.
    for turn in 0..7 {
        drop(limits.admit(of(&format!("c{turn}"))).await.unwrap());
    }
    assert_eq!(refused(&limits, ask(0)).await.retry_after, Some(Duration::from_secs(6)));
    let scopes: Vec<_> = limits.status().limited.iter().map(|limited| (limited.scope, limited.count)).collect();
    assert_eq!(scopes, [("host", 1), ("model", 1), ("caller", 1)]);
}
