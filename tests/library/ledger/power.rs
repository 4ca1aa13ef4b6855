//! Loss of power and restored copies: journal and database each ahead of the other.

use std::path::{Path, PathBuf};

use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::record::Record;
use bedrock_sidecar::settings::Audit;
use serde_json::Value;
use test_support::dynamodb::{self, create_table};
use test_support::eventually;

use super::child;
use super::kit::{self, completed, in_table, record, serve, settings, start};

fn journal_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = directory.join("journal").read_dir().unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Copies of the database's files, or of the journal's.
fn copy(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<(PathBuf, Vec<u8>)> {
    let files = directory.read_dir().unwrap().chain(directory.join("journal").read_dir().unwrap());
    let paths = files.map(|file| file.unwrap().path()).filter(|path| path.is_file());
    paths
        .filter(|path| is_wanted(path.file_name().unwrap().to_str().unwrap()))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

fn restore(directory: &Path, is_wanted: impl Fn(&str) -> bool, copies: &[(PathBuf, Vec<u8>)]) {
    for (path, _) in copy(directory, is_wanted) {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in copies {
        std::fs::write(path, bytes).unwrap();
    }
}

fn is_database(name: &str) -> bool {
    name.starts_with("ledger.db")
}

fn is_journal(name: &str) -> bool {
    name.ends_with(".journal")
}

fn is_ledger(name: &str) -> bool {
    is_journal(name) || is_database(name)
}

fn assert_chain_grows(items: &[Value]) {
    let seqs: Vec<u64> = items.iter().map(|item| item["chainSeq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
    let ids: std::collections::BTreeSet<_> = items.iter().map(|item| item["requestId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), items.len(), "a request has two records");
}

fn assert_whole(directory: &Path) {
    let (whole, report) = child::audit(directory, None, "verify");
    assert!(whole, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_lost_its_end_gives_no_number_twice_and_interrupts_nothing_that_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let audit = start(&settings).await;
    for number in 0..3 {
        serve(&audit, &record(number)).await;
    }
    audit.stop(kit::far()).await;
    drop(audit);
    let journal = journal_files(directory.path()).remove(0);
    let whole = std::fs::read(&journal).unwrap();
    let frames = bedrock_sidecar::ledger::journal::frame::decode(&whole, true).frames;
    // The database has all three. The journal keeps an opening whose end is lost, or nothing.
    for keep in [frames.len() - 1, frames.len() - 2, 2, 1, 0] {
        let end = frames.get(keep).map_or(0, |(_, range)| range.start - 12);
        std::fs::write(&journal, &whole[..if keep == 0 { 0 } else { end }]).unwrap();
        let before = kit::items(directory.path());
        let audit = start(&settings).await;
        serve(&audit, &record(9)).await;
        audit.stop(kit::far()).await;
        drop(audit);
        let items = kit::items(directory.path());
        assert_eq!(items.len(), before.len() + 1, "{keep} entries kept");
        assert_eq!(items[..before.len()], before[..]);
        assert!(items.iter().all(|item| item["outcome"] == "completed"), "{keep} entries kept");
        assert_chain_grows(&items);
        assert_whole(directory.path());
        for later in journal_files(directory.path()).into_iter().filter(|file| *file != journal) {
            std::fs::remove_file(later).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_damaged_in_the_journal_and_sound_in_the_database_is_not_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let audit = start(&settings).await;
    for number in 0..5 {
        serve(&audit, &record(number)).await;
    }
    audit.stop(kit::far()).await;
    drop(audit);
    let journal = journal_files(directory.path()).remove(0);
    let mut bytes = std::fs::read(&journal).unwrap();
    // The end of the second request.
    let range = bedrock_sidecar::ledger::journal::frame::decode(&bytes, true).frames[4].1.clone();
    bytes[range.start + 100] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    let audit = start(&settings).await;
    serve(&audit, &record(5)).await;
    audit.stop(kit::far()).await;
    drop(audit);
    let items = kit::items(directory.path());
    assert!(items.iter().all(|item| item["outcome"] == "completed"));
    assert_chain_grows(&items);
    assert_eq!(items.len(), 6);
    assert_whole(directory.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_copy_of_journal_or_database_gives_no_number_twice() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let audit = start(&settings).await;
    for number in 0..10 {
        serve(&audit, &record(number)).await;
    }
    audit.stop(kit::far()).await;
    drop(audit);
    let old_journal = copy(directory.path(), is_journal);
    let old_database = copy(directory.path(), is_database);
    let audit = start(&settings).await;
    for number in 10..20 {
        serve(&audit, &record(number)).await;
    }
    let _open = audit.open(&record(20)).await.unwrap();
    audit.stop(kit::far()).await;
    drop(audit);

    // The database is older than the journal.
    restore(directory.path(), is_database, &old_database);
    let audit = start(&settings).await;
    audit.stop(kit::far()).await;
    drop(audit);
    let items = kit::items(directory.path());
    assert_eq!(items.len(), 21);
    assert_eq!(items[20]["outcome"], "interrupted");
    assert_chain_grows(&items);
    assert_whole(directory.path());

    // The journal is older than the database.
    restore(directory.path(), is_journal, &old_journal);
    let audit = start(&settings).await;
    serve(&audit, &record(21)).await;
    audit.stop(kit::far()).await;
    drop(audit);
    let items = kit::items(directory.path());
    assert_eq!((items.len(), &items[21]["chainSeq"]), (22, &22.into()));
    assert_chain_grows(&items);
    assert_whole(directory.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_records_with_one_number_are_told_and_the_rest_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let audit = start(&settings).await;
    for number in 0..3 {
        serve(&audit, &record(number)).await;
    }
    audit.stop(kit::far()).await;
    drop(audit);
    // As another version may have left it: the place that the journal's third record claims is taken.
    let db = rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap();
    db.execute_batch(
        "UPDATE state SET offset = 0, segment = 0, last_id = 1, unshipped_bytes = 0, kept_bytes = 0;
         DELETE FROM records WHERE seq = 2; DELETE FROM records WHERE seq = 1;
         UPDATE records SET hash = 'other', id = 1;",
    )
    .unwrap();
    drop(db);
    let audit = start(&settings).await;
    serve(&audit, &record(3)).await;
    audit.flush().await;
    let status = audit.status();
    assert_eq!(status.set_aside, 1, "{status:?}");
    assert!(status.failures_total > 0, "{status:?}");
    audit.stop(kit::far()).await;
    drop(audit);
    assert_eq!(kit::items(directory.path()).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_the_first_version_is_migrated_and_keeps_two_records_of_one_number_apart() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let audit = start(&settings).await;
    for number in 0..3 {
        serve(&audit, &record(number)).await;
    }
    audit.stop(kit::far()).await;
    drop(audit);
    let db = rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap();
    db.execute_batch(
        "DROP INDEX records_by_chain; DROP TABLE conflicts; PRAGMA user_version = 1;
         INSERT INTO records SELECT 99, chain, seq, started_ms, success, caller, caller_uid, model_id, 'other', item
         FROM records WHERE seq = 2; UPDATE state SET last_id = 99;",
    )
    .unwrap();
    drop(db);
    let audit = start(&settings).await;
    serve(&audit, &record(3)).await;
    audit.flush().await;
    assert_eq!(audit.status().set_aside, 1);
    audit.stop(kit::far()).await;
    drop(audit);
    assert_eq!(kit::items(directory.path()).len(), 4);
    // The chain is whole but for the one that claims a place in it, which is named.
    let (whole, report) = child::audit(directory.path(), None, "verify");
    let lines: Vec<&str> = report.lines().filter(|line| !line.starts_with("note: ")).collect();
    assert!(!whole && lines.len() == 2 && lines[1].starts_with("4 records checked"), "{report}");
    let place = &kit::items(directory.path())[1];
    let db = rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap();
    let hash: String = db.query_row("SELECT hash FROM records WHERE seq = 2", [], |row| row.get(0)).unwrap();
    let there = format!("the one with the hash {hash}, kept aside is other");
    assert!(lines[0].starts_with("CONFLICT  record 2:") && lines[0].contains(&there), "{report}");
    assert!(lines[0].contains(place["requestId"].as_str().unwrap()), "{report}");
    let listed = child::audit(directory.path(), None, "list --set-aside --format jsonl").1;
    assert!(listed.lines().count() == 1 && listed.contains("another record has its place in the chain"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_table_has_is_not_replaced_by_interrupted() {
    const TABLE: &str = "not-replaced";
    let client = create_table(TABLE, &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = in_table(directory.path(), TABLE);
    let start = async || Ledger::start_with(&settings, Some(dynamodb::local())).await.unwrap();
    let audit = start().await;
    let (ended, open) = (record(1), record(2));
    let kept_open = audit.open(&ended).await.unwrap();
    let _never_closed = audit.open(&open).await.unwrap();
    let before = copy(directory.path(), is_ledger);
    audit.close(kept_open, &completed(&ended));
    audit.stop(kit::far()).await;
    drop(audit);
    // The whole directory is restored from a copy in which both requests were under way.
    restore(directory.path(), is_ledger, &before);
    let audit = start().await;
    audit.stop(kit::far()).await;
    assert_eq!(audit.status().pending, 0, "a condition that fails counts as shipped");
    drop(audit);
    let shipped = dynamodb::items(&client, TABLE).await;
    assert_eq!(shipped[&ended.request_id]["outcome"], "completed");
    assert_eq!(shipped[&open.request_id]["outcome"], "interrupted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shipped_and_lost_with_the_power_is_whole_in_the_table() {
    const TABLE: &str = "lost-with-the-power";
    let client = create_table(TABLE, &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = in_table(directory.path(), TABLE);
    let start = async || {
        let audit = Ledger::start_with(&settings, Some(dynamodb::local())).await.unwrap();
        audit.begin_chain(&Record { source_ip: "bedrock-sidecar".into(), ..record(0) });
        eventually("the beginning is told", || !directory.path().join("genesis.json").exists()).await;
        audit
    };
    let audit = start().await;
    serve(&audit, &record(1)).await;
    let under_way = record(2);
    let open = audit.open(&under_way).await.unwrap();
    audit.flush().await;
    let before = copy(directory.path(), is_ledger);
    serve(&audit, &record(3)).await;
    audit.close(open, &completed(&under_way));
    serve(&audit, &record(4)).await;
    audit.stop(kit::far()).await;
    drop(audit);
    // Of the disk's cache only this was written, and the host was booted since.
    restore(directory.path(), is_ledger, &before);
    std::fs::write(directory.path().join("running"), "another boot\n").unwrap();
    let audit = start().await;
    serve(&audit, &record(5)).await;
    audit.stop(kit::far()).await;
    drop(audit);

    let items = kit::items(directory.path());
    let found = items.iter().find(|item| item["formerChain"] == "found").unwrap();
    assert_eq!((&found["formerChainId"], &found["formerChainSeq"]), (&items[0]["chainId"], &6.into()), "{items:#?}");
    assert!(items.iter().any(|item| item["outcome"] == "interrupted"), "{items:#?}");
    let verify = |words: &str| child::audit(directory.path(), Some(TABLE), words);
    let (whole, report) = verify("verify");
    assert!(whole && report.contains("which is here up to record 3 only"), "{report}");
    for command in ["verify --source dynamodb", "verify --source dynamodb --time-range 24h"] {
        let (whole, report) = verify(command);
        assert!(whole && report.contains("continues after record 6 of chain"), "{report}");
        assert!(report.contains("note: 3 items of chain"), "{report}");
    }

    // What goes from between is missing as ever.
    let shipped = dynamodb::items(&client, TABLE).await;
    let fifth = shipped.values().find(|item| item["chainId"] == items[0]["chainId"] && item["chainSeq"] == 5).unwrap();
    kit::delete(&client, TABLE, fifth).await;
    let (whole, report) = verify("verify --source dynamodb");
    assert!(!whole && report.contains("MISSING   record 5 "), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_a_restored_database_brings_back_stands_beside_what_a_start_wrote_in_its_place() {
    for is_shipped_before in [true, false] {
        let table = format!("end-brought-back-{is_shipped_before}");
        let client = create_table(&table, &["requestId", "timestamp"]).await;
        let directory = tempfile::tempdir().unwrap();
        let local = settings(directory.path());
        let settings = in_table(directory.path(), &table);
        let start = async |settings: &Audit| Ledger::start_with(settings, Some(dynamodb::local())).await.unwrap();
        let audit = start(if is_shipped_before { &settings } else { &local }).await;
        serve(&audit, &record(1)).await;
        let request = record(2);
        let open = audit.open(&request).await.unwrap();
        audit.flush().await;
        let under_way = copy(directory.path(), is_ledger);
        audit.close(open, &completed(&request));
        serve(&audit, &record(3)).await;
        audit.stop(kit::far()).await;
        drop(audit);
        let ended = copy(directory.path(), is_database);
        // Of the disk's cache only this was written, and the host was booted since.
        restore(directory.path(), is_ledger, &under_way);
        std::fs::write(directory.path().join("running"), "another boot\n").unwrap();
        let audit = start(&settings).await;
        serve(&audit, &record(4)).await;
        audit.stop(kit::far()).await;
        drop(audit);
        let outcome = async || dynamodb::items(&client, &table).await[&request.request_id]["outcome"].clone();
        assert_eq!(outcome().await, if is_shipped_before { "completed" } else { "interrupted" });
        // An admin restores the database from a copy that knows the end.
        restore(directory.path(), is_database, &ended);
        let audit = start(&settings).await;
        serve(&audit, &record(5)).await;
        audit.stop(kit::far()).await;
        assert_eq!(audit.status().pending, 0);
        drop(audit);

        let items = kit::items(directory.path());
        let of_request: Vec<&Value> = items.iter().filter(|item| item["requestId"] == request.request_id).collect();
        let [end, interrupted] = of_request[..] else { panic!("{items:#?}") };
        assert_eq!((&end["outcome"], &interrupted["outcome"]), (&"completed".into(), &"interrupted".into()));
        assert_ne!(end["chainId"], interrupted["chainId"]);
        assert_eq!(items.last().unwrap()["chainId"], interrupted["chainId"], "the later chain goes on");
        assert_eq!(outcome().await, "completed", "the end is what the table has");
        assert_eq!(dynamodb::items(&client, &table).await.len(), 5);

        let audit = |words: &str| child::audit(directory.path(), Some(&table), words);
        let (whole, report) = audit("verify");
        assert!(whole && report.contains("6 records checked"), "{report}");
        for command in ["verify --source dynamodb", "verify --source dynamodb --time-range 24h"] {
            let (whole, report) = audit(command);
            assert!(whole && report.contains("note: 1 records say that a request was interrupted"), "{report}");
        }
        let listed = audit("list --format jsonl").1;
        assert_eq!(listed.lines().filter(|line| line.contains(&request.request_id)).count(), 2, "{listed}");
        let export = directory.path().join("export.jsonl");
        std::fs::write(&export, audit("export --format jsonl").1).unwrap();
        let (whole, report) = audit(&format!("verify --source export {}", export.display()));
        assert!(whole && report.contains("6 records checked"), "{report}");

        // What stands beside it excuses nothing else: without the end, both records are missing.
        kit::delete(&client, &table, end).await;
        let (whole, report) = audit("verify --source dynamodb");
        assert!(!whole && report.matches("MISSING ").count() == 2, "{report}");
    }
}
