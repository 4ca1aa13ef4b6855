//! Streams pass event by event, end as the upstream ends them, and cost constant memory.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use simulator::{Effect, Ended, Ending, Fault, Options, Simulator};
use test_support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Http1,
    Http2,
}

#[derive(Debug, Clone, Copy)]
enum Upstream {
    Plain,
    TlsHttp1,
    TlsHttp2,
}

const CLIENTS: [Client; 2] = [Client::Http1, Client::Http2];
/// Of a body that the thread of its connection serves, and of one that is served beside it.
const LENGTHS: [usize; 2] = [200, 300_000];

/// A connection that lives as long as this.
#[derive(Debug)]
enum Connection {
    Http1(Http1),
    Http2(Http2),
}

impl Connection {
    async fn of(client: Client, daemon: &Daemon) -> Connection {
        match client {
            Client::Http1 => Connection::Http1(Http1::to(daemon.address()).await),
            Client::Http2 => Connection::Http2(Http2::to(daemon.address()).await),
        }
    }

    async fn start(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Connection::Http1(connection) => connection.start(request).await,
            Connection::Http2(connection) => connection.start(request).await,
        }
    }
}

async fn pair(upstream: Upstream, more: &str) -> (Simulator, Daemon) {
    let bedrock = bedrock_with(Options { http2: matches!(upstream, Upstream::TlsHttp2), ..Options::default() }).await;
    let setup = if matches!(upstream, Upstream::Plain) { Setup::plain(&bedrock) } else { Setup::tls(&bedrock) };
    let daemon = setup.with(more).ready().await;
    (bedrock, daemon)
}

/// The streaming operations, each with what makes its events.
fn streams() -> Vec<(&'static str, Request<Full<Bytes>>)> {
    let chat = json!({ "model": "openai.gpt-oss-20b-1:0", "stream": true, "stream_options": { "include_usage": true },
                       "messages": [{ "role": "user", "content": "events 6" }] });
    let messages = json!({ "model": "anthropic.claude-3-haiku-20240307-v1:0", "stream": true, "max_tokens": 50,
                           "messages": [{ "role": "user", "content": "events 6" }] });
    vec![
        ("ConverseStream", request(Method::POST, &stream_path(ON_DEMAND), converse("events 6"))),
        (
            "InvokeModelWithResponseStream",
            request(
                Method::POST,
                &format!("/model/{}/invoke-with-response-stream", encoded(ON_DEMAND)),
                converse("events 6"),
            ),
        ),
        ("ChatCompletions", request(Method::POST, "/openai/v1/chat/completions", chat.to_string())),
        ("Messages", request(Method::POST, "/anthropic/v1/messages", messages.to_string())),
    ]
}

/// Where each event of a stream ends.
fn ends(answer: &Answer) -> Vec<usize> {
    let mut ends = Vec::new();
    if answer.header("content-type").unwrap().starts_with("text/event-stream") {
        let text = answer.text();
        ends.extend(text.match_indices("\n\n").map(|(at, _)| at + 2));
    } else {
        let mut at = 0;
        for frame in frames(&answer.body) {
            at += frame.len();
            ends.push(at);
        }
    }
    assert!(ends.len() >= 6, "too few events to tell anything");
    ends
}

async fn each_event_passes_alone(upstream: Upstream, version: &str) {
    let (bedrock, daemon) = pair(upstream, "").await;
    for client in CLIENTS {
        for (name, asked) in streams() {
            bedrock.gate().open();
            let whole = direct(&bedrock, asked.clone()).await;
            let ends = ends(&whole);
            bedrock.clear();
            bedrock.gate().close();
            let mut connection = Connection::of(client, &daemon).await;
            // The answer's head comes before its first event.
            let response = connection.start(asked).await.unwrap();
            assert_eq!(response.status(), 200);
            let mut reader = Reader::new(response);
            for end in &ends {
                bedrock.gate().release(1);
                reader.until(*end).await.unwrap();
                assert_eq!(reader.bytes.len(), *end, "{name}: no more than what was released");
                assert_eq!(reader.bytes, whole.body[..*end], "{name} {client:?}");
            }
            reader.end().await.unwrap();
            assert_eq!(reader.bytes, whole.body, "{name} {client:?}");
            assert_eq!(received(&bedrock, name)[0].http_version, version, "{name}");
        }
    }
}

#[tokio::test]
async fn each_event_passes_before_the_next_is_released_over_plain_http1() {
    each_event_passes_alone(Upstream::Plain, "HTTP/1.1").await;
}

#[tokio::test]
async fn each_event_passes_before_the_next_is_released_over_tls_and_http1() {
    each_event_passes_alone(Upstream::TlsHttp1, "HTTP/1.1").await;
}

#[tokio::test]
async fn each_event_passes_before_the_next_is_released_over_tls_and_http2() {
    each_event_passes_alone(Upstream::TlsHttp2, "HTTP/2.0").await;
}

#[tokio::test]
async fn an_exception_in_the_stream_passes_as_it_is_and_is_recorded() {
    let (bedrock, daemon) = pair(Upstream::TlsHttp2, "").await;
    let exception = Effect::StreamException {
        after_events: 3,
        exception: "throttlingException".into(),
        message: "Too many tokens, please wait before trying again.".into(),
    };
    let asked = || request(Method::POST, &stream_path(ON_DEMAND), converse("events 9"));
    bedrock.inject(Fault::once(exception.clone()));
    let expected = direct(&bedrock, asked()).await;
    bedrock.inject(Fault::once(exception));
    let answer = send(daemon.address(), asked()).await;
    same(&answer, &expected);
    assert!(answer.text().contains("throttlingException"));
    let record = daemon.record_of(&answer).await;
    assert_eq!(record["outcome"], "upstream_error", "{record}");
    assert_eq!((&record["success"], &record["errorMessage"]), (&json!(false), &json!("throttlingException")));
}

#[tokio::test]
async fn a_spoilt_frame_and_a_dripping_body_pass_byte_for_byte() {
    let (bedrock, daemon) = pair(Upstream::TlsHttp2, "").await;
    for effect in [Effect::WrongCrc { event: 2 }, Effect::Drip { bytes: 7, every_ms: 1 }] {
        let asked = || request(Method::POST, &stream_path(ON_DEMAND), converse("events 9"));
        bedrock.inject(Fault::once(effect.clone()));
        let expected = direct(&bedrock, asked()).await;
        bedrock.inject(Fault::once(effect));
        same(&send(daemon.address(), asked()).await, &expected);
    }
}

async fn a_break_is_passed_on(upstream: Upstream) {
    let (bedrock, daemon) = pair(upstream, "").await;
    let mut broken = 0;
    for client in CLIENTS {
        for how in [Ending::Rst, Ending::Fin, Ending::StreamError] {
            for (asked, effect) in [
                // An event stream, whose end only the transfer coding tells.
                (
                    request(Method::POST, &stream_path(ON_DEMAND), converse("events 9")),
                    Effect::Cut { after_bytes: None, after_events: Some(4), how },
                ),
                // A body of known length.
                (
                    request(Method::POST, &converse_path(ON_DEMAND), converse("repeat 200000")),
                    Effect::Cut { after_bytes: Some(100_000), after_events: None, how },
                ),
                (
                    request(Method::POST, &stream_path(ON_DEMAND), converse("events 9")),
                    Effect::BreakAfterHeaders { how },
                ),
            ] {
                bedrock.inject(Fault::once(effect.clone()));
                let mut connection = Connection::of(client, &daemon).await;
                if let Ok(response) = connection.start(asked).await {
                    assert_eq!(response.status(), 200, "{client:?} {effect:?}");
                    let mut reader = Reader::new(response);
                    let end = reader.end().await;
                    assert!(end.is_err(), "a clean end after {} bytes: {client:?} {effect:?}", reader.bytes.len());
                }
                broken += 1;
                let records = until("the record", || Some(daemon.records()).filter(|all| all.len() == broken)).await;
                let record = records.last().unwrap();
                assert_eq!(record["outcome"], "upstream_broke", "{client:?} {effect:?}: {record}");
                assert_eq!(record["success"], false);
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_ends_cleanly_over_plain_http1() {
    a_break_is_passed_on(Upstream::Plain).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_ends_cleanly_over_tls_and_http2() {
    a_break_is_passed_on(Upstream::TlsHttp2).await;
}

#[tokio::test]
async fn a_chunked_answer_that_breaks_off_has_no_last_chunk_on_the_wire() {
    let (bedrock, daemon) = pair(Upstream::Plain, "").await;
    bedrock.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(4), how: Ending::Fin }));
    let body = converse("events 9");
    let bytes = format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        stream_path(ON_DEMAND),
        body.len()
    );
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = raw::until(&mut stream, "word1 ").await;
    answer.push_str(&raw::rest(&mut stream).await.unwrap_or_default());
    assert!(answer.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{answer}");
    assert!(!answer.contains("\r\n0\r\n"), "a last chunk makes it look whole: {answer}");
}

#[tokio::test]
async fn a_length_that_is_not_kept_reaches_the_client_as_such() {
    let (bedrock, daemon) = pair(Upstream::Plain, "").await;
    for client in CLIENTS {
        bedrock.inject(Fault::once(Effect::TruncatedBody { missing: 10 }));
        let mut connection = Connection::of(client, &daemon).await;
        let asked = request(Method::POST, &converse_path(ON_DEMAND), converse("short"));
        if let Ok(response) = connection.start(asked).await {
            let promised: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
            let mut reader = Reader::new(response);
            assert!(reader.end().await.is_err(), "{client:?}: a clean end");
            assert_eq!(reader.bytes.len() + 10, promised);
        }
    }
}

#[tokio::test]
async fn one_broken_stream_leaves_the_others_of_its_connection_alone() {
    let (bedrock, daemon) = pair(Upstream::TlsHttp2, "").await;
    bedrock.gate().close();
    let connection = Http2::to(daemon.address()).await;
    let asked = |prompt: &str| request(Method::POST, &stream_path(ON_DEMAND), converse(prompt));
    let sound = connection.start(asked("events 8")).await.unwrap();
    bedrock.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(2), how: Ending::StreamError }));
    let broken = connection.start(asked("events 9")).await.unwrap();
    bedrock.gate().open();
    let (mut sound, mut broken) = (Reader::new(sound), Reader::new(broken));
    assert!(broken.end().await.is_err());
    sound.end().await.unwrap();
    assert!(frames(&sound.bytes).len() > 8);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_upstream_call() {
    for upstream in [Upstream::Plain, Upstream::TlsHttp2] {
        let (bedrock, daemon) = pair(upstream, "").await;
        for (client, length) in CLIENTS.into_iter().flat_map(|client| LENGTHS.map(|length| (client, length))) {
            bedrock.clear();
            bedrock.gate().close();
            let mut connection = Connection::of(client, &daemon).await;
            let body = padded(&converse("events 9"), length);
            let asked = request(Method::POST, &stream_path(ON_DEMAND), body);
            let mut reader = Reader::new(connection.start(asked).await.unwrap());
            bedrock.gate().release(2);
            reader.until(100).await.unwrap();
            // On HTTP/2 the stream is reset and the connection stays.
            drop(reader);
            if client == Client::Http1 {
                drop(connection);
            }
            until("the upstream to see the client go", || {
                received(&bedrock, "ConverseStream").iter().find(|one| one.ended == Ended::ClientWentAway).map(|_| ())
            })
            .await;
            let record = daemon
                .record("the client that left", |record| {
                    record["outcome"] == "client_disconnected" && record["requestSize"] == length
                })
                .await;
            assert_eq!((&record["statusCode"], &record["success"]), (&json!(499), &json!(false)), "{record}");
            assert!(record["responseSize"].as_u64().unwrap() >= 100, "{record}");
            assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_in_flight"), Some(0.0));
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_cancels_the_upstream_call_too() {
    for upstream in [Upstream::Plain, Upstream::TlsHttp2] {
        for length in LENGTHS {
            let (bedrock, daemon) = pair(upstream, "").await;
            bedrock.clear();
            bedrock.inject(Fault::once(Effect::SlowFirstByte { ms: 600_000 }));
            let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
            let prompt = "never".repeat(length / 5);
            stream.write_all(raw::converse(daemon.address(), ON_DEMAND, &prompt, "").as_bytes()).await.unwrap();
            until("the request upstream", || Some(()).filter(|()| !received(&bedrock, "Converse").is_empty())).await;
            drop(stream);
            until("the upstream to see the client go", || {
                Some(()).filter(|()| received(&bedrock, "Converse")[0].ended == Ended::ClientWentAway)
            })
            .await;
            let record = daemon.record("the client that left", |record| record["statusCode"] == 499).await;
            assert_eq!(record["outcome"], "client_disconnected", "{record}");
        }
    }
}

#[tokio::test]
async fn the_largest_request_and_a_large_answer_pass_in_bounded_memory() {
    const ANSWER: usize = 32 * 1024 * 1024;
    let (bedrock, daemon) = pair(Upstream::TlsHttp2, "").await;
    // Bedrock's limit of InvokeModel's body: 25,000,000 bytes, padded with spaces, which JSON ignores.
    let body = Bytes::from(padded(&converse("large"), 25_000_000));
    let path = format!("/model/{}/invoke", encoded(ON_DEMAND));
    let answer = daemon.post(&path, body.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(received(&bedrock, "InvokeModel")[0].body, body);
    let larger = Bytes::from(padded(&converse("too large"), 25_000_001));
    assert_eq!(daemon.post(&path, larger).await.status, 413);
    bedrock.clear();

    let daemon = Setup::tls(&bedrock).ready().await;
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("warm")).await.status, 200);
    let (_, before) = daemon.memory();
    for client in CLIENTS {
        let mut connection = Connection::of(client, &daemon).await;
        let asked = request(Method::POST, &converse_path(ON_DEMAND), converse(&format!("repeat {ANSWER}")));
        let mut reader = Reader::new(connection.start(asked).await.unwrap());
        // The client dawdles, so that whatever is held back for it piles up.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        reader.end().await.unwrap();
        assert!(reader.bytes.len() > ANSWER);
    }
    let (_, after) = daemon.memory();
    let grown = after.saturating_sub(before);
    assert!(grown < 16 * 1024, "an answer of 32 MiB made the daemon {grown} KiB larger than it was ({before} KiB)");
}

#[tokio::test]
async fn three_hundred_streams_run_at_once_over_http2() {
    let (bedrock, daemon) = pair(Upstream::TlsHttp2, "").await;
    bedrock.gate().close();
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Http2::to(daemon.address()).await);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..300 {
        let client = clients[number % 3].clone();
        tasks.spawn(async move {
            let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 5"));
            let mut reader = Reader::new(client.start(asked).await.unwrap());
            reader.end().await.unwrap();
            reader.bytes.freeze()
        });
    }
    until("all streams to be open upstream", || Some(()).filter(|()| bedrock.gate().state().waiting == 300)).await;
    let connections: std::collections::BTreeSet<u64> =
        received(&bedrock, "ConverseStream").iter().map(|one| one.connection).collect();
    assert!((2..=8).contains(&connections.len()), "300 streams over connections {connections:?}");
    assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_in_flight"), Some(300.0));
    bedrock.gate().open();
    let mut bodies = std::collections::BTreeSet::new();
    while let Some(body) = within("the streams to end", tasks.join_next()).await {
        bodies.insert(body.unwrap());
    }
    assert_eq!(bodies.len(), 1, "the same bytes for all");
}

#[tokio::test]
async fn a_stream_survives_the_upstreams_goaway() {
    let (bedrock, daemon) = pair(Upstream::TlsHttp2, "").await;
    let asked = || request(Method::POST, &stream_path(ON_DEMAND), converse("events 30 pace 2"));
    let expected = direct(&bedrock, asked()).await;
    bedrock.inject(Fault::once(Effect::GoAway { after_events: 2 }));
    same(&send(daemon.address(), asked()).await, &expected);
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("and again")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let streams = received(&bedrock, "ConverseStream");
    let calls = received(&bedrock, "Converse");
    assert_ne!(streams.last().unwrap().connection, calls.last().unwrap().connection, "a connection of its own");
}

/// A request that a graceful GOAWAY has overtaken was not processed, and is sent again on another connection.
#[tokio::test]
async fn requests_that_race_a_goaway_are_all_answered() {
    let (bedrock, daemon) = pair(Upstream::TlsHttp2, "").await;
    for turn in 0..20 {
        bedrock.inject(Fault::once(Effect::CloseAfter).on("Converse"));
        let answer = daemon.post(&converse_path(ON_DEMAND), converse("and again")).await;
        assert_eq!(answer.status, 200, "turn {turn}: {answer:?}");
    }
}

#[tokio::test]
async fn a_slow_first_byte_is_waited_for_up_to_the_limit() {
    let (bedrock, daemon) = pair(Upstream::Plain, "[upstream_timeouts]\nfirst_byte = \"1s\"").await;
    bedrock.inject(Fault::once(Effect::SlowFirstByte { ms: 300 }));
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("slow")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(daemon.record_of(&answer).await["firstByteLatency"].as_u64().unwrap() >= 300);
    bedrock.inject(Fault::once(Effect::SlowFirstByte { ms: 600_000 }));
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("too slow")).await;
    let sentence = refused(&answer, 503, "ServiceUnavailableException");
    assert!(sentence.contains("gave no answer within 1 s"), "{sentence}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "upstream_broke");
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_broken_off_after_the_idle_limit() {
    for upstream in [Upstream::Plain, Upstream::TlsHttp2] {
        let (bedrock, daemon) = pair(upstream, "[upstream_timeouts]\nidle = \"1s\"").await;
        for client in CLIENTS {
            bedrock.clear();
            bedrock.inject(Fault::once(Effect::Stall { after_bytes: 300 }));
            let mut connection = Connection::of(client, &daemon).await;
            let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 9"));
            let mut reader = Reader::new(connection.start(asked).await.unwrap());
            assert!(reader.end().await.is_err(), "{client:?}");
            assert_eq!(reader.bytes.len(), 300);
            let record = daemon.record("the silent stream", |record| record["outcome"] == "upstream_broke").await;
            assert_eq!(record["errorMessage"], "the upstream sent nothing for 1 s");
            until("the upstream call to be cancelled", || {
                received(&bedrock, "ConverseStream").iter().find(|one| one.ended == Ended::ClientWentAway).map(|_| ())
            })
            .await;
        }
        // A pause that is shorter than the limit breaks nothing, however long the whole takes.
        let answer = daemon.post(&stream_path(ON_DEMAND), converse("events 4 pace 400")).await;
        assert_eq!(answer.status, 200);
        assert!(frames(&answer.body).len() > 4);
    }
}
