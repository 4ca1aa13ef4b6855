//! Order decides, by what each side serves; names are native in their own partition and translated for the other.

use super::*;

#[tokio::test]
async fn the_first_upstream_that_serves_a_model_gets_it_as_it_knows_it() {
    let both = Both::start().await;
    let (us, us_gov) = (format!("us.{SONNET}"), format!("us-gov.{SONNET}"));
    let gov_profile_arn = format!("{GOV_ARN}:210987654321:inference-profile/{us_gov}");
    let gov_model_arn = format!("{GOV_ARN}::foundation-model/{ON_DEMAND}");
    let commercial_arn = format!("arn:aws:bedrock:us-east-1:123456789012:inference-profile/{us}");
    let us_opus = format!("us.{OPUS}");
    let gov_opus = format!("us-gov.{OPUS}");
    for gov_first in [true, false] {
        let daemon = both.ordered(gov_first).ready().await;
        let either = |gov: &'static str, commercial| if gov_first { (true, gov) } else { (false, commercial) };
        let (sonnet_gov, sonnet) = (us_gov.clone().leak(), us.clone().leak());
        let by_order = [
            (SONNET, either(sonnet_gov, sonnet)),
            (us.as_str(), either(sonnet_gov, sonnet)),
            (us_gov.as_str(), either(sonnet_gov, sonnet)),
            (ON_DEMAND, either(ON_DEMAND, ON_DEMAND)),
        ];
        let by_catalogue = [
            (OPUS, (false, us_opus.as_str())),
            (us_opus.as_str(), (false, us_opus.as_str())),
            (gov_opus.as_str(), (false, us_opus.as_str())),
            (GOV_ONLY, (true, GOV_ONLY)),
            ("amazon.nova-micro-v1:0", (false, "amazon.nova-micro-v1:0")),
        ];
        let of_gov_first = [
            (gov_profile_arn.as_str(), (true, gov_profile_arn.as_str())),
            (gov_model_arn.as_str(), (true, gov_model_arn.as_str())),
            (commercial_arn.as_str(), (true, us_gov.as_str())),
        ];
        let cases = by_order.into_iter().chain(by_catalogue);
        let cases: Vec<_> = cases.chain(of_gov_first.into_iter().filter(|_| gov_first)).collect();
        for (asked, (is_gov, sent)) in cases {
            both.clear();
            let (partition, region) = if is_gov { ("govcloud", "us-gov-west-1") } else { ("commercial", "us-east-1") };
            let question = if asked == GOV_ONLY {
                request(Method::POST, &format!("/model/{asked}/invoke"), r#"{"inputText":"hello"}"#)
            } else {
                converse_request(asked)
            };
            let (answer, record) = served(&daemon, question, partition, region).await;
            assert_eq!(answer.header("x-bedrock-sidecar-model"), Some(sent), "{asked}");
            assert_eq!(record["modelId"], asked);
            assert!(record["inputTokens"].as_u64().is_some_and(|tokens| tokens > 0), "{record}");
            let [gov, commercial] = both.arrived();
            let (here, there) = if is_gov { (gov, commercial) } else { (commercial, gov) };
            assert_eq!((here.len(), there.len()), (1, 0), "{asked}: no trial and error");
            assert_eq!(
                (here[0].model.as_deref(), &*here[0].auth),
                (Some(sent), if is_gov { "sigv4" } else { "bearer" })
            );
            assert!(here[0].leaks.is_empty(), "{:?}", here[0].leaks);
        }
    }
}

/// What is bound to an account goes to its own partition, whatever stands first.
#[tokio::test]
async fn what_is_of_a_govcloud_account_passes_unchanged() {
    let both = Both::start().await;
    for gov_first in [true, false] {
        let guardrails =
            "[guardrails]\n\"arn:aws-us-gov:bedrock:us-gov-west-1:210987654321:guardrail/gr1\" = \"com1\"\n";
        let daemon = both.ordered(gov_first).with(guardrails).ready().await;
        let guardrail = format!("{GOV_ARN}:210987654321:guardrail/gr1");
        let apply = format!("/guardrail/{}/version/1/apply", encoded(&guardrail));
        let apply = request(Method::POST, &apply, r#"{"source":"INPUT","content":[{"text":{"text":"hello"}}]}"#);
        let body = format!(
            r#"{{"guardrailConfig":{{"guardrailIdentifier":"{guardrail}","guardrailVersion":"1"}},"messages":[{{"role":"user","content":[{{"text":"hi"}}]}}]}}"#
        );
        let provisioned = format!("{GOV_ARN}:210987654321:provisioned-model/claude000001");
        let guarded =
            request(Method::POST, &converse_path(&format!("{GOV_ARN}::foundation-model/{ON_DEMAND}")), body.clone());
        both.clear();
        served(&daemon, apply, "govcloud", "us-gov-west-1").await;
        served(&daemon, converse_request(&provisioned), "govcloud", "us-gov-west-1").await;
        let (partition, region) = if gov_first { ("govcloud", "us-gov-west-1") } else { ("commercial", "us-east-1") };
        served(&daemon, guarded, partition, region).await;
        let [gov, commercial] = both.arrived();
        assert!(gov[0].path.contains("guardrail%2Fgr1"), "{}", gov[0].path);
        assert_eq!(gov[1].model.as_deref(), Some(provisioned.as_str()));
        match gov_first {
            true => assert_eq!((gov[2].body.as_ref(), commercial.len()), (body.as_bytes(), 0)),
            // There it is translated, as ever.
            false => assert_eq!(commercial[0].body, body.replace(&guardrail, "com1").as_bytes()),
        }
    }
}

#[tokio::test]
async fn a_line_of_models_partition_decides_before_the_order() {
    let both = Both::start().await;
    let pins = "[models.partition]\n\"anthropic.claude-sonnet-*\" = \"aws\"\n\"Amazon.*\" = \"aws-us-gov\"\n\
        [policy]\ncross_partition_failover = true\n[policy.partitions]\n\"aws\" = [\"public\"]\n\"aws-us-gov\" = [\"public\", \"cui\"]\n";
    let daemon = both.setup().with(pins).ready().await;
    for (asked, partition, region) in [
        (SONNET, "commercial", "us-east-1"),
        (&format!("us-gov.{SONNET}"), "commercial", "us-east-1"),
        (ON_DEMAND, "govcloud", "us-gov-west-1"),
    ] {
        served(&daemon, leveled(converse_request(asked), "public"), partition, region).await;
    }
    // Whatever the case in which a name is written: what is pinned to GovCloud leaves it under no spelling.
    let odd = ON_DEMAND.to_ascii_uppercase();
    both.clear();
    let answer = send(daemon.address(), leveled(converse_request(&odd), "public")).await;
    assert_eq!(answer.status, 400, "GovCloud knows no such name, and nobody else is asked: {answer:?}");
    assert_eq!(both.counts(), [1, 0]);
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["destinationPartition"], &record["modelId"]), (&"govcloud".into(), &odd.into()), "{record}");
    let sentence = kept(&both, &daemon, leveled(converse_request(SONNET), "cui"), 403, "AccessDeniedException").await;
    assert!(sentence.contains("[models.partition] at config.toml:"), "{sentence}");
    // Not even where failover may cross.
    both.clear();
    let answer = send(daemon.address(), leveled(converse_request("amazon.nova-micro-v1:0"), "public")).await;
    assert_eq!(answer.status, 400, "GovCloud's own answer: {answer:?}");
    assert_eq!(both.counts(), [1, 0]);
}

/// What names no model to be invoked goes where it is at home, or where the model that it reads is served.
#[tokio::test]
async fn what_is_only_read_goes_where_it_is_at_home() {
    let both = Both::start().await;
    let gov_guardrail = format!("{GOV_ARN}:210987654321:guardrail/gr1");
    let guardrail = "arn:aws:bedrock:us-east-1:123456789012:guardrail/gr1";
    let guardrails = |arn: &str| format!("/guardrails?maxResults=5&guardrailIdentifier={}", encoded(arn));
    let model = |id: &str| format!("/openai/v1/models/{id}");
    for gov_first in [true, false] {
        let daemon = both.ordered(gov_first).ready().await;
        for (path, is_gov) in [
            (guardrails(&gov_guardrail), true),
            (guardrails(guardrail), false),
            (guardrails("gr1"), gov_first),
            (model(OPUS), false),
            (model(GOV_ONLY), true),
            (model(ON_DEMAND), gov_first),
        ] {
            both.clear();
            let (partition, region) = if is_gov { ("govcloud", "us-gov-west-1") } else { ("commercial", "us-east-1") };
            served(&daemon, request(Method::GET, &path, ""), partition, region).await;
            let [gov, commercial] = both.arrived();
            let (here, there) = if is_gov { (gov, commercial) } else { (commercial, gov) };
            assert_eq!((here.len(), there.len()), (1, 0), "{path}");
            assert_eq!(here[0].path, path.replace(':', "%3A"), "{path}");
        }
    }
}
