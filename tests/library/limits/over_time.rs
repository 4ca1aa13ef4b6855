//! Reloads, restarts and the calendar.

use std::time::Duration;

use bedrock_sidecar::limits::{Estimate, LimitRequest, Limits, VirtualClock};
use bedrock_sidecar::settings::limits::Rates;
use test_support::SmallDisk;

use super::{ask, host, of, refused, settle_down, used, with};

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
    // A caller's own limits.
    let of_a = |rate| with(host(Rates::default()), "a", Rates { requests_per_minute: rate, ..Rates::default() });
    limits.apply(&of_a(Some(1)));
    drop(limits.admit(of("a")).await.unwrap());
    refused(&limits, of("a")).await;
    limits.apply(&of_a(Some(3)));
    drop(limits.admit(of("a")).await.unwrap());
    drop(limits.admit(of("a")).await.unwrap());
    refused(&limits, of("a")).await;
    // A caller who is no longer configured has requests of before only, and what limited these holds.
    limits.apply(&host(Rates::default()));
    refused(&limits, of("a")).await;
    // Nor does leaving for a while fill a bucket, or a look at the head of a request.
    limits.apply(&of_a(Some(3)));
    assert!(limits.check_early(Some("a"), true).is_err());
    refused(&limits, of("a")).await;
}

#[tokio::test]
async fn days_end_at_midnight_and_survive_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limits.json");
    let clock = VirtualClock::new();
    let rates = Rates { tokens_per_day: Some(300), ..Rates::default() };
    let settings = with(host(Rates { tokens_per_day: Some(1_000), ..Rates::default() }), "a", rates);
    let asking = |tokens| LimitRequest { estimate: Estimate { input: tokens, output: 0 }, ..of("a") };
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

/// A caller's bucket goes on where it was when the caller comes back, however late.
#[tokio::test]
async fn a_caller_who_comes_later_finds_an_own_bucket_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limits.json");
    let clock = VirtualClock::new();
    let rates = Rates { requests_per_minute: Some(2), ..Rates::default() };
    let settings = with(host(Rates::default()), "a", rates);
    for (advance, admitted) in [(0, 2), (0, 0), (30, 1), (0, 0), (120, 2)] {
        clock.advance(Duration::from_secs(advance));
        let limits = Limits::new(&settings, clock.clone());
        let keeper = limits.persist_to(&path).unwrap();
        for _ in 0..admitted {
            drop(limits.admit(of("a")).await.unwrap());
        }
        refused(&limits, of("a")).await;
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

fn clock_now(clock: &VirtualClock) -> u64 {
    bedrock_sidecar::limits::Clock::utc(clock)
}
