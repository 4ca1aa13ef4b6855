//! Every way in which a server may frame an answer: what the client sees is what the record says.
//!
//! The upstream writes its answers by hand, over HTTP/1.1 and HTTP/2, in all the ways of `simulator::framing`. Whole
//! answers must arrive whole and be recorded so; broken ones must break, and be recorded so.

use http::Method;
use serde_json::Value;
use simulator::framing::{ALL, Choice, Framing, Verdict};
use simulator::{Effect, Fault, Options, Received, Simulator};
use test_support::*;

/// What a client has seen of one answer.
#[derive(Debug)]
struct Seen {
    status: u16,
    bytes: u64,
    /// The answer ended in order.
    ended: bool,
    record: Value,
}

async fn pair(http2: bool) -> (Simulator, Daemon) {
    let bedrock = bedrock_with(Options { http2, ..Options::default() }).await;
    // One thread, so that the next request takes the connection that `settle` has made.
    let more = "[upstream_timeouts]\nidle = \"3s\"\nfirst_byte = \"10s\"\n[runtime]\nthreads = 1";
    let daemon = Setup::tls(&bedrock).with(more).ready().await;
    (bedrock, daemon)
}

async fn ask(daemon: &Daemon, client_http2: bool, path: &str) -> Seen {
    let before = daemon.records().len();
    let request = request(Method::POST, path, converse("events 5"));
    let (mut one, two) = (Http1::to(daemon.address()).await, Http2::to(daemon.address()).await);
    let response = if client_http2 { two.start(request).await } else { one.start(request).await };
    let response = match response {
        Ok(response) => response,
        // The upstream broke before the answer's head was on its way.
        Err(_) => {
            let record = until("its record", || daemon.records().into_iter().nth(before)).await;
            let status = record["statusCode"].as_u64().unwrap();
            return Seen { status: u16::try_from(status).unwrap(), bytes: 0, ended: false, record };
        }
    };
    let status = response.status().as_u16();
    let mut reader = Reader::new(response);
    let ended = reader.end().await.is_ok();
    let record = daemon.record_with_id(&reader.request_id).await;
    Seen { status, bytes: reader.bytes.len() as u64, ended, record }
}

/// What is wrong with a record, seen beside what the client saw and what the upstream sent; nothing if all agree.
fn faults(framing: &Framing, seen: &Seen, sent: Option<&Received>) -> Vec<String> {
    let Seen { status, bytes, ended, record } = seen;
    let outcome = record["outcome"].as_str().unwrap();
    let mut faults = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    must(record["statusCode"] == *status, "the status is another one");
    must(outcome != "completed" || (*ended && *status == 200), "completed, which the client did not see");
    must(!*ended || record["responseSize"] == *bytes, "the size is another one");
    must(*ended || outcome == "upstream_broke", "the client saw it break");
    match framing.verdict() {
        Verdict::Whole | Verdict::NextUnprocessed | Verdict::Empty => {
            must((*status, outcome, *ended) == (200, "completed", true), "a whole answer");
            let sent = sent.expect("the upstream's record");
            if framing.verdict() != Verdict::Empty {
                must(*bytes == sent.answer_length, "the answer's bytes");
                must(record["inputTokens"].as_u64() == sent.input_tokens, "the input tokens");
                must(record["outputTokens"].as_u64() == sent.output_tokens, "the output tokens");
            }
        }
        Verdict::Unfinished => {
            must((*status, outcome, *ended) == (200, "completed", true), "an unfinished stream");
            must(record["ended"] == "without_final_event", "that it was unfinished");
        }
        Verdict::Broken => must(outcome == "upstream_broke", "a broken answer"),
        Verdict::Early => must((*status, outcome) == (413, "upstream_error"), "an early refusal"),
        Verdict::Either | Verdict::Unprocessed => {
            must(matches!(outcome, "completed" | "upstream_broke") || *status == 413, "its end");
        }
    }
    faults
}

/// Gives the daemon a connection that stays. Some framings close theirs, and a request that is sent before the daemon has
/// seen that cannot be repeated: the next framing must not be blamed for it.
async fn settle(bedrock: &Simulator, daemon: &Daemon, client_http2: bool, path: &str) {
    bedrock.set_framing(Some(Choice::Always(Framing::PLAIN)));
    let answered = || async { (ask(daemon, client_http2, path).await.status == 200).then_some(()) };
    until_async("a connection that stays", answered).await;
}

/// All framings that fit, for an answer in one piece and for a stream.
async fn matrix(http2: bool, client_http2: bool) {
    let (bedrock, daemon) = pair(http2).await;
    let mut tried = 0;
    let mut wrong = Vec::new();
    for (path, event_stream) in [(converse_path(ON_DEMAND), false), (stream_path(ON_DEMAND), true)] {
        for framing in ALL.iter().filter(|framing| framing.fits(http2, true, event_stream)) {
            settle(&bedrock, &daemon, client_http2, &path).await;
            if matches!(framing.verdict(), Verdict::Unprocessed) {
                bedrock.inject(Fault::once(Effect::Framing { variant: *framing }));
            } else {
                bedrock.set_framing(Some(Choice::Always(*framing)));
            }
            let before = bedrock.requests().len();
            let seen = ask(&daemon, client_http2, &path).await;
            let sent = bedrock.requests().into_iter().skip(before).rfind(|one| one.path == path);
            let what = format!("{framing:?} upstream h2={http2} client h2={client_http2} {path}");
            let faults = faults(framing, &seen, sent.as_ref());
            if !faults.is_empty() {
                let Seen { status, bytes, ended, record } = &seen;
                let error = &record["errorMessage"];
                let outcome = &record["outcome"];
                wrong.push(format!("{what}: {faults:?}; seen {status} {bytes} {ended}; recorded {outcome} {error}"));
            }
            tried += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} framings:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 40, "{tried} framings were tried");
    // A whole answer is never cancelled: servers count that, and close the connection.
    bedrock.set_framing(None);
    let is_cancelled = |one: &Received| one.cancelled_whole || (one.sent_whole && one.client_reset.is_some());
    let whole: Vec<_> = bedrock.requests().into_iter().filter(is_cancelled).collect();
    assert!(whole.is_empty(), "{whole:#?}");
}

#[tokio::test]
async fn http1_upstream_http1_client() {
    matrix(false, false).await;
}

#[tokio::test]
async fn http1_upstream_http2_client() {
    matrix(false, true).await;
}

#[tokio::test]
async fn http2_upstream_http1_client() {
    matrix(true, false).await;
}

#[tokio::test]
async fn http2_upstream_http2_client() {
    matrix(true, true).await;
}

/// The finding that began this: thousands of answers whose END_STREAM comes in an empty frame of its own.
#[tokio::test]
async fn two_thousand_answers_that_end_in_a_frame_of_their_own_are_recorded_as_completed() {
    let (bedrock, daemon) = pair(true).await;
    bedrock.set_framing(Some("h2-empty-end".parse().unwrap()));
    let mut connection = Http1::to(daemon.address()).await;
    for _ in 0..2_000 {
        let response =
            connection.start(request(Method::POST, &converse_path(ON_DEMAND), converse("hi"))).await.unwrap();
        assert_eq!(response.status(), 200);
        Reader::new(response).end().await.unwrap();
    }
    until("all records", || Some(()).filter(|()| daemon.records().len() >= 2_000)).await;
    let other: Vec<Value> = daemon.records().into_iter().filter(|record| record["outcome"] != "completed").collect();
    assert!(other.is_empty(), "{} of 2,000: {:?}", other.len(), other.first());
    let resets: u64 = bedrock.connections().iter().map(simulator::framing::ConnectionTally::resets).sum();
    assert_eq!(resets, 0);
}
