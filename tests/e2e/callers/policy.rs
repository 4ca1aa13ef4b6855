//! What a known caller may do, and the classification of its data.

use http::Method;
use serde_json::{Value, json};
use test_support::users::own_uid;
use test_support::*;

use super::{TOKEN, with_callers};

#[tokio::test]
async fn policy_decides_by_model_and_operation_and_deny_beats_allow() {
    let bedrock = bedrock().await;
    let text = format!(
        r#"
[models]
allow_profile_management = true
[[callers]]
name = "me"
users = ["{}"]
models = ["amazon.*", "*haiku*"]
deny_models = ["*premier*"]
operations = ["Converse*", "List*", "CreateInferenceProfile"]
deny_operations = ["ConverseStream"]
[log]
level = "debug"
"#,
        own_uid()
    );
    let daemon = with_callers(Setup::plain(&bedrock), &text).ready().await;
    let at = |what: &str, text: &str| format!("{what} at config.toml:{}", daemon.line_of(text));
    let ok = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!(ok.status, 200, "{ok:?}");
    assert_eq!(daemon.record_of(&ok).await["caller"], "me");
    let allowed = daemon.says("request allowed").await;
    assert_eq!((&allowed["caller"], &allowed["operation"]), (&json!("me"), &json!("Converse")), "{allowed}");
    assert_eq!(daemon.post(&converse_path("anthropic.claude-3-haiku-20240307-v1:0"), converse("x")).await.status, 200);
    assert_eq!(daemon.get("/foundation-models").await.status, 200);
    let reached = received(&bedrock, "Converse").len();

    let invoke = format!("/model/{}/invoke", encoded(ON_DEMAND));
    let refusals = [
        (converse_path(PROFILE_ONLY), at("deny_models", "deny_models = ")),
        (converse_path(&format!("us.{PROFILE_ONLY}")), at("deny_models", "deny_models = ")),
        (converse_path(&PROFILE_ONLY.to_uppercase()), at("deny_models", "deny_models = ")),
        (
            converse_path(&format!("arn:aws:bedrock:us-east-1::foundation-model/{PROFILE_ONLY}")),
            at("deny_models", "deny_models = "),
        ),
        (converse_path("mistral.mistral-large-2402-v1:0"), at("models", "\nmodels = ".trim())),
        (stream_path(ON_DEMAND), at("deny_operations", "deny_operations = ")),
        (invoke, at("operations", "operations = [\"Converse*")),
    ];
    for (path, rule) in refusals {
        let answer = daemon.post(&path, converse("x")).await;
        let sentence = refused(&answer, 403, "AccessDeniedException");
        let line = rule.split_once(" at ").unwrap();
        assert!(sentence.contains(line.0) && sentence.contains("\"me\""), "{path}: {sentence}");
        if !line.0.starts_with("models") {
            assert!(sentence.contains(&rule), "{path}: {sentence} {rule}");
        }
        let record = daemon.record_of(&answer).await;
        assert_eq!(
            (&record["caller"], &record["outcome"], &record["attempts"]),
            (&json!("me"), &json!("refused"), &json!(0))
        );
        assert_eq!(record["errorMessage"], sentence.as_str());
        until("the event", || {
            daemon.lines().into_iter().find(|one| {
                one["message"] == "request refused" && one["reason"].as_str().is_some_and(|why| sentence.ends_with(why))
            })
        })
        .await;
    }
    let profile = json!({
        "inferenceProfileName": "p",
        "modelSource": { "copyFrom": format!("arn:aws:bedrock:us-east-1::foundation-model/{PROFILE_ONLY}") },
    });
    let answer = daemon.post("/inference-profiles", profile.to_string()).await;
    assert!(refused(&answer, 403, "AccessDeniedException").contains("deny_models at"), "{answer:?}");
    // Neither does a second source hide the one that counts upstream.
    let source = |model: &str| format!(r#"{{"copyFrom":"arn:aws:bedrock:us-east-1::foundation-model/{model}"}}"#);
    let (denied, fine) = (source(PROFILE_ONLY), source(ON_DEMAND));
    for body in [
        format!(r#"{{"inferenceProfileName":"p","modelSource":{denied},"modelSource":{fine}}}"#),
        format!(r#"{{"inferenceProfileName":"p","modelSource":{fine},"modelsource":{denied}}}"#),
    ] {
        let answer = daemon.post("/inference-profiles", body).await;
        assert!(refused(&answer, 400, "ValidationException").contains("modelSource"), "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(0)), "{record}");
        assert_eq!(record["modelId"], "", "{record}");
    }
    assert_eq!(received(&bedrock, "CreateInferenceProfile").len(), 0);
    let body = json!({ "modelId": ON_DEMAND, "contentType": "application/json", "body": converse("x") }).to_string();
    let answer = daemon.post("/v1/bedrock/invoke-model", body).await;
    assert_eq!(answer.status, 403, "the legacy REST API is under the same policy: {answer:?}");
    assert_eq!(received(&bedrock, "Converse").len(), reached);
    assert!(received(&bedrock, "InvokeModel").is_empty() && received(&bedrock, "ConverseStream").is_empty());
}

#[tokio::test]
async fn data_classification_may_be_raised_and_never_lowered() {
    let bedrock = bedrock().await;
    let text = format!(
        r#"
[[callers]]
name = "reports"
bearer_token_file = "{{dir}}/token"
[[callers]]
name = "me"
users = ["{}"]
data_classification = "internal"
[policy]
data_classifications = ["public", "internal", "secret"]
"#,
        own_uid()
    );
    let daemon = with_callers(Setup::plain(&bedrock), &text).ready().await;
    let list = format!("data_classifications at config.toml:{}", daemon.line_of("data_classifications = "));
    let ask = async |token: Option<&str>, level: Option<&str>| {
        let mut request = request(Method::POST, &converse_path(ON_DEMAND), converse("x"));
        if let Some(level) = level {
            request.headers_mut().insert("x-data-classification", level.parse().unwrap());
        }
        if let Some(token) = token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        send(daemon.address(), request).await
    };
    for (token, level, recorded) in [
        (None, None, "internal"),
        (None, Some("internal"), "internal"),
        (None, Some("secret"), "secret"),
        (Some(TOKEN), Some("public"), "public"),
    ] {
        let answer = ask(token, level).await;
        assert_eq!(answer.status, 200, "{level:?}: {answer:?}");
        assert_eq!(daemon.record_of(&answer).await["dataClassification"], recorded);
    }
    for (token, level, words) in [
        (None, Some("public"), "is below the caller's \"internal\""),
        (None, Some("cosmic"), "is not in"),
        (Some(TOKEN), None, "has no data classification"),
    ] {
        let answer = ask(token, level).await;
        let sentence = refused(&answer, 403, "AccessDeniedException");
        assert!(sentence.contains(words) && sentence.contains(&list), "{sentence}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["dataClassification"]), (&json!("refused"), &Value::Null), "{record}");
    }
    refused(&ask(None, Some("not a level!")).await, 400, "ValidationException");
    let sent = received(&bedrock, "Converse");
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|one| one.header("x-data-classification").is_none()), "it is ours, not Bedrock's");
}
