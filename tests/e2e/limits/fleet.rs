//! One limit for two daemons, on a table in DynamoDB Local.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use test_support::dynamodb::{self, Fault, Proxy, create_table};
use test_support::*;

use super::{limited, status, storm, throttled};

#[tokio::test]
async fn two_daemons_share_one_limit() {
    const LIMIT: usize = 40;
    let endpoint = {
        create_table("e2e-fleet", &["id"]).await;
        dynamodb::endpoint()
    };
    let bedrock = bedrock().await;
    let start = async || {
        let fleet =
            format!("[fleet]\ntable = \"e2e-fleet\"\nregion = \"us-gov-west-1\"\nrequests_per_minute = {LIMIT}\n");
        Setup::plain(&bedrock).with(&fleet).environment(dynamodb::environment(&endpoint)).ready().await
    };
    let daemons = [start().await, start().await];
    let path = converse_path(ON_DEMAND);
    let make = || request(Method::POST, &path, converse("x"));
    for daemon in &daemons {
        until_async("each to hold a lease", || async {
            (status(daemon).await["fleet"]["lease"]["requests"].as_u64() > Some(0)).then_some(())
        })
        .await;
    }
    let first = Instant::now();
    let (mut total, mut refusals) = (0, 0);
    let mut served = [0, 0];
    // Both ask for far more than there is, again and again, while their leases come and move.
    while total < LIMIT && first.elapsed() < Duration::from_secs(40) {
        let (one, two) = tokio::join!(storm(&daemons[0], 20, make), storm(&daemons[1], 20, make));
        for (at, answers) in [one, two].into_iter().enumerate() {
            let some = answers.iter().filter(|answer| answer.status == 200).count();
            served[at] += some;
            total += some;
            for answer in answers.iter().filter(|answer| answer.status != 200) {
                assert!(matches!(answer.status, 429 | 503), "{answer:?}");
                refusals += usize::from(answer.status == 429);
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let upstream = received(&bedrock, "Converse").len();
    let took = first.elapsed();
    println!("fleet of two: {upstream} of {LIMIT} admitted in {took:?} ({served:?}), {refusals} refused");
    assert_eq!(upstream, total);
    assert!(took < Duration::from_secs(60), "too slow a machine to tell: {took:?}");
    assert!(upstream <= LIMIT, "{upstream} of {LIMIT}");
    assert!(
        upstream >= LIMIT * 8 / 10,
        "{upstream} of {LIMIT}: {} {}",
        status(&daemons[0]).await,
        status(&daemons[1]).await
    );
    assert!(served.iter().all(|one| *one > 0), "{served:?}");
    let counted = limited(&daemons[0], "requests_per_minute", "fleet").await
        + limited(&daemons[1], "requests_per_minute", "fleet").await;
    assert_eq!(counted, refusals as f64);
    let refusal = daemons[0].post(&path, converse("x")).await;
    let (sentence, _) = throttled(&refusal);
    assert!(sentence.contains(&format!("requests_per_minute = {LIMIT}")), "{sentence}");
}

/// The table's limits hold. Who changes the overruled ones of a host again wants to know that they still do not.
#[tokio::test]
async fn who_changes_limits_that_are_overruled_is_told_each_time() {
    create_table("e2e-fleet-overruled", &["id"]).await;
    let endpoint = dynamodb::endpoint();
    let bedrock = bedrock().await;
    let start = async |keys: &str| {
        let fleet = format!("[fleet]\ntable = \"e2e-fleet-overruled\"\nregion = \"us-gov-west-1\"\n{keys}\n");
        Setup::plain(&bedrock).with(&fleet).environment(dynamodb::environment(&endpoint)).ready().await
    };
    let holder = start("revision = 2\nrequests_per_minute = 40").await;
    until_async("the table to have the holder's limit", || async {
        (status(&holder).await["fleet"]["lease"]["requests"].as_u64() > Some(0)).then_some(())
    })
    .await;
    let daemon = start("requests_per_minute = 30").await;
    let told = || {
        let lines = daemon.lines().into_iter();
        lines
            .filter(|line| {
                line["message"].as_str().is_some_and(|text| text.contains("has other limits than this host's"))
            })
            .count()
    };
    eventually("the first word of it", || told() == 1).await;
    daemon.reload("requests_per_minute = 30", "requests_per_minute = 20").await;
    eventually("another word of it", || told() == 2).await;
}

/// Other hosts wait for what it holds until that dies by time, so whoever looks for it finds out why.
#[tokio::test]
async fn a_lease_that_cannot_be_given_back_is_said() {
    create_table("e2e-fleet-leaving", &["id"]).await;
    let proxy = Proxy::start().await;
    let bedrock = bedrock().await;
    let fleet = "[fleet]\ntable = \"e2e-fleet-leaving\"\nregion = \"us-gov-west-1\"\nrequests_per_minute = 40\n";
    let environment = dynamodb::environment(&proxy.endpoint());
    let mut daemon = Setup::plain(&bedrock).with(fleet).environment(environment).ready().await;
    until_async("a lease", || async {
        (status(&daemon).await["fleet"]["lease"]["requests"].as_u64() > Some(0)).then_some(())
    })
    .await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("completed"), &json!(200)), "{record}");

    proxy.set(Fault::Denied);
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.log_text());
    let line = daemon.says("the fleet's lease could not be given back; it dies by time").await;
    assert_eq!(line["level"], "WARN");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("e2e-fleet-leaving")), "{line}");
}
