//! Tokens are counted for a model by its own name, because Bedrock counts for no profile.

use serde_json::json;
use test_support::*;

use super::{arn, made_by_hand};

fn body() -> String {
    let messages = json!([{ "role": "user", "content": [{ "text": "one two three" }] }]);
    json!({ "input": { "converse": { "messages": messages } } }).to_string()
}

fn path(model: &str) -> String {
    format!("/model/{}/count-tokens", encoded(model))
}

#[tokio::test]
async fn tokens_are_counted_for_the_model_behind_every_name() {
    let bedrock = bedrock().await;
    let made = made_by_hand(&bedrock, "ours", &arn(&format!(":foundation-model/{NEEDS_CREATED_PROFILE}"))).await;
    let daemon =
        Setup::plain(&bedrock).with(&format!("[models.aliases]\n\"premier\" = \"us.{PROFILE_ONLY}\"")).ready().await;
    let profile = format!("us.{PROFILE_ONLY}");
    let of_profile = arn(&format!("123456789012:inference-profile/{profile}"));
    let govcloud = format!("us-gov.{PROFILE_ONLY}");
    for (asked, sent) in [
        (ON_DEMAND, ON_DEMAND),
        (PROFILE_ONLY, PROFILE_ONLY),
        (profile.as_str(), PROFILE_ONLY),
        ("premier", PROFILE_ONLY),
        (of_profile.as_str(), PROFILE_ONLY),
        (govcloud.as_str(), PROFILE_ONLY),
        (NEEDS_CREATED_PROFILE, NEEDS_CREATED_PROFILE),
        (made.as_str(), NEEDS_CREATED_PROFILE),
    ] {
        bedrock.clear();
        let answer = daemon.post(&path(asked), body()).await;
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
        assert!(answer.json()["inputTokens"].as_u64().unwrap() > 0, "{answer:?}");
        let counted = received(&bedrock, "CountTokens");
        assert_eq!(counted.len(), 1, "{asked}: once, and not for a profile before: {counted:?}");
        assert_eq!(counted[0].model.as_deref(), Some(sent), "{asked}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["operation"], &record["modelId"]), (&"CountTokens".into(), &asked.into()), "{record}");
        assert_eq!((&record["outcome"], &record["statusCode"]), (&"completed".into(), &200.into()), "{record}");
        assert_eq!((&record["attempts"], &record["responseSize"]), (&1.into(), &answer.body.len().into()), "{record}");
        assert!(record.get("inferenceProfileUsed").is_none() && record.get("inputTokens").is_none(), "{record}");
        assert!(received(&bedrock, "CreateInferenceProfile").is_empty(), "{asked}: no profile is made to count");
    }
    // What the stand-in says where nobody takes care, as Bedrock does.
    let straight = direct(&bedrock, request(http::Method::POST, &path(&profile), body())).await;
    assert_eq!(
        (straight.status, message(&straight).as_str()),
        (400, "The provided model doesn't support counting tokens.")
    );
}

#[tokio::test]
async fn what_may_not_be_invoked_is_not_counted_for() {
    let bedrock = bedrock().await;
    let made = made_by_hand(&bedrock, "ours", &arn(&format!(":foundation-model/{PROFILE_ONLY}"))).await;
    let daemon = Setup::plain(&bedrock).with(&format!("[models]\ndeny = [\"{PROFILE_ONLY}\"]")).ready().await;
    for asked in [PROFILE_ONLY, &format!("us.{PROFILE_ONLY}"), "eu.amazon.nova-lite-v1:0", &made] {
        let answer = daemon.post(&path(asked), body()).await;
        refused(&answer, 403, "AccessDeniedException");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["statusCode"]), (&"refused".into(), &403.into()), "{record}");
    }
    assert!(received(&bedrock, "CountTokens").is_empty());
}
