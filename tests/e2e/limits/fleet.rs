//! One limit for two daemons, on a table in DynamoDB Local.

use std::time::{Duration, Instant};

use http::Method;
use test_support::dynamodb::{self, create_table};
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
