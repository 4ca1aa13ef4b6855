//! ARNs that do not tell their model, as limits, prices and the rules on models see them.

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Fault};
use test_support::*;

const ROUTER: &str = "arn:aws:bedrock:us-east-1:123456789012:default-prompt-router/anthropic.claude:1";
const PROVISIONED: &str = "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/claude000001";
const NOVA_ROUTER: &str = "arn:aws:bedrock:us-east-1:123456789012:prompt-router/nova00000001";
const NOVA_PROVISIONED: &str = "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/nova00000001";

async fn ask(daemon: &Daemon, model: &str) -> Answer {
    daemon.post(&converse_path(model), converse("hello")).await
}

async fn recorded(daemon: &Daemon, answer: &Answer, model: &str, outcome: &str) -> Value {
    let record = daemon.record_of(answer).await;
    for (field, expected) in [
        ("modelId", json!(model)),
        ("operation", json!("Converse")),
        ("outcome", json!(outcome)),
        ("statusCode", json!(answer.status)),
        ("responseSize", json!(answer.body.len())),
        ("attempts", json!(u32::from(outcome == "completed"))),
        ("inferenceProfileUsed", Value::Null),
    ] {
        assert_eq!(record[field], expected, "{field} of {model}: {record}");
    }
    record
}

#[tokio::test]
async fn routers_and_provisioned_throughput_are_limited_and_priced_by_their_models() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let prices = setup.path().join("prices.toml");
    std::fs::write(
        &prices,
        "[[prices]]\nmodel = \"*haiku*\"\ninput = 1\noutput = 1\n[[prices]]\nmodel = \"*sonnet*\"\ninput = 3\noutput = 3\n\
         [[prices]]\nmodel = \"amazon.*\"\ninput = 2\noutput = 2\n",
    )
    .unwrap();
    let limits = format!(
        "[limits]\nprices_file = \"{}\"\n[limits.models.\"anthropic.*\"]\nrequests_per_minute = 1\nrequest_burst = 2",
        prices.display()
    );
    let daemon = setup.with(&limits).ready().await;
    bedrock.clear();
    // A router costs as much as the dearest of its models, and prices are for a million tokens.
    for (model, dollars) in [(ROUTER, 3), (PROVISIONED, 1), (NOVA_ROUTER, 2), (NOVA_PROVISIONED, 2)] {
        let answer = ask(&daemon, model).await;
        assert_eq!(answer.status, 200, "{model}: {answer:?}");
        let record = recorded(&daemon, &answer, model, "completed").await;
        let tokens = record["inputTokens"].as_u64().unwrap() + record["outputTokens"].as_u64().unwrap();
        assert_eq!(record["costNanoUsd"], tokens * dollars * 1_000, "{model}: {record}");
    }
    for model in [ROUTER, PROVISIONED] {
        let answer = ask(&daemon, model).await;
        assert!(refused(&answer, 429, "ThrottlingException").contains("anthropic.*"), "{model}: {answer:?}");
        recorded(&daemon, &answer, model, "refused").await;
    }
    assert_eq!(ask(&daemon, NOVA_ROUTER).await.status, 200, "of another group");
    assert_eq!(received(&bedrock, "GetPromptRouter").len(), 2, "each is looked up once");
    assert_eq!(received(&bedrock, "GetProvisionedModelThroughput").len(), 2);
}

#[tokio::test]
async fn a_denied_model_is_not_reached_by_a_router_or_provisioned_throughput() {
    let bedrock = bedrock().await;
    let other = "arn:aws:bedrock:us-east-1:123456789012:imported-model/abc";
    let unknown = "arn:aws:bedrock:us-east-1:123456789012:prompt-router/unknown";
    let daemon = Setup::plain(&bedrock).with("[models]\ndeny = [\"*sonnet*\"]").ready().await;
    bedrock.clear();
    for (model, status, kind, says) in [
        // One of the models that the router may choose.
        (ROUTER, 403, "AccessDeniedException", "is refused by \"*sonnet*\" in models.deny"),
        (unknown, 404, "ResourceNotFoundException", "does not exist in us-east-1"),
        (other, 403, "AccessDeniedException", "does not tell which model it is"),
    ] {
        let answer = ask(&daemon, model).await;
        assert!(refused(&answer, status, kind).contains(says), "{model}: {answer:?}");
        recorded(&daemon, &answer, model, "refused").await;
    }
    assert_eq!(received(&bedrock, "Converse").len(), 0);
    for model in [PROVISIONED, NOVA_ROUTER] {
        let answer = ask(&daemon, model).await;
        assert_eq!(answer.status, 200, "{model}: {answer:?}");
        recorded(&daemon, &answer, model, "completed").await;
    }
    let daemon = Setup::plain(&bedrock).with("[models]\nallow = [\"amazon.nova*\"]").ready().await;
    assert_eq!(ask(&daemon, NOVA_PROVISIONED).await.status, 200);
    let answer = ask(&daemon, PROVISIONED).await;
    assert!(refused(&answer, 403, "AccessDeniedException").contains("is not in models.allow"), "{answer:?}");
}

#[tokio::test]
async fn a_callers_own_rules_see_behind_arns_too() {
    let bedrock = bedrock().await;
    let made = json!({
        "inferenceProfileName": "amazon nova",
        "modelSource": { "copyFrom": "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-3-haiku-20240307-v1:0" },
    });
    let made = direct(&bedrock, request(Method::POST, "/inference-profiles", made.to_string())).await;
    let application = made.json()["inferenceProfileArn"].as_str().unwrap().to_owned();
    let user = format!("[[callers]]\nname = \"me\"\nusers = [\"{}\"]\n", users::own_uid());
    let imported = "arn:aws:bedrock:us-east-1:123456789012:imported-model/abc";
    let prompt = "arn:aws:bedrock:us-east-1:123456789012:prompt/ABC:1";
    for (rules, says, refusals, served) in [
        (
            "deny_models = [\"*HAIKU*\"]",
            "deny_models at",
            vec![ROUTER, PROVISIONED, application.as_str()],
            vec![NOVA_ROUTER, NOVA_PROVISIONED],
        ),
        (
            "models = [\"amazon.nova*\"]",
            "models at",
            vec![ROUTER, PROVISIONED, application.as_str(), imported],
            vec![NOVA_ROUTER, NOVA_PROVISIONED, ON_DEMAND],
        ),
        // The name of the ARN is that of its models, but whoever makes a profile chooses its name.
        (
            "models = [\"*nova*\", \"*:prompt-router/*\"]",
            "models at",
            vec![application.as_str(), PROVISIONED],
            vec![NOVA_ROUTER],
        ),
        ("", "does not tell which model it is", vec![prompt], vec![ROUTER, PROVISIONED, application.as_str()]),
    ] {
        let daemon = Setup::plain(&bedrock).with(&format!("{user}{rules}")).ready().await;
        bedrock.clear();
        for model in refusals {
            let answer = ask(&daemon, model).await;
            let sentence = refused(&answer, 403, "AccessDeniedException");
            assert!(sentence.contains(says), "{rules} {model}: {sentence}");
            let record = recorded(&daemon, &answer, model, "refused").await;
            assert_eq!(record["errorMessage"], sentence.as_str(), "{record}");
        }
        assert_eq!(received(&bedrock, "Converse").len(), 0, "{rules}");
        for model in served {
            assert_eq!(ask(&daemon, model).await.status, 200, "{rules} {model}");
        }
    }
}

/// Names that a caller makes up cost a few calls at most, and no other name waits for them.
#[tokio::test]
async fn made_up_arns_cost_few_calls_and_stop_nobody() {
    let bedrock = bedrock().await;
    let limits = "[limits.models.\"anthropic.*\"]\nrequests_per_minute = 100000\nrequest_burst = 100000";
    let daemon = Setup::plain(&bedrock).with(limits).ready().await;
    bedrock.clear();
    bedrock.inject(Fault::once(Effect::SlowFirstByte { ms: 20_000 }).times(0).on("GetInferenceProfile"));
    let connection = Http2::to(daemon.address()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let arn = format!("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/made{number}");
        let (connection, path) = (connection.clone(), converse_path(&arn));
        tasks.spawn(async move { connection.send(request(Method::POST, &path, converse("x"))).await });
    }
    until("look-ups", || (!received(&bedrock, "GetInferenceProfile").is_empty()).then_some(())).await;
    let began = std::time::Instant::now();
    assert_eq!(ask(&daemon, "anthropic.claude-3-haiku-20240307-v1:0").await.status, 200);
    assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
    while let Some(answer) = tasks.join_next().await {
        assert!(matches!(answer.unwrap().status, 429 | 503), "none was sent");
    }
    assert_eq!(received(&bedrock, "Converse").len(), 1);
    let calls = received(&bedrock, "GetInferenceProfile").len();
    assert!(calls <= 20, "{calls} calls for 200 names");
}
