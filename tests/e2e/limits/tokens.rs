//! Tokens: what is reserved, what it is settled to, and the count of a day.

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Ended, Ending, Fault, Options, ThrottleText};
use test_support::*;

use super::{bounded, held, host, limited, throttled};

/// tokensToday counts reservations and never refills, so it shows them exactly.
#[tokio::test]
async fn tokens_are_reserved_and_settled_for_every_operation() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\ntokens_per_day = 100000000").ready().await;
    let today = async || host(&daemon).await["tokensToday"].as_u64().unwrap();
    let used = |record: &Value| record["inputTokens"].as_u64().unwrap() + record["outputTokens"].as_u64().unwrap();
    let mut spent = 0;
    for path in [
        converse_path(ON_DEMAND),
        stream_path(ON_DEMAND),
        format!("/model/{}/invoke", encoded(ON_DEMAND)),
        format!("/model/{}/invoke-with-response-stream", encoded(ON_DEMAND)),
    ] {
        let answer = daemon.post(&path, bounded("one two three", 500)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        spent += used(&daemon.record_of(&answer).await);
        assert_eq!(today().await, spent, "{path}");
    }

    // While it runs, what it may use at most; then what it used.
    let body = bounded("events 9", 500);
    let reserved = body.len().div_ceil(4) as u64 + 500;
    let (_connection, mut reader) = held(&bedrock, &daemon, body.clone()).await;
    assert_eq!(today().await, spent + reserved);
    bedrock.gate().open();
    reader.end().await.unwrap();
    spent += used(&daemon.record_with_id(&reader.request_id).await);
    assert_eq!(today().await, spent);

    // A body that bounds nothing reserves 2,048 for the answer.
    let unbounded = converse("events 9");
    let (_connection, mut reader) = held(&bedrock, &daemon, unbounded.clone()).await;
    assert_eq!(today().await, spent + unbounded.len().div_ceil(4) as u64 + 2048);
    bedrock.gate().open();
    reader.end().await.unwrap();
    spent += used(&daemon.record_with_id(&reader.request_id).await);
    assert_eq!(today().await, spent);

    // A stream that breaks before it reports stays as reserved.
    bedrock.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(3), how: Ending::Rst }));
    let mut connection = Http1::to(daemon.address()).await;
    let mut broken =
        Reader::new(connection.start(request(Method::POST, &stream_path(ON_DEMAND), body.clone())).await.unwrap());
    broken.end().await.unwrap_err();
    spent += reserved;
    until_async("the broken stream's end", || async { (host(&daemon).await["running"] == 0).then_some(()) }).await;
    assert_eq!(today().await, spent);

    // So does one whose client leaves.
    let (connection, reader) = held(&bedrock, &daemon, body.clone()).await;
    drop((connection, reader));
    until_async("the client's end", || async { (host(&daemon).await["running"] == 0).then_some(()) }).await;
    until("the upstream to see it", || {
        received(&bedrock, "ConverseStream").into_iter().find(|one| one.ended == Ended::ClientWentAway)
    })
    .await;
    bedrock.gate().open();
    spent += reserved;
    assert_eq!(today().await, spent);

    // So does one whose client leaves before the answer has begun: a model is at work on it.
    let thinking = bounded("think 60000 hello", 500);
    let mut connection = Http1::to(daemon.address()).await;
    let waiting = connection.start(request(Method::POST, &converse_path(ON_DEMAND), thinking.clone()));
    let arrived = until("the upstream to have it", || {
        received(&bedrock, "Converse").into_iter().find(|one| one.ended == Ended::Open)
    });
    tokio::select! {
        answer = waiting => panic!("the upstream is still thinking: {answer:?}"),
        _ = arrived => {}
    }
    drop(connection);
    let left = daemon.record("the request whose client left", |r| {
        r["outcome"] == "client_disconnected" && r["operation"] == "Converse"
    });
    assert_eq!(left.await["attempts"], 1);
    spent += thinking.len().div_ceil(4) as u64 + 500;
    assert_eq!(today().await, spent);

    // What the upstream refuses, or what never reached it, costs nothing.
    bedrock.inject(Fault::once(Effect::Throttle { text: ThrottleText::Tokens }));
    let answer = daemon.post(&converse_path(ON_DEMAND), body.clone()).await;
    assert_eq!((answer.status, today().await), (429, spent), "{answer:?}");
    bedrock.refuse_connections(true);
    // A connection that was kept open may take a request with it as it dies. Nobody knows whether that one arrived, so it
    // stays as reserved.
    let answer = loop {
        let answer = daemon.post(&converse_path(ON_DEMAND), body.clone()).await;
        if !answer.text().contains("broke before an answer") {
            break answer;
        }
        spent += reserved;
    };
    assert_eq!((answer.status, today().await), (503, spent), "{answer:?}");
    bedrock.refuse_connections(false);
}

/// Commercial Bedrock charges for what a model has done, whatever the client is told in the end.
#[tokio::test]
async fn what_may_have_run_stays_as_reserved() {
    let (east, west) =
        (bedrock().await, bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await);
    let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")])
        .with("[upstreams_policy]\nretry_after_send = true\n[limits]\ntokens_per_day = 100000000")
        .ready()
        .await;
    let today = async || host(&daemon).await["tokensToday"].as_u64().unwrap();
    let broken = || Fault::once(Effect::BreakBeforeHeaders { how: Ending::Rst });
    let error = |status, error_type: &str| {
        let (error_type, message, headers) = (error_type.into(), "x".into(), Default::default());
        Fault::once(Effect::Error { status, error_type, message, capital: false, headers })
    };
    let throttled = || Fault::once(Effect::Throttle { text: ThrottleText::Tokens });
    let mut spent = 0;
    for (at_first, then, status, may_have_run) in [
        (error(503, "ServiceUnavailableException"), error(424, "ModelErrorException"), 424, false),
        (broken(), error(424, "ModelErrorException"), 424, true),
        (error(503, "ServiceUnavailableException"), error(502, "BadGateway"), 502, true),
        (error(504, "GatewayTimeout"), error(503, "ServiceUnavailableException"), 503, true),
        (broken(), throttled(), 429, true),
    ] {
        east.inject(at_first.on("Converse"));
        west.inject(then.on("Converse"));
        let answer = daemon.post(&converse_path(ON_DEMAND), bounded("one two three", 500)).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["attempts"]), (&json!("upstream_error"), &json!(2)), "{record}");
        let more = today().await - spent;
        assert_eq!(more >= 500, may_have_run, "{more} after {status}");
        spent += more;
    }
}

/// Anthropic counts a few tokens at a stream's start and the whole only at its end.
#[tokio::test]
async fn what_streamed_before_the_break_is_settled() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\ntokens_per_day = 100000000").ready().await;
    let stream = |prompt: &str| {
        let body = json!({
            "model": "anthropic.claude-3-haiku-20240307-v1:0", "max_tokens": 90_000, "stream": true,
            "messages": [{ "role": "user", "content": prompt }],
        });
        request(Method::POST, "/anthropic/v1/messages", body.to_string())
    };
    let idle = || async { (host(&daemon).await["running"] == 0).then_some(()) };
    let today = async || host(&daemon).await["tokensToday"].as_u64().unwrap();

    // Two events precede those with text.
    bedrock.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(1002), how: Ending::Rst }));
    let mut connection = Http1::to(daemon.address()).await;
    let mut reader = Reader::new(connection.start(stream("events 3000")).await.unwrap());
    reader.end().await.unwrap_err();
    until_async("the broken stream's end", idle).await;
    let record = daemon.record("the broken stream", |record| record["outcome"] == "upstream_broke").await;
    assert_eq!((&record["inputTokens"], &record["outputTokens"]), (&json!(2), &json!(1)), "as reported: {record}");
    let spent = today().await;
    assert!((1_000..4_000).contains(&spent), "{spent}: some 8,000 bytes of text in 1,000 events");

    let mut connection = Http1::to(daemon.address()).await;
    let mut reader = Reader::new(connection.start(stream("events 9000 pace 2")).await.unwrap());
    reader.until(20_000).await.unwrap();
    let events = reader.bytes.windows(20).filter(|bytes| bytes == b"event: content_block").count() as u64;
    drop((connection, reader));
    until_async("the client's end", idle).await;
    let record = daemon.record("the hang-up", |record| record["outcome"] == "client_disconnected").await;
    assert_eq!(record["outputTokens"], 1, "as reported: {record}");
    let spent = today().await - spent;
    assert!((events..9_000).contains(&spent), "{spent} for {events} events");
}

#[tokio::test]
async fn what_runs_no_model_reserves_and_settles_nothing() {
    let bedrock = bedrock().await;
    // Less than the estimate of any body that a model would read.
    let daemon = Setup::plain(&bedrock).with("[limits]\ntokens_per_day = 100").ready().await;
    let long = "word ".repeat(500);
    let claude =
        json!({ "model": "anthropic.claude-3-haiku-20240307-v1:0", "messages": [{ "role": "user", "content": long }] });
    let counted = json!({ "input": { "converse": serde_json::from_str::<Value>(&converse(&long)).unwrap() } });
    for (path, body) in [
        ("/anthropic/v1/messages/count_tokens".to_owned(), claude),
        (format!("/model/{}/count-tokens", encoded(ON_DEMAND)), counted.clone()),
    ] {
        for _ in 0..3 {
            let answer = daemon.post(&path, body.to_string()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let record = daemon.record_of(&answer).await;
            assert_eq!((&record["inputTokens"], &record["costNanoUsd"]), (&Value::Null, &Value::Null), "{record}");
        }
    }
    // Nor does an answer that speaks of tokens, such as one of a request that was paid before.
    let headers = [("x-amzn-bedrock-input-token-count".to_owned(), "5000".to_owned())].into();
    let (error_type, message) = ("None".to_owned(), String::new());
    bedrock.inject(Fault::once(Effect::Error { status: 200, error_type, message, capital: false, headers }));
    let answer = daemon.post(&format!("/model/{}/count-tokens", encoded(ON_DEMAND)), counted.to_string()).await;
    assert_eq!((answer.status, answer.header("x-amzn-bedrock-input-token-count")), (200, Some("5000")));
    assert_eq!(daemon.record_of(&answer).await["inputTokens"], Value::Null);
    assert_eq!(host(&daemon).await["tokensToday"], 0);
}

#[tokio::test]
async fn tokens_a_minute_are_taken_ahead_and_what_was_not_used_comes_back() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\ntokens_per_minute = 1000").ready().await;
    let (_connection, mut reader) = held(&bedrock, &daemon, bounded("events 9", 900)).await;
    let path = converse_path(ON_DEMAND);
    let (sentence, after) = throttled(&daemon.post(&path, bounded("x", 900)).await);
    assert!(sentence.contains("left of tokens_per_minute = 1000, and this request may need more;"), "{sentence}");
    assert!((30..=60).contains(&after), "{after}");
    bedrock.gate().open();
    reader.end().await.unwrap();
    assert_eq!(daemon.post(&path, bounded("x", 900)).await.status, 200, "the reservation came back");

    // More than reserved is a debt, and it is paid before anything passes.
    let answer = daemon.post(&path, converse("events 2000")).await;
    // It reserves more than the whole limit, so it passes only when nothing of it is in use.
    let (sentence, _) = throttled(&answer);
    assert!(sentence.contains("tokens_per_minute"), "{sentence}");
    let fresh = Setup::plain(&bedrock).with("[limits]\ntokens_per_minute = 1000").ready().await;
    assert_eq!(fresh.post(&path, converse("events 1800")).await.status, 200);
    let left = host(&fresh).await["tokensLeft"].as_i64().unwrap();
    assert!((-810..=-100).contains(&left), "{left}");
    let (_, after) = throttled(&fresh.post(&path, bounded("x", 1)).await);
    assert!((10..=60).contains(&after), "{after}");
    assert_eq!(limited(&fresh, "tokens_per_minute", "host").await, 1.0);
}

#[tokio::test]
async fn tokens_of_a_day_survive_restarts() {
    let bedrock = bedrock().await;
    let state = tempfile::tempdir().unwrap();
    let start = async || {
        let more = format!(
            "[audit]\nstate_dir = \"{}\"\ntable = \"\"\n[limits]\ntokens_per_day = 1000\n",
            state.path().display()
        );
        Setup::plain(&bedrock).with(&more).ready().await
    };
    let path = converse_path(ON_DEMAND);
    let mut daemon = start().await;
    assert_eq!(daemon.post(&path, bounded("events 400", 400)).await.status, 200);
    let spent = host(&daemon).await["tokensToday"].as_u64().unwrap();
    assert_eq!(spent, 402);
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());

    let daemon = start().await;
    assert_eq!(host(&daemon).await["tokensToday"], spent);
    let (sentence, after) = throttled(&daemon.post(&path, bounded("x", 700)).await);
    assert!(
        sentence.contains("this host has only 598 left of tokens_per_day = 1000, and this request may need more"),
        "{sentence}"
    );
    assert!((1..=86_400).contains(&after));
    assert_eq!(daemon.post(&path, bounded("events 500", 500)).await.status, 200);
    let spent = host(&daemon).await["tokensToday"].as_u64().unwrap();
    assert_eq!(spent, 904);
    // kill -9 forgets nothing that has been written.
    until("limits.json", || {
        std::fs::read_to_string(state.path().join("limits.json")).ok().filter(|text| text.contains("904"))
    })
    .await;
    drop(daemon);
    let daemon = start().await;
    assert_eq!(host(&daemon).await["tokensToday"], spent);
    throttled(&daemon.post(&path, bounded("x", 200)).await);
}
