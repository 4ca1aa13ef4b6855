//! What the account lists: read whole, again when it has changed, and done without where it may not be read.

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Fault, Options};
use test_support::*;

use super::{GLOBAL_ONLY, SONNET, arn, ask, made_by_hand};

const ON_DEMAND_REFUSAL: &str = "Invocation of model ID x with on-demand throughput isn't supported.";

fn on_demand_refusal() -> Fault {
    Fault::once(Effect::Error {
        status: 400,
        error_type: "ValidationException".into(),
        message: ON_DEMAND_REFUSAL.into(),
        capital: false,
        headers: Default::default(),
    })
}

#[tokio::test]
async fn discovery_reads_every_page_with_either_kind_of_credential() {
    for secret in [
        simulator::DEFAULT_BEARER_TOKEN.to_owned(),
        format!("{}:{}", simulator::DEFAULT_ACCESS_KEY_ID, simulator::DEFAULT_SECRET_ACCESS_KEY),
    ] {
        let bedrock = bedrock_with(Options { page_size: 2, ..Options::default() }).await;
        let daemon = Setup::tls(&bedrock).secret(&secret).ready().await;
        let pages = received(&bedrock, "ListInferenceProfiles");
        assert!(pages.len() > 6, "{} pages", pages.len());
        assert!(pages.iter().all(|page| page.status == Some(200)));
        assert!(pages.iter().any(|page| page.path.contains("type=APPLICATION")), "application profiles too");
        // The last profile of the last page is known.
        bedrock.clear();
        assert_eq!(
            ask(&daemon, "deepseek.r1-v1:0").await.header("x-bedrock-sidecar-model"),
            Some("us.deepseek.r1-v1:0")
        );
        assert_eq!(received(&bedrock, "Converse").len(), 1);
    }
}

#[tokio::test]
async fn profiles_are_those_of_the_upstreams_region_and_the_allowed_geographies() {
    let tokyo = bedrock_with(Options { region: "ap-northeast-1".into(), ..Options::default() }).await;
    for (geographies, sent) in
        [("\"jp\"", "jp."), ("\"apac\", \"jp\", \"global\"", "jp."), ("\"global\", \"jp\"", "global.")]
    {
        let daemon = Setup::several(&[(&tokyo, "ap-northeast-1")])
            .with(&format!("[models]\ngeographies = [{geographies}]"))
            .ready()
            .await;
        let expected = format!("{sent}{SONNET}");
        assert_eq!(
            ask(&daemon, SONNET).await.header("x-bedrock-sidecar-model"),
            Some(expected.as_str()),
            "{geographies}"
        );
    }
}

#[tokio::test]
async fn a_listed_profile_that_is_gone_is_listed_anew() {
    let bedrock = bedrock().await;
    let source = arn(&format!(":foundation-model/{NEEDS_CREATED_PROFILE}"));
    let profile = made_by_hand(&bedrock, "bedrock-sidecar-mistral-pixtral-large-2502-v1-0", &source).await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let path = format!("/model/{}/invoke", encoded(NEEDS_CREATED_PROFILE));
    let body = json!({ "prompt": "hello" }).to_string();
    assert_eq!(daemon.post(&path, body.clone()).await.header("x-bedrock-sidecar-model"), Some(profile.as_str()));
    direct(&bedrock, request(Method::DELETE, &format!("/inference-profiles/{}", encoded(&profile)), "")).await;
    assert_eq!(daemon.post(&path, body.clone()).await.status, 404);
    until_async("another profile", || async { (daemon.post(&path, body.clone()).await.status == 200).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_listing_that_fails_after_another_key_is_tried_again_soon() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.clear();
    bedrock.inject(Fault::once(Effect::InternalServerError).times(2).on("ListFoundationModels"));
    let keys = format!("{}:{}", simulator::DEFAULT_ACCESS_KEY_ID, simulator::DEFAULT_SECRET_ACCESS_KEY);
    std::fs::write(daemon.secret_path(), keys).unwrap();
    eventually("a listing that succeeds", || {
        received(&bedrock, "ListFoundationModels").iter().any(|one| one.status == Some(200))
    })
    .await;
    let age = until_async("its age", || async {
        metric(&daemon.metrics().await, "bedrock_sidecar_models_listing_age_seconds{region=\"us-east-1\"}")
    })
    .await;
    assert!(age >= 0.0);
}

/// It is as old as the daemon's first try, so that the alert on old listings is raised.
#[tokio::test]
async fn a_listing_that_never_worked_has_an_age() {
    let bedrock = bedrock().await;
    bedrock.inject(Fault::once(Effect::InternalServerError).times(0).on("ListFoundationModels"));
    let daemon = Setup::plain(&bedrock).ready().await;
    let age = async || {
        let line = "bedrock_sidecar_models_listing_age_seconds{region=\"us-east-1\"}";
        metric(&daemon.metrics().await, line).expect("an age")
    };
    let before = age().await;
    assert!(before >= 0.0, "{before}");
    until_async("it to grow", || async { (age().await > before).then_some(()) }).await;
}

#[tokio::test]
async fn requests_that_need_a_listing_at_once_share_one_that_fails() {
    let bedrock = bedrock().await;
    bedrock.inject(Fault::once(Effect::InternalServerError).times(0).on("ListFoundationModels"));
    let daemon = Setup::plain(&bedrock).ready().await;
    let connection = Http2::to(daemon.address()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let connection = connection.clone();
        tasks.spawn(async move {
            connection.send(request(Method::POST, &converse_path(PROFILE_ONLY), converse("hello"))).await
        });
    }
    for answer in tasks.join_all().await {
        refused(&answer, 503, "ServiceUnavailableException");
    }
    daemon.all_records(30).await;
    // The daemon's own tries in the background are among them.
    let listings = received(&bedrock, "ListFoundationModels").len();
    assert!(listings < 10, "{listings} listings");
}

#[tokio::test]
async fn without_the_right_to_list_on_demand_models_are_served() {
    let bedrock = bedrock().await;
    for operation in ["ListFoundationModels", "ListInferenceProfiles"] {
        bedrock.inject(
            Fault::once(Effect::Error {
                status: 403,
                error_type: "AccessDeniedException".into(),
                message: format!("User: x is not authorized to perform: bedrock:{operation}"),
                capital: false,
                headers: Default::default(),
            })
            .times(0)
            .on(operation),
        );
    }
    let daemon = Setup::plain(&bedrock).ready().await;
    assert_eq!(ask(&daemon, ON_DEMAND).await.status, 200);
    assert_eq!(ask(&daemon, "us.amazon.nova-premier-v1:0").await.status, 200, "a profile that is named needs no list");
    let line = daemon.says("models could not be listed; trying again").await;
    assert!(line["reason"].as_str().unwrap().contains("is not authorized to perform"), "{line}");
    let answer = ask(&daemon, PROFILE_ONLY).await;
    let message = refused(&answer, 503, "ServiceUnavailableException");
    for part in [PROFILE_ONLY, "us-east-1", "could not be listed", "not authorized to perform", "name a profile"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let record = daemon.record_of(&answer).await;
    for (field, expected) in [
        ("outcome", json!("refused")),
        ("statusCode", json!(503)),
        ("attempts", json!(1)),
        ("destinationRegion", json!("us-east-1")),
        ("inferenceProfileUsed", Value::Null),
        ("inputTokens", Value::Null),
        ("responseSize", json!(answer.body.len())),
        ("errorMessage", json!(message)),
    ] {
        assert_eq!(record[field], expected, "{field}: {record}");
    }
    bedrock.clear_faults();
    until_async("the profile after all", || async { (ask(&daemon, PROFILE_ONLY).await.status == 200).then_some(()) })
        .await;
}

/// A model that came after the last listing: only another one could tell its profile.
#[tokio::test]
async fn a_model_that_the_listing_lacks_is_refused_only_while_it_cannot_be_listed_anew() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.inject(on_demand_refusal().times(0).on("Converse"));
    bedrock.inject(Fault::once(Effect::InternalServerError).times(0).on("ListInferenceProfiles"));
    let new = "nobody.knows-v1:0";
    // The one of the start is still fresh: what it lacks is not there.
    let answer = until_async("a listing that fails", || async {
        let answer = ask(&daemon, new).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    let message = refused(&answer, 503, "ServiceUnavailableException");
    assert!(message.contains(new) && message.contains("could not be listed"), "{message}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(1)), "{record}");
    // The listing works again, and there is no profile: that is the upstream's to say.
    bedrock.clear_faults();
    bedrock.inject(on_demand_refusal().times(0).on("Converse"));
    let answer = until_async("a listing", || async {
        let answer = ask(&daemon, new).await;
        (answer.status != 503).then_some(answer)
    })
    .await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (400, Some("ValidationException")));
    assert_eq!(answer.json()["message"], ON_DEMAND_REFUSAL);
    assert_eq!(daemon.record_of(&answer).await["outcome"], "upstream_error");
}

#[tokio::test]
async fn a_refresh_that_fails_keeps_what_is_known() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[models]\nrefresh_interval = \"500ms\"").ready().await;
    assert_eq!(ask(&daemon, PROFILE_ONLY).await.status, 200);
    bedrock.inject(Fault::once(Effect::InternalServerError).times(0).on("ListFoundationModels"));
    daemon.says("models could not be listed; trying again").await;
    bedrock.clear();
    let answer = ask(&daemon, PROFILE_ONLY).await;
    assert_eq!(answer.header("x-bedrock-sidecar-model"), Some("us.amazon.nova-premier-v1:0"));
    assert_eq!(received(&bedrock, "Converse").len(), 1);
}

#[tokio::test]
async fn the_listing_tells_what_can_be_invoked_and_as_what() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[models]\ndeny = [\"cohere.*\"]").ready().await;
    let answer = daemon.get("/v1/bedrock/models").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let models = answer.json()["models"].as_array().unwrap().clone();
    let of = |id: &str| models.iter().find(|model| model["modelId"] == id).unwrap_or_else(|| panic!("no {id}")).clone();
    assert_eq!((&of(ON_DEMAND)["invokable"], &of(ON_DEMAND)["invokedAs"]), (&json!(true), &json!(ON_DEMAND)));
    assert_eq!(of(PROFILE_ONLY)["invokedAs"], format!("us.{PROFILE_ONLY}"));
    let created = of(NEEDS_CREATED_PROFILE);
    assert_eq!((&created["invokable"], &created["invokedAs"]), (&json!(true), &Value::Null));
    assert_eq!((&created["createsProfile"], &of(ON_DEMAND)["createsProfile"]), (&json!(true), &json!(false)));
    for (id, reason) in [
        ("cohere.command-r-v1:0", "models.deny"),
        (GLOBAL_ONLY, "models.geographies"),
        ("cohere.command-text-v14:7:4k", "models.deny"),
        ("anthropic.claude-3-haiku-20240307-v1:0:48k", "it offers PROVISIONED only"),
    ] {
        assert_eq!(of(id)["invokable"], false, "{id}");
        assert!(of(id)["reason"].as_str().unwrap().contains(reason), "{}", of(id));
    }
}
