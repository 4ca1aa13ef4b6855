//! Requests a minute, of the host, of callers and of groups of models.

use http::Method;
use serde_json::{Value, json};
use test_support::*;

use super::{admitted, limited, storm, throttled};

fn as_caller(token: &str, path: &str, body: String) -> Request {
    let mut request = request(Method::POST, path, body);
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

#[tokio::test]
async fn a_storm_is_admitted_to_the_burst_and_not_one_more() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\nrequests_per_minute = 1\nrequest_burst = 5").ready().await;
    let path = converse_path(ON_DEMAND);
    let answers = storm(&daemon, 50, || request(Method::POST, &path, converse("storm"))).await;
    assert_eq!(admitted(&answers), 5);
    assert_eq!(received(&bedrock, "Converse").len(), 5);
    for answer in answers.iter().filter(|answer| answer.status == 429) {
        let (sentence, after) = throttled(answer);
        assert!(sentence.contains("this host has used up requests_per_minute = 1;"), "{sentence}");
        assert!((1..=60).contains(&after), "{after}");
    }
    assert_eq!(limited(&daemon, "requests_per_minute", "host").await, 45.0);
    // Thirty refusals of one caller for one reason have lines of their own; then one says how many more there were.
    until("a line for each", || Some(()).filter(|()| daemon.records().len() >= 35)).await;
    let refusals: Vec<Value> = daemon.records().into_iter().filter(|one| one["statusCode"] == 429).collect();
    assert!((30..=31).contains(&refusals.len()), "{}", refusals.len());
    for record in refusals {
        assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(0)), "{record}");
        assert!(record["errorMessage"].as_str().unwrap().contains("requests_per_minute"), "{record}");
    }
    // The legacy REST API is under the same limits, in its own shape.
    let body = json!({ "modelId": ON_DEMAND, "contentType": "application/json", "body": converse("x") }).to_string();
    let answer = daemon.post("/v1/bedrock/invoke-model", body).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("requests_per_minute"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(bedrock.requests().iter().filter(|one| one.method == "POST").count(), 5);
}

#[tokio::test]
async fn callers_and_groups_of_models_are_counted_apart_and_a_refusal_takes_nothing() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    for name in ["ann", "ben"] {
        std::fs::write(setup.path().join(name), format!("token-of-{name}-0123456789")).unwrap();
    }
    let file = |name: &str| setup.path().join(name).display().to_string();
    let more = format!(
        "[limits.models.\"amazon.*\"]\nrequests_per_minute = 1\nrequest_burst = 7\n\
         [[callers]]\nname = \"ann\"\nbearer_token_file = \"{}\"\nrequests_per_minute = 1\nrequest_burst = 3\n\
         [[callers]]\nname = \"ben\"\nbearer_token_file = \"{}\"\n",
        file("ann"),
        file("ben")
    );
    let daemon = setup.with(&more).ready().await;
    let path = converse_path(ON_DEMAND);
    let by = |name: &'static str, path: &str| {
        let path = path.to_owned();
        move || as_caller(&format!("token-of-{name}-0123456789"), &path, converse("x"))
    };
    let of_ann = storm(&daemon, 20, by("ann", &path)).await;
    assert_eq!(admitted(&of_ann), 3);
    let (sentence, _) = throttled(of_ann.iter().find(|answer| answer.status == 429).unwrap());
    assert!(sentence.contains("the caller \"ann\" has used up requests_per_minute = 1"), "{sentence}");
    let of_ben = storm(&daemon, 20, by("ben", &path)).await;
    assert_eq!(admitted(&of_ben), 4, "what ann was refused took nothing from the models");
    let (sentence, _) = throttled(of_ben.iter().find(|answer| answer.status == 429).unwrap());
    assert!(sentence.contains("the group of models \"amazon.*\" has used up"), "{sentence}");
    assert_eq!(received(&bedrock, "Converse").len(), 7);
    // The group's profiles are of the group; other models are not.
    throttled(&send(daemon.address(), by("ben", &converse_path(&format!("us.{PROFILE_ONLY}")))()).await);
    let other = converse_path("anthropic.claude-3-haiku-20240307-v1:0");
    assert_eq!(admitted(&storm(&daemon, 10, by("ben", &other)).await), 10);
    assert_eq!(limited(&daemon, "requests_per_minute", "caller").await, 17.0);
    assert_eq!(limited(&daemon, "requests_per_minute", "model").await, 17.0);
    assert_eq!(limited(&daemon, "requests_per_minute", "host").await, 0.0);
}
