//! Profiles that an upstream's refusal has led to: remembered, and forgotten when they are gone.

use http::Method;
use serde_json::json;
use simulator::{Effect, Fault};
use test_support::*;

use super::{arn, ask};

/// Listed as ON_DEMAND, and yet refused with the text about on-demand throughput: with either apostrophe.
const CURLY: &str = "meta.llama3-3-70b-instruct-v1:0";
const STRAIGHT: &str = "meta.llama3-2-11b-instruct-v1:0";

#[tokio::test]
async fn the_text_about_on_demand_throughput_leads_to_the_profile_and_is_remembered() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    for model in [CURLY, STRAIGHT] {
        bedrock.clear();
        let profile = format!("us.{model}");
        let answer = ask(&daemon, model).await;
        assert_eq!(
            (answer.status, answer.header("x-bedrock-sidecar-model")),
            (200, Some(profile.as_str())),
            "{answer:?}"
        );
        let sent: Vec<_> = received(&bedrock, "Converse").into_iter().map(|one| one.model.unwrap()).collect();
        assert_eq!(sent, [model.to_owned(), profile.clone()]);
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["attempts"], &record["inferenceProfileUsed"]), (&json!(2), &json!(profile)), "{record}");
        // A stream finds it too, and now without the detour.
        bedrock.clear();
        let answer = daemon.post(&stream_path(model), converse("events 3")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(bedrock.requests().len(), 1, "learned is remembered");
        assert_eq!(daemon.record_of(&answer).await["attempts"], 1);
    }
    let page = daemon.metrics().await;
    assert_eq!(metric(&page, "bedrock_sidecar_profile_resolutions_total{how=\"learned\"}"), Some(2.0), "{page}");
}

#[tokio::test]
async fn the_retry_is_made_once_and_other_refusals_pass_through() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.clear();
    let on_demand = |apostrophe: &str| Effect::Error {
        status: 400,
        error_type: "ValidationException".into(),
        message: format!("Invocation of model ID x with on-demand throughput isn{apostrophe}t supported."),
        capital: true,
        headers: Default::default(),
    };
    bedrock.inject(Fault::once(on_demand("\u{2019}")).times(0).on("Converse"));
    let answer = ask(&daemon, ON_DEMAND).await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (400, Some("ValidationException")));
    assert!(answer.json()["Message"].as_str().unwrap().contains("on-demand throughput"), "the upstream's own words");
    assert_eq!(received(&bedrock, "Converse").len(), 2, "one retry, through the profile");
    bedrock.clear_faults();
    for model in ["ai21.jamba-1-5-large-v1:0", "anthropic.claude-3-opus-20240229-v1:0", "nobody.knows-v1:0"] {
        bedrock.clear();
        let expected = direct(&bedrock, request(Method::POST, &converse_path(model), converse("hello"))).await;
        assert!(expected.status >= 400);
        same(&ask(&daemon, model).await, &expected);
        assert_eq!(received(&bedrock, "Converse").len(), 2, "{model}: no retry");
    }
}

#[tokio::test]
async fn a_learned_profile_that_is_gone_is_forgotten() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let path = format!("/model/{}/invoke", encoded(NEEDS_CREATED_PROFILE));
    let body = json!({ "prompt": "hello" }).to_string();
    let first = daemon.post(&path, body.clone()).await;
    let profile = first.header("x-bedrock-sidecar-model").unwrap().to_owned();
    let gone =
        direct(&bedrock, request(Method::DELETE, &format!("/inference-profiles/{}", encoded(&profile)), "")).await;
    assert_eq!(gone.status, 200);
    assert_eq!(daemon.post(&path, body.clone()).await.status, 404, "the upstream's answer");
    assert_eq!(daemon.post(&path, body).await.status, 200, "made anew");
    assert_eq!(received(&bedrock, "CreateInferenceProfile").len(), 2);
}

/// One caller's mistake must not cost all others a listing and a creation.
#[tokio::test]
async fn a_learned_profile_is_kept_over_bad_requests() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let path = format!("/model/{}/invoke", encoded(NEEDS_CREATED_PROFILE));
    let body = json!({ "prompt": "hello" }).to_string();
    assert_eq!(daemon.post(&path, body.clone()).await.status, 200);
    bedrock.clear();
    for message in ["Malformed input request", "Malformed: \"The provided model identifier is invalid\""] {
        bedrock.inject(Fault::once(Effect::Error {
            status: 400,
            error_type: "ValidationException".into(),
            message: message.into(),
            capital: false,
            headers: Default::default(),
        }));
        let answer = daemon.post(&path, "{\"nonsense\":1}").await;
        assert_eq!(answer.status, 400);
        assert_eq!(daemon.record_of(&answer).await["outcome"], "upstream_error");
        assert_eq!(daemon.post(&path, body.clone()).await.status, 200);
    }
    let others: Vec<_> = bedrock.requests().into_iter().filter_map(|one| one.operation).collect();
    assert!(others.iter().all(|operation| operation == "InvokeModel"), "{others:?}");
}

/// However a model is asked for, what was learned of it is one thing.
#[tokio::test]
async fn a_learned_profile_that_is_gone_is_forgotten_under_every_name_of_the_model() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .with(&format!("[models.aliases]\n\"pixtral\" = \"{NEEDS_CREATED_PROFILE}\""))
        .ready()
        .await;
    let body = json!({ "prompt": "hello" }).to_string();
    for asked in [
        NEEDS_CREATED_PROFILE,
        "pixtral",
        &format!("us-gov.{NEEDS_CREATED_PROFILE}"),
        &format!("arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{NEEDS_CREATED_PROFILE}"),
    ] {
        let path = format!("/model/{}/invoke", encoded(asked));
        let first = daemon.post(&path, body.clone()).await;
        assert_eq!(first.status, 200, "{asked}: {first:?}");
        let profile = encoded(first.header("x-bedrock-sidecar-model").unwrap());
        direct(&bedrock, request(Method::DELETE, &format!("/inference-profiles/{profile}"), "")).await;
        assert_eq!(daemon.post(&path, body.clone()).await.status, 404, "{asked}: the upstream's answer");
        let again = daemon.post(&path, body.clone()).await;
        assert_eq!(again.status, 200, "{asked}: made anew: {again:?}");
        daemon.record_of(&again).await;
    }
    // An ARN of the model itself needs no trial, once it is known that the model takes a profile.
    let arn = arn(&format!(":foundation-model/{CURLY}"));
    for calls in [2, 1] {
        bedrock.clear();
        assert_eq!(ask(&daemon, &arn).await.status, 200);
        assert_eq!(received(&bedrock, "Converse").len(), calls);
    }
}
