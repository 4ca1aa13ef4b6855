//! Replacing, refusing and keeping credentials, on files.

use super::renewal::SOONEST;
use super::*;
use crate::settings::SecretLocation;

async fn on_file(text: &str) -> (Arc<Credentials>, tempfile::NamedTempFile) {
    for_regions(&[], text).await
}

async fn for_regions(regions: &[&str], text: &str) -> (Arc<Credentials>, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let source = SecretLocation::File(file.path().to_owned());
    let settings = settings::Credentials { source, refresh_interval: Duration::from_secs(300) };
    (Arc::new(Credentials::new(&settings, regions.iter().map(|&region| region.to_owned()).collect())), file)
}

#[tokio::test]
async fn a_missing_credential_is_our_fault_and_says_why() {
    let (credentials, _file) = on_file("nonsense").await;
    credentials.load().await;
    let refusal = credentials.current(SystemTime::now()).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::ServiceUnavailable);
    assert!(refusal.message.contains("ABSK"), "{}", refusal.message);
}

#[tokio::test]
async fn a_rejection_fetches_once_for_all_and_gives_the_new_key() {
    let (credentials, file) = on_file("AKIAOLD:s").await;
    credentials.load().await;
    let old = credentials.current(SystemTime::now()).unwrap();
    std::fs::write(file.path(), "AKIANEW:s").unwrap();
    let (one, two) = tokio::join!(credentials.after_rejection(&old), credentials.after_rejection(&old));
    assert_ne!(one.unwrap().fingerprint, old.fingerprint);
    assert_ne!(two.unwrap().fingerprint, old.fingerprint);
    assert_eq!(credentials.take_reads().successes, 2);
}

/// The source was read after the refused attempt had begun, and rotated only then: what was read says nothing.
#[tokio::test]
async fn a_key_that_is_rotated_during_a_long_attempt_is_fetched_all_the_same() {
    let (credentials, file) = on_file("AKIAOLD:s").await;
    credentials.load().await;
    let old = credentials.current(SystemTime::now()).unwrap();
    credentials.load().await;
    std::fs::write(file.path(), "AKIANEW:s").unwrap();
    let new = credentials.after_rejection(&old).await.unwrap();
    assert_ne!(new.fingerprint, old.fingerprint);
}

#[tokio::test]
async fn a_refused_new_key_falls_back_on_the_one_before() {
    let (credentials, file) = on_file("AKIAOLD:s").await;
    credentials.load().await;
    std::fs::write(file.path(), "AKIANEW:s").unwrap();
    credentials.load().await;
    let new = credentials.current(SystemTime::now()).unwrap();
    let fallback = credentials.after_rejection(&new).await.unwrap();
    assert_ne!(fallback.fingerprint, new.fingerprint);
}

#[tokio::test]
async fn rejections_in_vain_cost_one_read_and_then_none_for_a_while() {
    let (credentials, file) = on_file("AKIAOLD:s").await;
    credentials.load().await;
    let old = credentials.current(SystemTime::now()).unwrap();
    for _ in 0..100 {
        credentials.after_rejection(&old).await.unwrap();
    }
    assert_eq!(credentials.take_reads().successes, 2);
    // A key that comes by another way is used at once, and its own rejection reads again.
    std::fs::write(file.path(), "AKIANEW:s").unwrap();
    credentials.load().await;
    let new = credentials.after_rejection(&old).await.unwrap();
    assert_ne!(new.fingerprint, old.fingerprint);
    credentials.take_reads();
    credentials.after_rejection(&new).await.unwrap();
    credentials.after_rejection(&new).await.unwrap();
    assert_eq!(credentials.take_reads().successes, 1);
    assert_eq!(
        (1..=9).map(|times| pause_after(times).as_secs()).collect::<Vec<_>>(),
        [10, 20, 40, 80, 160, 300, 300, 300, 300]
    );
}

#[tokio::test]
async fn an_unreadable_source_keeps_the_key_that_works() {
    let (credentials, file) = on_file("AKIAOLD:s").await;
    credentials.load().await;
    std::fs::write(file.path(), "").unwrap();
    credentials.load().await;
    assert!(credentials.current(SystemTime::now()).is_ok());
    assert!(credentials.status().problem.is_some());
}

#[test]
fn a_short_term_key_is_for_one_region() {
    let credential = Credential {
        kind: CredentialKind::Bearer {
            authorization: http::HeaderValue::from_static("x"),
            only_region: Some("us-west-2".into()),
        },
        region: None,
        account: None,
        expiry: None,
        fingerprint: [0; 32],
    };
    assert!(credential.check_region("us-west-2").is_ok());
    assert!(credential.check_region("us-east-1").unwrap_err().message.contains("us-west-2"));
}

/// A key of one region, made so long ago and valid so long.
fn short_term(region: &str, age: i64, lives: u64, id: &str) -> String {
    use base64::Engine;
    let date = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(age);
    let date = date.strftime("%Y%m%dT%H%M%SZ");
    let url = format!(
        "bedrock.amazonaws.com/?X-Amz-Credential={id}%2F20260131%2F{region}%2Fbedrock%2Faws4_request&X-Amz-Date={date}&X-Amz-Expires={lives}"
    );
    format!("bedrock-api-key-{}", base64::engine::general_purpose::STANDARD.encode(url))
}

#[tokio::test]
async fn a_credential_that_cannot_work_takes_the_place_of_none_that_can() {
    for (bad, says) in [
        (short_term("us-east-1", 4_000, 3_600, "AKIA"), "has expired"),
        (short_term("us-west-2", 0, 3_600, "AKIA"), "valid in us-west-2 only, and not in us-east-1"),
        ("{".to_owned(), "not valid JSON"),
    ] {
        let (credentials, file) = for_regions(&["us-east-1"], "AKIAOLD:s").await;
        credentials.load().await;
        let old = credentials.current(SystemTime::now()).unwrap();
        std::fs::write(file.path(), &bad).unwrap();
        credentials.load().await;
        assert_eq!(credentials.current(SystemTime::now()).unwrap().fingerprint, old.fingerprint, "{says}");
        let problem = credentials.status().problem.unwrap();
        assert!(problem.contains(says), "{problem}");
        std::fs::write(file.path(), "AKIANEW:s").unwrap();
        credentials.load().await;
        assert_ne!(credentials.current(SystemTime::now()).unwrap().fingerprint, old.fingerprint, "{says}");
        assert_eq!(credentials.status().problem, None);
    }
}

/// A key of one region is of no use to the others, and those may have one.
#[tokio::test]
async fn an_upstream_that_has_a_credential_does_not_lose_it_to_another_upstream() {
    let both = ["us-east-1", "us-west-2"];
    let of = |region: &str, id: &str| short_term(region, 0, 3_600, id);
    for (before, after, lost) in [
        (of("us-east-1", "AKIA"), of("us-west-2", "AKIA"), "us-east-1"),
        ("AKIAOLD:s".to_owned(), of("us-west-2", "AKIA"), "us-east-1"),
    ] {
        let (credentials, file) = for_regions(&both, &before).await;
        credentials.load().await;
        let old = credentials.current(SystemTime::now()).unwrap();
        std::fs::write(file.path(), &after).unwrap();
        credentials.load().await;
        assert_eq!(credentials.current(SystemTime::now()).unwrap().fingerprint, old.fingerprint, "{lost}");
        let problem = credentials.status().problem.unwrap();
        assert!(problem.contains("valid in us-west-2 only") && problem.contains(lost), "{problem}");
        // A key that is refused is of no use to anybody.
        let other = credentials.after_rejection(&old).await.unwrap();
        assert!(other.check_region("us-west-2").is_ok() && other.fingerprint != old.fingerprint);
        assert_eq!(credentials.status().problem, None);
    }
    // Who gains one loses nothing.
    let (credentials, file) = for_regions(&both, &of("us-east-1", "AKIA")).await;
    credentials.load().await;
    for next in [of("us-east-1", "AKIB"), "AKIANEW:s".to_owned()] {
        std::fs::write(file.path(), &next).unwrap();
        credentials.load().await;
        assert_eq!(credentials.status().problem, None);
        let new = credentials.current(SystemTime::now()).unwrap();
        assert_eq!(new.fingerprint, secret::parse(&next).unwrap().fingerprint);
    }
}

#[tokio::test]
async fn where_nothing_works_the_latest_is_held_and_the_sentence_says_so() {
    let (credentials, file) = for_regions(&["us-east-1"], &short_term("us-east-1", 4_000, 3_600, "AKIA")).await;
    credentials.load().await;
    let sentence = credentials.current(SystemTime::now()).unwrap_err().message;
    assert_eq!(
        sentence,
        "the commercial short-term Bedrock API key has expired and the source gives no newer one; put a valid one into it."
    );
    std::fs::write(file.path(), short_term("us-west-2", 0, 3_600, "AKIA")).unwrap();
    credentials.load().await;
    assert!(credentials.current(SystemTime::now()).unwrap().check_region("us-east-1").is_err());
}

fn keys(expires_in: Option<i64>) -> Credential {
    let expiry = expires_in.map(|seconds| {
        let after = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { SystemTime::now() - after } else { SystemTime::now() + after }
    });
    Credential::from_keys(aws_credential_types::Credentials::new("AKIAX", "s", None, expiry, "test")).unwrap()
}

/// As a credential_process does that prolongs a session.
#[tokio::test]
async fn the_same_keys_with_a_later_end_last_longer() {
    let (credentials, _file) = on_file("").await;
    let mut held = Held::default();
    for (given, left) in [(60, 60), (600, 600), (300, 600), (-60, 600)] {
        credentials.take(&mut held, keys(Some(given)), false).unwrap();
        let expiry = held.current.as_ref().unwrap().expiry.unwrap();
        let actual = expiry.duration_since(SystemTime::now()).unwrap().as_secs();
        assert!((left - 5..=left).contains(&actual), "{given}: {actual}");
    }
    credentials.take(&mut held, keys(None), false).unwrap();
    assert_eq!(held.current.unwrap().expiry, None);
    let mut held = Held::default();
    assert_eq!(credentials.take(&mut held, keys(Some(-60)), false).unwrap_err(), NO_NEWER);
    credentials.held.store(Arc::new(Held { problem: Some(NO_NEWER.to_owned()), ..held }));
    let sentence = credentials.current(SystemTime::now()).unwrap_err().message;
    assert!(
        sentence.starts_with("the commercial AWS keys have expired and the source gives no newer one"),
        "{sentence}"
    );
}

#[tokio::test]
async fn an_expired_credential_is_fetched_for_the_request_that_needs_it_and_once_for_all() {
    let (credentials, file) = on_file(&short_term("us-east-1", 0, 3_600, "AKIA")).await;
    credentials.load().await;
    // It has expired, and nobody has looked since.
    let mut held = Held::clone(&credentials.held.load());
    held.current = Some(Arc::new(keys(Some(-1))));
    credentials.held.store(Arc::new(held));
    let asked: Vec<_> = (0..50)
        .map(|_| {
            let credentials = Arc::clone(&credentials);
            tokio::spawn(async move { credentials.obtain().await.unwrap().description() })
        })
        .collect();
    for one in asked {
        assert_eq!(one.await.unwrap(), "short-term Bedrock API key");
    }
    assert_eq!(credentials.take_reads().successes, 2);
    // Where the source has none that works, it is left alone for a while.
    let mut held = Held::clone(&credentials.held.load());
    held.current = Some(Arc::new(keys(Some(-1))));
    credentials.held.store(Arc::new(held));
    std::fs::write(file.path(), short_term("us-east-1", 4_000, 3_600, "AKIA")).unwrap();
    let began = Instant::now();
    for _ in 0..100 {
        credentials.obtain().await.unwrap_err();
    }
    let most = 1 + began.elapsed().as_secs();
    let reads = credentials.take_reads();
    assert!(reads.failures <= most, "{reads:?}");
}

/// A client that leaves ends no fetch that others may need.
#[tokio::test]
async fn a_fetch_goes_on_without_the_one_who_asked_for_it() {
    let (credentials, _file) = on_file("AKIAX:s").await;
    tokio::select! {
        biased;
        () = credentials.fetch(Cause::Needed) => panic!("it cannot have ended"),
        () = std::future::ready(()) => {}
    }
    while !credentials.status().available {
        tokio::task::yield_now().await;
    }
    assert_eq!(credentials.take_reads().successes, 1);
}

/// While a source hangs, those who have given up must not have it read once more each.
#[tokio::test]
async fn who_no_longer_waits_for_a_fetch_to_begin_causes_none() {
    let (credentials, _file) = on_file("AKIAX:s").await;
    let under_way = credentials.fetching.lock().await;
    tokio::select! {
        biased;
        () = credentials.fetch(Cause::Due) => panic!("another one is under way"),
        () = tokio::task::yield_now() => {}
    }
    drop(under_way);
    credentials.load().await;
    assert_eq!(credentials.take_reads().successes, 1);
}

/// The thread of a request that has asked for it blocks in the middle of it.
#[tokio::test]
async fn a_thread_that_is_blocked_keeps_nobody_else_from_reading_the_source() {
    use crate::lifecycle::roll_call::RollCall;
    use crate::workers::Workers;
    let (credentials, _file) = on_file("AKIAX:s").await;
    let workers = Workers::start(std::num::NonZeroUsize::MIN, &RollCall::default()).unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (tell, blocked) = oneshot::channel();
    let theirs = Arc::clone(&credentials);
    workers.serve(async move {
        tokio::select! {
            biased;
            () = theirs.load() => {}
            () = std::future::ready(()) => {}
        }
        let _ = tell.send(());
        let _ = released.recv();
    });
    blocked.await.unwrap();
    let own = tokio::time::timeout(Duration::from_secs(60), credentials.load()).await;
    assert!(own.is_ok(), "the lock is held by a task that does not run");
    assert_eq!(credentials.take_reads().successes, 2);
    drop(release);
}

#[tokio::test]
async fn a_source_that_hung_is_left_alone_from_then_on() {
    let (credentials, _file) = on_file("AKIAX:s").await;
    let now = Instant::now();
    let long_ago = now.checked_sub(LONGEST_FETCH);
    credentials.held.store(Arc::new(Held { fruitless: 3, ended: Some(now), ..Held::default() }));
    assert!(!credentials.calls_for(Cause::Needed));
    credentials.held.store(Arc::new(Held { fruitless: 3, ended: long_ago, ..Held::default() }));
    assert!(credentials.calls_for(Cause::Needed));
}

/// As a reload has it that changes the upstreams: what it prepares, and may drop, leaves the store in use as it is.
#[tokio::test]
async fn a_store_for_other_regions_takes_what_the_one_in_use_refuses() {
    let (credentials, file) = for_regions(&["us-east-1"], &short_term("us-east-1", 0, 3_600, "AKIA")).await;
    credentials.load().await;
    let east = credentials.current(SystemTime::now()).unwrap();
    std::fs::write(file.path(), short_term("us-west-2", 0, 3_600, "AKIA")).unwrap();
    let moved = Arc::new(credentials.with_regions(["us-west-2".to_owned()].into()));
    assert_eq!(moved.current(SystemTime::now()).unwrap().fingerprint, east.fingerprint);
    moved.load().await;
    assert!(moved.current(SystemTime::now()).unwrap().check_region("us-west-2").is_ok());
    credentials.load().await;
    assert_eq!(credentials.current(SystemTime::now()).unwrap().fingerprint, east.fingerprint);

    // For both, the reload sees that the east would lose its credential. Once in use, it keeps it.
    let both = || Arc::new(credentials.with_regions(["us-east-1".to_owned(), "us-west-2".to_owned()].into()));
    for (store, is_in_use) in [(both(), false), (both(), true)] {
        if is_in_use {
            store.put_in_use();
        }
        store.load().await;
        let serves_east = store.current(SystemTime::now()).unwrap().check_region("us-east-1").is_ok();
        assert_eq!(serves_east, is_in_use);
    }
}

/// A fleet's hosts have often begun together, and they share one key.
#[tokio::test]
async fn hosts_read_the_source_up_to_a_tenth_earlier_than_they_have_to() {
    let seconds = Duration::from_secs;
    let (credentials, file) = on_file("AKIAX:s").await;
    assert_eq!(credentials.until_due(0), FIRST_RETRY, "nothing is held yet");
    assert_eq!(credentials.until_due(u64::MAX), FIRST_RETRY * 9 / 10);
    credentials.load().await;
    assert_eq!(credentials.until_due(0), seconds(300), "the interval");
    assert_eq!(credentials.until_due(u64::MAX), seconds(270));
    let drawn = |_| credentials.until_due(crate::jitter::random());
    let drawn: BTreeSet<Duration> = (0..64).map(drawn).collect();
    assert!(drawn.len() > 1 && drawn.iter().all(|pause| (seconds(270)..=seconds(300)).contains(pause)), "{drawn:?}");
    // Before a key ends, all hosts would read the source at the same second: `left` seconds are left when they look.
    for (left, latest) in [(590, 290), (307, 7), (100, 50), (6, 5), (0, 5)] {
        let mut held = Held::clone(&credentials.held.load());
        let mut key = secret::parse("AKIAX:s").unwrap();
        key.expiry = Some(SystemTime::now() + seconds(left));
        held.current = Some(Arc::new(key));
        credentials.held.store(Arc::new(held));
        let (late, early) = (credentials.until_due(0), credentials.until_due(u64::MAX));
        // The clock has gone on since.
        assert!(late <= seconds(latest) && late >= SOONEST, "{left}: {late:?}");
        assert!(early >= SOONEST && early <= late.max(SOONEST), "{left}: {early:?}");
        assert!(latest < 20 || early <= seconds(latest) * 9 / 10, "{left}: {early:?}");
    }
    // One that the source could not give.
    std::fs::write(file.path(), "nonsense").unwrap();
    credentials.load().await;
    assert_eq!((credentials.until_due(0), credentials.until_due(u64::MAX)), (FIRST_RETRY, FIRST_RETRY * 9 / 10));
}

/// A key is good in the partition that made it, and never shown to the other one.
#[tokio::test]
async fn a_key_of_one_partition_is_taken_for_its_upstreams_alone() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let source = settings::SecretLocation::File(file.path().to_owned());
    let wanted = settings::Credentials { source, refresh_interval: Duration::from_secs(300) };
    let beside = |region: &str| format!(r#"{{"bedrock_api_key":"ABSKeA==","region":"{region}"}}"#);
    for (upstream, region, place) in [
        (None, "us-gov-west-1", "the commercial partition"),
        (Some("us-east-1"), "us-gov-west-1", "the commercial partition"),
        (Some("us-east-1"), "us-gov-east-1", "the commercial partition"),
        (Some("us-east-1"), "cn-north-1", "the commercial partition"),
        (Some("us-gov-west-1"), "us-east-1", "GovCloud"),
        (Some("us-gov-west-1"), "cn-north-1", "GovCloud"),
    ] {
        for secret in [short_term(region, 0, 3600, "AKIA"), beside(region)] {
            std::fs::write(file.path(), &secret).unwrap();
            let regions = upstream.map(str::to_owned).into_iter().collect();
            let credentials = Arc::new(Credentials::new(&wanted, regions));
            credentials.load().await;
            let refusal = credentials.current(SystemTime::now()).unwrap_err();
            let says = format!("{region}, which is not in {place}");
            assert!(refusal.message.contains(&says) && !refusal.message.contains(&secret[16..]), "{}", refusal.message);
        }
    }
    for (upstream, region) in [("us-east-1", "us-east-1"), ("us-gov-west-1", "us-gov-west-1")] {
        for secret in [short_term(region, 0, 3600, "AKIA"), beside(region)] {
            std::fs::write(file.path(), secret).unwrap();
            let credentials = Arc::new(Credentials::new(&wanted, [upstream.to_owned()].into()));
            credentials.load().await;
            let credential = credentials.current(SystemTime::now()).unwrap();
            assert!(credential.check_region(upstream).is_ok());
            assert_eq!(credentials.region().as_deref(), Some(region));
        }
    }
}
