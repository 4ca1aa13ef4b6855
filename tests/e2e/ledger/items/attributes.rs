//! The attributes of an item: their names, and their types as DynamoDB has them.

use aws_sdk_dynamodb::types::AttributeValue;
use test_support::*;

const TEXTS: [&str; 25] = [
    "requestId",
    "timestamp",
    "sourcePartition",
    "destinationPartition",
    "modelId",
    "userArn",
    "sourceIP",
    "errorMessage",
    "operation",
    "inferenceProfileUsed",
    "destinationRegion",
    "endpoint",
    "upstreamRequestId",
    "caller",
    "accessKeyId",
    "dataClassification",
    "hostId",
    "outcome",
    "chainId",
    "chainHash",
    "timeShard",
    "serviceTier",
    "formerChain",
    "formerChainId",
    "formerChainHash",
];

const NUMBERS: [&str; 17] = [
    "costNanoUsd",
    "requestSize",
    "responseSize",
    "latency",
    "statusCode",
    "ttl",
    "inputTokens",
    "outputTokens",
    "cacheReadTokens",
    "cacheWriteTokens",
    "cacheWrite1hTokens",
    "firstByteLatency",
    "callerUid",
    "attempts",
    "chainSeq",
    "formerChainSeq",
    "formerChainTtl",
];

const FLAGS: [&str; 4] = ["success", "streaming", "identityVerified", "stored"];

/// What every item has.
const ALWAYS: [&str; 20] = [
    "requestId",
    "timestamp",
    "sourcePartition",
    "userArn",
    "sourceIP",
    "requestSize",
    "responseSize",
    "latency",
    "success",
    "statusCode",
    "ttl",
    "operation",
    "destinationRegion",
    "streaming",
    "identityVerified",
    "hostId",
    "attempts",
    "outcome",
    "chainHash",
    "timeShard",
];

/// Every item of the table has all that every item has, and nothing else or otherwise than listed here.
pub(super) async fn assert_types(table: &str) {
    let scan = dynamodb::local().scan().table_name(table).send().await.unwrap();
    assert!(scan.last_evaluated_key().is_none());
    for item in scan.items() {
        for (name, value) in item {
            let right = match value {
                AttributeValue::S(_) => TEXTS.contains(&name.as_str()),
                AttributeValue::N(_) => NUMBERS.contains(&name.as_str()),
                AttributeValue::Bool(_) => FLAGS.contains(&name.as_str()),
                _ => false,
            };
            assert!(right, "{name} is {value:?}");
        }
        assert!(!item.values().any(|value| value.as_s().is_ok_and(String::is_empty)), "an empty text in {item:?}");
        let is_own = ["DashboardRequests", "LedgerStart"].contains(&item["operation"].as_s().unwrap().as_str());
        assert_ne!(is_own, item.contains_key("destinationPartition"), "{item:?}");
        for name in ALWAYS {
            assert!(item.contains_key(name), "{name} is missing in {item:?}");
        }
    }
}
