//! Anthropic's path is bedrock-runtime's. The mantle host serves it where bedrock-runtime lacks what is asked for.

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Fault, Options, Simulator};
use test_support::users::own_uid;
use test_support::*;

use super::{CLAUDE, GPT, assert_record, chat, message_to};

const ON_RUNTIME: &str = "anthropic.claude-3-haiku-20240307-v1:0";

fn to(path: &str, body: &str) -> Request {
    let mut asked = request(Method::POST, path, body.to_owned());
    asked.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
    asked
}

#[tokio::test]
async fn a_model_that_bedrock_runtime_lacks_is_served_by_the_mantle_host() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    let count = json!({ "model": CLAUDE, "messages": [{ "role": "user", "content": "one two three" }] }).to_string();
    for (path, body, operation, tokens) in [
        ("/anthropic/v1/messages", message_to(CLAUDE, json!({})), "Messages", json!(3)),
        ("/anthropic/v1/messages/count_tokens", count, "MessagesCountTokens", Value::Null),
    ] {
        let expected = direct_to_mantle(&bedrock, to(path, &body)).await;
        assert_eq!(expected.status, 200, "{expected:?}");
        bedrock.clear();
        let answer = send(daemon.address(), to(path, &body)).await;
        same(&answer, &expected);
        assert_eq!(received(&bedrock, operation).len(), 1, "bedrock-runtime is asked first");
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[
                ("operation", json!(operation)),
                ("endpoint", json!("bedrock-mantle")),
                ("attempts", json!(2)),
                ("inputTokens", tokens),
                ("outcome", json!("completed")),
                ("responseSize", json!(answer.body.len())),
            ],
        );
    }
}

#[tokio::test]
async fn what_bedrock_runtime_has_it_serves() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    bedrock.clear();
    let answer = send(daemon.address(), to("/anthropic/v1/messages", &message_to(ON_RUNTIME, json!({})))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(received(&bedrock, "MantleMessages").is_empty());
    assert_record(&daemon.record_of(&answer).await, &[("endpoint", Value::Null), ("attempts", json!(1))]);
}

#[tokio::test]
async fn what_neither_has_is_told_in_bedrock_runtime_s_words() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    let body = message_to("anthropic.claude-none", json!({}));
    let expected = direct(&bedrock, to("/anthropic/v1/messages", &body)).await;
    bedrock.clear();
    let answer = send(daemon.address(), to("/anthropic/v1/messages", &body)).await;
    assert_eq!((answer.status, &answer.json()["error"]), (expected.status, &expected.json()["error"]), "{answer:?}");
    assert_eq!(received(&bedrock, "MantleMessages").len(), 1);
    let record = daemon.record_of(&answer).await;
    assert_record(&record, &[("outcome", json!("upstream_error")), ("endpoint", Value::Null), ("attempts", json!(2))]);
}

fn failing(status: u16, error_type: &str, operation: &str) -> Fault {
    let effect = Effect::Error {
        status,
        error_type: error_type.into(),
        message: "CANARY".into(),
        capital: false,
        headers: Default::default(),
    };
    Fault::once(effect).on(operation)
}

/// Whoever may not use the mantle host gets bedrock-runtime's answer, and no other.
#[tokio::test]
async fn a_caller_whose_rules_do_not_permit_the_group_is_not_served_there() {
    let bedrock = bedrock().await;
    let lacking = direct(&bedrock, to("/anthropic/v1/messages", &message_to(CLAUDE, json!({})))).await.status;
    for (rules, status, asks) in [
        ("deny_operations = [\"Mantle\"]", lacking, 0),
        ("deny_operations = [\"Mantle*\"]", lacking, 0),
        ("operations = [\"Messages\"]", lacking, 0),
        ("operations = [\"Messages\", \"Mantle\"]", 200, 1),
        ("operations = [\"*\"]", 200, 1),
        ("deny_operations = [\"MantleResponses\"]", 200, 1),
    ] {
        let entry = format!("[[callers]]\nname = \"me\"\nusers = [\"{}\"]\n{rules}", own_uid());
        let daemon = Setup::mantle(&bedrock).with(&entry).ready().await;
        bedrock.clear();
        let answer = send(daemon.address(), to("/anthropic/v1/messages", &message_to(CLAUDE, json!({})))).await;
        assert_eq!(answer.status, status, "{rules}: {answer:?}");
        assert_eq!(received(&bedrock, "MantleMessages").len(), asks, "{rules}");
        let endpoint = if asks == 1 { json!("bedrock-mantle") } else { Value::Null };
        let record = daemon.record_of(&answer).await;
        assert_record(&record, &[("endpoint", endpoint), ("attempts", json!(1 + asks)), ("caller", json!("me"))]);
    }
}

/// As long as nobody knows whether the mantle host has the model, its troubles do not hide what bedrock-runtime has said.
#[tokio::test]
async fn troubles_of_the_mantle_host_do_not_hide_that_bedrock_runtime_lacks_the_model() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).with("[limits]\ntokens_per_day = 100000000").ready().await;
    let body = message_to(CLAUDE, json!({}));
    let lacking = direct(&bedrock, to("/anthropic/v1/messages", &body)).await;
    for status in [400, 429, 500, 503, 504] {
        bedrock.inject(failing(status, "trouble", "MantleMessages"));
        let answer = send(daemon.address(), to("/anthropic/v1/messages", &body)).await;
        assert_eq!((answer.status, &answer.json()["error"]), (lacking.status, &lacking.json()["error"]), "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[
                ("outcome", json!("upstream_error")),
                ("statusCode", json!(lacking.status)),
                ("endpoint", Value::Null),
                ("attempts", json!(2)),
            ],
        );
        // A gateway before the mantle host does not know whether a model was at work there.
        let limits = daemon.admin_get("/status").await.json()["limits"]["scopes"][0].clone();
        assert_eq!(limits["tokensToday"].as_u64().unwrap() > 0, status == 504, "{status}: {limits}");
    }
    assert!(!daemon.log_text().contains("CANARY"));
    // What it has served it has.
    let served = send(daemon.address(), to("/anthropic/v1/messages", &body)).await;
    assert_eq!(served.status, 200, "{served:?}");
    bedrock.inject(failing(429, "rate_limit_error", "MantleMessages"));
    let answer = send(daemon.address(), to("/anthropic/v1/messages", &body)).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_record(&record, &[("statusCode", json!(429)), ("endpoint", json!("bedrock-mantle"))]);
}

/// The mantle hosts of two regions.
async fn two() -> (Simulator, Simulator, Daemon) {
    let east = bedrock().await;
    let west = bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await;
    let setup = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]);
    let of = |region: &str, bedrock: &Simulator, ca: &str| {
        let upstream = upstream(region, &bedrock.tls_endpoint(), Some(&setup.path().join(ca)));
        format!("{upstream}mantle_endpoint = \"{}\"\n", bedrock.mantle_tls_endpoint())
    };
    let text = of("us-east-1", &east, "ca-0.pem") + &of("us-west-2", &west, "ca-1.pem");
    let daemon = setup.upstreams(&text).with("[mantle]\nenabled = true").ready().await;
    (east, west, daemon)
}

/// Which region has answered, at the first attempt.
async fn served_by(daemon: &Daemon, answer: &Answer, attempts: u32) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = daemon.record_of(answer).await;
    assert_record(&record, &[("outcome", json!("completed")), ("attempts", json!(attempts))]);
    let region = answer.header("x-bedrock-sidecar-region").unwrap().to_owned();
    assert_eq!(record["destinationRegion"], json!(region));
    region
}

#[tokio::test]
async fn a_key_that_the_mantle_host_refuses_may_be_good_on_bedrock_runtime() {
    let (east, _west, daemon) = two().await;
    east.inject(failing(401, "invalid_api_key", "MantleChatCompletions").times(0));
    // The key is read anew and tried once more before that.
    let answer = daemon.post("/v1/chat/completions", chat(GPT, json!({}))).await;
    assert_eq!(served_by(&daemon, &answer, 3).await, "us-west-2");
    let answer = send(daemon.address(), to("/anthropic/v1/messages", &message_to(ON_RUNTIME, json!({})))).await;
    assert_eq!(served_by(&daemon, &answer, 1).await, "us-east-1");
    // Where it was refused, it is not tried again at once.
    let answer = daemon.post("/v1/chat/completions", chat(GPT, json!({}))).await;
    assert_eq!(served_by(&daemon, &answer, 1).await, "us-west-2");
}

#[tokio::test]
async fn a_throttle_is_noted_for_the_host_that_said_it() {
    let (east, _west, daemon) = two().await;
    for (throttles, region, attempts) in [(false, "us-east-1", 2), (true, "us-west-2", 4), (false, "us-east-1", 2)] {
        if throttles {
            east.inject(failing(429, "rate_limit_error", "MantleMessages"));
        }
        let answer = send(daemon.address(), to("/anthropic/v1/messages", &message_to(CLAUDE, json!({})))).await;
        assert_eq!(served_by(&daemon, &answer, attempts).await, region, "bedrock-runtime has throttled nothing");
    }
}
