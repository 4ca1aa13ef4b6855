//! Each operation is relayed byte for byte, and recorded.

use http::Method;
use serde_json::{Value, json};
use test_support::*;

use super::{CLAUDE, GPT, assert_record, chat, message_to, response};

#[tokio::test]
async fn every_operation_is_relayed_byte_for_byte_and_recorded() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    let stored = response(GPT, json!({ "store": true }));
    let made = direct_to_mantle(&bedrock, request(Method::POST, "/v1/responses", stored)).await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let (get, post) = (Method::GET, Method::POST);
    let (none, tokens) = ((Value::Null, Value::Null), (json!(3), json!(4)));
    for (name, method, path, body, model, (input, output)) in [
        ("MantleChatCompletions", &post, "/v1/chat/completions".to_owned(), chat(GPT, json!({})), GPT, &tokens),
        ("MantleResponses", &post, "/v1/responses".to_owned(), response(GPT, json!({})), GPT, &tokens),
        (
            "MantleCountInputTokens",
            &post,
            "/v1/responses/input_tokens".to_owned(),
            response(GPT, json!({})),
            GPT,
            &none,
        ),
        ("MantleCompactResponse", &post, "/v1/responses/compact".to_owned(), response(GPT, json!({})), GPT, &tokens),
        ("MantleGetResponse", &get, format!("/v1/responses/{id}"), String::new(), "", &none),
        ("MantleListInputItems", &get, format!("/v1/responses/{id}/input_items?limit=5"), String::new(), "", &none),
        ("MantleCancelResponse", &post, format!("/v1/responses/{id}/cancel"), String::new(), "", &none),
        ("MantleListModels", &get, "/v1/models".to_owned(), String::new(), "", &none),
        ("MantleGetModel", &get, format!("/v1/models/{GPT}"), String::new(), GPT, &none),
    ] {
        let asked = || {
            let mut asked = request(method.clone(), &path, body.clone());
            asked.headers_mut().insert("openai-project", "proj_1".parse().unwrap());
            asked
        };
        let expected = direct_to_mantle(&bedrock, asked()).await;
        assert_eq!(expected.status, 200, "{name}: {expected:?}");
        bedrock.clear();
        let answer = send(daemon.address(), asked()).await;
        same(&answer, &expected);
        let sent = received(&bedrock, name);
        assert_eq!(sent.len(), 1, "{name}: {:?}", bedrock.requests());
        assert_eq!((sent[0].path.as_str(), sent[0].body.as_ref()), (path.as_str(), body.as_bytes()), "{name}");
        assert_eq!((sent[0].header("openai-project"), sent[0].leaks.len()), (Some("proj_1"), 0), "{name}");
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[
                ("operation", json!(name)),
                ("modelId", json!(model)),
                ("endpoint", json!("bedrock-mantle")),
                ("destinationRegion", json!("us-east-1")),
                ("outcome", json!("completed")),
                ("statusCode", json!(200)),
                ("attempts", json!(1)),
                ("requestSize", json!(body.len())),
                ("responseSize", json!(answer.body.len())),
                ("inputTokens", input.clone()),
                ("outputTokens", output.clone()),
                ("stored", Value::Null),
            ],
        );
    }
    let answer = send(daemon.address(), request(Method::DELETE, &format!("/v1/responses/{id}"), "")).await;
    assert_eq!((answer.status, &answer.json()["deleted"]), (200, &json!(true)));
    assert_eq!(daemon.record_of(&answer).await["operation"], "MantleDeleteResponse");
    let answer = daemon.get(&format!("/v1/responses/{id}")).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_record(&record, &[("outcome", json!("upstream_error")), ("statusCode", json!(404))]);
    assert!(record["errorMessage"].as_str().unwrap().starts_with("not_found: "), "{record}");
}

/// A response is kept at the upstream that made it, and what follows names only the response.
#[tokio::test]
async fn what_is_kept_at_a_later_upstream_is_found_there() {
    let east = bedrock().await;
    let west = bedrock_with(simulator::Options { region: "us-west-2".into(), ..Default::default() }).await;
    let setup = Setup::alone();
    let at = |region: &str, bedrock: &simulator::Simulator| {
        let ca = setup.path().join(region);
        std::fs::write(&ca, bedrock.ca_pem()).unwrap();
        let mantle = format!("mantle_endpoint = \"{}\"\n", bedrock.mantle_tls_endpoint());
        upstream(region, &bedrock.tls_endpoint(), Some(&ca)) + &mantle
    };
    let upstreams = at("us-east-1", &east) + &at("us-west-2", &west);
    let daemon = setup.upstreams(&upstreams).with("[mantle]\nenabled = true").ready().await;
    let made =
        direct_to_mantle(&west, request(Method::POST, "/v1/responses", response(GPT, json!({ "store": true })))).await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    for (name, method, path) in [
        ("MantleGetResponse", Method::GET, format!("/v1/responses/{id}")),
        ("MantleListInputItems", Method::GET, format!("/v1/responses/{id}/input_items")),
        ("MantleCancelResponse", Method::POST, format!("/v1/responses/{id}/cancel")),
        ("MantleDeleteResponse", Method::DELETE, format!("/v1/responses/{id}")),
    ] {
        let answer = send(daemon.address(), request(method.clone(), &path, "")).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[
                ("operation", json!(name)),
                ("attempts", json!(2)),
                ("destinationRegion", json!("us-west-2")),
                ("outcome", json!("completed")),
                ("statusCode", json!(200)),
                ("responseSize", json!(answer.body.len())),
            ],
        );
        assert_eq!((received(&east, name).len(), received(&west, name).len()), (1, 1), "{name}");
    }
    // Where nobody has it, the last one says so.
    let answer = daemon.get(&format!("/v1/responses/{id}")).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_record(&record, &[("outcome", json!("upstream_error")), ("attempts", json!(2)), ("statusCode", json!(404))]);
    // What is not there for another reason than that is asked for once.
    let answer = daemon.post("/v1/chat/completions", chat("openai.no-such-model", json!({}))).await;
    assert_eq!((answer.status, &daemon.record_of(&answer).await["attempts"]), (404, &json!(1)), "{answer:?}");
}

#[tokio::test]
async fn streams_pass_event_by_event_and_their_tokens_are_counted() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    let streamed = json!({ "stream": true, "stream_options": { "include_usage": true } });
    for (path, body) in [
        ("/v1/chat/completions", chat(GPT, streamed.clone())),
        ("/v1/responses", response(GPT, json!({ "stream": true }))),
        ("/anthropic/v1/messages", message_to(CLAUDE, json!({ "stream": true }))),
    ] {
        let asked = || {
            let mut asked = request(Method::POST, path, body.clone());
            asked.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
            asked
        };
        let expected = direct_to_mantle(&bedrock, asked()).await;
        let answer = send(daemon.address(), asked()).await;
        same(&answer, &expected);
        assert!(answer.header("content-type").unwrap().starts_with("text/event-stream"), "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[
                ("streaming", json!(true)),
                ("outcome", json!("completed")),
                ("inputTokens", json!(3)),
                ("outputTokens", json!(4)),
                ("responseSize", json!(answer.body.len())),
                ("endpoint", json!("bedrock-mantle")),
                ("ended", Value::Null),
            ],
        );
    }
}

/// The host tells which models it serves below /openai/v1, and after the first time nobody asks elsewhere.
#[tokio::test]
async fn a_model_that_is_served_below_openai_is_asked_for_there() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    for (api, model, expected) in [
        ("responses", "openai.gpt-5.4", &["/v1/responses", "/openai/v1/responses"][..]),
        ("responses", "openai.gpt-5.4", &["/openai/v1/responses"]),
        ("chat/completions", "openai.gpt-5.5", &["/v1/chat/completions", "/openai/v1/chat/completions"]),
        ("chat/completions", "openai.gpt-5.5", &["/openai/v1/chat/completions"]),
    ] {
        bedrock.clear();
        let body = if api == "responses" { response(model, json!({})) } else { chat(model, json!({})) };
        let answer = daemon.post(&format!("/v1/{api}"), body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let sent = bedrock.requests().into_iter().map(|sent| sent.path);
        let paths: Vec<String> = sent.filter(|path| path.ends_with(api)).collect();
        assert_eq!(paths, expected);
        let attempts = expected.len();
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[("attempts", json!(attempts)), ("outcome", json!("completed")), ("modelId", json!(model))],
        );
    }
}

/// What is served below neither is told of the path that was asked for.
#[tokio::test]
async fn a_model_that_serves_no_responses_says_so() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    let body = response("nvidia.nemotron-nano-9b-v2", json!({}));
    let expected = direct_to_mantle(&bedrock, request(Method::POST, "/v1/responses", body.clone())).await;
    assert_eq!(
        expected.json()["error"]["message"],
        "The model 'nvidia.nemotron-nano-9b-v2' does not support the '/v1/responses' API"
    );
    let answer = daemon.post("/v1/responses", body).await;
    same(&answer, &expected);
    let record = daemon.record_of(&answer).await;
    assert_record(
        &record,
        &[
            ("outcome", json!("upstream_error")),
            ("statusCode", json!(400)),
            ("errorMessage", json!("validation_error")),
            ("attempts", json!(2)),
        ],
    );
}

#[tokio::test]
async fn errors_of_the_host_pass_as_they_are() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    let body = chat("openai.no-such-model", json!({}));
    let expected = direct_to_mantle(&bedrock, request(Method::POST, "/v1/chat/completions", body.clone())).await;
    assert_eq!(expected.status, 404);
    let answer = daemon.post("/v1/chat/completions", body).await;
    same(&answer, &expected);
    let record = daemon.record_of(&answer).await;
    assert_record(&record, &[("outcome", json!("upstream_error")), ("statusCode", json!(404))]);
}

#[tokio::test]
async fn the_legacy_api_keeps_its_paths() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    let answer = daemon.get("/v1/bedrock/models").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json()["totalModels"].as_u64().unwrap() > 0);
    for path in ["/v1/embeddings", "/v1/modelsx", "/v1/bedrock/responses"] {
        let answer = daemon.get(path).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (404, &json!("UnknownOperationException")),
            "{path}"
        );
    }
    for path in ["/v1/responses/", "/v1/chat/completions/x", "/v1/models/a/b"] {
        let answer = daemon.get(path).await;
        refused(&answer, 404, "UnknownOperationException");
    }
    let answer = daemon.get("/v1/models/a%2Fb").await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert!(received(&bedrock, "MantleGetModel").is_empty());
}
