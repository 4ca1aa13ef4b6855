//! `check --online` on tables in every state.

use aws_sdk_dynamodb::types::TimeToLiveSpecification;
use bedrock_sidecar::auditor::check::{Verdict, check_table};

use test_support::dynamodb::{self, create_table};

#[tokio::test(flavor = "multi_thread")]
async fn each_state_of_the_table_is_told_with_the_command_that_repairs_it() {
    let client = tokio::task::spawn_blocking(dynamodb::local).await.unwrap();
    let check = async |table: &str| check_table(&client, table, "us-gov-west-1").await;

    let missing = check("checked").await;
    assert_eq!(missing[0].verdict, Verdict::Bad);
    assert!(
        missing[0]
            .remedy
            .as_ref()
            .unwrap()
            .starts_with("aws dynamodb create-table --region us-gov-west-1 --table-name checked ")
    );

    create_table("checked", &["requestId", "timestamp"]).await;
    let lines = check("checked").await;
    assert_eq!(lines[0].verdict, Verdict::Good);
    assert!(lines[0].finding.contains("keyed on requestId and timestamp"), "{}", lines[0].finding);
    assert_eq!(lines[1].verdict, Verdict::Advice);
    assert!(
        lines[1].remedy.as_ref().unwrap().contains("update-time-to-live --region us-gov-west-1 --table-name checked")
    );

    let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name("ttl").build().unwrap();
    client.update_time_to_live().table_name("checked").time_to_live_specification(ttl).send().await.unwrap();
    assert_eq!(check("checked").await[1].verdict, Verdict::Good);

    create_table("checked-hash", &["requestId"]).await;
    assert_eq!(check("checked-hash").await[0].verdict, Verdict::Good);
    create_table("checked-wrong", &["timestamp", "requestId"]).await;
    let wrong = check("checked-wrong").await;
    assert_eq!(wrong[0].verdict, Verdict::Bad);
    assert!(wrong[0].finding.contains("keyed on timestamp (HASH) and requestId (RANGE)"), "{}", wrong[0].finding);

    let nowhere = check_table(&dynamodb::client("http://127.0.0.1:9"), "checked", "us-gov-west-1").await;
    assert_eq!(nowhere[0].verdict, Verdict::Bad);
}
