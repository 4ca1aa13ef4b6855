//! Questions, exports, and what `audit verify` makes of records that were edited by hand.

use aws_sdk_dynamodb::types::AttributeValue;
use bedrock_sidecar::auditor::{self, Query, Scope};
use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::record::Record;
use bedrock_sidecar::settings;
use rusqlite::Connection;
use serde_json::Value;

use super::child;
use super::kit::{self, completed, record, serve, start};
use test_support::dynamodb::{self, create_table};

async fn served(directory: &std::path::Path, count: u64) -> std::sync::Arc<Ledger> {
    let audit = start(&kit::settings(directory)).await;
    for number in 0..count {
        if number % 5 == 4 {
            let record = record(number);
            audit.note(&Record { status_code: 403, ..record });
        } else {
            serve(&audit, &record(number)).await;
        }
    }
    audit
}

fn ids(answer: &Value) -> Vec<String> {
    answer["requests"].as_array().unwrap().iter().map(|item| item["requestId"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_legacy_shape_and_pages_that_fit_together() {
    let directory = tempfile::tempdir().unwrap();
    let audit = served(directory.path(), 50).await;
    let ask = async |raw: &str, who: Scope| auditor::answer(&audit, &Query::parse(raw).unwrap(), who).await.unwrap();

    let answer = ask("", Scope::All).await;
    assert_eq!(answer["totalCount"], 50);
    assert_eq!(answer["filters"]["timeRange"], "24h");
    assert_eq!((&answer["filters"]["partition"], &answer["filters"]["success"]), (&"all".into(), &"all".into()));
    assert_eq!(answer["requests"][0]["chainHash"].as_str().unwrap().len(), 64);
    assert!(answer.get("nextToken").is_none());

    assert_eq!(ask("success=false", Scope::All).await["totalCount"], 10);
    assert_eq!(ask("caller=billing&success=true", Scope::All).await["totalCount"], 20);
    assert_eq!(ask("modelId=other", Scope::All).await["totalCount"], 0);
    assert_eq!(ask("partition=govcloud", Scope::All).await["totalCount"], 0);
    assert_eq!(ask("partition=commercial&timeRange=1h", Scope::All).await["totalCount"], 50);

    let own = Scope::Own { caller: Some("search".into()), uid: None };
    assert_eq!(ask("", own.clone()).await["totalCount"], 25);
    assert_eq!(ask("caller=billing", own).await["totalCount"], 0, "a filter cannot widen what one may see");
    assert_eq!(ask("", Scope::Own { caller: None, uid: Some(1000) }).await["totalCount"], 25);
    assert_eq!(ask("", Scope::Own { caller: None, uid: None }).await["totalCount"], 0);

    let all = ids(&answer);
    let mut paged = Vec::new();
    let mut raw = "limit=7".to_owned();
    loop {
        let page = ask(&raw, Scope::All).await;
        assert_eq!(page["totalCount"], 50);
        paged.extend(ids(&page));
        // Records that come meanwhile do not shift the pages.
        serve_quietly(&audit).await;
        match page["nextToken"].as_str() {
            Some(token) => raw = format!("limit=7&nextToken={token}&caller="),
            None => break,
        }
        if paged.len() > 100 {
            panic!("pages never end");
        }
        if paged.len() >= 50 {
            break;
        }
    }
    assert_eq!(paged[..50], all[..]);
}

/// A record that is older than all others of the test, and outside of the day.
async fn serve_quietly(audit: &Ledger) {
    let old = record(0);
    serve(audit, &Record { started_ms: old.started_ms - 40 * 86_400_000, ..old }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_beside_a_running_daemon_and_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let audit = served(directory.path(), 30).await;
    // Not flushed: what SQLite does not have yet is read from the journal.
    let lines = |directory: &std::path::Path, arguments: &str| {
        child::audit(directory, None, arguments).1.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(directory.path(), "export").len(), 30);
    assert_eq!(lines(directory.path(), "export --format csv").len(), 31);
    assert_eq!(lines(directory.path(), "list --limit 5").len(), 6);
    assert_eq!(lines(directory.path(), "list --success false --format jsonl").len(), 6);
    assert_eq!(lines(directory.path(), "list --caller billing --format jsonl").len(), 15);
    let whole = lines(directory.path(), "verify");
    assert_eq!(whole, ["30 records checked; whole: none changed, missing or inserted"]);
    drop(audit);
    assert_eq!(lines(directory.path(), "export").len(), 30);
    assert_eq!(lines(directory.path(), "verify"), whole);
}

type Edit = (&'static str, &'static str);

/// What is done to the ledger by hand, and what has to be said.
const EDITS: [Edit; 7] = [
    (
        "UPDATE records SET item = replace(item, '\"success\":true', '\"success\":false') WHERE seq = 7",
        "CHANGED   record 7:",
    ),
    ("UPDATE records SET item = replace(item, 'billing', 'search') WHERE seq = 11", "CHANGED   record 11:"),
    ("DELETE FROM records WHERE seq IN (20, 21)", "MISSING   records 20 to 21 (2 records)"),
    ("DELETE FROM records WHERE seq = 40", "MISSING   record 40"),
    ("DELETE FROM records WHERE seq = 1", "MISSING   record 1 "),
    (
        "DROP INDEX records_by_chain; INSERT INTO records SELECT 999, chain, seq, started_ms, success, caller, caller_uid, model_id, hash, item FROM records WHERE seq = 9",
        "INSERTED  record 9:",
    ),
    ("UPDATE records SET success = 0 WHERE seq = 7", "CHANGED   record 7: what questions are answered from"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_edit_of_the_ledger_is_found_and_named() {
    let directory = tempfile::tempdir().unwrap();
    drop(served(directory.path(), 40).await);
    let database = directory.path().join("ledger.db");
    let clean = std::fs::read(&database).unwrap();
    for (edit, expected) in EDITS {
        std::fs::write(&database, &clean).unwrap();
        Connection::open(&database).unwrap().execute_batch(edit).unwrap();
        let (whole, report) = child::audit(directory.path(), None, "verify");
        assert!(!whole && report.contains(expected), "{edit}: {report}");
        assert_eq!(report.lines().count(), 2, "nothing else is accused: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_verified_without_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    drop(served(directory.path(), 20).await);
    let (_, export) = child::audit(directory.path(), None, "export");
    let file = directory.path().join("export.jsonl");
    let verify = |text: &str| {
        std::fs::write(&file, text).unwrap();
        child::audit(directory.path(), None, &format!("verify --source export {}", file.display()))
    };
    assert!(verify(&export).0);
    let lines: Vec<&str> = export.lines().collect();
    let (whole, report) = verify(&export.replacen("\"statusCode\":403", "\"statusCode\":200", 1));
    assert!(!whole && report.contains("CHANGED   record 5:"), "{report}");
    let (whole, report) = verify(&[&lines[..7], &lines[8..]].concat().join("\n"));
    assert!(!whole && report.contains("MISSING   record 8 "), "{report}");
    let (whole, report) = verify(&[&lines[..7], &lines[2..]].concat().join("\n"));
    assert!(!whole && report.contains("INSERTED  record 3:"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_held_against_the_ledger() {
    let client = create_table("verified", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = settings::Audit { table: Some("verified".into()), ..kit::settings(directory.path()) };
    let audit = Ledger::start_with(&settings, Some(dynamodb::local())).await.unwrap();
    for number in 0..30 {
        serve(&audit, &record(number)).await;
    }
    audit.stop(kit::far()).await;

    let fleet = auditor::answer(&audit, &Query::parse("source=dynamodb&limit=7").unwrap(), Scope::All).await.unwrap();
    let mut found = ids(&fleet);
    let mut token = fleet["nextToken"].as_str().map(str::to_owned);
    while let Some(next) = token {
        let page = Query::parse(&format!("source=dynamodb&limit=7&nextToken={next}")).unwrap();
        let page = auditor::answer(&audit, &page, Scope::All).await.unwrap();
        found.extend(ids(&page));
        token = page["nextToken"].as_str().map(str::to_owned);
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 30);
    let everywhere = Query::parse("source=dynamodb").unwrap();
    let own = auditor::answer(&audit, &everywhere, Scope::Own { caller: Some("billing".into()), uid: None });
    assert_eq!(own.await.unwrap()["totalCount"], 15);
    drop(audit);

    let verify = || child::audit(directory.path(), Some("verified"), "verify --source dynamodb");
    assert!(verify().0);
    let items = kit::items(directory.path());
    let key = |seq: usize| {
        let text = |name: &str| AttributeValue::S(items[seq - 1][name].as_str().unwrap().to_owned());
        (text("requestId"), text("timestamp"))
    };
    let (id, time) = key(3);
    client
        .update_item()
        .table_name("verified")
        .key("requestId", id)
        .key("timestamp", time)
        .update_expression("SET statusCode = :code")
        .expression_attribute_values(":code", AttributeValue::N("500".into()))
        .send()
        .await
        .unwrap();
    let (id, time) = key(9);
    client.delete_item().table_name("verified").key("requestId", id).key("timestamp", time).send().await.unwrap();
    let forged = completed(&record(77));
    let mut item = client.scan().table_name("verified").limit(1).send().await.unwrap().items.unwrap().remove(0);
    item.insert("requestId".into(), AttributeValue::S(forged.request_id.clone()));
    item.insert("chainSeq".into(), AttributeValue::N("31".into()));
    client.put_item().table_name("verified").set_item(Some(item)).send().await.unwrap();
    let (whole, report) = verify();
    assert!(!whole);
    for expected in ["CHANGED   record 3:", "MISSING   record 9 ", "INSERTED  record 31:"] {
        assert!(report.contains(expected), "{report}");
    }
    assert_eq!(report.lines().count(), 4, "{report}");
    assert!(report.contains(&forged.request_id));
}
