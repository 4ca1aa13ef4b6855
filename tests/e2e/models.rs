//! What is sent for the model that was asked for, and what may not be sent at all.

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Fault, Options, Simulator};
use test_support::*;

const OPUS: &str = "anthropic.claude-opus-4-1-20250805-v1:0";
const SONNET: &str = "anthropic.claude-sonnet-4-5-20250929-v1:0";
const GLOBAL_ONLY: &str = "anthropic.claude-haiku-4-5-20251001-v1:0";
/// Listed as ON_DEMAND, and yet refused with the text about on-demand throughput: with either apostrophe.
const CURLY: &str = "meta.llama3-3-70b-instruct-v1:0";
const STRAIGHT: &str = "meta.llama3-2-11b-instruct-v1:0";

async fn ask(daemon: &Daemon, model: &str) -> Answer {
    daemon.post(&converse_path(model), converse("hello")).await
}

fn arn(resource: &str) -> String {
    format!("arn:aws:bedrock:us-east-1:{resource}")
}

/// Makes an application profile directly, outside the daemon.
async fn made_by_hand(bedrock: &Simulator, name: &str, source: &str) -> String {
    let body = json!({ "inferenceProfileName": name, "modelSource": { "copyFrom": source } });
    let answer = direct(bedrock, request(Method::POST, "/inference-profiles", body.to_string())).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["inferenceProfileArn"].as_str().unwrap().to_owned()
}

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
        assert_eq!(answer.status, 400, "the upstream's word: {answer:?}");
    }
    daemon.all_records(30).await;
    // The daemon's own tries in the background are among them.
    let listings = received(&bedrock, "ListFoundationModels").len();
    assert!(listings < 10, "{listings} listings");
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
    assert_eq!(answer.status, 400, "the upstream's word: {answer:?}");
    bedrock.clear_faults();
    until_async("the profile after all", || async { (ask(&daemon, PROFILE_ONLY).await.status == 200).then_some(()) })
        .await;
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
