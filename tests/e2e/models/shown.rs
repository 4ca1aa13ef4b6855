//! Listings show what a caller may use.

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;
use simulator::{Effect, Ending, Fault};
use test_support::users::own_uid;
use test_support::*;

use super::{GLOBAL_ONLY, OPUS, arn, made_by_hand};

fn names(list: &Value, member: &str, name: &str) -> BTreeSet<String> {
    list[member].as_array().unwrap().iter().map(|entry| entry[name].as_str().unwrap().to_owned()).collect()
}

/// What a path lists, by `name` of its entries, and its record.
async fn listed(daemon: &Daemon, path: &str, member: &str, name: &str) -> BTreeSet<String> {
    let answer = daemon.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&"completed".into(), &200.into()), "{record}");
    assert_eq!((&record["responseSize"], &record["attempts"]), (&answer.body.len().into(), &1.into()), "{record}");
    names(&answer.json(), member, name)
}

const PROFILES: &str = "/inference-profiles?maxResults=1000";

async fn models(daemon: &Daemon) -> BTreeSet<String> {
    listed(daemon, "/foundation-models", "modelSummaries", "modelId").await
}

async fn profiles(daemon: &Daemon, kind: &str) -> BTreeSet<String> {
    let path = format!("{PROFILES}&type={kind}");
    listed(daemon, &path, "inferenceProfileSummaries", "inferenceProfileArn").await
}

#[tokio::test]
async fn what_the_rules_refuse_is_not_listed() {
    let bedrock = bedrock_with(simulator::Options { page_size: 1000, ..Default::default() }).await;
    let ours = made_by_hand(&bedrock, "ours", &arn(&format!(":foundation-model/{ON_DEMAND}"))).await;
    let denied = made_by_hand(&bedrock, "denied", &arn(&format!("123456789012:inference-profile/us.{OPUS}"))).await;
    let all = |path: &'static str| direct(&bedrock, request(Method::GET, path, ""));
    let every_model = names(&all("/foundation-models").await.json(), "modelSummaries", "modelId");
    let every_profile = all(PROFILES).await.json();
    let every_profile = names(&every_profile, "inferenceProfileSummaries", "inferenceProfileArn");
    let of = |id: &str| arn(&format!("123456789012:inference-profile/{id}"));
    assert!(every_profile.contains(&of(&format!("global.{GLOBAL_ONLY}"))), "{every_profile:?}");

    let daemon = Setup::plain(&bedrock).with(&format!("[models]\ndeny = [\"{OPUS}\"]")).ready().await;
    let shown = models(&daemon).await;
    assert_eq!(every_model.difference(&shown).collect::<Vec<_>>(), [OPUS]);
    let shown = profiles(&daemon, "SYSTEM_DEFINED").await;
    assert!(shown.iter().all(|arn| arn.contains("/us.")), "no other geography: {shown:?}");
    assert!(
        !shown.contains(&of(&format!("us.{OPUS}"))) && shown.contains(&of(&format!("us.{ON_DEMAND}"))),
        "{shown:?}"
    );
    let shown = profiles(&daemon, "APPLICATION").await;
    assert!(shown.contains(&ours) && !shown.contains(&denied), "{shown:?}");

    // What is listed may be used, and what is not is refused.
    let answer = super::ask(&daemon, OPUS).await;
    refused(&answer, 403, "AccessDeniedException");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");

    let daemon = Setup::plain(&bedrock).with(&format!("[models]\nlist = \"all\"\ndeny = [\"{OPUS}\"]")).ready().await;
    assert_eq!(models(&daemon).await, every_model);
    let answer = daemon.get(PROFILES).await;
    same(&answer, &all(PROFILES).await);
    daemon.record_of(&answer).await;
}

/// Two accounts in one region: what is known of the one's models says nothing of the other's.
#[tokio::test]
async fn a_list_is_judged_by_what_is_known_of_the_upstream_that_gave_it() {
    let bedrock = bedrock().await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let upstreams = upstream("us-east-1", &gone, None) + &upstream("us-east-1", &bedrock.plain_endpoint(), None);
    let daemon = Setup::alone().upstreams(&upstreams).ready().await;
    until_async("the second upstream's models", || async {
        let status = daemon.admin_get("/status").await.json();
        (status["upstreams"][1]["modelsListed"] == true).then_some(())
    })
    .await;
    let shown = models(&daemon).await;
    assert!(shown.contains("newcomer.reader.small-v1:0"), "only a catalogue knows its provider: {shown:?}");
}

#[tokio::test]
async fn what_is_listed_for_openais_clients_follows_the_rules_too() {
    let bedrock = bedrock().await;
    let every = direct(&bedrock, request(Method::GET, "/openai/v1/models", "")).await;
    let every = names(&every.json(), "data", "id");
    let denied = "openai.gpt-oss-20b-1:0";
    let daemon = Setup::plain(&bedrock).with(&format!("[models]\ndeny = [\"{denied}\"]")).ready().await;
    let shown = listed(&daemon, "/openai/v1/models", "data", "id").await;
    assert_eq!(every.difference(&shown).collect::<Vec<_>>(), [denied]);
    let daemon = Setup::plain(&bedrock).ready().await;
    assert_eq!(listed(&daemon, "/openai/v1/models", "data", "id").await, every);
}

#[tokio::test]
async fn a_list_that_breaks_off_is_recorded_as_broken() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let cut = Effect::Cut { after_bytes: Some(100), after_events: None, how: Ending::Rst };
    bedrock.inject(Fault::once(cut).on("ListFoundationModels"));
    let answer = daemon.get("/foundation-models").await;
    refused(&answer, 503, "ServiceUnavailableException");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&"upstream_broke".into(), &503.into()), "{record}");
    assert_eq!((&record["responseSize"], &record["attempts"]), (&answer.body.len().into(), &1.into()), "{record}");
}

#[tokio::test]
async fn a_callers_own_rules_count_too_and_an_error_is_passed_on() {
    let bedrock = bedrock().await;
    let caller = format!("[[callers]]\nname = \"one\"\nusers = [\"{}\"]\nmodels = [\"amazon.nova-lite*\"]", own_uid());
    let daemon = Setup::tls(&bedrock).with(&caller).ready().await;
    let shown = models(&daemon).await;
    assert!(shown.contains(ON_DEMAND) && shown.iter().all(|id| id.starts_with("amazon.nova-lite")), "{shown:?}");
    let answer = daemon.get("/foundation-models?byInferenceType=NONSENSE").await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&"upstream_error".into(), &400.into()), "{record}");
    // Everything is shown: not a byte is touched.
    let daemon = Setup::tls(&bedrock).with("[models]\ngeographies = [\"us\", \"global\"]").ready().await;
    let path = "/inference-profiles?maxResults=3";
    let (answer, expected) = (daemon.get(path).await, direct(&bedrock, request(Method::GET, path, "")).await);
    same(&answer, &expected);
    daemon.record_of(&answer).await;
}
