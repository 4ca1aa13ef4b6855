//! Random histories of a ledger, held against a model: openings, ends, notes, kills, losses of power, disks and tables
//! that fail, clocks that jump, pruning, restored and lost databases.
//!
//! The model: a record that was promised is never lost and never there twice, says what was written, and is deleted only
//! by rule; the chain is continuous; what the table has of a request is never replaced by something else.
//!
//! A failure names its seed; `LEDGER_SEED=N` runs that history alone, `LEDGER_SEEDS=N` so many in the slow test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::clock::{DAY_MS, HOUR_MS, TestClock};
use super::disk::{Files, TestDisk};
use super::table::{Network, TestTable};
use super::{Random, completed, items, record, settings};
use crate::auditor::cli;
use crate::config::{Durability, OnFull};
use crate::ledger::index::open_to_read;
use crate::ledger::index::read::set_aside_after;
use crate::ledger::item::{ItemContext, draft_item};
use crate::ledger::{Ledger, Opened};
use crate::record::{Outcome, Record, Usage};
use crate::settings::Audit;

const RETENTION_MS: i64 = 30 * DAY_MS;
const INTERRUPTED: &str = "bedrock-sidecar: the daemon ended before the answer did";
/// Longer than any item here.
const ITEM_BYTES: u64 = 1500;

/// What the model knows of a request.
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

struct History {
    random: Random,
    settings: Audit,
    directory: TempDir,
    disk: Arc<TestDisk>,
    clock: Arc<TestClock>,
    table: Arc<TestTable>,
    network: Network,
    ledger: Option<Arc<Ledger>>,
    next_id: u64,
    open: Vec<(Opened, String)>,
    requests: BTreeMap<String, Request>,
    /// See [`History::synced_log`].
    log_on_disk: Option<(Vec<u8>, usize)>,
    /// Copies of the database that may be restored.
    databases: Vec<Files>,
    /// The database was lost or restored: records may be missing that the journal no longer has.
    lacks_records: bool,
    /// A loss of power took what was not promised: numbers that the table has may be given away again.
    has_lost_promises: bool,
    /// For how long the wall clock has been wrong.
    wrong_for_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    Kill,
    PowerLoss,
    /// Not a crash: the daemon is stopped.
    Stop,
}

impl History {
    async fn begin(seed: u64) -> History {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.below(1);
        let durability = random.pick(&[Durability::Process, Durability::Disk]);
        let directory = tempfile::tempdir().unwrap();
        let table = Arc::new(TestTable::default());
        let settings = Audit {
            table: random.pick(&[None, Some("records")]).map(str::to_owned),
            on_full: random.pick(&[OnFull::Deny, OnFull::Prune]),
            max_ledger_bytes: random.pick(&[60_000, 1 << 30]),
            ..settings(directory.path(), durability)
        };
        let mut history = History {
            random,
            settings,
            directory,
            disk: Arc::default(),
            clock: Arc::default(),
            network: Network::to(&table),
            table,
            ledger: None,
            next_id: 1,
            open: Vec::new(),
            requests: BTreeMap::new(),
            databases: Vec::new(),
            log_on_disk: None,
            lacks_records: false,
            has_lost_promises: false,
            wrong_for_ms: 0,
        };
        history.trace(&format!("{:?}", history.settings));
        history.start().await;
        history
    }

    async fn start(&mut self) {
        self.network = Network::to(&self.table);
        self.settings.state_dir = Some(self.directory.path().to_owned());
        let client = self.settings.table.as_ref().map(|_| self.network.client());
        let started = Ledger::start_on(&self.settings, client, self.disk.clone(), self.clock.clone()).await;
        self.ledger = Some(started.unwrap());
    }

    fn ledger(&self) -> Arc<Ledger> {
        self.ledger.clone().unwrap()
    }

    async fn step(&mut self) {
        let step = self.random.below(32);
        self.trace(&format!("step {step}"));
        match step {
            0..7 => drop(self.open_one().await),
            7..14 if !self.open.is_empty() => {
                let which = self.random.below(self.open.len() as u64) as usize;
                self.close_one(which);
            }
            14 => self.note_one(),
            15 => {
                for _ in 0..40 + self.random.below(160) {
                    if self.open_one().await {
                        self.close_one(self.open.len() - 1);
                    }
                }
            }
            16 | 17 => self.look().await,
            18 => self.see_shipped().await,
            19 => {
                self.look().await;
                self.databases.push(self.quiet_database());
            }
            20 | 21 => self.crash(Crash::PowerLoss).await,
            22 | 23 => self.crash(Crash::Kill).await,
            24 => self.crash(Crash::Stop).await,
            25 => {
                let (writes, syncs) = (self.random.below(3), self.random.below(4));
                let mut disk = self.disk.state();
                disk.failing_writes = writes as u32;
                disk.failing_syncs = syncs as u32;
            }
            26 => {
                let poison = self.random.pick(&[None, Some(3), Some(7)]);
                let mut table = self.table.state();
                table.failing = self.random.below(3) as u32;
                table.poison = poison;
            }
            27 | 28 => self.jump(),
            29 | 30 => self.pass_time(),
            _ => {}
        }
    }

    /// Tells what happens in a history that is run alone.
    fn trace(&self, what: &str) {
        if number("LEDGER_SEED").is_some() {
            eprintln!("{what}: {} requests, next {}", self.requests.len(), self.next_id);
        }
    }

    /// A request of many sorts.
    fn draw(&mut self) -> Record {
        let id = self.next_id;
        self.next_id += 1;
        let clock: &dyn crate::ledger::clock::Clock = &*self.clock;
        Record {
            started_ms: clock.now_ms(),
            model_id: self.random.pick(&["anthropic.claude-sonnet-4", "", "é\"\n"]).to_owned(),
            caller: self.random.pick(&[None, Some("billing")]).map(str::to_owned),
            ..record(id)
        }
    }

    fn draw_end(&mut self, opening: &Record) -> Record {
        let random = &mut self.random;
        let outcome = random.pick(&[Outcome::Completed, Outcome::ClientDisconnected, Outcome::UpstreamBroke]);
        let ended = Record {
            response_size: random.below(1 << 40),
            latency: random.below(600_000),
            destination_region: random.pick(&["us-east-1", "us-west-2"]).to_owned(),
            usage: Usage {
                input_tokens: Some(random.below(200_000)),
                output_tokens: random.pick(&[None, Some(0), Some(4711)]),
                ..Usage::default()
            },
            service_tier: random.pick(&[None, Some("flex")]).map(str::to_owned),
            cost_nano_usd: random.pick(&[None, Some(1)]),
            attempts: 1 + random.below(4) as u32,
            ..completed(opening)
        };
        match outcome {
            Outcome::Completed => ended,
            _ => Record { success: false, status_code: 499, error_message: Some("gone".into()), outcome, ..ended },
        }
    }

    fn request(&self, opening: Record, end: Option<Record>, opening_is_on_disk: bool) -> Request {
        Request {
            opening,
            end_is_written: end.is_some() && self.disk_is_well(),
            end,
            opening_is_on_disk,
            may_be_interrupted: false,
            may_be_lost: false,
            is_dated_well: self.clock.is_right(),
            seen: None,
            is_pruned: false,
            is_set_aside: false,
        }
    }

    fn disk_is_well(&self) -> bool {
        self.disk.state().failing_writes == 0
    }

    /// Whether it is open now.
    async fn open_one(&mut self) -> bool {
        let record = self.draw();
        let ledger = self.ledger();
        let Ok(opened) = ledger.begin(&record) else { return false };
        let is_durable = ledger.wait_until_durable(&opened).await.is_ok();
        let promised = is_durable && self.settings.durability == Durability::Disk;
        let id = record.request_id.clone();
        self.requests.insert(id.clone(), self.request(record.clone(), None, promised));
        self.open.push((opened, id));
        if !is_durable {
            let ended = Record { outcome: Outcome::Refused, status_code: 503, ..record };
            self.close_as(self.open.len() - 1, ended);
        }
        is_durable
    }

    fn close_one(&mut self, which: usize) {
        let opening = self.requests[&self.open[which].1].opening.clone();
        let ended = self.draw_end(&opening);
        self.close_as(which, ended);
    }

    fn close_as(&mut self, which: usize, ended: Record) {
        let (opened, id) = self.open.swap_remove(which);
        let is_well = self.disk_is_well();
        self.ledger().close(opened, &ended);
        let request = self.requests.get_mut(&id).unwrap();
        request.end = Some(ended);
        request.end_is_written = is_well;
    }

    fn note_one(&mut self) {
        let opening = self.draw();
        let ended = self.draw_end(&opening);
        let ledger = self.ledger();
        let before = ledger.status().unrecorded_total;
        ledger.note(&ended);
        if ledger.status().unrecorded_total == before {
            let mut request = self.request(ended.clone(), Some(ended.clone()), false);
            request.end_is_written = true;
            self.requests.insert(ended.request_id, request);
        }
    }

    /// A clock that jumps is mended within a day, or else it would be believed.
    fn jump(&mut self) {
        if self.clock.is_right() {
            let days = self.random.pick(&[-400, -40, -3, 3, 29, 31, 40, 400]);
            self.trace(&format!("the clock jumps by {days} days"));
            self.clock.set_error(days * DAY_MS + self.random.below(5 * HOUR_MS as u64).cast_signed());
        } else {
            self.mend_clock();
        }
    }

    fn mend_clock(&mut self) {
        self.trace("the clock is mended");
        self.clock.set_error(0);
        self.wrong_for_ms = 0;
    }

    fn pass_time(&mut self) {
        let days = if self.clock.is_right() { self.random.pick(&[0, 1, 10]) } else { 0 };
        let ms = days * DAY_MS + self.random.below(3 * HOUR_MS as u64).cast_signed();
        if !self.clock.is_right() {
            self.wrong_for_ms += ms;
            if self.wrong_for_ms > 20 * HOUR_MS {
                self.mend_clock();
            }
        }
        self.trace(&format!("{ms} ms pass"));
        self.clock.pass(ms);
    }

    fn heal_disk(&self) {
        let mut disk = self.disk.state();
        (disk.failing_writes, disk.failing_syncs) = (0, 0);
    }

    /// Has everything written into the index, and compares what is there with the model.
    async fn look(&mut self) {
        self.heal_disk();
        // The first round may have met the failing disk.
        self.ledger().flush().await;
        self.ledger().flush().await;
        self.compare();
    }

    fn compare(&mut self) {
        let set_aside = set_aside(self.directory.path());
        let items = items(self.directory.path());
        let mut found: BTreeMap<String, Value> = BTreeMap::new();
        let mut first: BTreeMap<String, u64> = BTreeMap::new();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let bytes: u64 = items.iter().map(|item| item.to_string().len() as u64).sum();
        for item in items {
            let seq = item["chainSeq"].as_u64().unwrap();
            let chain = text(&item, "chainId");
            let before = last.insert(chain.clone(), seq).unwrap_or(0);
            assert!(seq > before, "chainSeq {seq} follows {before}");
            first.entry(chain).or_insert(seq);
            let before = found.insert(text(&item, "requestId"), item);
            assert!(before.is_none(), "a request has two records: {before:?}");
        }
        let open: BTreeSet<String> = self.open.iter().map(|(_, id)| id.clone()).collect();
        let mut gone = Vec::new();
        for (id, request) in &mut self.requests {
            let Some(item) = found.remove(id) else {
                let is_under_way = open.contains(id);
                if !(is_under_way || request.is_pruned) {
                    gone.push(id.clone());
                }
                continue;
            };
            assert!(!request.is_pruned || request.may_be_lost, "{id} was deleted and is back: {item}");
            assert!(!open.contains(id), "{id} has no end yet: {item}");
            if let Some(seen) = &request.seen {
                assert_eq!(*seen, item, "{id} has changed");
            }
            let is_interrupted = item["outcome"] == "interrupted";
            assert!(!is_interrupted || request.may_be_interrupted, "{id} had an end: {item}");
            let expected = match &request.end {
                Some(end) if !is_interrupted => end.clone(),
                _ => Record {
                    outcome: Outcome::Interrupted,
                    success: false,
                    error_message: Some(INTERRUPTED.into()),
                    ..request.opening.clone()
                },
            };
            assert_eq!(content(item.clone()), expected_content(&expected, &item), "{id}");
            request.end_is_written = true;
            request.may_be_lost = false;
            request.seen = Some(item);
            request.is_set_aside = set_aside.contains(id);
        }
        assert!(found.is_empty(), "nobody wrote these: {found:?}");
        self.allow_missing(&gone, &first, bytes);
    }

    /// Asserts that what is gone was not promised, or deleted by rule.
    fn allow_missing(&mut self, gone: &[String], first: &BTreeMap<String, u64>, bytes: u64) {
        let now_ms = self.clock.true_ms();
        let max_bytes = self.settings.max_ledger_bytes;
        // What was deleted for its age since the last look may have made the ledger too full before.
        let deleted =
            |id: &String| self.requests[id].seen.as_ref().map_or(ITEM_BYTES, |seen| seen.to_string().len() as u64);
        let bytes = bytes + gone.iter().map(deleted).sum::<u64>();
        for id in gone {
            let request = self.requests.get_mut(id).unwrap();
            if (request.may_be_lost || self.lacks_records) && request.seen.is_none() {
                continue;
            }
            let table = self.table.state();
            let is_in_table = table.items.contains_key(id);
            let is_set_aside = request.is_set_aside && !is_in_table;
            // A clock may be a day off, and so may be a record of a time when it was wrong.
            let is_old = !request.is_dated_well || request.opening.started_ms < now_ms + DAY_MS - RETENTION_MS;
            let has_table = self.settings.table.is_some();
            let may_be_old = is_old && (!has_table || is_in_table || table.refused.contains(id));
            let is_too_many = match (self.settings.on_full, has_table) {
                (OnFull::Prune, _) => bytes + ITEM_BYTES > max_bytes / 100 * 85,
                (OnFull::Deny, true) => is_in_table && bytes + ITEM_BYTES > max_bytes,
                (OnFull::Deny, false) => false,
            };
            drop(table);
            assert!(
                may_be_old || (is_too_many && !is_set_aside),
                "{id} is gone: in the table {is_in_table}, set aside {is_set_aside}, {bytes} bytes of {max_bytes}, {} days old, dated well {}, seen {:?}",
                (now_ms - request.opening.started_ms) / DAY_MS,
                request.is_dated_well,
                request.seen
            );
            if let Some(seen) = &request.seen {
                let chain = text(seen, "chainId");
                let seq = seen["chainSeq"].as_u64().unwrap();
                assert!(first.get(&chain).is_none_or(|first| seq < *first), "{id} was taken out of the midst: {seen}");
            }
            request.is_pruned = true;
        }
    }

    /// The table is well again, and gets everything but what it refuses.
    async fn see_shipped(&mut self) {
        self.look().await;
        if self.settings.table.is_none() {
            return;
        }
        self.table.state().failing = 0;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.ledger().status().pending > 0 {
            assert!(Instant::now() < deadline, "records are not shipped: {:?}", self.ledger().status());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.look().await;
        let table = self.table.state();
        let set_aside = self.ledger().status().set_aside;
        let mut missing = 0;
        for (id, request) in self.requests.iter().filter(|(_, request)| request.seen.is_some() && !request.is_pruned) {
            match (table.items.get(id), &request.seen) {
                (Some(there), _) if self.has_lost_promises || self.lacks_records => {
                    let is_known = there["outcome"] == "interrupted"
                        || request
                            .end
                            .as_ref()
                            .is_some_and(|end| content(there.clone()) == expected_content(end, there));
                    assert!(is_known, "the table says {there}");
                }
                (Some(there), seen) => {
                    let mut there = there.clone();
                    there.as_object_mut().unwrap().remove("chainHash");
                    assert_eq!(Some(&there), seen.as_ref(), "{id} in the table");
                }
                (None, _) => missing += 1,
            }
        }
        if !self.lacks_records {
            assert!(missing <= set_aside, "{missing} records are not in the table, and {set_aside} are set aside");
        }
        for (before, after) in &table.replaced {
            assert!(
                (self.has_lost_promises || self.lacks_records) && after["outcome"] != "interrupted",
                "the table had {before} and got {after}"
            );
        }
    }

    /// The daemon ends, and is started on what is left.
    async fn crash(&mut self, crash: Crash) {
        let ledger = self.ledger();
        let is_indexed = crash == Crash::Stop || self.random.below(3) == 0;
        if is_indexed {
            self.look().await;
        }
        if crash == Crash::Stop {
            self.heal_disk();
            ledger.stop(tokio::time::Instant::now()).await;
        }
        // What is on its way to the table arrives or does not.
        self.network.cut();
        if is_indexed {
            ledger.flush().await;
        }
        let next = tempfile::tempdir().unwrap();
        let (mut database, journal) = {
            let frozen = self.disk.state();
            let database = self.quiet_database();
            let random = &mut self.random;
            let journal = frozen.after_power_loss(self.directory.path(), |more| {
                if crash == Crash::PowerLoss { random.below(more + 1) } else { more }
            });
            (database, journal)
        };
        let power_fails = crash == Crash::PowerLoss;
        if power_fails && is_indexed && self.settings.durability == Durability::Process {
            self.cut_log(&mut database);
        }
        let fate = if crash == Crash::Stop { 99 } else { self.random.below(24) };
        if fate == 0 {
            database = Files::new();
        } else if fate == 1 && !self.databases.is_empty() {
            let which = self.random.below(self.databases.len() as u64) as usize;
            database.clone_from(&self.databases[which]);
        }
        let harmed = fate < 2;
        let log = database.iter().find(|(path, _)| path.ends_with("ledger.db-wal")).map(|(_, bytes)| bytes);
        self.log_on_disk = if power_fails || harmed {
            log.filter(|bytes| bytes.len() > 32).map(|bytes| (bytes[16..24].to_vec(), bytes.len()))
        } else {
            self.synced_log(&database)
        };
        self.trace(&format!("{crash:?}, indexed {is_indexed}, fate {fate}, {} files", journal.len()));
        self.lacks_records |= harmed;
        std::fs::create_dir(next.path().join("journal")).unwrap();
        for (path, bytes) in journal.iter().chain(&database) {
            let path = path.strip_prefix(self.directory.path()).unwrap_or(Path::new(path.file_name().unwrap()));
            std::fs::write(next.path().join(path), bytes).unwrap();
        }
        let _ = std::fs::copy(self.directory.path().join("clock.json"), next.path().join("clock.json"));
        // As after a boot, or as this process has left it.
        if power_fails {
            std::fs::write(next.path().join("running"), "another boot").unwrap();
        } else {
            let _ = std::fs::copy(self.directory.path().join("running"), next.path().join("running"));
        }

        let loses_promises = power_fails && self.settings.durability == Durability::Process;
        self.has_lost_promises |= loses_promises;
        self.open.clear();
        for request in self.requests.values_mut() {
            if loses_promises || harmed {
                request.seen = None;
                request.may_be_lost = true;
                // An older database has what was deleted since.
                request.is_pruned = false;
            }
            if request.seen.is_none() {
                request.may_be_interrupted |= request.end.is_none() || !request.end_is_written || power_fails;
                request.may_be_lost |= power_fails && !request.opening_is_on_disk;
            }
        }
        self.disk = if power_fails {
            drop(self.ledger.take());
            Arc::new(TestDisk::found(next.path()))
        } else {
            let disk = Arc::new(self.disk.moved(self.directory.path(), next.path()));
            drop(self.ledger.take());
            disk
        };
        drop(ledger);
        self.databases.truncate(5);
        self.directory = next;
        if crash != Crash::Kill && self.clock.is_right() {
            self.clock.pass_unseen(self.random.pick(&[0, 1, 10]) * DAY_MS);
        }
        self.start().await;
        self.look().await;
    }

    /// Of SQLite's log, what certainly is on the disk: what was there when the power came back, and what a checkpoint
    /// has copied into the database. It names the log's salt, which changes when the log begins anew.
    fn synced_log(&self, database: &Files) -> Option<(Vec<u8>, usize)> {
        let bytes = database.get(&self.directory.path().join("ledger.db-wal")).filter(|bytes| bytes.len() > 32)?;
        let shared =
            std::fs::read(self.directory.path().join("ledger.db-shm")).ok().filter(|bytes| bytes.len() > 100)?;
        let page = u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
        let copied = u32::from_ne_bytes(shared[96..100].try_into().unwrap()) as usize;
        let before =
            self.log_on_disk.as_ref().filter(|(salt, _)| *salt == bytes[16..24]).map_or(32, |(_, length)| *length);
        Some((bytes[16..24].to_vec(), before.max(32 + copied * (24 + page)).min(bytes.len())))
    }

    /// SQLite's log, as a loss of power may leave it: what was not flushed is cut off somewhere.
    fn cut_log(&mut self, database: &mut Files) {
        let Some((_, flushed)) = self.synced_log(database) else { return };
        let Some(bytes) = database.get_mut(&self.directory.path().join("ledger.db-wal")) else { return };
        let kept = flushed + self.random.below((bytes.len() - flushed) as u64 + 1) as usize;
        bytes.truncate(kept);
    }

    /// A copy of the database that no write tears: the same, read twice.
    fn quiet_database(&self) -> Files {
        loop {
            let first = database(self.directory.path());
            std::thread::yield_now();
            if first == database(self.directory.path()) {
                return first;
            }
        }
    }

    async fn end(mut self) {
        self.mend_clock();
        self.table.state().poison = None;
        // What was set aside is sent again at a start.
        self.crash(Crash::Stop).await;
        self.see_shipped().await;
        let findings = cli::findings_of(&self.settings);
        for finding in findings {
            assert!(self.lacks_records && finding.starts_with("MISSING"), "{finding}");
        }
        self.ledger().stop(tokio::time::Instant::now()).await;
    }
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
    content(serde_json::from_slice(&[&draft.before_seq[..], b"1", &draft.after_seq].concat()).unwrap())
}

fn database(directory: &Path) -> Files {
    let paths = ["ledger.db", "ledger.db-wal"].map(|name| directory.join(name));
    paths.into_iter().filter_map(|path: PathBuf| Some((path.clone(), std::fs::read(path).ok()?))).collect()
}

/// The requests whose records the table does not take.
fn set_aside(directory: &Path) -> BTreeSet<String> {
    let db = open_to_read(&directory.join("ledger.db")).unwrap();
    let records = set_aside_after(&db, 0, usize::MAX).unwrap();
    records.iter().map(|(record, _)| text(&serde_json::from_str(&record.item).unwrap(), "requestId")).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn run(first: u64, count: u64) {
    let seeds = number("LEDGER_SEED").map_or(first..first + count, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let history = std::panic::AssertUnwindSafe(|| {
                        runtime.block_on(async {
                            let mut history = History::begin(seed).await;
                            for _ in 0..10 + seed % 40 {
                                history.step().await;
                            }
                            history.end().await;
                        });
                    });
                    if let Err(panic) = std::panic::catch_unwind(history) {
                        eprintln!("the history with LEDGER_SEED={seed} failed");
                        next.store(u64::MAX / 2, SeqCst);
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}

#[test]
fn no_history_loses_doubles_or_changes_a_record() {
    run(0, 150);
}

#[test]
#[ignore = "slow: thousands of histories"]
fn no_history_of_thousands_loses_doubles_or_changes_a_record() {
    run(1000, number("LEDGER_SEEDS").unwrap_or(5000));
}
