//! What a ledger has to hold after what has happened to it.
//!
//! A record that was promised is never lost, says what was written, and is deleted only by rule; the chain is
//! continuous; what the table has of a request is never replaced by something else. No request has two records, but for
//! one case: when a copy of the database is restored that has the end of a request, and a loss of power had taken that
//! end, the record that a start wrote in its place (`interrupted`, in a later chain) stays in its chain.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::config::OnFull;
use crate::ledger::index::open_to_read;
use crate::ledger::index::read::set_aside_after;
use crate::ledger::item::{ItemContext, draft_item};
use crate::ledger::tests::clock::DAY_MS;
use crate::ledger::tests::items;
use crate::ledger::tests::table::TestTable;
use crate::record::{Outcome, Record};
use crate::settings::Audit;

const RETENTION_MS: i64 = 30 * DAY_MS;
const INTERRUPTED: &str = "bedrock-sidecar: the daemon ended before the answer did";
/// Longer than any item here.
const ITEM_BYTES: u64 = 1500;

/// What was promised of each request.
#[derive(Default)]
pub(super) struct Model {
    /// By request id; a second record of a request by [`second_key`].
    requests: BTreeMap<String, Request>,
    /// The database was lost or restored: records may be missing that the journal no longer has.
    lacks_records: bool,
    /// A loss of power took records, and not those behind them in the chain.
    lacks_midst: bool,
    /// A loss of power took what was not promised: numbers that the table has may be given away again.
    has_lost_promises: bool,
}

/// What is known of a request.
#[derive(Clone)]
struct Request {
    /// As it was opened; for one that was only noted, the same as its end.
    opening: Record,
    end: Option<Record>,
    /// Whether what was promised includes a loss of power.
    opening_is_on_disk: bool,
    /// Whether its end was certainly written: the disk did not fail then, or has been well since.
    end_is_written: bool,
    /// It may be recorded as interrupted, since it had no end that was promised when the daemon ended.
    may_be_interrupted: bool,
    /// It may be missing: a loss of power took what was not promised, or the database was lost.
    may_be_lost: bool,
    /// The clock was right when it began.
    is_dated_well: bool,
    /// As the index had it last.
    seen: Option<Value>,
    is_pruned: bool,
    /// The table had refused it when it was seen last.
    is_set_aside: bool,
}

/// Where the ledger is that is compared, and what decides what it may lack.
pub(super) struct Place<'a> {
    pub(super) directory: &'a Path,
    pub(super) settings: &'a Audit,
    pub(super) table: &'a TestTable,
    /// The true time, in milliseconds since 1970.
    pub(super) now_ms: i64,
    /// The requests that are under way.
    pub(super) open: BTreeSet<String>,
}

/// What the end of a daemon took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    pub(super) power_fails: bool,
    /// Of what was recorded, not all was to outlive that.
    pub(super) takes_promised: bool,
    /// It took the end of a journal file, and not all of the next one.
    pub(super) takes_midst: bool,
    /// The database is another one.
    pub(super) is_harmed: bool,
}

impl Model {
    pub(super) fn count(&self) -> usize {
        self.requests.len()
    }

    /// A request was opened, or noted with its `end`.
    pub(super) fn begun(&mut self, opening: Record, end: Option<Record>, is_on_disk: bool, is_dated_well: bool) {
        let request = Request {
            end_is_written: end.is_some(),
            end,
            opening_is_on_disk: is_on_disk,
            may_be_interrupted: false,
            may_be_lost: false,
            is_dated_well,
            seen: None,
            is_pruned: false,
            is_set_aside: false,
            opening,
        };
        self.requests.insert(request.opening.request_id.clone(), request);
    }

    /// A request has ended; with `is_written` that was certainly recorded.
    pub(super) fn ended(&mut self, id: &str, end: Record, is_written: bool) {
        let request = self.requests.get_mut(id).unwrap();
        request.end = Some(end);
        request.end_is_written = is_written;
    }

    /// Whether chains may lack records that nobody has deleted.
    pub(super) fn may_have_gaps(&self) -> bool {
        self.lacks_records || self.lacks_midst
    }

    pub(super) fn opening(&self, id: &str) -> &Record {
        &self.requests[id].opening
    }

    /// The daemon has ended, and nothing is under way any more.
    pub(super) fn daemon_ended(&mut self, loss: Loss) {
        self.lacks_records |= loss.is_harmed;
        self.has_lost_promises |= loss.takes_promised;
        self.lacks_midst |= loss.takes_midst;
        for request in self.requests.values_mut() {
            if loss.takes_promised || loss.is_harmed {
                request.seen = None;
                request.may_be_lost = true;
                // An older database has what was deleted since.
                request.is_pruned = false;
            }
            if request.seen.is_none() {
                request.may_be_interrupted |= request.end.is_none() || !request.end_is_written || loss.power_fails;
                request.may_be_lost |= loss.power_fails && !request.opening_is_on_disk;
            }
        }
    }

    /// Compares what is in the index with what has to be there.
    pub(super) fn compare(&mut self, place: &Place<'_>) {
        let set_aside = set_aside(place.directory);
        let items = items(place.directory);
        let mut found: BTreeMap<String, Value> = BTreeMap::new();
        let mut first: BTreeMap<String, u64> = BTreeMap::new();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for item in items {
            let (chain, seq) = link(&item);
            let before = last.insert(chain.clone(), seq).unwrap_or(0);
            assert!(seq > before, "chainSeq {seq} follows {before}");
            first.entry(chain).or_insert(seq);
            let key = self.key(&item, &found);
            found.insert(key, item);
        }
        let mut gone = Vec::new();
        for (key, request) in &mut self.requests {
            let is_under_way = place.open.contains(key);
            let Some(item) = found.remove(key) else {
                if !(is_under_way || request.is_pruned) {
                    gone.push(key.clone());
                }
                continue;
            };
            assert!(!request.is_pruned || request.may_be_lost, "{key} was deleted and is back: {item}");
            assert!(!is_under_way, "{key} has no end yet: {item}");
            request.is_set_aside = set_aside.contains(&link(&item));
            if let Some(seen) = &request.seen {
                assert_eq!(*seen, item, "{key} has changed");
                continue;
            }
            let is_interrupted = is_interrupted(&item);
            assert!(!is_interrupted || request.may_be_interrupted, "{key} had an end: {item}");
            let expected = match &request.end {
                Some(end) if !is_interrupted => end.clone(),
                _ => Record {
                    outcome: Outcome::Interrupted,
                    success: false,
                    error_message: Some(INTERRUPTED.into()),
                    ..request.opening.clone()
                },
            };
            assert_eq!(content(item.clone()), expected_content(&expected, &item), "{key}");
            request.end_is_written = true;
            request.may_be_lost = false;
            request.seen = Some(item);
        }
        assert!(found.is_empty(), "nobody wrote these: {found:?}");
        self.allow_missing(place, &gone, &first);
    }

    /// What a record is called here, given those before it. Asserts that it is not one too many of its request.
    fn key(&mut self, item: &Value, before: &BTreeMap<String, Value>) -> String {
        let id = text(item, "requestId");
        let second = second_key(item);
        if self.requests.get(&second).is_some_and(|request| request.seen.as_ref() == Some(item)) {
            return second;
        }
        let Some(other) = before.get(&id) else { return id };
        let is_left_by_a_start = is_interrupted(item) && text(item, "chainId") != text(other, "chainId");
        assert!(self.lacks_records && is_left_by_a_start, "a request has two records: {other} and {item}");
        if let Some(request) = self.requests.get(&id) {
            let request = Request { may_be_interrupted: true, ..request.clone() };
            self.requests.entry(second.clone()).or_insert(Request { seen: None, is_pruned: false, ..request });
        }
        second
    }

    /// Asserts that what is gone was not promised, or deleted by rule.
    fn allow_missing(&mut self, place: &Place<'_>, gone: &[String], first: &BTreeMap<String, u64>) {
        if gone.is_empty() {
            return;
        }
        let max_bytes = place.settings.max_ledger_bytes;
        // What was deleted for its age since the last look may have made the ledger too full before.
        let were_here = self
            .requests
            .iter()
            .filter(|(key, request)| !request.is_pruned && (request.seen.is_some() || gone.contains(key)));
        let bytes: u64 = were_here
            .map(|(_, request)| request.seen.as_ref().map_or(ITEM_BYTES, |seen| seen.to_string().len() as u64))
            .sum();
        for key in gone {
            let request = self.requests.get_mut(key).unwrap();
            if (request.may_be_lost || self.lacks_records) && request.seen.is_none() {
                continue;
            }
            let id = &request.opening.request_id;
            let table = place.table.state();
            let is_in_table = table.items.contains_key(id);
            let is_set_aside = request.is_set_aside && !is_in_table;
            // A clock may be a day off, and so may be a record of a time when it was wrong.
            let is_old = !request.is_dated_well || request.opening.started_ms < place.now_ms + DAY_MS - RETENTION_MS;
            let has_table = place.settings.table.is_some();
            let may_be_old = is_old && (!has_table || is_in_table || table.refused.contains(id));
            let is_too_many = match (place.settings.on_full, has_table) {
                (OnFull::Prune, _) => bytes + ITEM_BYTES > max_bytes / 100 * 85,
                (OnFull::Deny, true) => is_in_table && bytes + ITEM_BYTES > max_bytes,
                (OnFull::Deny, false) => false,
            };
            drop(table);
            assert!(
                may_be_old || (is_too_many && !is_set_aside),
                "{key} is gone: in the table {is_in_table}, set aside {is_set_aside}, {bytes} bytes of {max_bytes}, {} days old, dated well {}, seen {:?}",
                (place.now_ms - request.opening.started_ms) / DAY_MS,
                request.is_dated_well,
                request.seen
            );
            if let Some(seen) = &request.seen {
                let (chain, seq) = link(seen);
                assert!(first.get(&chain).is_none_or(|first| seq < *first), "{key} was taken out of the midst: {seen}");
            }
            request.is_pruned = true;
        }
    }

    /// Compares the table with what was seen in the index, once everything was shipped but `set_aside` records.
    pub(super) fn compare_table(&self, table: &TestTable, set_aside: u64) {
        let table = table.state();
        let is_open_to_doubt = self.has_lost_promises || self.lacks_records;
        let mut missing = 0;
        for (key, request) in self.requests.iter().filter(|(_, request)| !request.is_pruned) {
            let Some(seen) = &request.seen else { continue };
            let Some(there) = table.items.get(&request.opening.request_id) else {
                missing += 1;
                continue;
            };
            if is_open_to_doubt {
                let is_the_end =
                    request.end.as_ref().is_some_and(|end| content(there.clone()) == expected_content(end, there));
                let may_be_interrupted = is_interrupted(seen) || request.is_set_aside;
                assert!(is_the_end || (is_interrupted(there) && may_be_interrupted), "the table says {there}");
            } else {
                let mut there = there.clone();
                there.as_object_mut().unwrap().remove("chainHash");
                assert_eq!(there, *seen, "{key} in the table");
            }
        }
        if !self.lacks_records {
            assert!(missing <= set_aside, "{missing} records are not in the table, and {set_aside} are set aside");
        }
        for (before, after) in &table.replaced {
            assert!(is_open_to_doubt && !is_interrupted(after), "the table had {before} and got {after}");
        }
    }
}

/// What a record is called that is not the first of its request.
fn second_key(item: &Value) -> String {
    format!("{} in {}", text(item, "requestId"), text(item, "chainId"))
}

/// The requests whose records the table does not take, by their places in chains.
fn set_aside(directory: &Path) -> BTreeSet<(String, u64)> {
    let db = open_to_read(&directory.join("ledger.db")).unwrap();
    let records = set_aside_after(&db, 0, usize::MAX).unwrap();
    records.iter().map(|(record, _)| link(&serde_json::from_str(&record.item).unwrap())).collect()
}

fn link(item: &Value) -> (String, u64) {
    (text(item, "chainId"), item["chainSeq"].as_u64().unwrap())
}

fn is_interrupted(item: &Value) -> bool {
    item["outcome"] == Outcome::Interrupted.as_str()
}

fn text(item: &Value, name: &str) -> String {
    item[name].as_str().unwrap().to_owned()
}

/// An item without what the ledger adds of itself.
fn content(mut item: Value) -> Value {
    for own in ["chainSeq", "chainHash", "ttl", "afterUncleanStop"] {
        item.as_object_mut().unwrap().remove(own);
    }
    item
}

/// What the item of a record has to say, in the chain that it is in.
fn expected_content(record: &Record, item: &Value) -> Value {
    let (host_id, chain_id) = (text(item, "hostId"), text(item, "chainId"));
    let context = ItemContext {
        host_id: &host_id,
        chain_id: &chain_id,
        retention: Duration::from_secs(0),
        good_ms: 0,
        after_unclean_stop: false,
    };
    let draft = draft_item(record, context);
    content(serde_json::from_slice(&draft.with_seq(b"1").concat()).unwrap())
}
