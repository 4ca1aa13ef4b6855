//! What each request leaves behind: one log line and its counters, and never a byte of prompt, answer or key.

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Fault};
use test_support::*;

const CLAUDE: &str = "anthropic.claude-3-haiku-20240307-v1:0";

#[tokio::test]
async fn the_log_line_has_the_fields_of_the_contract() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let body = converse("one two three");
    let answer = daemon.post(&converse_path(PROFILE_ONLY), body.clone()).await;
    let record = daemon.record_of(&answer).await;
    let received = received(&bedrock, "Converse").pop().unwrap();
    for (field, expected) in [
        ("level", json!("INFO")),
        ("message", json!("request")),
        ("sourcePartition", json!("govcloud")),
        ("destinationPartition", json!("commercial")),
        ("operation", json!("Converse")),
        ("modelId", json!(PROFILE_ONLY)),
        ("inferenceProfileUsed", json!(format!("us.{PROFILE_ONLY}"))),
        ("destinationRegion", json!("us-east-1")),
        ("upstreamRequestId", json!(received.request_id)),
        ("sourceIP", json!("127.0.0.1")),
        ("requestSize", json!(body.len())),
        ("responseSize", json!(answer.body.len())),
        ("success", json!(true)),
        ("statusCode", json!(200)),
        ("outcome", json!("completed")),
        ("streaming", json!(false)),
        ("attempts", json!(1)),
        ("inputTokens", json!(3)),
        ("outputTokens", json!(4)),
        ("errorMessage", Value::Null),
        ("cacheReadTokens", Value::Null),
    ] {
        assert_eq!(record[field], expected, "{field} in {record}");
    }
    let timestamp = record["timestamp"].as_str().unwrap();
    assert!(timestamp.len() == 24 && timestamp.ends_with('Z') && &timestamp[19..20] == ".", "{timestamp}");
    assert!(record["latency"].as_u64().unwrap() >= record["firstByteLatency"].as_u64().unwrap());
    assert!(record["userArn"].is_string() && record["identityVerified"].is_boolean(), "{record}");
    let id = record["requestId"].as_str().unwrap();
    assert!(id.len() == 36 && &id[14..15] == "7", "UUIDv7, so that records sort by time: {id}");
    daemon.has_said_all().await;
    assert_eq!(daemon.records().iter().filter(|record| record["requestId"] == id).count(), 1, "one line a request");
}

#[tokio::test]
async fn usage_is_found_in_every_place_and_unknown_where_it_is_not() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let cached = json!({
        "system": [{ "text": "be very brief" }, { "cachePoint": { "type": "default" } }],
        "messages": [{ "role": "user", "content": [{ "text": "one two" }, { "cachePoint": { "type": "default" } }] }],
    })
    .to_string();
    let claude = |more: Value| {
        let mut body = json!({
            "anthropic_version": "bedrock-2023-05-31", "max_tokens": 99,
            "system": [{ "type": "text", "text": "be brief", "cache_control": { "type": "ephemeral" } }],
            "messages": [{ "role": "user", "content": "one two three" }],
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string()
    };
    let prompt = json!({ "prompt": "one two three" }).to_string();
    let chat = |more: Value| {
        let mut body =
            json!({ "model": "openai.gpt-oss-20b-1:0", "messages": [{ "role": "user", "content": "one two three" }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string()
    };
    let invoke = |model: &str| format!("/model/{}/invoke", encoded(model));
    let stream = |model: &str| format!("/model/{}/invoke-with-response-stream", encoded(model));
    let known = |input: u64, output: u64| [json!(input), json!(output), Value::Null, Value::Null];
    let none = || [Value::Null, Value::Null, Value::Null, Value::Null];
    let nova = converse("one two three");
    for (what, path, body, expected) in [
        ("headers of InvokeModel", invoke("meta.llama3-8b-instruct-v1:0"), prompt.clone(), known(3, 4)),
        (
            "headers, where the body has no usage",
            invoke("mistral.mistral-7b-instruct-v0:2"),
            prompt.clone(),
            known(3, 4),
        ),
        ("headers with a cache", invoke(CLAUDE), claude(json!({})), [json!(5), json!(4), json!(2), json!(0)]),
        (
            "input alone",
            invoke("amazon.titan-embed-text-v2:0"),
            json!({ "inputText": "one two" }).to_string(),
            known(2, 0).map(|v| if v == json!(0) { Value::Null } else { v }),
        ),
        ("the body, where headers are missing", invoke("openai.gpt-oss-20b-1:0"), chat(json!({})), known(3, 4)),
        ("Converse", converse_path(ON_DEMAND), nova.clone(), known(3, 4)),
        ("Converse with a cache", converse_path(ON_DEMAND), cached.clone(), [json!(5), json!(3), json!(3), json!(2)]),
        ("ConverseStream", stream_path(ON_DEMAND), nova.clone(), known(3, 4)),
        ("ConverseStream with a cache", stream_path(ON_DEMAND), cached, [json!(5), json!(3), json!(3), json!(2)]),
        ("the last chunk", stream("meta.llama3-8b-instruct-v1:0"), prompt.clone(), known(3, 4)),
        ("the last chunk with a cache", stream(CLAUDE), claude(json!({})), [json!(5), json!(4), json!(2), json!(0)]),
        ("OpenAI", "/openai/v1/chat/completions".into(), chat(json!({})), known(3, 4)),
        (
            "OpenAI, streamed",
            "/openai/v1/chat/completions".into(),
            chat(json!({ "stream": true, "stream_options": { "include_usage": true } })),
            known(3, 4),
        ),
        (
            "OpenAI, streamed without usage",
            "/openai/v1/chat/completions".into(),
            chat(json!({ "stream": true })),
            none(),
        ),
        (
            "responses",
            "/openai/v1/responses".into(),
            json!({ "model": "openai.gpt-oss-20b-1:0", "input": "one two three" }).to_string(),
            known(3, 4),
        ),
        (
            "responses, streamed",
            "/openai/v1/responses".into(),
            json!({ "model": "openai.gpt-oss-20b-1:0", "input": "one two three", "stream": true }).to_string(),
            known(3, 4),
        ),
        (
            "OpenAI with a cache",
            "/openai/v1/chat/completions".into(),
            chat(json!({ "messages": [{ "role": "user", "content": "cached 900" }] })),
            [json!(2), json!(3), json!(900), Value::Null],
        ),
        (
            "responses with a cache, streamed",
            "/openai/v1/responses".into(),
            json!({ "model": "openai.gpt-oss-20b-1:0", "input": "cached 900", "stream": true }).to_string(),
            [json!(2), json!(3), json!(900), Value::Null],
        ),
        (
            "Anthropic",
            "/anthropic/v1/messages".into(),
            claude(json!({ "model": CLAUDE })),
            [json!(5), json!(4), json!(2), json!(0)],
        ),
        (
            "Anthropic, streamed",
            "/anthropic/v1/messages".into(),
            claude(json!({ "model": CLAUDE, "stream": true })),
            [json!(5), json!(4), json!(2), json!(0)],
        ),
        (
            "nothing to count",
            "/guardrail/abc/version/1/apply".into(),
            json!({ "source": "INPUT", "content": [] }).to_string(),
            none(),
        ),
    ] {
        let answer = daemon.post(&path, body).await;
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        let record = daemon.record_of(&answer).await;
        let found =
            ["inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens"].map(|field| record[field].clone());
        assert_eq!(found, expected, "{what}: {record}");
        let streamed = what.contains("stream") || what.contains("Stream") || what.contains("chunk");
        assert_eq!(record["streaming"], streamed, "{what}: {record}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_has_no_usage() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    bedrock.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(3), how: simulator::Ending::Fin }));
    let mut connection = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 9"));
    if let Ok(response) = connection.start(asked).await {
        assert!(client::Reader::new(response).end().await.is_err());
    }
    let record = daemon.record("the broken stream", |record| record["outcome"] == "upstream_broke").await;
    assert_eq!((&record["inputTokens"], &record["outputTokens"]), (&Value::Null, &Value::Null), "unknown, never 0");
}

#[tokio::test]
async fn metrics_have_the_names_and_bounded_labels_of_the_contract() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[models]\ndeny = [\"cohere.*\"]").ready().await;
    let mut sizes = (0, 0);
    for _ in 0..3 {
        let body = converse("one two three");
        let answer = daemon.post(&converse_path(PROFILE_ONLY), body.clone()).await;
        assert_eq!(answer.status, 200);
        sizes = (sizes.0 + body.len(), sizes.1 + answer.body.len());
    }
    for model in ["nobody.made-this-up-1", "nobody.made-this-up-2"] {
        let body = converse("x");
        let answer = daemon.post(&converse_path(model), body.clone()).await;
        assert_eq!(answer.status, 400);
        sizes = (sizes.0 + body.len(), sizes.1 + answer.body.len());
    }
    let body = converse("x");
    let answer = daemon.post(&converse_path("cohere.command-r-v1:0"), body.clone()).await;
    assert_eq!(answer.status, 403);
    sizes = (sizes.0 + body.len(), sizes.1 + answer.body.len());
    let answer = daemon.get("/nothing").await;
    assert_eq!(answer.status, 404);
    sizes.1 += answer.body.len();
    bedrock.inject(Fault::once(Effect::InternalServerError).on("Converse"));
    let body = converse("x");
    let answer = daemon.post(&converse_path(PROFILE_ONLY), body.clone()).await;
    sizes = (sizes.0 + body.len(), sizes.1 + answer.body.len());

    until("all records", || Some(()).filter(|()| daemon.records().len() == 8)).await;
    let page = daemon.metrics().await;
    let prefix = "bedrock_sidecar_";
    for (line, value) in [
        (format!("requests_total{{operation=\"Converse\",model=\"{PROFILE_ONLY}\",status=\"200\"}}"), 3.0),
        (format!("requests_total{{operation=\"Converse\",model=\"{PROFILE_ONLY}\",status=\"500\"}}"), 1.0),
        ("requests_total{operation=\"Converse\",model=\"other\",status=\"400\"}".to_owned(), 2.0),
        ("requests_total{operation=\"Converse\",model=\"cohere.command-r-v1:0\",status=\"403\"}".to_owned(), 1.0),
        ("requests_total{operation=\"Unknown\",model=\"\",status=\"404\"}".to_owned(), 1.0),
        (format!("tokens_total{{model=\"{PROFILE_ONLY}\",direction=\"input\"}}"), 9.0),
        (format!("tokens_total{{model=\"{PROFILE_ONLY}\",direction=\"output\"}}"), 12.0),
        ("request_duration_seconds_count{operation=\"Converse\"}".to_owned(), 7.0),
        ("upstream_attempts_total{region=\"us-east-1\",result=\"success\"}".to_owned(), 3.0),
        ("upstream_attempts_total{region=\"us-east-1\",result=\"failed\"}".to_owned(), 1.0),
        ("upstream_attempts_total{region=\"us-east-1\",result=\"refused\"}".to_owned(), 2.0),
        ("bytes_total{direction=\"request\"}".to_owned(), sizes.0 as f64),
        ("bytes_total{direction=\"response\"}".to_owned(), sizes.1 as f64),
        ("profile_resolutions_total{how=\"discovered\"}".to_owned(), 4.0),
        ("profile_resolutions_total{how=\"as_is\"}".to_owned(), 2.0),
        ("in_flight".to_owned(), 0.0),
        ("credential_refresh_total{result=\"success\"}".to_owned(), 1.0),
    ] {
        assert_eq!(metric(&page, &format!("{prefix}{line}")), Some(value), "{line} in\n{page}");
    }
    let age = metric(&page, &format!("{prefix}credential_age_seconds")).unwrap();
    assert!((0.0..120.0).contains(&age), "{age}");
    assert!(page.contains(&format!("{prefix}first_byte_seconds_bucket{{le=")), "{page}");
    assert!(page.contains(&format!("{prefix}build_info{{version=\"{}\",fips=", env!("CARGO_PKG_VERSION"))), "{page}");
    assert!(!page.contains("made-this-up"), "labels of what no catalogue knows are bounded");
}

#[tokio::test]
async fn requests_in_flight_are_counted_until_their_last_byte() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    bedrock.gate().close();
    let mut connection = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 3"));
    let mut reader = client::Reader::new(connection.start(asked).await.unwrap());
    assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_in_flight"), Some(1.0));
    bedrock.gate().open();
    reader.end().await.unwrap();
    until_async("none in flight", || async {
        (metric(&daemon.metrics().await, "bedrock_sidecar_in_flight") == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_prompt_answer_or_key_is_written_anywhere() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[log]\nlevel = \"debug\"").ready().await;
    let canary = "CANARY-4711";
    let error = |status, error_type: &str| Effect::Error {
        status,
        error_type: error_type.into(),
        message: format!("Malformed input request: \"{canary}\" is not allowed"),
        capital: false,
        headers: Default::default(),
    };
    let mut asked = request(Method::POST, &converse_path(ON_DEMAND), converse(canary));
    for (name, value) in [
        (
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AKIAX/20260101/us-gov-west-1/bedrock/aws4_request, SignedHeaders=host, Signature=c0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ff",
        ),
        ("x-amz-security-token", canary),
        ("cookie", canary),
        ("x-api-key", canary),
    ] {
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = send(daemon.address(), asked.clone()).await;
    assert!(answer.status == 200 && answer.text().contains(canary), "the answer speaks of it: {answer:?}");
    for fault in [
        Some(error(400, "ValidationException")),
        Some(error(424, "ModelErrorException")),
        Some(Effect::BreakBeforeHeaders { how: simulator::Ending::Rst }),
        Some(Effect::Cut { after_bytes: Some(40), after_events: None, how: simulator::Ending::Rst }),
        Some(Effect::InvalidKey),
        None,
    ] {
        if let Some(effect) = fault {
            bedrock.inject(Fault::once(effect).on("Converse"));
        }
        let mut connection = Http1::to(daemon.address()).await;
        if let Ok(response) = connection.start(asked.clone()).await {
            let _ = client::Reader::new(response).end().await;
        }
    }
    for (path, body) in [
        (stream_path(ON_DEMAND), converse(canary)),
        (
            "/openai/v1/chat/completions".to_owned(),
            format!("{{\"model\":\"openai.gpt-oss-20b-1:0\",\"messages\":\"{canary}\""),
        ),
        ("/v1/bedrock/invoke-model".to_owned(), format!("{{\"modelId\":\"a.b\",\"body\":\"{canary}\"}}")),
        ("/v1/bedrock/invoke-model".to_owned(), json!({ "modelId": ON_DEMAND, "body": converse(canary) }).to_string()),
        (format!("/nowhere?{canary}={canary}"), canary.to_owned()),
        (format!("/foundation-models?{canary}"), canary.to_owned()),
    ] {
        daemon.post(&path, body).await;
    }
    until("all records", || Some(()).filter(|()| daemon.records().len() == 13)).await;
    for (place, text) in [("log", daemon.log_text()), ("metrics", daemon.metrics().await)] {
        if let Some(line) = text.lines().find(|line| line.contains(canary) || line.contains("c0ffee")) {
            panic!("{place}: {line}");
        }
    }
    // Keys are looked for at the end of every test: Daemon::drop.
}

#[tokio::test]
async fn the_text_format_is_for_people_and_the_level_is_kept() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), simulator::DEFAULT_BEARER_TOKEN).unwrap();
    let setup = Setup::plain(&bedrock).with("[log]\nformat = \"text\"");
    // The harness reads JSON, so that this one is started by hand.
    let config = setup.write();
    let mut program = program();
    program.args(["run", "--config", &config]).env_clear().env("STATE_DIRECTORY", directory.path());
    let log = directory.path().join("log");
    program.stdin(std::process::Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let mut child = program.spawn().unwrap();
    let text = || std::fs::read_to_string(&log).unwrap();
    let address = until("the address in the log", || {
        let text = text();
        let rest = text.split_once("listening addresses=")?.1;
        rest.split_whitespace().next()?.parse().ok()
    })
    .await;
    let answer = post(address, &converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!(answer.status, 200);
    let line =
        until("the line", || text().lines().find(|line| line.contains("operation=Converse")).map(str::to_owned)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    for part in [" INFO ", "request", "model=amazon.nova-lite-v1:0", "status=200", "outcome=\"completed\""] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let quiet = Setup::plain(&bedrock).with("[log]\nlevel = \"warn\"").command(&["check"]).await;
    assert_eq!(quiet.status.code(), Some(0));
}
