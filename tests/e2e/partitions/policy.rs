//! What may not leave is served in GovCloud or refused with a sentence.

use super::*;

const LEVELS: &str =
    "[policy.partitions]\n\"aws\" = [\"public\", \"internal\"]\n\"aws-us-gov\" = [\"public\", \"internal\", \"cui\"]\n";

/// Every operation that carries data, on models that GovCloud has not, or names that are commercial.
fn that_would_leave() -> Vec<Request> {
    let invoke = |path: &str, body: &str| request(Method::POST, path, body.to_owned());
    let us_opus = encoded(&format!("us.{OPUS}"));
    let nova = r#"{"messages":[{"role":"user","content":[{"text":"hi"}]}]}"#;
    vec![
        converse_request(OPUS),
        request(Method::POST, &stream_path(OPUS), converse("hi")),
        converse_request(&format!("us-gov.{OPUS}")),
        invoke(&format!("/model/{us_opus}/invoke"), nova),
        invoke(&format!("/model/{us_opus}/invoke-with-response-stream"), nova),
        invoke(&format!("/model/{}/count-tokens", encoded(OPUS)), r#"{"input":{"converse":{"messages":[]}}}"#),
        invoke("/openai/v1/chat/completions", r#"{"model":"openai.gpt-oss-20b-1:0","messages":[]}"#),
        invoke("/anthropic/v1/messages", &format!(r#"{{"model":"{OPUS}","max_tokens":9,"messages":[]}}"#)),
        invoke("/async-invoke", r#"{"modelId":"amazon.nova-reel-v1:0","modelInput":{},"outputDataConfig":{}}"#),
        invoke(
            "/guardrail/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aguardrail%2Fx/version/1/apply",
            r#"{"source":"INPUT","content":[]}"#,
        ),
        // A profile would have to be made there.
        converse_request("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"),
        request(Method::GET, &format!("/foundation-models/{}", encoded(OPUS)), ""),
    ]
}

#[tokio::test]
async fn what_is_classified_never_leaves() {
    let both = Both::start().await;
    for (gov_first, more) in [(true, ""), (false, ""), (true, "[policy]\ncross_partition_failover = true\n")] {
        let daemon = both.ordered(gov_first).with(more).with(LEVELS).ready().await;
        for asked in that_would_leave() {
            let path = asked.uri().to_string();
            let sentence = kept(&both, &daemon, leveled(asked, "cui"), 403, "AccessDeniedException").await;
            assert!(
                sentence.contains("\"cui\" may not go there ([policy.partitions] at config.toml:"),
                "{path}: {sentence}"
            );
        }
        // Nor what has no level, or one that nobody has named.
        let sentence = kept(&both, &daemon, converse_request(OPUS), 403, "AccessDeniedException").await;
        assert!(sentence.contains("without data classification"), "{sentence}");
        let sentence =
            kept(&both, &daemon, leveled(converse_request(SONNET), "secret"), 403, "AccessDeniedException").await;
        assert!(sentence.contains("\"secret\" may not go there"), "{sentence}");
        // Two readers of one header.
        let mut twice = leveled(converse_request(SONNET), "public");
        twice.headers_mut().append("x-data-classification", "cui".parse().unwrap());
        kept(&both, &daemon, twice, 400, "ValidationException").await;

        both.clear();
        served(&daemon, leveled(converse_request(SONNET), "cui"), "govcloud", "us-gov-west-1").await;
        served(&daemon, converse_request(&format!("us.{SONNET}")), "govcloud", "us-gov-west-1").await;
        let bare = request(Method::POST, "/guardrail/gr1/version/1/apply", r#"{"source":"INPUT","content":[]}"#);
        served(&daemon, leveled(bare, "cui"), "govcloud", "us-gov-west-1").await;
        let list = request(Method::GET, "/inference-profiles", "");
        served(&daemon, leveled(list, "cui"), "govcloud", "us-gov-west-1").await;
        assert_eq!(both.counts(), [3, 0], "a listing is not counted");
        served(&daemon, leveled(converse_request(OPUS), "internal"), "commercial", "us-east-1").await;
    }
}

/// A profile that has to be made is made in GovCloud.
#[tokio::test]
async fn a_profile_that_is_created_for_what_is_classified_is_created_in_govcloud() {
    let both = Both::start().await;
    let daemon = both.ordered(false).with(LEVELS).ready().await;
    both.clear();
    let asked = leveled(converse_request(NEEDS_CREATED_PROFILE), "cui");
    let answer = send(daemon.address(), asked).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-gov-west-1")), "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert!(record["inferenceProfileUsed"].as_str().unwrap().starts_with("arn:aws-us-gov:"), "{record}");
    let made = daemon.record("the profile", |record| record["operation"] == "CreateInferenceProfile").await;
    assert_eq!((&made["destinationPartition"], &made["outcome"]), (&"govcloud".into(), &"completed".into()), "{made}");
    assert_eq!(both.counts()[1], 0);
}

#[tokio::test]
async fn a_caller_may_be_kept_from_the_commercial_side_without_levels() {
    let both = Both::start().await;
    let user = users::own_uid();
    let caller = |commercial: &str| {
        format!("[[callers]]\nname = \"app\"\nusers = [\"{user}\"]\ncommercial = \"{commercial}\"\n")
    };
    let daemon = both.setup().with(&caller("deny")).ready().await;
    let sentence = kept(&both, &daemon, converse_request(OPUS), 403, "AccessDeniedException").await;
    assert!(sentence.contains("the caller \"app\" has commercial = \"deny\""), "{sentence}");
    served(&daemon, converse_request(SONNET), "govcloud", "us-gov-west-1").await;
    daemon.reload("\"deny\"", "\"allow\"").await;
    served(&daemon, converse_request(OPUS), "commercial", "us-east-1").await;

    // Where there are levels, "allow" is for what has none.
    let daemon = both.setup().with(&caller("allow")).with(LEVELS).ready().await;
    served(&daemon, converse_request(OPUS), "commercial", "us-east-1").await;
    kept(&both, &daemon, leveled(converse_request(OPUS), "cui"), 403, "AccessDeniedException").await;
}

/// Nothing is asked of an upstream, nor is a body read, where no upstream is where the request may go.
#[tokio::test]
async fn without_an_upstream_in_govcloud_what_may_not_leave_is_refused() {
    let both = Both::start().await;
    let daemon = Setup::plain(&both.commercial).with(LEVELS).ready().await;
    let sentence = kept(&both, &daemon, leveled(converse_request(SONNET), "cui"), 403, "AccessDeniedException").await;
    assert!(sentence.contains("the upstreams are in the partition aws, and data classification \"cui\""), "{sentence}");
    kept(&both, &daemon, converse_request(ON_DEMAND), 403, "AccessDeniedException").await;
    served(&daemon, leveled(converse_request(ON_DEMAND), "public"), "commercial", "us-east-1").await;
    // A reload that takes GovCloud away does not let it out either.
    let daemon = both.setup().with(LEVELS).ready().await;
    served(&daemon, leveled(converse_request(SONNET), "cui"), "govcloud", "us-gov-west-1").await;
    let text = std::fs::read_to_string(daemon.config_path()).unwrap();
    let start = text.find("[[upstreams]]").unwrap();
    let end = start + 1 + text[start + 1..].find("[[upstreams]]").unwrap();
    daemon.reload(&text[start..end], "").await;
    kept(&both, &daemon, leveled(converse_request(SONNET), "cui"), 403, "AccessDeniedException").await;
}
