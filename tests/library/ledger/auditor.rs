//! Questions, exports, and what `audit verify` makes of records that were edited by hand.

use std::path::Path;

use aws_sdk_dynamodb::types::AttributeValue;
use bedrock_sidecar::auditor::{self, Query, Scope};
use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::record::Record;
use bedrock_sidecar::settings;
use clap::Parser;
use rusqlite::Connection;
use serde_json::Value;

use super::child;
use super::kit::{self, completed, record, serve, start};
use test_support::dynamodb::{self, Proxy, create_table};
use test_support::eventually;

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
    // One line more closes it.
    assert_eq!(lines(directory.path(), "export").len(), 31);
    let csv = lines(directory.path(), "export --format csv");
    assert_eq!(csv.len(), 32);
    assert!(csv[31].starts_with("#export,\"{\"\"export\"\":{"), "{}", csv[31]);
    assert_eq!(lines(directory.path(), "list --limit 5").len(), 6);
    assert_eq!(lines(directory.path(), "list --success false --format jsonl").len(), 6);
    assert_eq!(lines(directory.path(), "list --caller billing --format jsonl").len(), 15);
    let whole = lines(directory.path(), "verify");
    assert_eq!(whole.last().unwrap(), "30 records checked; whole: none changed, missing or inserted");
    assert!(whole.len() == 2 && whole[0].starts_with("note: the start of chain "), "{whole:?}");
    drop(audit);
    assert_eq!(lines(directory.path(), "export").len(), 31);
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
        assert_eq!(
            report.lines().filter(|line| !line.starts_with("note: ")).count(),
            2,
            "nothing else is accused: {report}"
        );
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
    // Cut anywhere, it is not whole, and no record is accused.
    for cut in [0, 1, 700, export.len() / 2, export.len() - 2] {
        let (whole, report) = verify(&export[..cut]);
        assert!(!whole && report.contains("the export has no closing line"), "cut at {cut}: {report}");
        assert!(!["CHANGED", "MISSING", "INSERTED"].iter().any(|word| report.contains(word)), "cut at {cut}: {report}");
    }
    let (whole, report) = verify(&[&lines[..18], &lines[20..]].concat().join("\n"));
    assert!(!whole && report.contains("MISSING   records 19 to 20"), "{report}");
    let (whole, report) = verify(&lines[2..].join("\n"));
    assert!(!whole && report.contains("counts 20 records, and 18 stand before it"), "{report}");
    let (whole, report) = verify(&format!("{export}{}\n", lines[0]));
    assert!(!whole && report.contains("a line behind the closing line"), "{report}");
}

/// An output that looks, at each write, whether the export holds the database.
struct Watched {
    database: std::path::PathBuf,
    writes: u32,
}

impl std::io::Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.writes += 1;
        let db = Connection::open(&self.database).unwrap();
        db.busy_timeout(std::time::Duration::ZERO).unwrap();
        db.execute("UPDATE state SET one = 1", []).unwrap();
        let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
        assert_eq!(busy, 0, "a reader holds the write-ahead log");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_read_slowly_does_not_hold_the_database() {
    let directory = tempfile::tempdir().unwrap();
    let audit = served(directory.path(), 20).await;
    audit.stop(kit::far()).await;
    drop(audit);
    let mut out = Watched { database: directory.path().join("ledger.db"), writes: 0 };
    let words = child::Audit::parse_from(["audit", "export"]);
    assert!(auditor::cli::run(&words.command, &kit::settings(directory.path()), &mut out).await.unwrap());
    assert!(out.writes >= 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_held_against_the_ledger() {
    let client = create_table("verified", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = kit::in_table(directory.path(), "verified");
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
    assert_eq!(report.lines().filter(|line| !line.starts_with("note: ")).count(), 4, "{report}");
    assert!(report.contains(&forged.request_id));
}

/// Runs `audit verify --source dynamodb`, and `meanwhile` between its look at the ledger and its look at the table.
async fn verify_and_meanwhile(directory: &Path, table: &'static str, meanwhile: impl AsyncFnOnce()) -> (bool, String) {
    let proxy = Proxy::start().await;
    proxy.hold(&["Scan", "Query"]);
    let (endpoint, directory) = (proxy.endpoint(), directory.to_owned());
    let command = move || child::audit_behind(&endpoint, &directory, table, "verify --source dynamodb");
    let command = tokio::task::spawn_blocking(command);
    eventually("the table is asked", || proxy.waiting() > 0).await;
    meanwhile().await;
    proxy.hold(&[]);
    command.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_ships_while_the_table_is_read_is_no_finding() {
    create_table("busy", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = kit::in_table(directory.path(), "busy");
    let audit = Ledger::start_with(&settings, Some(dynamodb::local())).await.unwrap();
    let ship = async |count: u64, shipped: u64| {
        for number in 0..count {
            serve(&audit, &record(number)).await;
        }
        eventually("all are shipped", || audit.status().shipped_total == shipped).await;
    };
    ship(30, 30).await;
    let (whole, report) = verify_and_meanwhile(directory.path(), "busy", async || ship(10, 40).await).await;
    assert!(whole, "{report}");
    assert!(report.contains("40 records checked"), "it has seen the new ones: {report}");
    audit.stop(kit::far()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shipped_and_pruned_while_the_table_is_read_is_no_finding() {
    create_table("busy-pruned", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let mut settings = kit::in_table(directory.path(), "busy-pruned");
    let ship = async |settings: &settings::Audit, count: u64| {
        let audit = Ledger::start_with(settings, Some(dynamodb::local())).await.unwrap();
        for number in 0..count {
            serve(&audit, &record(number)).await;
        }
        audit.flush().await;
        eventually("all are shipped", || audit.status().shipped_total == count).await;
        audit.stop(kit::far()).await;
    };
    ship(&settings, 30).await;
    let (whole, report) = verify_and_meanwhile(directory.path(), "busy-pruned", async || {
        ship(&settings, 10).await;
        settings.max_ledger_bytes = 1;
        ship(&settings, 0).await;
        assert_eq!(kit::items(directory.path()).len(), 0);
    })
    .await;
    assert!(whole, "{report}");
    assert!(report.contains("note: 10 items are older than what the ledger keeps"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pruned_by_rule_is_not_inserted_though_nothing_of_the_chain_is_left() {
    create_table("pruned", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let mut settings = kit::in_table(directory.path(), "pruned");
    let audit = Ledger::start_with(&settings, Some(dynamodb::local())).await.unwrap();
    for number in 0..30 {
        serve(&audit, &record(number)).await;
    }
    audit.stop(kit::far()).await;
    drop(audit);
    // The start prunes by size, and the items in the table have weeks to go.
    settings.max_ledger_bytes = 1;
    let audit = Ledger::start_with(&settings, Some(dynamodb::local())).await.unwrap();
    audit.flush().await;
    audit.stop(kit::far()).await;
    drop(audit);
    assert_eq!(kit::items(directory.path()).len(), 0);
    let (whole, report) = child::audit(directory.path(), Some("pruned"), "verify --source dynamodb");
    assert!(whole, "{report}");
    assert!(report.contains("note: 30 items are older than what the ledger keeps"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_cut_or_written_anew_is_contradicted_by_anchors() {
    let directory = tempfile::tempdir().unwrap();
    let audit = served(directory.path(), 20).await;
    audit.stop(kit::far()).await;
    drop(audit);
    let log = directory.path().join("log");
    let database = directory.path().join("ledger.db");
    let anchor = |db: &Connection, seq: i64| {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
        let of = "SELECT chain_id, hash FROM records JOIN chains ON chains.id = chain WHERE seq = ?1";
        let (chain, hash) = db.query_row(of, [seq], read).unwrap();
        format!("x INFO audit: the end of the chain chainId={chain} chainSeq={seq} chainHash={hash}\n")
    };
    let db = Connection::open(&database).unwrap();
    std::fs::write(&log, [anchor(&db, 7), anchor(&db, 18)].concat()).unwrap();
    let command = format!("verify --anchors {}", log.display());
    let verify = |command: &str| child::audit(directory.path(), None, command);
    let (whole, report) = verify(&command);
    assert!(whole && report.contains("proven by anchors: records 1 to 18 of chain "), "{report}");
    assert!(report.contains("2 newer ones are not anchored yet"), "{report}");

    // The tail is cut, and whatever knows of it.
    std::fs::remove_dir_all(directory.path().join("journal")).unwrap();
    std::fs::create_dir(directory.path().join("journal")).unwrap();
    db.execute("DELETE FROM records WHERE seq > 15", []).unwrap();
    db.execute("UPDATE chains SET head_seq = 15, head_hash = (SELECT hash FROM records WHERE seq = 15)", []).unwrap();
    assert!(verify("verify").0, "by itself it is whole");
    let (whole, report) = verify(&command);
    assert!(!whole && report.contains("was anchored at record 18, and ends at record 15"), "{report}");
    drop(db);

    // Another ledger stands in the place of the first.
    for file in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let _ = std::fs::remove_file(directory.path().join(file));
    }
    drop(served(directory.path(), 20).await);
    assert!(verify("verify").0, "by itself it is whole");
    let (whole, report) = verify(&command);
    assert!(!whole && report.contains("was anchored at record 18, and is not in this ledger"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_to_the_daemon_do_not_count_as_requests() {
    create_table("questions", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = kit::in_table(directory.path(), "questions");
    let audit = Ledger::start_with(&settings, Some(dynamodb::local())).await.unwrap();
    for number in 0..9 {
        let record = record(number);
        if number % 3 == 0 {
            audit.note(&Record { operation: "DashboardRequests".into(), model_id: String::new(), ..record });
        } else if number % 3 == 1 {
            audit.note(&Record { operation: "ListFoundationModels".into(), model_id: String::new(), ..record });
        } else {
            serve(&audit, &record).await;
        }
    }
    audit.stop(kit::far()).await;
    for source in ["ledger", "dynamodb"] {
        for filter in ["", "&partition=commercial", "&success=all&timeRange=all"] {
            let query = Query::parse(&format!("source={source}{filter}")).unwrap();
            let answer = auditor::answer(&audit, &query, Scope::All).await.unwrap();
            assert_eq!((answer["totalCount"].as_u64(), ids(&answer).len()), (Some(6), 6), "{source}{filter}: {answer}");
        }
    }
    drop(audit);
    let lines = |words: &str| child::audit(directory.path(), Some("questions"), words).1.lines().count();
    assert_eq!(lines("list --format jsonl"), 9);
    assert_eq!(lines("list --format jsonl --source dynamodb"), 9);
    assert_eq!(lines("list --format jsonl --partition commercial"), 6);
    assert_eq!(lines("export"), 10);
}
