//! Service tiers, in records and prices.

use http::Method;
use serde_json::{Value, json};
use test_support::*;

use super::{bounded, host, throttled};

const CLAUDE: &str = "anthropic.claude-3-haiku-20240307-v1:0";
const OPENAI: &str = "openai.gpt-oss-20b-1:0";
const HEADER: &str = "x-amzn-bedrock-service-tier";

async fn priced(bedrock: &simulator::Simulator, prices: &str, budget: &str) -> Daemon {
    let setup = Setup::plain(bedrock);
    let path = setup.path().join("prices.toml");
    std::fs::write(&path, prices).unwrap();
    setup.with(&format!("[limits]\nprices_file = \"{}\"\nusd_per_day = {budget}", path.display())).ready().await
}

fn with(body: &str, more: &Value) -> String {
    let mut body: Value = serde_json::from_str(body).unwrap();
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// In every shape, the record has the tier that the answer reports, and its cost and the budget go by the price of that
/// tier.
#[tokio::test]
async fn the_tier_that_is_reported_is_recorded_and_paid() {
    let bedrock = bedrock().await;
    let prices = "[[prices]]\nmodel = \"*\"\ninput = 4\noutput = 4\ncache_read = 4\ncache_write = 4\n\
                  tiers.flex = { input = 2, output = 2 }\ntiers.priority = { input = 7, output = 7 }\n";
    let daemon = priced(&bedrock, prices, "100").await;
    let nova = |prompt: &str, tier: &str| with(&converse(prompt), &json!({ "serviceTier": { "type": tier } }));
    let claude = |prompt: &str, more: Value| {
        let body = json!({
            "anthropic_version": "bedrock-2023-05-31", "max_tokens": 99,
            "messages": [{ "role": "user", "content": prompt }],
        });
        with(&body.to_string(), &more)
    };
    let chat = |prompt: &str, more: Value| {
        let body = json!({ "model": OPENAI, "messages": [{ "role": "user", "content": prompt }] });
        with(&body.to_string(), &more)
    };
    let responses = |more: Value| with(&json!({ "model": OPENAI, "input": "one two" }).to_string(), &more);
    let invoke = |model: &str| format!("/model/{}/invoke", encoded(model));
    let stream = |model: &str| format!("/model/{}/invoke-with-response-stream", encoded(model));
    let llama = "meta.llama3-8b-instruct-v1:0";
    let prompt = json!({ "prompt": "one two" }).to_string();
    let (chat_path, messages) = ("/openai/v1/chat/completions".to_owned(), "/anthropic/v1/messages".to_owned());
    let include = json!({ "stream": true, "stream_options": { "include_usage": true }, "service_tier": "flex" });
    let mut spent = 0;
    for (what, path, header, body, tier, dollars) in [
        ("Converse", converse_path(ON_DEMAND), None, nova("one two", "flex"), Some("flex"), 2),
        (
            "Converse, at another tier",
            converse_path(ON_DEMAND),
            None,
            nova("tier default", "priority"),
            Some("default"),
            4,
        ),
        ("Converse, with no price", converse_path(ON_DEMAND), None, nova("one two", "reserved"), Some("reserved"), 4),
        ("Converse, not asked", converse_path(ON_DEMAND), None, converse("one two"), None, 4),
        ("ConverseStream", stream_path(ON_DEMAND), None, nova("one two", "priority"), Some("priority"), 7),
        ("InvokeModel", invoke(llama), Some("flex"), prompt.clone(), Some("flex"), 2),
        ("InvokeModel, not asked", invoke(llama), None, prompt.clone(), None, 4),
        ("InvokeModel, streamed", stream(llama), Some("priority"), prompt, Some("priority"), 7),
        ("Claude", invoke(CLAUDE), None, claude("a b", json!({ "service_tier": "auto" })), Some("standard"), 4),
        ("Claude with a header", invoke(CLAUDE), Some("flex"), claude("a b", json!({})), Some("flex"), 2),
        (
            "Claude, streamed",
            stream(CLAUDE),
            None,
            claude("tier priority", json!({ "service_tier": "auto" })),
            Some("priority"),
            7,
        ),
        (
            "Messages",
            messages.clone(),
            None,
            claude("tier priority", json!({ "model": CLAUDE, "service_tier": "auto" })),
            Some("priority"),
            7,
        ),
        (
            "Messages, streamed",
            messages,
            None,
            claude("a b", json!({ "model": CLAUDE, "service_tier": "standard_only", "stream": true })),
            Some("standard"),
            4,
        ),
        ("OpenAI", chat_path.clone(), None, chat("a b", json!({ "service_tier": "flex" })), Some("flex"), 2),
        ("OpenAI's wish", chat_path.clone(), None, chat("a b", json!({ "service_tier": "auto" })), Some("default"), 4),
        ("OpenAI, streamed", chat_path, None, chat("a b", include.clone()), Some("flex"), 2),
        (
            "OpenAI, invoked",
            invoke(OPENAI),
            None,
            chat("a b", json!({ "service_tier": "priority" })),
            Some("priority"),
            7,
        ),
        ("OpenAI, invoked for a stream", stream(OPENAI), None, chat("a b", include), Some("flex"), 2),
        (
            "Responses",
            "/openai/v1/responses".into(),
            None,
            responses(json!({ "service_tier": "flex" })),
            Some("flex"),
            2,
        ),
        (
            "Responses, streamed",
            "/openai/v1/responses".into(),
            None,
            responses(json!({ "service_tier": "auto", "stream": true })),
            Some("default"),
            4,
        ),
    ] {
        let mut asked = request(Method::POST, &path, body);
        if let Some(tier) = header {
            asked.headers_mut().insert(HEADER, tier.parse().unwrap());
        }
        let answer = client::send(daemon.address(), asked).await;
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        if header.is_some() {
            assert_eq!(answer.header(HEADER), tier, "{what}: passed on, there and back");
        }
        let record = daemon.record_of(&answer).await;
        assert_eq!(record["serviceTier"], json!(tier), "{what}: {record}");
        let tokens: u64 = ["inputTokens", "outputTokens"].iter().map(|field| record[field].as_u64().unwrap()).sum();
        assert_eq!(record["costNanoUsd"], tokens * dollars * 1_000, "{what}: {record}");
        spent += tokens * dollars * 1_000;
        assert_eq!(host(&daemon).await["nanoUsdToday"], spent, "{what}");
    }
    // What was refused has the tier that was asked for; what is no name has none.
    for (tier, expected) in [("turbo", json!("turbo")), ("Flex", Value::Null), (&*"x".repeat(65), Value::Null)] {
        let answer = daemon.post(&converse_path(ON_DEMAND), nova("one two", tier)).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["serviceTier"], expected, "{tier}");
    }
    assert_eq!(host(&daemon).await["nanoUsdToday"], spent);
}

/// Until the answer has come, the most counts that may be charged.
#[tokio::test]
async fn a_budget_reserves_by_the_tier_that_is_asked_for() {
    let bedrock = bedrock().await;
    let prices = "[[prices]]\nmodel = \"*\"\ninput = 1000\noutput = 1000\n\
                  tiers.flex = { input = 500, output = 500 }\ntiers.priority = { input = 2000, output = 2000 }\n";
    let daemon = priced(&bedrock, prices, "1.00").await;
    let path = converse_path(ON_DEMAND);
    let body = bounded("events 100", 100);
    // 10.2 cents each; what is left is enough for another at the plain price, and not for one with priority.
    for _ in 0..8 {
        assert_eq!(daemon.post(&path, body.clone()).await.status, 200);
    }
    for more in [
        json!({ "serviceTier": { "type": "priority" } }),
        json!({ "service_tier": "auto" }),
        json!({ "serviceTier": { "type": "flex" }, "service_tier": "default" }),
        json!({ "serviceTier": "flex" }),
    ] {
        let (sentence, _) = throttled(&daemon.post(&path, with(&body, &more)).await);
        assert!(sentence.contains("usd_per_day"), "{more}: {sentence}");
    }
    let mut asked = request(Method::POST, &path, body.clone());
    asked.headers_mut().insert(HEADER, "priority".parse().unwrap());
    throttled(&client::send(daemon.address(), asked).await);
    assert_eq!(host(&daemon).await["nanoUsdToday"], 816_000_000);

    // At half the price three more fit, and no fourth.
    for number in 1..=3 {
        let answer = daemon.post(&path, with(&body, &json!({ "serviceTier": { "type": "flex" } }))).await;
        assert_eq!(answer.status, 200, "{number}: {answer:?}");
        assert_eq!(host(&daemon).await["nanoUsdToday"], 816_000_000 + number * 51_000_000);
    }
    throttled(&daemon.post(&path, with(&body, &json!({ "serviceTier": { "type": "flex" } }))).await);
}
