//! What the tests share: settings, records, and a look into what a ledger holds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use bedrock_sidecar::config::{Durability, OnFailure, OnFull};
use bedrock_sidecar::ledger::StateDir;
use bedrock_sidecar::ledger::{Ledger, index};
use bedrock_sidecar::record::{Outcome, Record};
use bedrock_sidecar::settings;
use serde_json::Value;

pub(super) fn settings(directory: &Path) -> settings::Audit {
    settings::Audit {
        state_dir: Some(directory.to_owned()),
        table: None,
        region: "us-gov-west-1".into(),
        retention: Duration::from_secs(30 * 86_400),
        on_failure: OnFailure::Deny,
        durability: Durability::Process,
        max_ledger_bytes: 1 << 30,
        on_full: OnFull::Deny,
        anchor: None,
    }
}

/// The same with a table.
pub(super) fn in_table(directory: &Path, table: &str) -> settings::Audit {
    settings::Audit { table: Some(table.into()), ..settings(directory) }
}

/// A request that is under way.
pub(super) fn record(number: u64) -> Record {
    Record {
        request_id: uuid::Uuid::now_v7().to_string(),
        started_ms: jiff::Timestamp::now().as_millisecond(),
        operation: "Converse".into(),
        model_id: "anthropic.claude-sonnet-4-20250514-v1:0".into(),
        inference_profile_used: Some("us.anthropic.claude-sonnet-4-20250514-v1:0".into()),
        destination_region: "us-east-1".into(),
        user_arn: format!("arn:aws-us-gov:sts::123456789012:assumed-role/app/{number}"),
        source_ip: "127.0.0.1".into(),
        caller: Some(["billing", "search"][(number % 2) as usize].into()),
        caller_uid: Some(1000 + (number % 2) as u32),
        request_size: number,
        ..Record::default()
    }
}

/// The same request when it has ended.
pub(super) fn completed(record: &Record) -> Record {
    Record {
        success: true,
        status_code: 200,
        attempts: 1,
        latency: 1234,
        response_size: record.request_size * 2,
        upstream_request_id: Some(uuid::Uuid::now_v7().to_string()),
        outcome: Outcome::Completed,
        ..record.clone()
    }
}

pub(super) async fn serve(audit: &Ledger, record: &Record) {
    let opened = audit.open(record).await.unwrap();
    audit.close(opened, &completed(record));
}

/// Every item that is stored, in the order of the chain.
pub(super) fn items(directory: &Path) -> Vec<Value> {
    let home = StateDir { root: directory.to_owned() };
    let db = index::open_to_read(&home.database()).unwrap();
    let mut select = db.prepare("SELECT item FROM records ORDER BY id").unwrap();
    let items = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
    items.map(|item| serde_json::from_str(&item.unwrap()).unwrap()).collect()
}

/// Takes an item out of a table that is keyed on requestId and timestamp.
pub(super) async fn delete(client: &Client, table: &str, item: &Value) {
    let key = |name: &str| AttributeValue::S(item[name].as_str().unwrap().to_owned());
    let request = client.delete_item().table_name(table).key("requestId", key("requestId"));
    request.key("timestamp", key("timestamp")).send().await.unwrap();
}

pub(super) async fn start(settings: &settings::Audit) -> Arc<Ledger> {
    Ledger::start(settings).await.unwrap()
}

/// An end to waiting that never decides a test by itself.
pub(super) fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(60)
}
