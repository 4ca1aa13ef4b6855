//! Damage: journals cut at every byte and changed in every bit, a database that is none, a full disk, a clock that jumps.

use std::path::Path;

use bedrock_sidecar::auditor::query::TimeRange;
use bedrock_sidecar::auditor::{self, Query, Scope};
use bedrock_sidecar::config::OnFailure;
use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::record::Record;
use bedrock_sidecar::settings;

use test_support::{SmallDisk, eventually};

use super::child;
use super::kit::{self, completed, record, serve, settings, start};

fn journal_file(directory: &Path) -> std::path::PathBuf {
    let mut files: Vec<_> = directory.join("journal").read_dir().unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.remove(0)
}

/// A ledger with three ended requests and one open, whose database never was written.
async fn journal_of_four(directory: &Path) -> (Vec<Record>, Vec<u8>) {
    let audit = start(&settings(directory)).await;
    let records: Vec<Record> = (0..4).map(record).collect();
    for record in &records[..3] {
        serve(&audit, record).await;
    }
    let _open = audit.open(&records[3]).await.unwrap();
    drop(audit);
    (records, std::fs::read(journal_file(directory)).unwrap())
}

/// Starts a daemon on nothing but this journal, and returns what it holds then.
async fn recovered(directory: &Path, journal: &[u8]) -> Vec<serde_json::Value> {
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory.join("journal")).unwrap();
    std::fs::write(directory.join("journal/0000000001.journal"), journal).unwrap();
    let audit = start(&settings(directory)).await;
    audit.flush().await;
    let items = kit::items(directory);
    audit.stop(kit::far()).await;
    items
}

fn frames(journal: &[u8]) -> Vec<std::ops::Range<usize>> {
    let found = bedrock_sidecar::ledger::journal::frame::decode(journal, true);
    found.frames.into_iter().map(|(_, range)| range.start - 12..range.end).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_at_any_byte_the_journal_keeps_every_entry_before_the_cut() {
    cut_the_journal(41).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: a start of the ledger for every byte of a journal"]
async fn cut_at_every_byte_the_journal_keeps_every_entry_before_the_cut() {
    cut_the_journal(1).await;
}

/// At every so many bytes, and around the end of every entry.
async fn cut_the_journal(step: usize) {
    let directory = tempfile::tempdir().unwrap();
    let (records, journal) = journal_of_four(&directory.path().join("first")).await;
    let frames = frames(&journal);
    assert_eq!(frames.len(), 8, "header, three openings with ends, one opening");
    // Header, o, c, o, c, o, c, o: the cut decides how many requests are known.
    let around = frames.iter().flat_map(|frame| [frame.end - 1, frame.end]);
    for cut in (0..journal.len()).step_by(step).chain(around) {
        let whole = frames.iter().filter(|frame| frame.end <= cut).count();
        let items = recovered(&directory.path().join("cut"), &journal[..cut]).await;
        let (known, ended) = (whole / 2, whole.saturating_sub(1) / 2);
        assert_eq!(items.len(), known, "cut at {cut}");
        for (record, item) in records.iter().zip(&items) {
            assert_eq!(item["requestId"], record.request_id);
        }
        for (number, item) in items.iter().enumerate() {
            assert_eq!(item["outcome"], if number < ended { "completed" } else { "interrupted" }, "cut at {cut}");
            assert_eq!(item["chainSeq"], number + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_costs_no_request_and_is_told() {
    flip_bits(611).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: a start of the ledger for every fifth bit of a journal"]
async fn a_flipped_bit_in_every_byte_costs_no_request_and_is_told() {
    flip_bits(5).await;
}

/// One at a time, and only every so many.
async fn flip_bits(step: usize) {
    let directory = tempfile::tempdir().unwrap();
    let (records, journal) = journal_of_four(&directory.path().join("first")).await;
    let frames = frames(&journal);
    for bit in (0..journal.len() * 8).step_by(step) {
        let mut journal = journal.clone();
        journal[bit / 8] ^= 1 << (bit % 8);
        let hit = frames.iter().position(|frame| frame.contains(&(bit / 8))).unwrap();
        let place = directory.path().join("flip");
        let items = recovered(&place, &journal).await;
        let ids: Vec<&str> = items.iter().map(|item| item["requestId"].as_str().unwrap()).collect();
        // Only the request whose one entry was hit is unknown now: the last, which had no end.
        let known = if hit == 7 { &records[..3] } else { &records[..] };
        for record in known {
            assert_eq!(ids.iter().filter(|id| **id == record.request_id).count(), 1, "bit {bit}");
        }
        assert_eq!(items.len(), known.len());
        if hit < 7 {
            assert!(place.join("corrupt").read_dir().unwrap().next().is_some(), "a copy is kept, bit {bit}");
        }
        if [2, 4, 6].contains(&hit) {
            let (whole, report) = child::audit(&place, None, "verify");
            let lost_last = hit == 6;
            assert_eq!(whole, lost_last, "the end that was lost is missing in the chain, bit {bit}: {report}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_none_is_moved_aside_and_service_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let audit = start(&settings).await;
    for number in 0..100 {
        serve(&audit, &record(number)).await;
    }
    audit.stop(kit::far()).await;
    drop(audit);
    std::fs::write(directory.path().join("ledger.db"), vec![0x5A; 100_000]).unwrap();
    let audit = start(&settings).await;
    serve(&audit, &record(100)).await;
    audit.flush().await;
    // The journal still had them all, and the chain goes on.
    let items = kit::items(directory.path());
    assert_eq!(items.len(), 101);
    assert_eq!(items[100]["chainSeq"], 101);
    assert!(child::audit(directory.path(), None, "verify").0);
    let aside: Vec<_> = directory.path().join("corrupt").read_dir().unwrap().collect();
    assert!(!aside.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_damaged_while_the_daemon_runs_is_rebuilt() {
    let directory = tempfile::tempdir().unwrap();
    let audit = start(&settings(directory.path())).await;
    for number in 0..200 {
        serve(&audit, &record(number)).await;
    }
    audit.flush().await;
    let damage = |path: &Path| {
        let length = usize::try_from(path.metadata().unwrap().len()).unwrap();
        std::fs::write(path, vec![0x5A; length]).unwrap();
    };
    damage(&directory.path().join("ledger.db"));
    damage(&directory.path().join("ledger.db-wal"));
    for number in 200..300 {
        serve(&audit, &record(number)).await;
    }
    audit.flush().await;
    // Pages in the cache may hide it for a while; the end of the process does not.
    audit.stop(kit::far()).await;
    drop(audit);
    let audit = start(&settings(directory.path())).await;
    audit.flush().await;
    audit.flush().await;
    assert_eq!(kit::items(directory.path()).len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_damaged_database_every_readable_record_is_kept_though_the_journal_is_past_it() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings::Audit { max_ledger_bytes: 8 << 20, ..settings(directory.path()) };
    let audit = start(&settings).await;
    for number in 0..5000 {
        serve(&audit, &record(number)).await;
        if number % 1000 == 0 {
            audit.flush().await;
        }
    }
    audit.stop(kit::far()).await;
    drop(audit);
    assert!(!directory.path().join("journal/0000000001.journal").exists(), "the journal has moved on");
    // A page of records in the middle is overwritten (13 marks a leaf of a table).
    let database = directory.path().join("ledger.db");
    let mut bytes = std::fs::read(&database).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    let page = (middle..bytes.len()).step_by(4096).find(|page| bytes[*page] == 13).unwrap();
    bytes[page..page + 4096].fill(0x5A);
    std::fs::write(&database, &bytes).unwrap();
    let audit = start(&settings).await;
    // It is found when it is read.
    let mut query = Query { range: TimeRange::All, limit: 1000, ..Query::default() };
    let told = loop {
        match auditor::answer(&audit, &query, Scope::All).await {
            Ok(answer) => {
                query = Query {
                    range: TimeRange::All,
                    ..Query::parse(&format!("limit=1000&nextToken={}", answer["nextToken"].as_str().unwrap())).unwrap()
                }
            }
            Err(refusal) => break refusal,
        }
    };
    assert!(told.message.contains("malformed"), "{}", told.message);
    serve(&audit, &record(5000)).await;
    audit.flush().await;
    audit.flush().await;
    let items = kit::items(directory.path());
    assert!((4970..5001).contains(&items.len()), "{} of 5001", items.len());
    assert_eq!(items.iter().filter_map(|item| item["chainSeq"].as_u64()).max(), Some(5001));
    let (whole, report) = child::audit(directory.path(), None, "verify");
    assert!(!whole && report.contains("MISSING"), "{report}");
    assert!(!report.contains("CHANGED"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_from_the_future_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    drop(start(&settings(directory.path())).await);
    let db = rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let refused = Ledger::start(&settings(directory.path())).await.unwrap_err().to_string();
    assert!(refused.contains("written by a newer bedrock-sidecar (schema 99)"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_do_not_break_the_chain() {
    let directory = tempfile::tempdir().unwrap();
    let audit = start(&settings(directory.path())).await;
    for (number, jump) in [0, -86_400_000, 4_000_000_000_000, i64::MIN / 2, 5].into_iter().enumerate() {
        let now = record(number as u64);
        serve(&audit, &Record { started_ms: now.started_ms.saturating_add(jump), ..now }).await;
    }
    audit.flush().await;
    let (whole, report) = child::audit(directory.path(), None, "verify");
    assert!(whole, "{report}");
    let seqs: Vec<_> = kit::items(directory.path()).iter().map(|item| item["chainSeq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_records_go_the_file_shrinks_and_the_rest_still_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let audit = start(&settings).await;
    for number in 0..3000 {
        let old = record(number);
        serve(&audit, &Record { started_ms: old.started_ms - 40 * 86_400_000, ..old }).await;
    }
    for number in 0..20 {
        serve(&audit, &record(number)).await;
    }
    audit.stop(kit::far()).await;
    drop(audit);
    let size = || directory.path().join("ledger.db").metadata().unwrap().len();
    // The start prunes; so it does once a minute.
    let before = size();
    let audit = start(&settings).await;
    // In steps, between which others have their turn.
    for _ in 0..3 {
        audit.flush().await;
    }
    assert_eq!(kit::items(directory.path()).len(), 20);
    assert_eq!(
        audit.status().bytes,
        kit::items(directory.path()).iter().map(|item| item.to_string().len() as u64).sum::<u64>()
    );
    assert!(child::audit(directory.path(), None, "verify").0);
    audit.stop(kit::far()).await;
    drop(audit);
    assert!(size() * 4 < before, "{} of {before} bytes are left", size());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_requests_loses_no_end_and_heals() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path().join("small"), "6m") else {
        eprintln!("NOT RUN: a_full_disk_refuses_requests_loses_no_end_and_heals: no right to mount a tmpfs");
        return;
    };
    let state = disk.0.join("state");
    let mut settings = settings::Audit { max_ledger_bytes: 4 << 20, ..settings(&state) };
    let audit = start(&settings).await;
    let mut opened = Vec::new();
    for number in 0..50 {
        let record = record(number);
        opened.push((audit.open(&record).await.unwrap(), record));
    }
    // Someone fills the disk while requests are under way.
    let ballast = disk.fill();
    let mut served = 50;
    let refusal = loop {
        let record = record(served);
        match audit.open(&record).await {
            Ok(open) => opened.push((open, record)),
            Err(refusal) => break refusal,
        }
        served += 1;
        assert!(served < 100_000);
    };
    assert_eq!(refusal.kind.status(), 503);
    assert!(refusal.message.contains("No space left"), "{}", refusal.message);
    assert!(!audit.status().ledger_writable);
    for (open, record) in opened {
        audit.close(open, &completed(&record));
    }
    settings.on_failure = OnFailure::Allow;
    audit.apply(&settings);
    // The ends made some room again; behind that, requests are served and counted.
    while audit.status().unrecorded_total == 0 {
        serve(&audit, &record(served)).await;
        served += 1;
    }
    settings.on_failure = OnFailure::Deny;
    audit.apply(&settings);

    std::fs::remove_file(&ballast).unwrap();
    eventually("the ledger takes records again", || audit.status().ledger_writable).await;
    serve(&audit, &record(served)).await;
    eventually("the database works again", || audit.status().last_error.is_none()).await;
    audit.stop(kit::far()).await;
    drop(audit);
    let items = kit::items(&state);
    assert_eq!(items.len() as u64, served, "all but the one that was counted, and the one after");
    assert!(items.iter().all(|item| item["outcome"] == "completed"));
    assert!(child::audit(&state, None, "verify").0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_part_of_a_record_is_in_no_file() {
    const CANARY: &str = "CANARY-7f3a";
    let directory = tempfile::tempdir().unwrap();
    let audit = start(&settings(directory.path())).await;
    // The record has no field for prompts, answers and keys: nothing of the environment or of memory gets in either.
    let prompt = format!("prompt {CANARY}").repeat(100);
    for number in 0..50 {
        let record = record(number);
        let opened = audit.open(&record).await.unwrap();
        audit.close(opened, &Record { response_size: prompt.len() as u64, ..completed(&record) });
    }
    audit.stop(kit::far()).await;
    let mut files = 0;
    let mut folders = vec![directory.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                files += 1;
                let bytes = std::fs::read(&entry).unwrap();
                assert!(memchr::memmem::find(&bytes, CANARY.as_bytes()).is_none(), "{}", entry.display());
            }
        }
    }
    assert!(files >= 3);
}
