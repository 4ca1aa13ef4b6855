//! The legacy REST API: its exact shapes, through the same pipeline, with true status codes.

use base64::Engine;
use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Ending, Fault, Options, ThrottleText};
use test_support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const INVOKE: &str = "/v1/bedrock/invoke-model";

/// The headers of every answer of this API.
#[track_caller]
fn marked(answer: &Answer) {
    assert_eq!(answer.header("x-source-partition"), Some("govcloud"), "{answer:?}");
    assert_eq!(answer.header("x-destination-partition"), Some("commercial"), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    let id = answer.header("x-request-id").unwrap();
    assert_eq!(answer.header("x-bedrock-sidecar-request-id"), Some(id), "one name for one request");
}

/// `{"error":{"code","message","requestId"}}`, and nothing else.
#[track_caller]
fn failed(answer: &Answer, status: u16, code: &str) -> String {
    assert_eq!(answer.status, status, "{answer:?}");
    marked(answer);
    let json = answer.json();
    let error = &json["error"];
    assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
    assert_eq!(error.as_object().unwrap().len(), 3, "{json}");
    assert_eq!((&error["code"], error["requestId"].as_str()), (&json!(code), answer.header("x-request-id")), "{json}");
    error["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_body_is_an_object_a_json_string_or_base64() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let payload = "{ \"prompt\": \"caf\\u00e9\",  \"n\": 1.50, \"big\": 12345678901234567890123, \"a\": [1.0] }";
    let model = "meta.llama3-8b-instruct-v1:0";
    let expected = direct(&bedrock, request(Method::POST, &format!("/model/{}/invoke", encoded(model)), payload)).await;
    let of = |body: Value| json!({ "modelId": model, "body": body }).to_string();
    let object = format!("{{\"modelId\":\"{model}\",\"body\":{payload}}}");
    for (form, body) in [
        ("object", object),
        ("string", of(json!(payload))),
        ("base64", of(json!(base64::engine::general_purpose::STANDARD.encode(payload)))),
    ] {
        bedrock.clear();
        let answer = daemon.post(INVOKE, body.clone()).await;
        assert_eq!(answer.status, 200, "{form}: {answer:?}");
        marked(&answer);
        let sent = received(&bedrock, "InvokeModel").pop().unwrap();
        assert_eq!(sent.path, format!("/model/{}/invoke", encoded(model)), "{form}");
        assert_eq!(
            (sent.header("content-type"), sent.header("accept")),
            (Some("application/json"), Some("application/json"))
        );
        assert_eq!(sent.body, payload.as_bytes(), "{form}: as the bytes that came");
        let json = answer.json();
        assert_eq!(json.as_object().unwrap().len(), 2, "{json}");
        assert_eq!(json["contentType"], "application/json");
        assert_eq!(json["body"].as_str().unwrap().as_bytes(), expected.body, "{form}: the model's JSON as a string");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["operation"], &record["modelId"]), (&json!("InvokeModel"), &json!(model)), "{record}");
        assert_eq!((&record["outcome"], &record["inputTokens"]), (&json!("completed"), &json!(1)), "{record}");
        assert_eq!(record["requestSize"], body.len(), "{record}");
    }
}

#[tokio::test]
async fn it_walks_the_same_road() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[models]\ndeny = [\"cohere.*\"]").ready().await;
    let of = |model: &str| {
        json!({ "modelId": model, "body": converse("hello"), "contentType": "application/json", "accept": "*/*" })
            .to_string()
    };
    let answer = daemon.post(INVOKE, of(PROFILE_ONLY)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let profile = format!("us.{PROFILE_ONLY}");
    assert_eq!(answer.header("x-bedrock-sidecar-model"), Some(profile.as_str()));
    assert_eq!(answer.header("x-bedrock-sidecar-region"), Some("us-east-1"));
    assert_eq!(received(&bedrock, "InvokeModel")[0].header("accept"), Some("*/*"));
    assert_eq!(daemon.record_of(&answer).await["inferenceProfileUsed"], profile);
    let answer = daemon.post(INVOKE, of("us-gov.amazon.nova-lite-v1:0")).await;
    assert_eq!(answer.header("x-bedrock-sidecar-model"), Some("us.amazon.nova-lite-v1:0"));
    let message = failed(&daemon.post(INVOKE, of("cohere.command-r-v1:0")).await, 403, "AccessDeniedException");
    assert!(message.contains("models.deny"), "{message}");
}

#[tokio::test]
async fn a_client_of_openai_or_anthropic_with_the_wrong_base_is_told_the_right_one() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.clear();
    let body = json!({ "model": ON_DEMAND, "messages": [] }).to_string();
    for path in ["/v1/messages", "/v1/embeddings"] {
        let answer = daemon.post(path, body.clone()).await;
        let message = failed(&answer, 404, "UnknownOperationException");
        assert!(message.contains("/openai/v1") && message.contains("/anthropic/v1"), "{path}: {message}");
        assert_eq!(daemon.record_of(&answer).await["statusCode"], 404);
    }
    // The base that bedrock-mantle has, which is not used here.
    for path in ["/v1/chat/completions", "/v1/responses"] {
        let answer = daemon.post(path, body.clone()).await;
        let message = refused(&answer, 404, "UnknownOperationException");
        assert!(message.contains("/openai/v1") && message.contains("[mantle]"), "{path}: {message}");
        assert_eq!(daemon.record_of(&answer).await["statusCode"], 404);
    }
    let message = refused(&daemon.post("/chat/completions", "{}").await, 404, "UnknownOperationException");
    assert!(message.contains("/openai/v1"), "{message}");
    assert_eq!(bedrock.requests().len(), 0);
}

#[tokio::test]
async fn errors_have_their_true_status_and_the_legacy_shape() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[limits]\nmax_body_bytes = 2000").ready().await;
    let ask = || json!({ "modelId": ON_DEMAND, "body": converse("hello") }).to_string();
    for (effect, status, code, says) in [
        (Effect::Throttle { text: ThrottleText::Requests }, 429, "ThrottlingException", "Too many requests"),
        (Effect::InternalServerError, 500, "InternalServerException", ""),
        (Effect::ServiceUnavailable, 503, "ServiceUnavailableException", ""),
        (Effect::ModelTimeout, 408, "ModelTimeoutException", "timed out"),
        (Effect::ModelError, 424, "ModelErrorException", ""),
        (
            Effect::BreakBeforeHeaders { how: Ending::Rst },
            503,
            "ServiceUnavailableException",
            "the upstream gave no answer",
        ),
    ] {
        bedrock.inject(Fault::once(effect.clone()));
        let answer = daemon.post(INVOKE, ask()).await;
        let message = failed(&answer, status, code);
        assert!(message.contains(says), "{effect:?}: {message}");
    }
    let denied = json!({ "modelId": "ai21.jamba-1-5-large-v1:0", "body": { "prompt": "x" } }).to_string();
    let message = failed(&daemon.post(INVOKE, denied).await, 403, "AccessDeniedException");
    assert_eq!(message, "You don't have access to the model with the specified model ID.", "word for word");
    for (body, says) in [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("{}", "must hold modelId"),
        ("{\"modelId\":7,\"body\":{}}", "must hold modelId"),
        ("{\"modelId\":\"a.b\"}", "must hold body"),
        ("{\"modelId\":\"a.b\",\"body\":\"{broken\"}", "neither JSON nor base64"),
        ("{\"modelId\":\"../x\",\"body\":{}}", "identifier"),
        ("{\"modelId\":\"a.b\",\"body\":{},\"contentType\":\"a\\nb\"}", "not a media type"),
    ] {
        let message = failed(&daemon.post(INVOKE, body).await, 400, "ValidationException");
        assert!(message.starts_with("bedrock-sidecar: ") && message.contains(says), "{body}: {message}");
    }
    failed(&daemon.post(INVOKE, vec![b' '; 2001]).await, 413, "ValidationException");
    failed(&daemon.get("/v1/bedrock/nothing").await, 404, "UnknownOperationException");
    let delete = send(daemon.address(), request(Method::DELETE, INVOKE, "")).await;
    failed(&delete, 404, "UnknownOperationException");

    let setup = Setup::plain(&bedrock).secret("nonsense");
    let daemon = setup.start().await;
    let message = failed(&daemon.post(INVOKE, ask()).await, 503, "ServiceUnavailableException");
    assert!(message.contains("no commercial credential"), "{message}");
    let message = failed(&daemon.get("/v1/bedrock/models").await, 503, "ServiceUnavailableException");
    assert!(message.contains("no commercial credential"), "{message}");
}

#[tokio::test]
async fn get_tells_the_routing() {
    let daemon = Setup::alone().start().await;
    let answer = daemon.get(INVOKE).await;
    assert_eq!(answer.status, 200);
    marked(&answer);
    assert_eq!(
        answer.json()["routing"],
        json!({ "sourcePartition": "govcloud", "destinationPartition": "commercial", "destinationRegion": "us-east-1" })
    );
}

#[tokio::test]
async fn models_are_listed_in_the_legacy_shape() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let answer = daemon.get("/v1/bedrock/models").await;
    assert_eq!(answer.status, 200);
    marked(&answer);
    let json = answer.json();
    assert_eq!(
        json["region"],
        json!({ "region": "us-east-1", "partition": "aws", "description": "AWS commercial region us-east-1" })
    );
    let direct = direct(&bedrock, request(Method::GET, "/foundation-models", "")).await.json();
    let listed = json["models"].as_array().unwrap();
    assert_eq!(json["totalModels"], listed.len());
    assert_eq!(listed.len(), direct["modelSummaries"].as_array().unwrap().len());
    for known in direct["modelSummaries"].as_array().unwrap() {
        let shown = listed.iter().find(|model| model["modelId"] == known["modelId"]).unwrap();
        for field in [
            "modelName",
            "providerName",
            "inputModalities",
            "outputModalities",
            "responseStreamingSupported",
            "customizationsSupported",
            "inferenceTypesSupported",
        ] {
            assert_eq!(shown[field], known[field], "{field} of {shown}");
        }
    }
    assert_eq!(
        json["source"],
        json!({ "partition": "govcloud", "region": "us-gov-west-1", "requestId": answer.header("x-request-id") })
    );
    assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn health_is_told_on_both_addresses_and_needs_no_credential() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).secret("nonsense").start().await;
    for answer in [daemon.get("/health").await, daemon.admin_get("/health").await] {
        assert_eq!(answer.status, 200);
        let json = answer.json();
        assert_eq!((&json["status"], &json["service"]), (&json!("healthy"), &json!("bedrock-sidecar")));
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(bedrock.requests().len(), 0, "health spends nothing");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_not_half_an_answer() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    bedrock.inject(Fault::once(Effect::Cut { after_bytes: Some(10_000), after_events: None, how: Ending::Rst }));
    let body = json!({ "modelId": ON_DEMAND, "body": converse("repeat 200000") }).to_string();
    failed(&daemon.post(INVOKE, body).await, 503, "ServiceUnavailableException");
}

/// The client was given a 503, whatever the upstream's status had been.
#[tokio::test]
async fn an_answer_that_breaks_off_is_recorded_as_the_client_saw_it() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    bedrock.inject(Fault::once(Effect::Cut { after_bytes: Some(10_000), after_events: None, how: Ending::Rst }));
    let body = json!({ "modelId": ON_DEMAND, "body": converse("repeat 200000") }).to_string();
    let answer = daemon.post(INVOKE, body).await;
    failed(&answer, 503, "ServiceUnavailableException");
    assert_eq!(answer.header("x-bedrock-sidecar-model"), Some(ON_DEMAND));
    let record = daemon.record_of(&answer).await;
    for (field, expected) in [
        ("statusCode", json!(503)),
        ("outcome", json!("upstream_broke")),
        ("success", json!(false)),
        ("responseSize", json!(answer.body.len())),
        ("attempts", json!(1)),
    ] {
        assert_eq!(record[field], expected, "{field}: {record}");
    }
}

/// What the answer's head has told of its tokens counts, though nobody is there at its end.
#[tokio::test]
async fn a_client_that_leaves_a_whole_answer_is_recorded_with_the_tokens_that_are_known() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let body = json!({ "modelId": ON_DEMAND, "body": converse("hello") }).to_string();
    let head = format!("POST {INVOKE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    // Nothing tells when the answer's head has reached the daemon, so some of these may leave before.
    let begun = std::time::Instant::now();
    for round in 1.. {
        bedrock.inject(Fault::once(Effect::Stall { after_bytes: 10 }));
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        eventually("the answer's head to be sent", || {
            received(&bedrock, "InvokeModel").iter().filter(|one| one.status == Some(200)).count() == round
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(10) * u32::try_from(round).unwrap()).await;
        drop(stream);
        let records = daemon.all_records(round).await;
        let record = &records[round - 1];
        assert_eq!((&record["operation"], &record["statusCode"]), (&json!("InvokeModel"), &json!(499)), "{record}");
        assert_eq!(record["outcome"], "client_disconnected", "{record}");
        if record["inputTokens"].as_u64() > Some(0) {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "no head has told its tokens: {record}");
    }
}

#[tokio::test]
async fn records_tell_the_size_of_what_the_client_was_given() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let body = json!({ "modelId": ON_DEMAND, "body": converse("hello") }).to_string();
    for status in [200, 429] {
        if status == 429 {
            bedrock.inject(Fault::once(Effect::Throttle { text: ThrottleText::Tokens }));
        }
        let answer = daemon.post(INVOKE, body.clone()).await;
        let record = daemon.record_of(&answer).await;
        assert_eq!(answer.status, status);
        assert_eq!(
            (&record["statusCode"], &record["responseSize"]),
            (&json!(status), &json!(answer.body.len())),
            "{record}"
        );
    }
}

/// This API holds an answer in memory. So it has a limit, and what is held is not held many times.
#[tokio::test]
async fn an_answer_of_any_length_takes_bounded_memory() {
    // Whether it announces its length or not.
    for framing in ["h2-length", "h2-no-length"] {
        let bedrock = bedrock_with(Options { http2: true, ..Options::default() }).await;
        bedrock.set_framing(Some(framing.parse().unwrap()));
        let daemon = Setup::tls(&bedrock).ready().await;
        let ask =
            |length: usize| json!({ "modelId": ON_DEMAND, "body": converse(&format!("repeat {length}")) }).to_string();
        let (before, _) = daemon.memory();

        let answer = daemon.post(INVOKE, ask(20_000_000)).await;
        assert_eq!(answer.status, 200);
        assert!(answer.json()["body"].as_str().unwrap().len() > 20_000_000);
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["responseSize"]), (&json!("completed"), &json!(answer.body.len())));

        let answer = daemon.post(INVOKE, ask(60_000_000)).await;
        let message = failed(&answer, 400, "ValidationException");
        assert!(message.contains("longer than 26214400 bytes"), "{message}");
        let record = daemon.record_of(&answer).await;
        for (field, expected) in [
            ("statusCode", json!(400)),
            ("outcome", json!("refused")),
            ("responseSize", json!(answer.body.len())),
            ("attempts", json!(1)),
        ] {
            assert_eq!(record[field], expected, "{field}: {record}");
        }
        let (_, peak) = daemon.memory();
        assert!(peak < before + 120_000, "{before} KiB before, {peak} at most");
    }
}

/// Answers that nobody takes are held in memory, so they have a part of the memory for bodies until they are written.
#[tokio::test]
async fn answers_that_wait_for_their_clients_have_a_budget_together() {
    let bedrock = bedrock().await;
    let limits = "[limits]\nmax_body_bytes = 1000000\nmax_buffered_bytes = 64000000";
    let daemon = Setup::tls(&bedrock).with(limits).ready().await;
    let buffered = || async { metric(&daemon.metrics().await, "bedrock_sidecar_buffered_bytes").unwrap() };
    let before = daemon.memory().0;
    let body = json!({ "modelId": ON_DEMAND, "body": converse("repeat 10000000") }).to_string();
    let ask = format!(
        "POST {INVOKE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut unread = Vec::new();
    let mut refused = 0;
    for at in 0..6 {
        let mut stream = tokio::net::TcpStream::connect(daemon.address()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, ask.as_bytes()).await.unwrap();
        let head = raw::until(&mut stream, "\r\n\r\n").await;
        if head.starts_with("HTTP/1.1 503 ") {
            refused += 1;
            continue;
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{at}: {head}");
        unread.push(stream);
        let held = buffered().await;
        assert!(held >= 10e6 * unread.len() as f64, "{held} for {} answers", unread.len());
    }
    assert!((1..=3).contains(&unread.len()) && refused >= 3, "{} unread, {refused} refused", unread.len());
    let record = daemon.record("a 503", |record| record["statusCode"] == 503).await;
    assert!(record["errorMessage"].as_str().unwrap().contains("limits.max_buffered_bytes"), "{record}");
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(1)), "{record}");
    assert!(record["inputTokens"].as_u64().is_some(), "what the answer has cost is told: {record}");
    let (_, peak) = daemon.memory();
    println!("six answers of 10 MB that nobody takes: {} KiB more", peak.saturating_sub(before));
    assert!(peak < before + 100_000, "{before} KiB before, {peak} at most");
    drop(unread);
    until_async("the budget", || async { (buffered().await == 0.0).then_some(()) }).await;
    let answer = daemon.post(INVOKE, body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
}
