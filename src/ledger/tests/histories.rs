//! Random histories of a ledger, held against a model: openings, ends, notes, kills, losses of power, disks and tables
//! that fail, clocks that jump, pruning, restored and lost databases.
//!
//! A failure names its seed; `LEDGER_SEED=N` runs that history alone, `LEDGER_SEEDS=N` so many in the slow test.

mod model;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::model::{Loss, Model, Place};
use super::clock::{DAY_MS, HOUR_MS, TestClock};
use super::disk::{Files, TestDisk, is_cut_midst};
use super::table::{Network, TestTable};
use super::{Random, completed, record, settings};
use crate::auditor::cli;
use crate::config::{Durability, OnFull};
use crate::ledger::clock::Clock;
use crate::ledger::{Ledger, Opened};
use crate::record::{Outcome, Record, Usage};
use crate::settings::Audit;

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
    model: Model,
    /// See [`History::synced_log`].
    log_on_disk: Option<(Vec<u8>, usize)>,
    /// Copies of the database that may be restored.
    databases: Vec<Files>,
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
            model: Model::default(),
            databases: Vec::new(),
            log_on_disk: None,
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
            29 | 30 => self.pass_time().await,
            _ => {}
        }
    }

    /// Tells what happens in a history that is run alone.
    fn trace(&self, what: &str) {
        if number("LEDGER_SEED").is_some() {
            eprintln!("{what}: {} requests, next {}", self.model.count(), self.next_id);
        }
    }

    /// A request of many sorts.
    fn draw(&mut self) -> Record {
        let id = self.next_id;
        self.next_id += 1;
        Record {
            started_ms: self.clock.now_ms(),
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
        self.model.begun(record.clone(), None, promised, self.clock.is_right());
        self.open.push((opened, id));
        if !is_durable {
            let ended = Record { outcome: Outcome::Refused, status_code: 503, ..record };
            self.close_as(self.open.len() - 1, ended);
        }
        is_durable
    }

    fn close_one(&mut self, which: usize) {
        let opening = self.model.opening(&self.open[which].1).clone();
        let ended = self.draw_end(&opening);
        self.close_as(which, ended);
    }

    fn close_as(&mut self, which: usize, ended: Record) {
        let (opened, id) = self.open.swap_remove(which);
        let is_well = self.disk_is_well();
        self.ledger().close(opened, &ended);
        self.model.ended(&id, ended, is_well);
    }

    fn note_one(&mut self) {
        let opening = self.draw();
        let ended = self.draw_end(&opening);
        let ledger = self.ledger();
        let before = ledger.status().unrecorded_total;
        ledger.note(&ended);
        if ledger.status().unrecorded_total == before {
            self.model.begun(ended.clone(), Some(ended), false, self.clock.is_right());
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

    async fn pass_time(&mut self) {
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
        // A daemon looks at the clock every minute.
        self.ledger().flush().await;
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
        let place = Place {
            directory: self.directory.path(),
            settings: &self.settings,
            table: &self.table,
            now_ms: self.clock.true_ms(),
            open: self.open.iter().map(|(_, id)| id.clone()).collect(),
        };
        self.model.compare(&place);
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
        self.model.compare_table(&self.table, self.ledger().status().set_aside);
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
        let (mut database, journal, is_cut_midst) = {
            let frozen = self.disk.state();
            let database = self.quiet_database();
            let random = &mut self.random;
            let journal = frozen.after_power_loss(self.directory.path(), |more| {
                if crash == Crash::PowerLoss { random.below(more + 1) } else { more }
            });
            let is_cut_midst = is_cut_midst(self.directory.path(), &journal);
            (database, journal, is_cut_midst)
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

        let takes_promised = power_fails && self.settings.durability == Durability::Process;
        let takes_midst = takes_promised && is_cut_midst;
        self.model.daemon_ended(Loss { power_fails, takes_promised, takes_midst, is_harmed: harmed });
        self.open.clear();
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
            assert!(self.model.may_have_gaps() && finding.starts_with("MISSING"), "{finding}");
        }
        self.ledger().stop(tokio::time::Instant::now()).await;
    }
}

fn database(directory: &Path) -> Files {
    let paths = ["ledger.db", "ledger.db-wal"].map(|name| directory.join(name));
    paths.into_iter().filter_map(|path: PathBuf| Some((path.clone(), std::fs::read(path).ok()?))).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs so many histories, and says of all that fail which they are.
fn run(first: u64, count: u64) {
    let seeds = number("LEDGER_SEED").map_or(first..first + count, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    if catch_unwind(AssertUnwindSafe(|| run_one(seed))).is_err() {
                        eprintln!("the history with LEDGER_SEED={seed} failed");
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "these histories failed: {failed:?}");
}

fn run_one(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut history = History::begin(seed).await;
        for _ in 0..10 + seed % 40 {
            history.step().await;
        }
        history.end().await;
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
