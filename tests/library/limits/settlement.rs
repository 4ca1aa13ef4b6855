//! What was reserved and what was used: rates hold, and money is counted by day and month.

use std::sync::Arc;
use std::time::Duration;

use bedrock_sidecar::config::Glob;
use bedrock_sidecar::limits::{Admission, LimitRequest, Limits, VirtualClock};
use bedrock_sidecar::record::Usage;
use bedrock_sidecar::settings::limits::{Price, Prices, Rates};

use super::{MINUTE, ask, host, refused, used};

/// Random requests, settlements and broken streams: whatever happens, use stays within the bucket and its refill, but for
/// what settlements found to be more than was reserved.
#[tokio::test]
async fn tokens_hold_their_rate_whatever_happens() {
    for seed in 1..20u64 {
        let clock = VirtualClock::new();
        let rate = 1_000 + seed * 777;
        let limits = Limits::new(&host(Rates { tokens_per_minute: Some(rate), ..Rates::default() }), clock.clone());
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let (mut spent, mut elapsed, mut flying) = (0u64, 0u64, Vec::<(Admission, u64)>::new());
        for _ in 0..5_000 {
            let millis = next(2_000);
            elapsed += millis;
            clock.advance(Duration::from_millis(millis));
            let tokens = next(rate / 2) + 1;
            match limits.admit(ask(tokens)).await {
                Ok(admission) => flying.push((admission, tokens)),
                Err(refusal) => {
                    // The wait is true: one nanosecond sooner, it is refused; then it passes, if nothing else happens.
                    let wait = refusal.retry_after.unwrap();
                    if wait > Duration::from_secs(1) && flying.is_empty() {
                        clock.advance(wait - Duration::from_nanos(1));
                        assert!(limits.admit(ask(tokens)).await.is_err());
                        clock.advance(Duration::from_nanos(1));
                        flying.push((limits.admit(ask(tokens)).await.unwrap(), tokens));
                        elapsed += u64::try_from(wait.as_millis()).unwrap() + 1;
                    }
                }
            }
            if !flying.is_empty() && next(3) > 0 {
                let at = usize::try_from(next(flying.len() as u64)).unwrap();
                let (mut admission, tokens) = flying.swap_remove(at);
                match next(4) {
                    0 => admission.cancel(),
                    1 => spent += tokens, // the stream broke and nobody knows
                    _ => {
                        let actual = next(tokens + 1);
                        admission.settle(&used(actual, 0));
                        admission.settle(&used(actual / 2, actual - actual / 2));
                        spent += actual;
                    }
                }
            }
            let reserved: u64 = flying.iter().map(|(_, tokens)| tokens).sum();
            assert!(spent + reserved <= rate + rate * elapsed / 60_000 + 1, "seed {seed}");
        }
    }
}

#[tokio::test]
async fn usage_above_the_reservation_is_a_debt_and_below_comes_back() {
    let clock = VirtualClock::new();
    let limits = Limits::new(&host(Rates { tokens_per_minute: Some(6_000), ..Rates::default() }), clock.clone());
    let mut first = limits.admit(ask(1_000)).await.unwrap();
    first.settle(&used(8_000, 1_000));
    drop(first);
    assert_eq!(limits.status().scopes[0].tokens_left, Some(-3_000));
    let refusal = refused(&limits, ask(1_000)).await;
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(40)), "100 a second");
    assert_eq!(refusal.message, "this host has used up tokens_per_minute = 6000; try again in 40 s.");
    // What costs no tokens is not held up by a debt of them.
    drop(limits.admit(ask(0)).await.unwrap());
    clock.advance(Duration::from_secs(40));
    let mut second = limits.admit(ask(1_000)).await.unwrap();
    second.settle(&used(10, 0));
    assert_eq!(limits.status().scopes[0].tokens_left, Some(990));
    // Only the input is known: the output stays as reserved.
    drop(second);
    let mut third = limits.admit(ask(900)).await.unwrap();
    third.settle(&Usage { input_tokens: Some(40), ..Usage::default() });
    assert_eq!(limits.status().scopes[0].tokens_left, Some(500));
    // Never went upstream: all of it comes back. Broken without a word: all of it stays spent.
    drop(third);
    limits.admit(ask(500)).await.unwrap().cancel();
    assert_eq!(limits.status().scopes[0].tokens_left, Some(500));
    drop(limits.admit(ask(500)).await.unwrap());
    assert_eq!(limits.status().scopes[0].tokens_left, Some(0));
}

#[tokio::test]
async fn more_than_the_whole_limit_passes_when_it_is_full() {
    let clock = VirtualClock::new();
    let rates = Rates { tokens_per_minute: Some(100), tokens_per_day: Some(1_000), ..Rates::default() };
    let limits = Limits::new(&host(rates), clock.clone());
    let mut large = limits.admit(ask(5_000)).await.unwrap();
    refused(&limits, ask(1)).await;
    large.settle(&used(50, 50));
    drop(large);
    clock.advance(MINUTE);
    drop(limits.admit(ask(100)).await.unwrap());
}

#[tokio::test]
async fn budgets_count_money_by_day_and_month() {
    let clock = VirtualClock::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limits.json");
    let dollars = |dollars: u64| Some(dollars * 1_000_000_000);
    let mut settings = host(Rates { usd_per_day: dollars(10), usd_per_month: dollars(15), ..Rates::default() });
    // A dollar for a thousand tokens, in or out.
    let price = Price { input: 1_000_000_000, output: 1_000_000_000, cache_read: 0, cache_write: 0, cache_write_1h: 0 };
    settings.prices = Arc::new(Prices::new(vec![(Glob::new("anthropic.*"), price)]));
    let limits = Limits::new(&settings, clock.clone());
    let keeper = limits.persist_to(&path).unwrap();
    let claude = |tokens| LimitRequest { model: Some("anthropic.claude"), ..ask(tokens) };
    let mut first = limits.admit(claude(9_000)).await.unwrap();
    refused(&limits, claude(2_000)).await;
    first.settle(&used(4_000, 4_000));
    drop(first);
    let host = &limits.status().scopes[0];
    assert_eq!((host.nano_usd_today, host.budget_used), (8_000_000_000, Some(0.8)));
    let refusal = refused(&limits, claude(2_001)).await;
    assert_eq!(
        refusal.message,
        "this host has only 2.00 left of usd_per_day = 10.00, and this request may need more; try again in 43200 s, or ask for fewer tokens."
    );
    // A model without a price spends nothing.
    limits.admit(LimitRequest { model: Some("meta.llama"), ..ask(1_000_000) }).await.unwrap().cancel();
    clock.advance(Duration::from_secs(86_400));
    drop(limits.admit(claude(7_000)).await.unwrap());
    keeper.stop().await.unwrap();

    let limits = Limits::new(&settings, clock.clone());
    let _keeper = limits.persist_to(&path).unwrap();
    let refusal = refused(&limits, claude(1)).await;
    assert!(refusal.message.starts_with("this host has used up usd_per_month = 15.00; try again in "));
    clock.advance(refusal.retry_after.unwrap());
    drop(limits.admit(claude(10_000)).await.unwrap());
    clock.advance(Duration::from_secs(86_400));
    let cost = async |model| {
        let admission = limits.admit(LimitRequest { model: Some(model), ..ask(3) }).await.unwrap();
        let cost = admission.cost(&used(1, 2));
        assert_eq!(admission.cost(&Usage::default()), None);
        admission.cancel();
        cost
    };
    assert_eq!(cost("us.anthropic.claude").await, Some(3_000_000));
    assert_eq!(cost("meta.llama").await, None);
}
