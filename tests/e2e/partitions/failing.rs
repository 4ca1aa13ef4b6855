//! Whatever fails in GovCloud, nothing goes to the other side that was not to go there.

use simulator::{Effect, Fault, ThrottleText};

use super::*;

const LEVELS: &str = "[policy.partitions]\n\"aws\" = [\"public\"]\n\"aws-us-gov\" = [\"public\", \"cui\"]\n";
const CROSSING: &str = "[policy]\ncross_partition_failover = true\n";

fn throttled() -> Fault {
    Fault::once(Effect::Throttle { text: ThrottleText::Tokens })
}

/// The answer's status and region, and what its record says of it.
async fn failed(daemon: &Daemon, asked: Request) -> (u16, Value) {
    let answer = send(daemon.address(), asked).await;
    let record = daemon.record_of(&answer).await;
    assert_eq!(record["statusCode"], answer.status, "{record}");
    (answer.status, record)
}

#[tokio::test]
async fn a_throttled_request_stays_unless_failover_may_cross_and_its_level_lets_it() {
    let both = Both::start().await;
    let stays = both.setup().with(LEVELS).ready().await;
    let crosses = both.setup().with(CROSSING).with(LEVELS).ready().await;
    for (daemon, level) in [(&stays, "public"), (&stays, "cui"), (&crosses, "cui")] {
        both.clear();
        both.gov.inject(throttled());
        let (status, record) = failed(daemon, leveled(converse_request(SONNET), level)).await;
        assert_eq!((status, &record["destinationPartition"]), (429, &"govcloud".into()), "{record}");
        assert_eq!(record["outcome"], "upstream_error", "{record}");
        assert_eq!(both.counts(), [1, 0]);
    }
    both.clear();
    both.gov.inject(throttled());
    let answer = send(crosses.address(), leveled(converse_request(&format!("us-gov.{SONNET}")), "public")).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")), "{answer:?}");
    let record = crosses.record_of(&answer).await;
    assert_eq!((&record["destinationPartition"], &record["attempts"]), (&"commercial".into(), &2.into()), "{record}");
    assert_eq!(record["inferenceProfileUsed"], format!("us.{SONNET}"), "{record}");
    let [gov, commercial] = both.arrived();
    assert_eq!((gov.len(), commercial.len()), (1, 1));
    assert!(commercial[0].leaks.is_empty(), "{:?}", commercial[0].leaks);
}

/// GovCloud's answer tells the client more than the other side's refusal of the key. The record still tells of both.
#[tokio::test]
async fn a_record_tells_that_a_request_has_crossed_whatever_its_client_is_told() {
    let both = Both::start().await;
    let daemon = both.setup().with(CROSSING).ready().await;
    both.clear();
    both.gov.inject(throttled());
    both.commercial.expire_credentials();
    let (status, record) = failed(&daemon, converse_request(SONNET)).await;
    assert_eq!(status, 429, "{record}");
    assert_eq!(record["destinationPartition"], "commercial", "{record}");
    assert_eq!(record["destinationRegion"], "us-east-1", "{record}");
    let [gov, commercial] = both.counts();
    assert_eq!((gov, commercial > 0), (1, true));
}

/// GovCloud has answered, after the other side had seen the prompt. Each attempt counts where it was made.
#[tokio::test]
async fn a_request_that_came_back_has_been_on_the_other_side() {
    let both = Both::start().await;
    let daemon = both.ordered(false).with(CROSSING).ready().await;
    both.clear();
    both.commercial.inject(throttled());
    let answer = send(daemon.address(), converse_request(SONNET)).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-gov-west-1")), "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&"completed".into(), &2.into()), "{record}");
    assert_eq!(record["destinationPartition"], "commercial", "{record}");
    assert_eq!(both.counts(), [1, 1]);
    let page = daemon.metrics().await;
    for (region, result) in [("us-gov-west-1", "success"), ("us-east-1", "throttled")] {
        let line = format!("bedrock_sidecar_upstream_attempts_total{{region=\"{region}\",result=\"{result}\"}}");
        assert_eq!(metric(&page, &line), Some(1.0), "{line}: {page}");
    }
}

/// What may cross goes where less is kept. What may not stays, and says where it went.
#[tokio::test]
async fn data_retention_leads_across_only_what_may_cross() {
    let both = Both::start().await;
    both.gov.set_data_retention("aws_review");
    both.commercial.set_data_retention("none");
    let policy = format!("{CROSSING}require_data_retention = [\"none\"]\n");
    let daemon = both.setup().with(&policy).with(LEVELS).ready().await;
    for (level, partition, counts) in [("public", "commercial", [0, 1]), ("cui", "govcloud", [1, 0])] {
        both.clear();
        let answer = send(daemon.address(), leveled(converse_request(SONNET), level)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["destinationPartition"], &record["outcome"]), (&partition.into(), &"completed".into()));
        assert_eq!(
            both.arrived().map(|side| side.iter().filter(|one| one.operation.as_deref() == Some("Converse")).count()),
            counts
        );
    }
}

#[tokio::test]
async fn with_govcloud_away_and_its_breaker_open_nothing_classified_arrives_at_the_other_side() {
    let both = Both::start().await;
    let daemon = both.setup().with(CROSSING).with(LEVELS).ready().await;
    both.gov.refuse_connections(true);
    both.clear();
    let mut opened = false;
    for _ in 0..40 {
        let (status, record) = failed(&daemon, leveled(converse_request(SONNET), "cui")).await;
        assert_eq!((status, &record["destinationPartition"]), (503, &"govcloud".into()), "{record}");
        opened |= daemon.admin_get("/status").await.json()["upstreams"][0]["paused"] == true;
    }
    assert!(opened, "{}", daemon.admin_get("/status").await.text());
    assert_eq!(both.counts(), [0, 0]);
    // What may leave does, at once.
    let answer = send(daemon.address(), leveled(converse_request(SONNET), "public")).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")), "{answer:?}");
    assert_eq!(both.counts(), [0, 1]);
    both.gov.refuse_connections(false);
    until_async("GovCloud again", || async {
        let answer = send(daemon.address(), leveled(converse_request(SONNET), "cui")).await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(both.counts()[1], 1);
}

#[tokio::test]
async fn without_its_key_govcloud_is_not_passed_over_for_the_other_side() {
    let both = Both::start().await;
    let daemon = both.setup().with(LEVELS).ready().await;
    both.gov.expire_credentials();
    both.clear();
    for level in ["cui", "public"] {
        let (status, record) = failed(&daemon, leveled(converse_request(SONNET), level)).await;
        assert_eq!((status, &record["destinationPartition"]), (403, &"govcloud".into()), "{record}");
    }
    assert_eq!(both.counts()[1], 0);
    both.gov.reset_credentials();
}

/// A storm of both kinds, with faults on both sides, while the file is read again and again in another order.
#[tokio::test]
async fn through_reloads_and_faults_the_other_side_sees_nothing_classified() {
    let both = Both::start().await;
    let daemon = both.setup().with(CROSSING).with(LEVELS).ready().await;
    both.clear();
    let text = std::fs::read_to_string(daemon.config_path()).unwrap();
    let start = text.find("[[upstreams]]").unwrap();
    let second = start + 1 + text[start + 1..].find("[[upstreams]]").unwrap();
    let end = second + text[second..].find("[credentials]").unwrap();
    let (one, other) = (text[start..second].to_owned(), text[second..end].trim_end().to_owned() + "\n");
    let storm = async {
        let mut statuses = Vec::new();
        for number in 0..60 {
            if number % 7 == 0 {
                both.gov.inject(throttled());
            }
            if number % 11 == 0 {
                both.gov.inject(Fault::once(Effect::Error {
                    status: 503,
                    error_type: "ServiceUnavailableException".into(),
                    message: "x".into(),
                    capital: false,
                    headers: Default::default(),
                }));
            }
            let prompt = if number % 2 == 0 { "classified" } else { "public" };
            let level = if number % 2 == 0 { "cui" } else { "public" };
            let body = converse(prompt);
            let model = [SONNET, ON_DEMAND, OPUS][number % 3];
            let asked = leveled(request(Method::POST, &converse_path(model), body), level);
            statuses.push(send(daemon.address(), asked).await.status);
        }
        statuses
    };
    let reloads = async {
        for turn in 0..4 {
            let (old, new) = if turn % 2 == 0 {
                (format!("{one}{other}"), format!("{other}{one}"))
            } else {
                (format!("{other}{one}"), format!("{one}{other}"))
            };
            daemon.reload(&old, &new).await;
        }
    };
    let (statuses, ()) = tokio::join!(storm, reloads);
    assert!(statuses.iter().filter(|status| **status == 200).count() > 20, "{statuses:?}");
    let [gov, commercial] = both.arrived();
    let classified = |side: &[Received]| side.iter().filter(|one| memchr_in(&one.body, b"classified")).count();
    assert_eq!(classified(&commercial), 0);
    assert!(classified(&gov) > 10 && !commercial.is_empty(), "{} {}", classified(&gov), commercial.len());
    assert!(commercial.iter().all(|one| one.leaks.is_empty() && one.auth == "bearer"));
}

fn memchr_in(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|window| window == word)
}
