//! The limits as the request pipeline uses them: exact counts under many threads and a virtual clock, turns, settlement,
//! reload and restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bedrock_sidecar::caller::User;
use bedrock_sidecar::config::Glob;
use bedrock_sidecar::error::{Refusal, RefusalKind};
use bedrock_sidecar::limits::{Admission, Behind, Estimate, LimitRequest, Limits, VirtualClock};
use bedrock_sidecar::record::Usage;
use bedrock_sidecar::service_tier::AskedTier;
use bedrock_sidecar::settings::limits::{self as settings, Price, Prices, Rates};

use crate::small_disk::SmallDisk;

const MINUTE: Duration = Duration::from_secs(60);

fn host(rates: Rates) -> settings::Limits {
    settings::Limits { host: rates, max_waiting: 1_000, ..settings::Limits::default() }
}

fn ask(tokens: u64) -> LimitRequest<'static> {
    let estimate = Estimate { input: tokens / 2, output: tokens - tokens / 2 };
    LimitRequest {
        caller: None,
        user: User::Unknown,
        caller_limits: None,
        model: None,
        behind: &Behind::Itself,
        estimate,
        tier: AskedTier::Unsaid,
    }
}

fn of<'a>(caller: &'a str, rates: &'a Rates) -> LimitRequest<'a> {
    LimitRequest {
        caller: Some(caller),
        user: User::Unknown,
        caller_limits: Some(rates),
        model: None,
        behind: &Behind::Itself,
        estimate: Estimate::NONE,
        tier: AskedTier::Unsaid,
    }
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

async fn futures<F: Future>(count: usize, mut make: impl FnMut() -> F) -> Vec<F::Output> {
    let mut results = Vec::new();
    for _ in 0..count {
        results.push(make().await);
    }
    results
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
async fn all_limits_that_apply_must_admit_and_the_others_lose_nothing() {
    let clock = VirtualClock::new();
    let mut settings = host(Rates { requests_per_minute: Some(10), ..Rates::default() });
    settings.models = vec![(Glob::new("anthropic.*"), Rates { requests_per_minute: Some(2), ..Rates::default() })];
    let limits = Limits::new(&settings, clock.clone());
    let rates = Rates { requests_per_minute: Some(3), ..Rates::default() };
    let claude = |caller| LimitRequest { model: Some("us.anthropic.claude"), ..of(caller, &rates) };
    for _ in 0..2 {
        drop(limits.admit(claude("a")).await.unwrap());
    }
    let refusal = refused(&limits, claude("a")).await;
    assert_eq!(
        refusal.message,
        "the group of models \"anthropic.*\" has used up requests_per_minute = 2; try again in 30 s."
    );
    drop(limits.admit(LimitRequest { model: Some("meta.llama"), ..of("a", &rates) }).await.unwrap());
    let refusal = refused(&limits, of("a", &rates)).await;
    assert_eq!(refusal.message, "the caller \"a\" has used up requests_per_minute = 3; try again in 20 s.");
    // Seven are left of the host's ten, and the refusals took none.
    for turn in 0..7 {
        let (name, rates) = (format!("c{turn}"), Rates::default());
        drop(limits.admit(of(&name, &rates)).await.unwrap());
    }
    assert_eq!(refused(&limits, ask(0)).await.retry_after, Some(Duration::from_secs(6)));
    let scopes: Vec<_> = limits.status().limited.iter().map(|limited| (limited.scope, limited.count)).collect();
    assert_eq!(scopes, [("host", 1), ("model", 1), ("caller", 1)]);
}

#[tokio::test]
async fn callers_take_turns() {
    let clock = VirtualClock::new();
    let rates = Rates {
        requests_per_minute: Some(60),
        request_burst: Some(1),
        max_wait: Some(Duration::from_secs(600)),
        ..Rates::default()
    };
    let limits = Limits::new(&host(rates), clock.clone());
    drop(limits.admit(ask(0)).await.unwrap());
    let order = Arc::new(std::sync::Mutex::new(String::new()));
    // One caller comes first and with many; the others still get every third place.
    for (caller, count) in [("a", 10), ("b", 3), ("c", 3)] {
        for _ in 0..count {
            let (limits, order) = (limits.clone(), order.clone());
            tokio::spawn(async move {
                let none = Rates::default();
                let admission = limits.admit(of(caller, &none)).await.unwrap();
                order.lock().unwrap().push_str(caller);
                drop(admission);
            });
        }
        settle_down().await;
    }
    assert_eq!(limits.status().waiting, 16);
    for _ in 0..16 {
        clock.advance(Duration::from_secs(1));
        settle_down().await;
    }
    assert_eq!(*order.lock().unwrap(), "abcabcabcaaaaaaa");
    assert_eq!(limits.status().waiting, 0);
}

#[tokio::test]
async fn a_large_request_is_not_starved_by_small_ones() {
    let clock = VirtualClock::new();
    let rates = Rates { tokens_per_minute: Some(600), max_wait: Some(Duration::from_secs(600)), ..Rates::default() };
    let limits = Limits::new(&host(rates), clock.clone());
    drop(limits.admit(ask(600)).await.unwrap());
    let large = tokio::spawn({
        let limits = limits.clone();
        async move { drop(limits.admit(ask(500)).await.unwrap()) }
    });
    settle_down().await;
    let small = tokio::spawn({
        let limits = limits.clone();
        async move {
            let none = Rates::default();
            drop(
                limits
                    .admit(LimitRequest { estimate: Estimate { input: 1, output: 0 }, ..of("small", &none) })
                    .await
                    .unwrap(),
            );
        }
    });
    clock.advance(Duration::from_secs(30));
    settle_down().await;
    assert!(!large.is_finished() && !small.is_finished());
    clock.advance(Duration::from_secs(21));
    settle_down().await;
    assert!(large.is_finished() && small.is_finished());
}

#[tokio::test]
async fn no_caller_takes_all_places_in_the_queue() {
    let none = Rates::default();
    for named in [true, false] {
        let rates = Rates { concurrent_requests: Some(1), max_wait: Some(MINUTE), ..Rates::default() };
        let limits = Limits::new(&settings::Limits { max_waiting: 6, ..host(rates) }, VirtualClock::new());
        let running = limits.admit(ask(0)).await.unwrap();
        let spawn = |caller: &'static str, uid: u32| {
            let limits = limits.clone();
            tokio::spawn(async move {
                let one = if named { of(caller, &none) } else { LimitRequest { user: User::Local(uid), ..ask(0) } };
                limits.admit(one).await.map(drop)
            })
        };
        let many: Vec<_> = (0..6).map(|_| spawn("many", 1)).collect();
        settle_down().await;
        assert_eq!(limits.status().waiting, 6, "one caller may have all places that nobody else wants");
        assert!(spawn("many", 1).await.unwrap().is_err());
        // Another takes its share of them; what is beyond it is refused.
        let other: Vec<_> = (0..3).map(|_| spawn("other", 2)).collect();
        settle_down().await;
        assert!(spawn("other", 2).await.unwrap().is_err());
        let third = spawn("third", 3);
        settle_down().await;
        assert_eq!(limits.status().waiting, 6);
        drop(running);
        let mut served = [0, 0, 0];
        for (line, tasks) in [many, other, vec![third]].into_iter().enumerate() {
            for task in tasks {
                served[line] += usize::from(task.await.unwrap().is_ok());
            }
        }
        assert_eq!(served.iter().sum::<usize>(), 6, "{served:?}");
        assert!(served[1] >= 2 && served[2] == 1, "{served:?}");
        assert_eq!(limits.status().waiting, 0);
    }
}

#[tokio::test]
async fn waiting_ends_with_max_wait_with_the_client_and_with_room() {
    let clock = VirtualClock::new();
    let rates = Rates { concurrent_requests: Some(1), max_wait: Some(Duration::from_secs(2)), ..Rates::default() };
    let mut settings = host(rates);
    settings.max_waiting = 2;
    let limits = Limits::new(&settings, clock.clone());
    let running = limits.admit(ask(0)).await.unwrap();
    let spawn = || {
        let limits = limits.clone();
        tokio::spawn(async move { limits.admit(ask(0)).await })
    };
    let (first, second) = (spawn(), spawn());
    settle_down().await;
    // No room for a third.
    refused(&limits, ask(0)).await;
    // A client that leaves makes room, and gets nothing.
    first.abort();
    settle_down().await;
    assert_eq!(limits.status().waiting, 1);
    let third = spawn();
    settle_down().await;
    drop(running);
    settle_down().await;
    let admission = second.await.unwrap().unwrap();
    clock.advance(Duration::from_secs(2));
    let refusal = third.await.unwrap().unwrap_err();
    assert!(refusal.message.contains("no place became free within max_wait"), "{}", refusal.message);
    drop(admission);
    assert_eq!((limits.status().waiting, limits.status().scopes[0].running), (0, 0));
}

#[tokio::test]
async fn who_cannot_be_served_in_time_is_told_at_once() {
    let rates = Rates { requests_per_minute: Some(1), max_wait: Some(Duration::from_secs(5)), ..Rates::default() };
    let limits = Limits::new(&host(rates), VirtualClock::new());
    drop(limits.admit(ask(0)).await.unwrap());
    // The clock stands still: were it queued, this would never return.
    assert_eq!(refused(&limits, ask(0)).await.retry_after, Some(MINUTE));
}

/// Clients that come and go at any moment leave no trace.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn clients_that_leave_the_queue_leave_no_trace() {
    let rates = Rates { concurrent_requests: Some(3), max_wait: Some(Duration::from_secs(60)), ..Rates::default() };
    let limits = Limits::new(&host(rates), bedrock_sidecar::limits::SystemClock);
    let tasks: Vec<_> = (0..400u64)
        .map(|turn| {
            let limits = limits.clone();
            tokio::spawn(async move {
                let admit = limits.admit(ask(1));
                if let Ok(Ok(admission)) = tokio::time::timeout(Duration::from_micros(turn * 37 % 5_000), admit).await {
                    tokio::time::sleep(Duration::from_micros(turn % 300)).await;
                    drop(admission);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let status = limits.status();
    assert_eq!((status.waiting, status.scopes[0].running), (0, 0));
    futures(3, || limits.admit(ask(1))).await.into_iter().for_each(|admission| drop(admission.unwrap()));
}

#[tokio::test]
async fn a_reload_holds_at_once_and_drops_nothing_in_flight() {
    let clock = VirtualClock::new();
    let rates = Rates {
        requests_per_minute: Some(2),
        concurrent_requests: Some(2),
        tokens_per_day: Some(100),
        max_wait: Some(Duration::from_secs(60)),
        ..Rates::default()
    };
    let limits = Limits::new(&host(rates), clock.clone());
    let mut held = [limits.admit(ask(40)).await.unwrap(), limits.admit(ask(40)).await.unwrap()];
    let waiting = tokio::spawn({
        let limits = limits.clone();
        async move { limits.admit(ask(5)).await.map(drop) }
    });
    settle_down().await;
    // More: who waits passes now.
    limits.apply(&host(Rates { requests_per_minute: Some(5), concurrent_requests: Some(3), ..rates }));
    settle_down().await;
    waiting.await.unwrap().unwrap();
    // Less than is running: nothing new, until enough has ended.
    limits.apply(&host(Rates { concurrent_requests: Some(1), max_wait: None, ..Rates::default() }));
    refused(&limits, ask(0)).await;
    held[0].settle(&used(1, 1));
    drop(held);
    drop(limits.admit(ask(0)).await.unwrap());
    // A limit that appears knows what was used before it.
    limits.apply(&host(Rates { tokens_per_day: Some(50), ..Rates::default() }));
    assert_eq!(limits.status().scopes[0].tokens_today, 2 + 40 + 5);
    refused(&limits, ask(10)).await;
    // A caller's own limits come with its requests.
    let (few, many) = (
        Rates { requests_per_minute: Some(1), ..Rates::default() },
        Rates { requests_per_minute: Some(3), ..Rates::default() },
    );
    drop(limits.admit(of("a", &few)).await.unwrap());
    refused(&limits, of("a", &few)).await;
    drop(limits.admit(of("a", &many)).await.unwrap());
    drop(limits.admit(of("a", &many)).await.unwrap());
    refused(&limits, of("a", &many)).await;
}

#[tokio::test]
async fn days_end_at_midnight_and_survive_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limits.json");
    let clock = VirtualClock::new();
    let settings = host(Rates { tokens_per_day: Some(1_000), ..Rates::default() });
    let rates = Rates { tokens_per_day: Some(300), ..Rates::default() };
    let asking = |tokens| LimitRequest { estimate: Estimate { input: tokens, output: 0 }, ..of("a", &rates) };
    {
        let limits = Limits::new(&settings, clock.clone());
        let keeper = limits.persist_to(&path).unwrap();
        drop(limits.admit(asking(300)).await.unwrap());
        drop(limits.admit(ask(600)).await.unwrap());
        keeper.stop().await.unwrap();
    }
    {
        let limits = Limits::new(&settings, clock.clone());
        let keeper = limits.persist_to(&path).unwrap();
        let refusal = refused(&limits, ask(200)).await;
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(12 * 3_600)), "it is noon");
        refused(&limits, asking(1)).await;
        drop(limits.admit(ask(100)).await.unwrap());
        // Killed: what was used longer than a second ago is known.
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        std::mem::forget(keeper);
    }
    {
        let limits = Limits::new(&settings, clock.clone());
        let keeper = limits.persist_to(&path).unwrap();
        let mut late = limits.admit(ask(0)).await.unwrap();
        refused(&limits, ask(1)).await;
        clock.advance(Duration::from_secs(12 * 3_600));
        drop(limits.admit(asking(300)).await.unwrap());
        // What was admitted yesterday counts yesterday.
        late.settle(&used(500, 0));
        assert_eq!(limits.status().scopes[0].tokens_today, 300);
        keeper.stop().await.unwrap();
    }
    // A file that cannot be understood is set aside, not lost.
    std::fs::write(&path, "{").unwrap();
    let limits = Limits::new(&settings, clock);
    limits.persist_to(&path).unwrap().stop().await.unwrap();
    assert_eq!(std::fs::read(path.with_extension("unreadable")).unwrap(), b"{");
}

/// How a host comes back: the seconds that pass until then, whether it was booted anew, and what its calendar says.
type Return = (u64, bool, i64);

/// The daemon starts all the same, and the use is written when there is room again.
#[tokio::test]
async fn a_disk_that_is_full_at_the_start_keeps_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path().join("small"), "64k") else {
        println!("NOT RUN: a_disk_that_is_full_at_the_start_keeps_nobody_out: no right to mount a tmpfs");
        return;
    };
    let path = disk.0.join("limits.json");
    let settings = host(Rates { tokens_per_day: Some(1_000), ..Rates::default() });
    let clock = VirtualClock::new();
    let ballast = disk.fill();
    let limits = Limits::new(&settings, clock.clone());
    let keeper = limits.persist_to(&path).unwrap();
    drop(limits.admit(ask(600)).await.unwrap());
    std::fs::remove_file(ballast).unwrap();
    test_support::eventually("the file", || path.exists()).await;
    std::mem::forget(keeper);

    let limits = Limits::new(&settings, clock);
    let _keeper = limits.persist_to(&path).unwrap();
    refused(&limits, ask(600)).await;
}

#[tokio::test]
async fn a_restart_fills_a_bucket_by_the_time_that_passed_and_no_calendar() {
    const YEAR: i64 = 365 * 86_400;
    let rates = Rates {
        requests_per_minute: Some(6),
        request_burst: Some(10),
        tokens_per_minute: Some(60),
        ..Rates::default()
    };
    let cases: [(&str, Return, (i64, i64)); 6] = [
        ("at once", (0, false, 0), (0, -40)),
        ("half a minute", (30, false, 0), (3, -10)),
        ("at once, a year ahead", (0, false, YEAR), (0, -40)),
        ("half a minute, a year back", (30, false, -YEAR), (3, -10)),
        ("a reboot, up for 20 s", (20, true, 0), (2, -20)),
        ("a reboot, up for 20 s, a year ahead", (20, true, YEAR), (2, -20)),
    ];
    for (name, (seconds, reboot, wrong), expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits.json");
        let clock = VirtualClock::new();
        clock.advance(Duration::from_secs(1_000));
        let limits = Limits::new(&host(rates), clock.clone());
        let keeper = limits.persist_to(&path).unwrap();
        for tokens in [0, 0, 0, 0, 0, 0, 0, 0, 0, 100] {
            drop(limits.admit(ask(tokens)).await.unwrap());
        }
        keeper.stop().await.unwrap();
        if reboot {
            clock.reboot();
        }
        clock.advance(Duration::from_secs(seconds));
        clock.set_utc(clock_now(&clock).saturating_add_signed(wrong));
        // Twice, so that what is taken up is also kept.
        for _ in 0..2 {
            let limits = Limits::new(&host(rates), clock.clone());
            let keeper = limits.persist_to(&path).unwrap();
            let status = &limits.status().scopes[0];
            assert_eq!((status.requests_left.unwrap(), status.tokens_left.unwrap()), expected, "{name}");
            keeper.stop().await.unwrap();
        }
    }
}

fn clock_now(clock: &VirtualClock) -> u64 {
    bedrock_sidecar::limits::Clock::utc(clock)
}

/// A caller's bucket goes on where it was when the caller comes back, however late.
#[tokio::test]
async fn a_caller_who_comes_later_finds_an_own_bucket_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limits.json");
    let clock = VirtualClock::new();
    let rates = Rates { requests_per_minute: Some(2), ..Rates::default() };
    let none = host(Rates::default());
    for (advance, admitted) in [(0, 2), (0, 0), (30, 1), (0, 0), (120, 2)] {
        clock.advance(Duration::from_secs(advance));
        let limits = Limits::new(&none, clock.clone());
        let keeper = limits.persist_to(&path).unwrap();
        for _ in 0..admitted {
            drop(limits.admit(of("a", &rates)).await.unwrap());
        }
        refused(&limits, of("a", &rates)).await;
        keeper.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_start_under_a_wrong_date_loses_no_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limits.json");
    let settings = host(Rates { tokens_per_day: Some(1_000), ..Rates::default() });
    let clock = VirtualClock::new();
    let right = clock_now(&clock);
    for (date, tokens, expected) in [
        (right, 100, 100),
        (0, 10, 110),
        (right, 1, 111),
        (right + 400 * 86_400, 20, 20),
        (right, 2, 133),
        (right - 86_400, 0, 133),
        (right, 0, 133),
    ] {
        clock.set_utc(date);
        let limits = Limits::new(&settings, clock.clone());
        let keeper = limits.persist_to(&path).unwrap();
        if tokens > 0 {
            drop(limits.admit(ask(tokens)).await.unwrap());
        }
        assert_eq!(limits.status().scopes[0].tokens_today, expected, "{date}");
        keeper.stop().await.unwrap();
    }
    // What was used under the late date is out of the way when a day has passed.
    let limits = Limits::new(&settings, clock.clone());
    let _keeper = limits.persist_to(&path).unwrap();
    clock.advance(Duration::from_secs(86_400));
    assert_eq!(limits.status().scopes[0].tokens_today, 0);
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
