//! Where each model would be served, and as what: the `models` command, GET /v1/bedrock/models, `check --online`.

use super::*;

fn entry<'a>(models: &'a Value, id: &str) -> &'a Value {
    let all = models["models"].as_array().unwrap();
    all.iter().find(|model| model["modelId"] == id).unwrap_or_else(|| panic!("no {id} in {models}"))
}

#[tokio::test]
async fn listings_show_where_a_model_is_served_and_as_what() {
    let both = Both::start().await;
    for gov_first in [true, false] {
        let shown = both.ordered(gov_first).command(&["models", "--json"]).await;
        assert!(shown.status.success(), "{shown:?}");
        let by_command: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let daemon = both.ordered(gov_first).ready().await;
        let by_api = daemon.get("/v1/bedrock/models").await.json();
        let (gov, commercial) = (("us-gov-west-1", "aws-us-gov"), ("us-east-1", "aws"));
        let (first, sonnet) = if gov_first { (gov, "us-gov.") } else { (commercial, "us.") };
        for (model, (region, partition), sent) in [
            (SONNET, first, format!("{sonnet}{SONNET}")),
            (OPUS, commercial, format!("us.{OPUS}")),
            (GOV_ONLY, gov, GOV_ONLY.to_owned()),
        ] {
            for models in [&by_command, &by_api] {
                let one = entry(models, model);
                assert_eq!((&one["servedBy"], &one["partition"]), (&region.into(), &partition.into()), "{one}");
                assert_eq!((&one["invokedAs"], &one["invokable"]), (&sent.clone().into(), &true.into()), "{one}");
            }
        }
        assert_eq!(by_api["region"]["partition"], first.1, "{}", by_api["region"]);
        let text = both.ordered(gov_first).command(&["models"]).await;
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.lines().next().unwrap().contains("SERVED BY"), "{text}");
        let line = text.lines().find(|line| line.starts_with(OPUS)).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, [OPUS, "us-east-1", &format!("us.{OPUS}")]);
    }
}

#[tokio::test]
async fn what_a_caller_is_kept_from_is_shown_as_that() {
    let both = Both::start().await;
    let levels = "[policy.partitions]\n\"aws\" = [\"public\"]\n";
    let daemon = both.setup().with(levels).ready().await;
    let listed =
        async |level| send(daemon.address(), leveled(request(Method::GET, "/v1/bedrock/models", ""), level)).await;
    let (public, cui) = (listed("public").await.json(), listed("cui").await.json());
    assert_eq!(entry(&public, OPUS)["invokable"], true);
    let kept = entry(&cui, OPUS);
    assert_eq!((&kept["invokable"], &kept["servedBy"]), (&false.into(), &Value::Null), "{kept}");
    assert_eq!(kept["reason"], "policy keeps the request from the partition aws");
    assert_eq!(entry(&cui, SONNET)["servedBy"], "us-gov-west-1");
}

#[tokio::test]
async fn check_online_says_what_each_serves_and_what_commercial_alone_has() {
    let both = Both::start().await;
    let checked = both.setup().command(&["check", "--online"]).await;
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(text.contains("ok    this host's own role for us-gov-west-1: AWS keys with a session token"), "{text}");
    assert!(text.contains("ok    models of us-gov-west-1 (aws-us-gov), 7: amazon.nova-lite-v1:0, "), "{text}");
    assert!(text.contains("ok    models of us-east-1 (aws), "), "{text}");
    let only = text.lines().find(|line| line.contains("models that the commercial partition alone has")).unwrap();
    assert!(only.contains(OPUS) && !only.contains(SONNET) && !only.contains(GOV_ONLY), "{only}");
}

/// A request that is sent to the wrong partition fails there.
#[tokio::test]
async fn each_side_refuses_the_keys_of_the_other() {
    let both = Both::start().await;
    let ask = async |side: &Simulator, key: &str| {
        let mut asked = converse_request(ON_DEMAND);
        asked.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        send(side.plain_endpoint().trim_start_matches("http://").parse().unwrap(), asked).await.status
    };
    for (key, expected) in
        [(simulator::GOVCLOUD_BEARER_TOKEN, (200, 403)), (simulator::DEFAULT_BEARER_TOKEN, (403, 200))]
    {
        assert_eq!((ask(&both.gov, key).await, ask(&both.commercial, key).await), expected);
    }
    // A daemon whose host has commercial keys only: GovCloud knows none of them.
    let keys = [
        ("AWS_ACCESS_KEY_ID", simulator::DEFAULT_ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", simulator::DEFAULT_SECRET_ACCESS_KEY.to_owned()),
    ];
    let daemon = both.setup().env("AWS_SESSION_TOKEN", "").environment(keys).start().await;
    both.clear();
    let answer = send(daemon.address(), converse_request(&format!("{GOV_ARN}::foundation-model/{ON_DEMAND}"))).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["destinationPartition"], "govcloud");
    assert_eq!(both.counts()[1], 0);
}
