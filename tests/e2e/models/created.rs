//! Profiles that the daemon makes for models that have none.

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Fault, Options};
use test_support::*;

use super::{arn, made_by_hand};

#[tokio::test]
async fn a_profile_is_created_once_for_many_requests_and_used_by_all() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    bedrock.inject(Fault::once(Effect::SlowFirstByte { ms: 300 }).on("CreateInferenceProfile"));
    let path = format!("/model/{}/invoke", encoded(NEEDS_CREATED_PROFILE));
    let asked = json!({ "prompt": "hello" }).to_string();
    let connection = Http2::to(daemon.address()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (connection, asked, path) = (connection.clone(), asked.clone(), path.clone());
        tasks.spawn(async move { connection.send(request(Method::POST, &path, asked)).await });
    }
    while let Some(answer) = tasks.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.header("x-bedrock-sidecar-model").unwrap().contains(":application-inference-profile/"));
    }
    let made = received(&bedrock, "CreateInferenceProfile");
    assert_eq!(made.len(), 1, "one creation for all");
    let body: Value = serde_json::from_slice(&made[0].body).unwrap();
    assert_eq!(body["modelSource"]["copyFrom"], arn(&format!(":foundation-model/{NEEDS_CREATED_PROFILE}")));
    let records = daemon.all_records(21).await;
    let own: Vec<_> = records.iter().filter(|record| record["operation"] == "CreateInferenceProfile").collect();
    assert_eq!((records.len(), own.len()), (21, 1), "the daemon's own call has a record, and one alone");
    for (field, expected) in [
        ("modelId", json!(arn(&format!(":foundation-model/{NEEDS_CREATED_PROFILE}")))),
        ("sourceIP", json!("bedrock-sidecar")),
        ("callerUid", json!(users::own_uid())),
        ("identityVerified", json!(false)),
        ("destinationRegion", json!("us-east-1")),
        ("upstreamRequestId", json!(made[0].request_id)),
        ("requestSize", json!(made[0].body.len())),
        ("outcome", json!("completed")),
        ("statusCode", json!(201)),
        ("attempts", json!(1)),
        ("inputTokens", Value::Null),
    ] {
        assert_eq!(own[0][field], expected, "{field} in {}", own[0]);
    }
    let name = body["inferenceProfileName"].as_str().unwrap();
    assert_eq!(name, "bedrock-sidecar-mistral-pixtral-large-2502-v1-0");
    assert!(!body["clientRequestToken"].as_str().unwrap().is_empty());
    assert_eq!(received(&bedrock, "InvokeModel").len(), 20, "and no attempt without it");

    // Another daemon of the account finds the profile in the listing.
    bedrock.clear();
    let second = Setup::tls(&bedrock).ready().await;
    assert_eq!(second.post(&path, asked).await.status, 200);
    assert_eq!(received(&bedrock, "CreateInferenceProfile").len(), 0);
}

#[tokio::test]
async fn a_name_that_is_taken_is_found_by_listing() {
    let bedrock = bedrock_with(Options { page_size: 1, ..Options::default() }).await;
    let daemon = Setup::plain(&bedrock).ready().await;
    // Made behind the daemon's back, after its discovery.
    let source = arn(&format!(":foundation-model/{NEEDS_CREATED_PROFILE}"));
    made_by_hand(&bedrock, "another", &source).await;
    let profile = made_by_hand(&bedrock, "bedrock-sidecar-mistral-pixtral-large-2502-v1-0", &source).await;
    let path = format!("/model/{}/invoke", encoded(NEEDS_CREATED_PROFILE));
    let answer = daemon.post(&path, json!({ "prompt": "hello" }).to_string()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-model")), (200, Some(profile.as_str())), "{answer:?}");
    let tried = received(&bedrock, "CreateInferenceProfile");
    assert_eq!(tried.last().unwrap().error_type.as_deref(), Some("ConflictException"));
}

/// A user who may make profiles gives one the name that the daemon would, and makes it from another model.
#[tokio::test]
async fn a_profile_of_another_model_is_not_used_for_its_name() {
    let path = format!("/model/{}/invoke", encoded(NEEDS_CREATED_PROFILE));
    let prompt = json!({ "prompt": "hello" }).to_string();
    let name = "bedrock-sidecar-mistral-pixtral-large-2502-v1-0";
    for listed_before in [true, false] {
        let bedrock = bedrock().await;
        let other = arn(&format!(":foundation-model/{ON_DEMAND}"));
        if listed_before {
            made_by_hand(&bedrock, name, &other).await;
        }
        let daemon = Setup::plain(&bedrock).ready().await;
        if !listed_before {
            made_by_hand(&bedrock, name, &other).await;
        }
        for _ in 0..2 {
            let answer = daemon.post(&path, prompt.clone()).await;
            let sentence = refused(&answer, 503, "ServiceUnavailableException");
            assert!(sentence.contains(name) && sentence.contains("delete it"), "{sentence}");
            let record = daemon.record_of(&answer).await;
            assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(0)), "{record}");
            assert_eq!(record["inferenceProfileUsed"], Value::Null, "{record}");
        }
        assert_eq!(received(&bedrock, "InvokeModel").len(), 0);
    }
}

#[tokio::test]
async fn when_no_profile_can_be_created_the_sentence_says_what_to_do() {
    let bedrock = bedrock().await;
    let path = format!("/model/{}/invoke", encoded(NEEDS_CREATED_PROFILE));
    let body = json!({ "prompt": "hello" }).to_string();
    let off = Setup::plain(&bedrock).with("[models]\ncreate_profiles = false").ready().await;
    let sentence = refused(&off.post(&path, body.clone()).await, 400, "ValidationException");
    assert!(sentence.contains("models.create_profiles is false"), "{sentence}");

    let daemon = Setup::plain(&bedrock).ready().await;
    let error = |status, error_type: &str, message: &str| Effect::Error {
        status,
        error_type: error_type.into(),
        message: message.into(),
        capital: false,
        headers: Default::default(),
    };
    let denied = "User: arn:aws:iam::1:user/x is not authorized to perform: bedrock:CreateInferenceProfile";
    for (effect, status, kind, says) in [
        (
            error(403, "AccessDeniedException", denied),
            403,
            "AccessDeniedException",
            "allow bedrock:CreateInferenceProfile",
        ),
        (
            error(400, "ServiceQuotaExceededException", "too many"),
            400,
            "ValidationException",
            "ServiceQuotaExceededException",
        ),
        (Effect::InternalServerError, 503, "ServiceUnavailableException", "none could be created"),
        (Effect::Throttle { text: Default::default() }, 503, "ServiceUnavailableException", "none could be created"),
    ] {
        bedrock.inject(Fault::once(effect).on("CreateInferenceProfile"));
        let sentence = refused(&daemon.post(&path, body.clone()).await, status, kind);
        assert!(sentence.contains(says), "{sentence}");
    }
    let records = daemon.all_records(8).await;
    let own = records.iter().filter(|record| record["operation"] == "CreateInferenceProfile");
    let own: Vec<_> = own.map(|record| (record["outcome"].as_str().unwrap(), record["statusCode"].clone())).collect();
    assert_eq!(own, [403, 400, 500, 429].map(|status| ("upstream_error", json!(status))), "each has its record");
    assert_eq!(daemon.post(&path, body).await.status, 200, "nothing of it sticks");
}

/// All wait for one creation, and it fails for all of them.
#[tokio::test]
async fn requests_that_wait_for_a_creation_share_its_failure() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let denied = Effect::Error {
        status: 403,
        error_type: "AccessDeniedException".into(),
        message: "User: x is not authorized to perform: bedrock:CreateInferenceProfile".into(),
        capital: false,
        headers: Default::default(),
    };
    bedrock.inject(Fault::once(denied).times(0).on("CreateInferenceProfile"));
    let path = format!("/model/{}/invoke", encoded(NEEDS_CREATED_PROFILE));
    let connection = Http2::to(daemon.address()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let (connection, path) = (connection.clone(), path.clone());
        tasks.spawn(async move { connection.send(request(Method::POST, &path, "{\"prompt\":\"x\"}")).await });
    }
    for answer in tasks.join_all().await {
        refused(&answer, 403, "AccessDeniedException");
    }
    let tried = received(&bedrock, "CreateInferenceProfile").len();
    assert!(tried < 30, "{tried} tries for 30 requests at once");
}
