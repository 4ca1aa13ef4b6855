//! Who waits, and whose turn it is.

use std::sync::Arc;
use std::time::Duration;

use bedrock_sidecar::caller::User;
use bedrock_sidecar::limits::{Estimate, LimitRequest, Limits, VirtualClock};
use bedrock_sidecar::settings::limits::{self as settings, Rates};

use super::{MINUTE, ask, futures, host, of, refused, settle_down};

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
                let admission = limits.admit(of(caller)).await.unwrap();
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
            let asked = LimitRequest { estimate: Estimate { input: 1, output: 0 }, ..of("small") };
            drop(limits.admit(asked).await.unwrap());
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
    for named in [true, false] {
        let rates = Rates { concurrent_requests: Some(1), max_wait: Some(MINUTE), ..Rates::default() };
        let limits = Limits::new(&settings::Limits { max_waiting: 6, ..host(rates) }, VirtualClock::new());
        let running = limits.admit(ask(0)).await.unwrap();
        let spawn = |caller: &'static str, uid: u32| {
            let limits = limits.clone();
            tokio::spawn(async move {
                let one = if named { of(caller) } else { LimitRequest { user: User::Local(uid), ..ask(0) } };
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
