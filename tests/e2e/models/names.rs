//! What is sent for each form of a name, and what may not be sent at all.

use serde_json::{Value, json};
use test_support::*;

use super::{GLOBAL_ONLY, OPUS, SONNET, arn, ask, made_by_hand};

#[tokio::test]
async fn each_form_of_a_name_is_sent_as_what_commercial_bedrock_knows() {
    let bedrock = bedrock().await;
    let application = made_by_hand(&bedrock, "by hand", &arn(&format!(":foundation-model/{ON_DEMAND}"))).await;
    let daemon = Setup::tls(&bedrock)
        .with(&format!(
            "[models.aliases]\n\"claude\" = \"us.{OPUS}\"\n\"opus\" = \"{OPUS}\"\n\"team/nova\" = \"{ON_DEMAND}\""
        ))
        .ready()
        .await;
    let us_opus = format!("us.{OPUS}");
    let opus_arn = arn(&format!("123456789012:inference-profile/us.{OPUS}"));
    let nova_arn = arn(&format!(":foundation-model/{ON_DEMAND}"));
    for (asked, sent) in [
        (ON_DEMAND, ON_DEMAND),
        ("us.amazon.nova-lite-v1:0", "us.amazon.nova-lite-v1:0"),
        (OPUS, &us_opus),
        (&us_opus, &us_opus),
        (&opus_arn, &opus_arn),
        (&nova_arn, &nova_arn),
        (&application, &application),
        ("claude", &us_opus),
        ("opus", &us_opus),
        ("us-gov.anthropic.claude-3-5-sonnet-20241022-v2:0", "us.anthropic.claude-3-5-sonnet-20241022-v2:0"),
        ("us-gov.amazon.nova-lite-v1:0", "us.amazon.nova-lite-v1:0"),
        (&format!("arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{ON_DEMAND}"), ON_DEMAND),
        (&format!("arn:aws-us-gov:bedrock:us-gov-east-1::foundation-model/{OPUS}"), &us_opus),
        (&format!("arn:aws-us-gov:bedrock:us-gov-west-1:111122223333:inference-profile/us-gov.{OPUS}"), &us_opus),
    ] {
        bedrock.clear();
        let answer = ask(&daemon, asked).await;
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
        assert_eq!(answer.header("x-bedrock-sidecar-model"), Some(sent), "{asked}");
        let calls = received(&bedrock, "Converse");
        assert_eq!(calls.len(), 1, "{asked}: no trial and error");
        assert_eq!(calls[0].model.as_deref(), Some(sent), "{asked}");
        let record = daemon.record_of(&answer).await;
        assert_eq!(record["modelId"], asked, "as it was asked for: {record}");
        let profile = if sent.contains("us.") || sent.contains("-profile/") { json!(sent) } else { Value::Null };
        assert_eq!(record["inferenceProfileUsed"], profile, "{asked}: {record}");
    }
    assert_eq!(received(&bedrock, "CreateInferenceProfile").len(), 0);
}

#[tokio::test]
async fn what_is_bound_to_a_govcloud_account_or_another_partition_is_refused() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.clear();
    for (asked, says) in [
        (
            "arn:aws-us-gov:bedrock:us-gov-west-1:111122223333:application-inference-profile/abc",
            "belongs to a GovCloud account",
        ),
        ("arn:aws-us-gov:bedrock:us-gov-west-1:111122223333:provisioned-model/abc", "belongs to a GovCloud account"),
        ("arn:aws-us-gov:bedrock:us-gov-west-1:111122223333:imported-model/abc", "belongs to a GovCloud account"),
        ("arn:aws-cn:bedrock:cn-north-1::foundation-model/a.b", "is of the partition aws-cn"),
        ("arn:aws:bedrock", "is not a complete ARN"),
    ] {
        let sentence = refused(&ask(&daemon, asked).await, 400, "ValidationException");
        assert!(sentence.contains(says), "{asked}: {sentence}");
    }
    assert_eq!(bedrock.requests().len(), 0);
}

#[tokio::test]
async fn geographies_are_enforced_on_what_is_asked_and_on_what_would_be_sent() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.clear();
    for asked in [
        format!("global.{SONNET}"),
        format!("eu.{SONNET}"),
        arn(&format!("123456789012:inference-profile/global.{SONNET}")),
        GLOBAL_ONLY.to_owned(),
        format!("us-gov.{GLOBAL_ONLY}"),
    ] {
        let sentence = refused(&ask(&daemon, &asked).await, 403, "AccessDeniedException");
        assert!(sentence.contains("models.geographies"), "{asked}: {sentence}");
    }
    assert_eq!(received(&bedrock, "Converse").len() + received(&bedrock, "CreateInferenceProfile").len(), 0);
    let open = Setup::plain(&bedrock).with("[models]\ngeographies = [\"us\", \"global\"]").ready().await;
    for asked in [format!("global.{SONNET}"), GLOBAL_ONLY.to_owned()] {
        assert_eq!(ask(&open, &asked).await.status, 200, "{asked}");
    }
}

#[tokio::test]
async fn allow_and_deny_hold_for_what_is_asked_and_for_what_would_be_sent() {
    let bedrock = bedrock().await;
    let application = made_by_hand(&bedrock, "nova by hand", &arn(&format!(":foundation-model/{ON_DEMAND}"))).await;
    let daemon = Setup::plain(&bedrock)
        .managing_profiles(&format!(
            "allow = [\"anthropic.*\", \"us.amazon.nova-lite*\", \"gpt\"]\ndeny = [\"*sonnet*\", \"us.{OPUS}\"]\n[models.aliases]\n\"gpt\" = \"openai.gpt-oss-20b-1:0\"\n\"nice\" = \"{SONNET}\"",
        ))
        .ready()
        .await;
    bedrock.clear();
    for (asked, says) in [
        (SONNET, "is refused by \"*sonnet*\" in models.deny"),
        ("nice", "is refused by \"*sonnet*\" in models.deny"),
        (&format!("us.{SONNET}"), "models.deny"),
        (&arn(&format!("123456789012:inference-profile/us.{SONNET}")), "models.deny"),
        (&arn(&format!(":foundation-model/{SONNET}")), "models.deny"),
        (&format!("us-gov.{SONNET}"), "models.deny"),
        (&format!("arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{SONNET}"), "models.deny"),
        // Only what it would be sent as is denied.
        (OPUS, "models.deny"),
        ("amazon.titan-text-lite-v1", "is not in models.allow"),
        (ON_DEMAND, "is not in models.allow"),
        (&application, "is not in models.allow"),
        // Globs are on identifiers after aliases.
        ("gpt", "is not in models.allow"),
        ("cohere.command-r-v1:0", "is not in models.allow"),
    ] {
        let sentence = refused(&ask(&daemon, asked).await, 403, "AccessDeniedException");
        assert!(sentence.contains(says), "{asked}: {sentence}");
    }
    assert_eq!(received(&bedrock, "Converse").len(), 0);
    for asked in ["anthropic.claude-3-haiku-20240307-v1:0", "us.amazon.nova-lite-v1:0"] {
        assert_eq!(ask(&daemon, asked).await.status, 200, "{asked}");
    }
    // A profile must not be made of what may not be invoked.
    let body = json!({ "inferenceProfileName": "p", "modelSource": { "copyFrom": arn(&format!(":foundation-model/{SONNET}")) } });
    let answer = daemon.post("/inference-profiles", body.to_string()).await;
    assert!(refused(&answer, 403, "AccessDeniedException").contains("models.deny"));
}

#[tokio::test]
async fn prefixes_that_nobody_knows_are_refused() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[models]\ndeny = [\"*opus*\"]").ready().await;
    bedrock.clear();
    for (asked, status, says) in [
        (format!("xx.{SONNET}"), 403, "add it to models.geographies"),
        (format!("us.xx.{SONNET}"), 403, "add it to models.geographies"),
        (format!("us-gov.us-gov.{SONNET}"), 400, "names a geography where a model's provider stands"),
        (format!("us-gov.global.{SONNET}"), 400, "names a geography where a model's provider stands"),
        (arn(&format!(":foundation-model/global.{SONNET}")), 400, "names a geography"),
        (format!("us.{}", OPUS.to_uppercase()), 403, "is refused by \"*opus*\" in models.deny"),
        (OPUS.to_uppercase(), 403, "is refused by \"*opus*\" in models.deny"),
    ] {
        let kind = if status == 400 { "ValidationException" } else { "AccessDeniedException" };
        let answer = ask(&daemon, &asked).await;
        let sentence = refused(&answer, status, kind);
        assert!(sentence.contains(says), "{asked}: {sentence}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["modelId"], &record["attempts"]), (&json!(asked), &json!(0)), "{record}");
    }
    assert_eq!(received(&bedrock, "Converse").len(), 0);
}

#[tokio::test]
async fn an_application_profile_is_looked_up_and_judged_by_its_regions() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    // Both are made after the daemon's discovery.
    let home = made_by_hand(&bedrock, "home", &arn(&format!("123456789012:inference-profile/us.{SONNET}"))).await;
    let away = made_by_hand(&bedrock, "away", &arn(&format!("123456789012:inference-profile/global.{SONNET}"))).await;
    bedrock.clear();
    for _ in 0..3 {
        assert_eq!(ask(&daemon, &home).await.status, 200);
    }
    assert_eq!(received(&bedrock, "GetInferenceProfile").len(), 1, "looked up once");
    let sentence = refused(&ask(&daemon, &away).await, 403, "AccessDeniedException");
    assert!(sentence.contains("may send to any region, which is outside models.geographies"), "{sentence}");
    let nowhere = arn("123456789012:application-inference-profile/nowhere00000");
    let sentence = refused(&ask(&daemon, &nowhere).await, 404, "ResourceNotFoundException");
    assert!(sentence.contains("does not exist in us-east-1"), "{sentence}");
    assert_eq!(received(&bedrock, "Converse").len(), 3);

    let explicit = Setup::plain(&bedrock)
        .with(&format!("[models]\nallow = [\"{away}\"]\ngeographies = [\"us\", \"global\"]"))
        .ready()
        .await;
    assert_eq!(ask(&explicit, &away).await.status, 200);
}
