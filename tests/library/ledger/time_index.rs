//! Questions to the fleet and the verification of a host, on tables with an index by time: they query it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use bedrock_sidecar::auditor::{self, Query, Scope};
use bedrock_sidecar::error::RefusalKind;
use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::record::Record;
use serde_json::Value;

use super::child;
use super::kit::{self, record, serve};
use test_support::dynamodb::{self, Proxy, create_indexed_table};
use test_support::eventually;

const DAY_MS: i64 = 86_400_000;

/// A proxy through which nobody can scan.
async fn without_scans() -> Proxy {
    let proxy = Proxy::start().await;
    proxy.hold(&["Scan"]);
    proxy
}

async fn shipped(directory: &Path, table: &str, client: Client, records: &[Record]) -> Arc<Ledger> {
    let settings = kit::in_table(directory, table);
    let audit = Ledger::start_with(&settings, Some(client)).await.unwrap();
    for record in records {
        serve(&audit, record).await;
    }
    eventually("all are shipped", || audit.status().shipped_total == records.len() as u64).await;
    audit
}

/// Records of this host, several of which began in the same millisecond.
fn records(count: u64) -> Vec<Record> {
    let now = record(0).started_ms;
    (0..count)
        .map(|number| Record { started_ms: now - i64::try_from(number / 3).unwrap() * 10, ..record(number) })
        .collect()
}

/// Copies of the items as other hosts would have written them, in shards of their own.
async fn add_hosts(client: &Client, table: &str, hosts: usize) {
    let items = client.scan().table_name(table).send().await.unwrap().items.unwrap();
    for host in 0..hosts {
        for (number, item) in items.iter().enumerate() {
            let mut item = item.clone();
            let id = item["requestId"].as_s().unwrap();
            item.insert("requestId".into(), AttributeValue::S(format!("{id}-{host}")));
            item.insert("hostId".into(), AttributeValue::S(format!("host-{host}")));
            let shard = format!("{:02}", (host * 5 + number % 4) % 16);
            item.insert("timeShard".into(), AttributeValue::S(shard));
            client.put_item().table_name(table).set_item(Some(item)).send().await.unwrap();
        }
    }
}

async fn ask(audit: &Ledger, raw: &str) -> Value {
    let query = Query::parse(&format!("source=dynamodb&{raw}")).unwrap();
    let answer = auditor::answer(audit, &query, Scope::All);
    tokio::time::timeout(Duration::from_secs(60), answer).await.unwrap().unwrap()
}

/// Timestamp and requestId of all that is found, page by page.
async fn pages(audit: &Ledger, raw: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut next = String::new();
    for _ in 0..1000 {
        let page = ask(audit, &format!("{raw}{next}")).await;
        found.extend(page["requests"].as_array().unwrap().iter().map(|item| {
            (item["timestamp"].as_str().unwrap().to_owned(), item["requestId"].as_str().unwrap().to_owned())
        }));
        match page["nextToken"].as_str() {
            Some(token) => next = format!("&nextToken={token}"),
            None => return found,
        }
    }
    panic!("the pages never end");
}

async fn the_fleet_is_asked(table: &str, hash: &str) {
    let client = create_indexed_table(table, hash).await;
    let directory = tempfile::tempdir().unwrap();
    let proxy = without_scans().await;
    let mut all = records(60);
    all[59] = Record { caller: Some("rare".into()), started_ms: all[0].started_ms - 2 * DAY_MS, ..all[59].clone() };
    let audit = shipped(directory.path(), table, proxy.client(), &all).await;
    add_hosts(&client, table, 5).await;

    for limit in [1, 7, 100, 1000] {
        let found = pages(&audit, &format!("timeRange=all&limit={limit}")).await;
        assert_eq!(found.len(), 360, "in pages of {limit}");
        assert!(found.is_sorted_by(|a, b| a.0 >= b.0), "newest first over all pages of {limit}");
        let mut ids: Vec<&str> = found.iter().map(|(_, id)| id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 360, "each once, in pages of {limit}");
    }
    assert_eq!(pages(&audit, "timeRange=24h&limit=50").await.len(), 354);
    assert_eq!(pages(&audit, "timeRange=all&limit=4&caller=rare").await.len(), 6);
    assert_eq!(pages(&audit, "timeRange=all&limit=4&caller=nobody").await.len(), 0);
    let query = Query::parse("source=dynamodb&nextToken=e30x").unwrap();
    assert_eq!(auditor::answer(&audit, &query, Scope::All).await.unwrap_err().kind, RefusalKind::Validation);
    audit.stop(kit::far()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_is_asked_by_shards_and_answers_newest_first() {
    the_fleet_is_asked("fleet-sharded", "timeShard").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_is_asked_by_an_index_with_a_constant_key() {
    the_fleet_is_asked("fleet-constant", "sourcePartition").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_records_do_not_shift_the_pages() {
    create_indexed_table("fleet-growing", "timeShard").await;
    let directory = tempfile::tempdir().unwrap();
    let proxy = without_scans().await;
    let audit = shipped(directory.path(), "fleet-growing", proxy.client(), &records(40)).await;
    let mut found = Vec::new();
    let mut next = String::new();
    for round in 1..=8 {
        let page = ask(&audit, &format!("limit=5{next}")).await;
        let items = page["requests"].as_array().unwrap();
        found.extend(items.iter().map(|item| item["requestId"].as_str().unwrap().to_owned()));
        // A second later than all of the first forty.
        let late = Record { started_ms: record(0).started_ms + 1000, ..record(round) };
        serve(&audit, &late).await;
        eventually("the new one is shipped", || audit.status().shipped_total == 40 + round).await;
        let token = page["nextToken"].as_str();
        next = token.map(|token| format!("&nextToken={token}")).unwrap_or_default();
    }
    assert_eq!(next, "");
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 40);
    audit.stop(kit::far()).await;
}

fn key(item: &Value) -> HashMap<String, AttributeValue> {
    let text = |name: &str| (name.to_owned(), AttributeValue::S(item[name].as_str().unwrap().to_owned()));
    HashMap::from([text("requestId"), text("timestamp")])
}

async fn change(client: &Client, table: &str, item: &Value, expression: &str) {
    let update = client.update_item().table_name(table).set_key(Some(key(item))).update_expression(expression);
    let update = match expression.contains(":code") {
        true => update.expression_attribute_values(":code", AttributeValue::N("500".into())),
        false => update,
    };
    update.send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_verified_by_its_shards() {
    const TABLE: &str = "verified-by-shards";
    let client = create_indexed_table(TABLE, "timeShard").await;
    let directory = tempfile::tempdir().unwrap();
    let proxy = without_scans().await;
    let mut all = records(40);
    for old in &mut all[..10] {
        old.started_ms -= 2 * DAY_MS;
    }
    let audit = shipped(directory.path(), TABLE, proxy.client(), &all).await;
    add_hosts(&client, TABLE, 2).await;
    audit.stop(kit::far()).await;
    drop(audit);
    let verify = async |more: &str, endpoint: String| {
        let (directory, more) = (directory.path().to_owned(), format!("verify --source dynamodb {more}"));
        let command = move || child::audit_behind(&endpoint, &directory, TABLE, &more);
        let command = tokio::task::spawn_blocking(command);
        tokio::time::timeout(Duration::from_secs(60), command).await.unwrap().unwrap()
    };
    let (whole, report) = verify("", proxy.endpoint()).await;
    assert!(whole && report.contains("40 records checked"), "other hosts' are not checked: {report}");
    let (whole, report) = verify("--time-range 24h", proxy.endpoint()).await;
    assert!(whole && report.contains("30 records checked"), "older ones are not read: {report}");

    let items = kit::items(directory.path());
    let delete =
        async |item: &Value| client.delete_item().table_name(TABLE).set_key(Some(key(item))).send().await.unwrap();
    delete(&items[2]).await;
    delete(&items[20]).await;
    change(&client, TABLE, &items[24], "SET statusCode = :code").await;
    // It stands in no index now, as an item does that was written a moment ago.
    change(&client, TABLE, &items[30], "REMOVE timeShard").await;
    let copy = client.get_item().table_name(TABLE).set_key(Some(key(&items[35]))).send().await.unwrap().item.unwrap();
    for (id, seq, shard) in [("forged", "41", true), ("forged-beside", "42", false)] {
        let mut item = copy.clone();
        item.insert("requestId".into(), AttributeValue::S(id.into()));
        item.insert("chainSeq".into(), AttributeValue::N(seq.into()));
        if !shard {
            item.remove("timeShard");
        }
        client.put_item().table_name(TABLE).set_item(Some(item)).send().await.unwrap();
    }
    let recent = ["MISSING   record 21 ", "CHANGED   record 25:", "CHANGED   record 31:", "INSERTED  record 41:"];
    for (range, endpoint, findings, more) in [
        ("", proxy.endpoint(), 5, "MISSING   record 3 "),
        ("--time-range 24h", proxy.endpoint(), 4, ""),
        ("--scan", dynamodb::endpoint(), 6, "INSERTED  record 42:"),
        ("--scan --time-range 24h", dynamodb::endpoint(), 5, "INSERTED  record 42:"),
    ] {
        let (whole, report) = verify(range, endpoint).await;
        assert!(!whole);
        for expected in recent.into_iter().chain([more]) {
            assert!(report.contains(expected), "{range}: {report}");
        }
        let lines = report.lines().filter(|line| !line.starts_with("note: "));
        assert_eq!(lines.count(), findings + 1, "{range}: {report}");
    }
}
