//! Whoever does not read holds up whoever sends, and no more than a little is in memory meanwhile.

use std::task::Poll;

use serde_json::json;

use super::*;

/// Far more than windows and buffers on the way hold together.
const MUCH: u64 = 40 * 1024 * 1024;
/// What windows, buffers and the kernel may hold on the way.
const LITTLE: u64 = 16 * 1024 * 1024;

fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Waits until a count has stayed as it is for a while.
async fn settled(what: &str, mut count: impl FnMut() -> u64) -> u64 {
    let (mut last, mut since) = (count(), std::time::Instant::now());
    until(what, || {
        let now = count();
        if now != last {
            (last, since) = (now, std::time::Instant::now());
        }
        (since.elapsed().as_millis() >= 500).then_some(now)
    })
    .await
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_upstream_up() {
    let (bedrock, daemon) = pair().await;
    let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
    talk.exchange("hello").await;
    let before = resident(&daemon);
    talk.say("flood 30000").await;
    let sent =
        settled("the upstream to wait", || received(&bedrock, OPERATION).pop().map_or(0, |one| one.bytes_sent)).await;
    assert!(sent < LITTLE, "{sent} bytes were sent to a client that reads none");
    let grown = resident(&daemon).saturating_sub(before);
    assert!(grown < LITTLE, "the daemon has grown by {grown} bytes");
    for _ in 0..30_000 {
        assert_eq!(talk.said().await.0, "textOutput");
    }
    talk.finish().await;
    while talk.hear().await.unwrap().is_some() {}
    assert!(talk.came > MUCH, "{}", talk.came);
    let record = record(&daemon).await;
    assert_eq!(
        (&record["outcome"], &record["requestSize"], &record["responseSize"]),
        (&json!("completed"), &json!(talk.sent), &json!(talk.came)),
        "{record}"
    );
}

/// Sends as much as the daemon takes, and says how much that was.
async fn pour(talk: &mut Talk, most: u64) -> u64 {
    let (mut poured, filler) = (0, "x".repeat(50_000));
    while poured < most {
        let frame = talk.frame(Some(&text(&filler)));
        let length = frame.len();
        talk.sends.reserve_capacity(length);
        let has_room = async {
            std::future::poll_fn(|cx| {
                while talk.sends.capacity() < length {
                    match talk.sends.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(other) => panic!("{other:?}"),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Poll::Ready(())
            })
            .await;
        };
        // Nothing but the passing of time tells that nothing more is taken.
        if tokio::time::timeout(std::time::Duration::from_secs(2), has_room).await.is_err() {
            break;
        }
        talk.send(frame).await;
        poured += length as u64;
    }
    poured
}

#[tokio::test]
async fn an_upstream_that_does_not_read_holds_the_client_up() {
    let (bedrock, daemon) = pair().await;
    let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
    talk.exchange("hello").await;
    talk.say("deaf").await;
    let before = resident(&daemon);
    let poured = pour(&mut talk, MUCH).await;
    assert!((100_000..LITTLE).contains(&poured), "{poured} bytes were taken for an upstream that reads none");
    let grown = resident(&daemon).saturating_sub(before);
    assert!(grown < LITTLE, "the daemon has grown by {grown} bytes");
    // Nobody waits for it when the client leaves.
    talk.sends.send_reset(h2::Reason::CANCEL);
    let record = record(&daemon).await;
    assert_eq!(record["outcome"], "client_disconnected", "{record}");
    assert_eq!(upstream(&bedrock).await.ended, Ended::ClientWentAway, "reset, although it reads nothing");
}

/// What waits counts in the memory for bodies until it has been sent.
#[tokio::test]
async fn long_frames_count_until_they_have_been_sent() {
    let (bedrock, daemon) = pair().await;
    let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
    talk.exchange("hello").await;
    talk.say("deaf").await;
    let (filler, mut length) = ("x".repeat(1_000_000), 0);
    for _ in 0..6 {
        let frame = talk.frame(Some(&text(&filler)));
        length = frame.len();
        talk.send(frame).await;
    }
    let held = || async { metric(&daemon.metrics().await, "bedrock_sidecar_buffered_bytes").unwrap_or_default() };
    let three = 3.0 * f64::from(u32::try_from(length).unwrap()) - 1_000.0;
    until_async("one that is sent, one that waits, and one behind it", || async {
        Some(held().await).filter(|held| *held >= three)
    })
    .await;
    talk.sends.send_reset(h2::Reason::CANCEL);
    assert_eq!(upstream(&bedrock).await.ended, Ended::ClientWentAway);
    until_async("all to be given back", || async { Some(held().await).filter(|held| *held < 1.0) }).await;
    let record = record(&daemon).await;
    assert_eq!(record["outcome"], "client_disconnected", "{record}");
}

/// A client may say much in long events, which fill windows and come in many pieces.
#[tokio::test]
async fn much_passes_to_an_upstream_that_reads() {
    let (bedrock, daemon) = pair().await;
    let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
    talk.exchange("hello").await;
    let quiet = format!("quiet {}", "y".repeat(700_000));
    for _ in 0..20 {
        let frame = talk.frame(Some(&text(&quiet)));
        talk.send(frame).await;
    }
    talk.finish().await;
    while talk.hear().await.unwrap().is_some() {}
    let sent = upstream(&bedrock).await;
    assert_eq!((sent.event_count, sent.has_final_frame, sent.ended), (21, true, Ended::Completed));
    let record = record(&daemon).await;
    assert_eq!((&record["outcome"], &record["requestSize"]), (&json!("completed"), &json!(talk.sent)), "{record}");
}
