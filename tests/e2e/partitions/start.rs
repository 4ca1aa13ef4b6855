//! At the start, when nobody knows yet what GovCloud serves.

use simulator::{Effect, Fault};

use super::*;

const LEVELS: &str = "[policy.partitions]\n\"aws\" = [\"public\"]\n\"aws-us-gov\" = [\"public\", \"cui\"]\n";

#[tokio::test]
async fn while_govclouds_models_are_unknown_nothing_is_sent_past_it() {
    let both = Both::start().await;
    both.gov.refuse_connections(true);
    let daemon = both.setup().with(LEVELS).start().await;
    let ready = until_async("the daemon to be ready", || async {
        (daemon.admin_get("/ready").await.status == 200).then_some(())
    });
    ready.await;
    for model in [SONNET, OPUS, ON_DEMAND] {
        let sentence =
            kept(&both, &daemon, leveled(converse_request(model), "public"), 503, "ServiceUnavailableException").await;
        assert!(sentence.contains("the models of us-gov-west-1 could not be listed"), "{sentence}");
    }
    // What may go to GovCloud alone, or is of GovCloud, is sent there and nowhere else.
    for asked in
        [leveled(converse_request(SONNET), "cui"), leveled(converse_request(&format!("us-gov.{SONNET}")), "public")]
    {
        both.clear();
        let answer = send(daemon.address(), asked).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!(record["destinationPartition"], "govcloud", "{record}");
        assert_eq!(both.counts(), [0, 0]);
    }
    both.gov.refuse_connections(false);
    until_async("the listing", || async {
        let answer = send(daemon.address(), leveled(converse_request(OPUS), "public")).await;
        (answer.status == 200).then_some(())
    })
    .await;
    both.clear();
    served(&daemon, leveled(converse_request(SONNET), "cui"), "govcloud", "us-gov-west-1").await;
    served(&daemon, leveled(converse_request(OPUS), "public"), "commercial", "us-east-1").await;
    kept(&both, &daemon, leveled(converse_request(OPUS), "cui"), 403, "AccessDeniedException").await;
}

/// Where failover may cross, the unknown is passed over; a line of `[models.partition]` needs no listing at all.
#[tokio::test]
async fn a_listing_that_fails_stops_nothing_that_does_not_depend_on_it() {
    let both = Both::start().await;
    both.gov.inject(Fault {
        operation: Some("ListFoundationModels".into()),
        times: 0,
        ..Fault::once(Effect::Error {
            status: 403,
            error_type: "AccessDeniedException".into(),
            message: "not authorized to perform: bedrock:ListFoundationModels".into(),
            capital: false,
            headers: Default::default(),
        })
    });
    let crosses = both.setup().with("[policy]\ncross_partition_failover = true\n").start().await;
    crosses.until_ready().await;
    served(&crosses, converse_request(OPUS), "commercial", "us-east-1").await;
    let pinned = both.setup().with("[models.partition]\n\"*opus*\" = \"aws\"\n\"*\" = \"aws-us-gov\"\n").start().await;
    pinned.until_ready().await;
    served(&pinned, converse_request(OPUS), "commercial", "us-east-1").await;
    served(&pinned, converse_request(ON_DEMAND), "govcloud", "us-gov-west-1").await;
    let unknown = both.setup().start().await;
    unknown.until_ready().await;
    let sentence = kept(&both, &unknown, converse_request(OPUS), 503, "ServiceUnavailableException").await;
    assert!(sentence.contains("[models.partition]"), "{sentence}");
}
