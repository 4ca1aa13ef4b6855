//! Budgets in US dollars.

use serde_json::json;
use test_support::*;

use super::{bounded, host, limited, throttled};

#[tokio::test]
async fn budgets_warn_once_and_then_refuse() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let prices = setup.path().join("prices.toml");
    std::fs::write(&prices, "[[prices]]\nmodel = \"amazon.*\"\ninput = 1000.0\noutput = 1000.0\n").unwrap();
    let daemon = setup
        .with(&format!("[limits]\nprices_file = \"{}\"\nusd_per_day = 1.00\nusd_per_month = 50", prices.display()))
        .ready()
        .await;
    let path = converse_path(ON_DEMAND);
    let warnings = || {
        let lines = daemon.lines();
        lines.into_iter().filter(|line| line["level"] == "WARN" && line["budget_usd"].is_string()).collect::<Vec<_>>()
    };
    // 2 tokens in, 100 out: 10.2 cents each.
    for number in 1..=9 {
        let answer = daemon.post(&path, bounded("events 100", 100)).await;
        assert_eq!(answer.status, 200);
        let spent = host(&daemon).await["nanoUsdToday"].as_u64().unwrap();
        assert_eq!(spent, number * 102_000_000);
        daemon.record_of(&answer).await;
        if number == 7 {
            assert_eq!(warnings().len(), 0);
        }
    }
    let answer = daemon.post(&path, bounded("events 100", 100)).await;
    let (sentence, _) = throttled(&answer);
    assert!(
        sentence.contains("this host has only 0.082 left of usd_per_day = 1.00, and this request may need more;"),
        "{sentence}"
    );
    assert_eq!(limited(&daemon, "usd_per_day", "host").await, 1.0);
    daemon.record_of(&answer).await;
    let warning = warnings();
    assert_eq!(warning.len(), 1, "{warning:?}");
    assert_eq!((&warning[0]["limit"], &warning[0]["spent_usd"]), (&json!("usd_per_day"), &json!("0.816")));
    // A model without a price spends nothing, and passes.
    let free = converse_path("anthropic.claude-3-haiku-20240307-v1:0");
    assert_eq!(daemon.post(&free, bounded("events 100", 100)).await.status, 200);
    // More money by reload.
    daemon.reload("usd_per_day = 1.00", "usd_per_day = 2.00").await;
    assert_eq!(daemon.post(&path, bounded("events 100", 100)).await.status, 200);
    assert_eq!(host(&daemon).await["nanoUsdToday"], 1_020_000_000u64);
}

/// The record's cost is what the budget counts, by whatever name the model is asked for and sent.
#[tokio::test]
async fn a_record_costs_what_the_budget_counts() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let prices = setup.path().join("prices.toml");
    let rows = format!(
        "[[prices]]\nmodel = \"amazon.*\"\ninput = 2\noutput = 3\ncache_write = 5\ncache_write_1h = 7\n\
         [[prices]]\nmodel = \"{NEEDS_CREATED_PROFILE}\"\ninput = 11\noutput = 13\n"
    );
    std::fs::write(&prices, rows).unwrap();
    let daemon = setup
        .with(&format!(
            "[limits]\nprices_file = \"{}\"\nusd_per_day = 1.00\n[models.aliases]\nquick = \"{ON_DEMAND}\"",
            prices.display()
        ))
        .ready()
        .await;
    let cached = json!({ "messages": [{ "role": "user", "content": [
        { "text": "one two three" }, { "cachePoint": { "type": "default", "ttl": "1h" } }
    ] }] });
    let mut spent = 0;
    for (model, body, cost) in [
        (ON_DEMAND, bounded("one two", 9), 2 * 2 + 3 * 3),
        ("us.amazon.nova-lite-v1:0", bounded("one two", 9), 2 * 2 + 3 * 3),
        ("quick", bounded("one two", 9), 2 * 2 + 3 * 3),
        (NEEDS_CREATED_PROFILE, json!({ "prompt": "one two" }).to_string(), 2 * 11 + 3 * 13),
        (ON_DEMAND, cached.to_string(), 3 * 2 + 4 * 3 + 3 * 7),
    ] {
        let path = format!("/model/{}/invoke", encoded(model));
        let path = if model == NEEDS_CREATED_PROFILE { path } else { converse_path(model) };
        let answer = daemon.post(&path, body).await;
        assert_eq!(answer.status, 200, "{model}: {answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!(record["costNanoUsd"], cost * 1_000, "{model}: {record}");
        spent += cost * 1_000;
        assert_eq!(host(&daemon).await["nanoUsdToday"], spent, "{model}");
    }
}

/// No spelling of a model evades its limits: not the ARN of a profile that was made after the daemon had listed them.
#[tokio::test]
async fn the_model_behind_an_arn_is_limited_and_priced() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let prices = setup.path().join("prices.toml");
    std::fs::write(&prices, "[[prices]]\nmodel = \"amazon.*\"\ninput = 1000\noutput = 1000\n").unwrap();
    let limits = format!(
        "[limits]\nprices_file = \"{}\"\nusd_per_day = 0.20\n[limits.models.\"anthropic.*\"]\n\
         requests_per_minute = 1\nrequest_burst = 2",
        prices.display()
    );
    let daemon = setup.with(&limits).ready().await;
    let made = async |name: &str, model: &str| {
        let source = format!("arn:aws:bedrock:us-east-1::foundation-model/{model}");
        let body = json!({ "inferenceProfileName": name, "modelSource": { "copyFrom": source } });
        let answer = direct(&bedrock, request(http::Method::POST, "/inference-profiles", body.to_string())).await;
        answer.json()["inferenceProfileArn"].as_str().unwrap().to_owned()
    };
    let nova = made("nova by hand", ON_DEMAND).await;
    let claude = made("claude by hand", "anthropic.claude-3-haiku-20240307-v1:0").await;
    bedrock.clear();

    // 10.2 cents, and then another 10.2 do not fit.
    let answer = daemon.post(&converse_path(&nova), bounded("events 100", 100)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["costNanoUsd"], 102_000_000);
    assert_eq!(host(&daemon).await["nanoUsdToday"], 102_000_000);
    for model in [&nova, ON_DEMAND, "us.amazon.nova-lite-v1:0"] {
        let (sentence, _) = throttled(&daemon.post(&converse_path(model), bounded("events 100", 100)).await);
        assert!(sentence.contains("usd_per_day"), "{model}: {sentence}");
    }
    assert_eq!(received(&bedrock, "GetInferenceProfile").len(), 1, "looked up once");

    // Two requests fill the group's burst, by whichever name.
    assert_eq!(daemon.post(&converse_path(&claude), bounded("x", 9)).await.status, 200);
    assert_eq!(
        daemon.post(&converse_path("anthropic.claude-3-haiku-20240307-v1:0"), bounded("x", 9)).await.status,
        200
    );
    let (sentence, _) = throttled(&daemon.post(&converse_path(&claude), bounded("x", 9)).await);
    assert!(sentence.contains("anthropic.*"), "{sentence}");

    // What nobody can tell may be of that group too.
    let unknown = "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abcdef";
    let (sentence, _) = throttled(&daemon.post(&converse_path(unknown), bounded("x", 9)).await);
    assert!(sentence.contains("anthropic.*"), "{sentence}");
}
