//! What is said afterwards: each record names its partition, and can be sought by it.

use super::*;

#[tokio::test]
async fn records_are_found_by_the_partition_that_they_went_to() {
    let both = Both::start().await;
    let daemon = both.setup().ready().await;
    for model in [SONNET, SONNET, OPUS] {
        let answer = send(daemon.address(), converse_request(model)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        daemon.record_of(&answer).await;
    }
    for (partition, count) in [("govcloud", 2), ("commercial", 1), ("all", 3)] {
        let path = format!("/v1/dashboard/requests?partition={partition}");
        until_async(partition, || async {
            let page = daemon.get(&path).await.json();
            (page["totalCount"] == count).then_some(())
        })
        .await;
        let page = daemon.get(&path).await.json();
        let found = page["requests"].as_array().unwrap();
        assert_eq!((found.len(), &page["filters"]["partition"]), (count, &partition.into()), "{page}");
        let is_of_it = |record: &Value| partition == "all" || record["destinationPartition"] == partition;
        assert!(found.iter().all(is_of_it), "{page}");
        for record in found {
            let region = if record["destinationPartition"] == "govcloud" { "us-gov-west-1" } else { "us-east-1" };
            assert_eq!(record["destinationRegion"], region, "{record}");
        }
    }
}

/// The seed's API says in a header where the request went.
#[tokio::test]
async fn the_legacy_api_tells_the_partition_of_its_answer() {
    let both = Both::start().await;
    let levels = "[policy.partitions]\n\"aws\" = [\"public\"]\n";
    let daemon = both.setup().with(levels).ready().await;
    let asked = |model: &str, level: &str| {
        let body = format!(
            r#"{{"modelId":"{model}","body":{{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,"messages":[{{"role":"user","content":"hi"}}]}}}}"#
        );
        leveled(request(Method::POST, "/v1/bedrock/invoke-model", body), level)
    };
    for (model, level, status, partition) in
        [(SONNET, "cui", 200, "govcloud"), (OPUS, "public", 200, "commercial"), (OPUS, "cui", 403, "govcloud")]
    {
        both.clear();
        let answer = send(daemon.address(), asked(model, level)).await;
        assert_eq!((answer.status, answer.header("x-destination-partition")), (status, Some(partition)), "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!(record["destinationPartition"], partition, "{record}");
        let [gov, commercial] = both.counts();
        let expected = match (status, partition) {
            (403, _) => [0, 0],
            (_, "govcloud") => [1, 0],
            _ => [0, 1],
        };
        assert_eq!([gov, commercial], expected, "{model} {level}");
    }
    let mut twice = asked(OPUS, "public");
    twice.headers_mut().append("x-data-classification", "cui".parse().unwrap());
    both.clear();
    assert_eq!(send(daemon.address(), twice).await.status, 400);
    assert_eq!(both.counts(), [0, 0]);
}
