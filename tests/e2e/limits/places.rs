//! Requests at once, and the line of those that wait.

use http::Method;
use test_support::*;
use tokio::task::JoinSet;

use super::{admitted, held, host, limited, status, storm, throttled};

#[tokio::test]
async fn a_place_is_held_until_the_last_byte_and_free_at_once_then() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\nconcurrent_requests = 1").ready().await;
    let whole = daemon.post(&stream_path(ON_DEMAND), converse("events 4")).await;
    let (events, length) = (frames(&whole.body).len() as u64, whole.body.len());
    let last = frames(&whole.body).pop().unwrap().len();
    let (_connection, mut reader) = held(&bedrock, &daemon, converse("events 4")).await;
    let refusal = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    let (sentence, after) = throttled(&refusal);
    assert!(sentence.contains("this host may run 1 requests at once (concurrent_requests = 1)"), "{sentence}");
    assert_eq!(after, 1);
    bedrock.gate().release(events - 1);
    reader.until(length - last).await.unwrap();
    throttled(&daemon.post(&converse_path(ON_DEMAND), converse("x")).await);
    assert_eq!(host(&daemon).await["running"], 1);
    bedrock.gate().release(1);
    reader.end().await.unwrap();
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("x")).await.status, 200, "free with the last byte");
    assert_eq!(host(&daemon).await["running"], 0);

    // A client that leaves frees its place.
    let (connection, reader) = held(&bedrock, &daemon, converse("events 4")).await;
    drop((connection, reader));
    until_async("the place of the one that left", || async { (host(&daemon).await["running"] == 0).then_some(()) })
        .await;
    bedrock.gate().open();
    assert_eq!(daemon.post(&stream_path(ON_DEMAND), converse("events 4")).await.status, 200);
    assert_eq!(limited(&daemon, "concurrent_requests", "host").await, 2.0);
}

#[tokio::test]
async fn a_storm_of_streams_never_has_more_than_its_places() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[limits]\nconcurrent_requests = 6").ready().await;
    bedrock.gate().close();
    let path = stream_path(ON_DEMAND);
    let address = daemon.address();
    let mut tasks = JoinSet::new();
    for _ in 0..40 {
        tasks.spawn(send(address, request(Method::POST, &path, converse("events 3"))));
    }
    let mut refusals = 0;
    while refusals < 34 {
        let answer = within("a refusal", tasks.join_next()).await.unwrap().unwrap();
        assert_eq!(answer.status, 429, "{answer:?}");
        refusals += 1;
    }
    until("six streams", || Some(()).filter(|()| received(&bedrock, "ConverseStream").len() >= 6)).await;
    assert_eq!(host(&daemon).await["running"], 6);
    bedrock.gate().open();
    for answer in tasks.join_all().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(received(&bedrock, "ConverseStream").len(), 6);
    assert_eq!(host(&daemon).await["running"], 0);
}

#[tokio::test]
async fn with_max_wait_requests_stand_in_line() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .with("[limits]\nconcurrent_requests = 1\nmax_wait = \"10m\"\nmax_waiting = 3")
        .ready()
        .await;
    let (_connection, mut reader) = held(&bedrock, &daemon, converse("events 3")).await;
    let waiting = |count: u64| {
        let daemon = &daemon;
        until_async("the line", move || async move { (status(daemon).await["waiting"] == count).then_some(()) })
    };
    let address = daemon.address();
    let path = converse_path(ON_DEMAND);
    let mut line = JoinSet::new();
    for _ in 0..2 {
        line.spawn(send(address, request(Method::POST, &path, converse("x"))));
    }
    let leaver = tokio::spawn(send(address, request(Method::POST, &path, converse("gone"))));
    waiting(3).await;
    throttled(&daemon.post(&path, converse("x")).await);
    leaver.abort();
    let _ = leaver.await;
    waiting(2).await;
    assert_eq!(received(&bedrock, "Converse").len(), 0);
    bedrock.gate().open();
    reader.end().await.unwrap();
    for answer in line.join_all().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(received(&bedrock, "Converse").len(), 2, "who has left is not served");
    waiting(0).await;

    // A rate is waited for too; what time cannot help within max_wait is refused.
    let daemon = Setup::plain(&bedrock)
        .with("[limits]\nrequests_per_minute = 120\nrequest_burst = 1\nmax_wait = \"30s\"")
        .ready()
        .await;
    assert_eq!(admitted(&storm(&daemon, 4, || request(Method::POST, &path, converse("x"))).await), 4);
    let daemon = Setup::plain(&bedrock)
        .with("[limits]\nrequests_per_minute = 1\nrequest_burst = 1\nmax_wait = \"5s\"")
        .ready()
        .await;
    assert_eq!(admitted(&storm(&daemon, 9, || request(Method::POST, &path, converse("x"))).await), 1);
}
