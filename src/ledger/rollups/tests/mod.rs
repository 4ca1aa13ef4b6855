//! Roll-ups of a ledger that a test fills itself.

mod bounds;
mod following;
mod repair;
mod scale;

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Resolution, RollupError, Rollups};
use crate::config::Durability;
use crate::ledger::index::Index;
use crate::ledger::journal::frame::FrameKind;
use crate::ledger::state_dir::StateDir;
use crate::ledger::tests::Random;
use crate::ledger::timestamp::timestamp;

const NOW_MS: i64 = 1_800_000_041_123;
const HOUR_MS: i64 = 3_600_000;

/// A state directory with an index, and its roll-ups.
struct Scene {
    directory: TempDir,
    index: Index,
    seq: u64,
    rollups: Rollups,
    now_ms: i64,
}

impl Scene {
    fn new() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir { root: directory.path().to_owned() };
        let index = Index::open(&state_dir, Durability::Process).unwrap();
        Scene { rollups: Rollups::new(&state_dir), directory, index, seq: 0, now_ms: NOW_MS }
    }

    fn state_dir(&self) -> StateDir {
        StateDir { root: self.directory.path().to_owned() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.state_dir().rollups()
    }

    /// Inserts records.
    fn insert(&mut self, items: &[Value]) {
        self.insert_into_chain("c", items);
    }

    fn insert_into_chain(&mut self, chain: &str, items: &[Value]) {
        let ends: Vec<Vec<u8>> = items
            .iter()
            .map(|item| {
                self.seq += 1;
                let mut item = item.clone();
                item["chainId"] = chain.into();
                item["chainSeq"] = self.seq.into();
                format!("{:064}{item}", self.seq).into_bytes()
            })
            .collect();
        let entries: Vec<(FrameKind, &[u8])> = ends.iter().map(|end| (FrameKind::Close, &end[..])).collect();
        self.index.insert(&entries, self.index.state.position).unwrap();
    }

    /// Counts everything.
    fn count(&self) {
        while !self.rollups.catch_up(Duration::ZERO, self.now_ms).unwrap().is_done {}
    }

    /// The same after a restart.
    fn restart(&mut self) {
        self.rollups = Rollups::new(&self.state_dir());
        self.count();
    }

    fn counted(&self, resolution: Resolution) -> Vec<Vec<Value>> {
        counted(&self.path(), resolution)
    }
}

/// Every row of a resolution, as it stands in the file.
fn counted(path: &Path, resolution: Resolution) -> Vec<Vec<Value>> {
    let db = Connection::open(path).unwrap();
    let mut select = db.prepare("SELECT * FROM sums WHERE step = ?1").unwrap();
    let columns = select.column_count();
    let rows = select.query_map([resolution.step], |row| {
        (0..columns)
            .map(|at| {
                Ok(match row.get_ref(at)? {
                    rusqlite::types::ValueRef::Integer(number) => number.into(),
                    rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
                    rusqlite::types::ValueRef::Blob(bytes) => bytes.to_vec().into(),
                    other => panic!("{other:?}"),
                })
            })
            .collect()
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

/// The sum of a column.
fn sum(rows: &[Vec<Value>], column: usize) -> i64 {
    rows.iter().map(|row| row[column].as_i64().unwrap()).sum()
}

const REQUESTS: usize = 9;
const OUTPUT_TOKENS: usize = 11;

fn item(started_ms: i64) -> Value {
    json!({
        "attempts": 1, "callerUid": 1000, "destinationRegion": "us-east-1", "firstByteLatency": 100, "hostId": "h",
        "inputTokens": 3, "latency": 900, "modelId": "amazon.nova", "operation": "Converse", "outcome": "completed",
        "outputTokens": 5, "requestId": "r", "requestSize": 10, "responseSize": 20, "statusCode": 200, "success": true,
        "timestamp": timestamp(started_ms),
    })
}

fn with(mut item: Value, name: &str, value: impl Into<Value>) -> Value {
    item[name] = value.into();
    item
}

/// A week of requests of a few users and models.
fn week(random: &mut Random, count: usize) -> Vec<Value> {
    let mut at = NOW_MS - 7 * 24 * HOUR_MS;
    let pause = (NOW_MS - at).cast_unsigned() / count as u64;
    (0..count)
        .map(|_| {
            at += random.below(2 * pause).cast_signed();
            let one = with(item(at.min(NOW_MS)), "callerUid", 1000 + random.below(3));
            let one = with(one, "modelId", format!("model-{}", random.below(4)));
            let one = with(one, "outputTokens", random.below(1_000));
            let one = with(one, "latency", random.below(20_000));
            if random.below(9) == 0 { with(with(one, "outcome", "refused"), "statusCode", 429) } else { one }
        })
        .collect()
}

/// What the records of a resolution add up to, by interval, model, uid and outcome: requests and output tokens.
fn expected(items: &[Value], resolution: Resolution) -> Vec<(i64, String, i64, String, i64, i64)> {
    let mut sums = std::collections::BTreeMap::new();
    for item in items {
        let started = crate::ledger::timestamp::milliseconds(item["timestamp"].as_str().unwrap()) / 1000;
        if started >= resolution.oldest(NOW_MS / 1000) {
            let text = |name: &str| item[name].as_str().unwrap().to_owned();
            let key =
                (resolution.start(started), text("modelId"), item["callerUid"].as_i64().unwrap(), text("outcome"));
            let sum: &mut (i64, i64) = sums.entry(key).or_default();
            sum.0 += 1;
            sum.1 += item["outputTokens"].as_i64().unwrap();
        }
    }
    sums.into_iter()
        .map(|((start, model, uid, outcome), (n, tokens))| (start, model, uid, outcome, n, tokens))
        .collect()
}

fn as_expected(rows: &[Vec<Value>]) -> Vec<(i64, String, i64, String, i64, i64)> {
    let number = |row: &[Value], at: usize| row[at].as_i64().unwrap();
    let text = |row: &[Value], at: usize| row[at].as_str().unwrap().to_owned();
    let mut found: Vec<_> = rows
        .iter()
        .map(|row| {
            let tokens = number(row, OUTPUT_TOKENS);
            (number(row, 1), text(row, 4), number(row, 2), text(row, 7), number(row, REQUESTS), tokens)
        })
        .collect();
    found.sort();
    found
}

#[track_caller]
fn agrees(scene: &Scene, items: &[Value]) {
    for resolution in Resolution::ALL {
        let found = as_expected(&scene.counted(resolution));
        assert_eq!(found, expected(items, resolution), "{resolution:?}");
    }
}

#[test]
fn each_resolution_adds_up_to_the_records_of_its_time() {
    let mut scene = Scene::new();
    let items = week(&mut Random(1), 9_000);
    let (first, rest) = items.split_at(4_321);
    scene.insert(first);
    scene.count();
    for some in rest.chunks(700) {
        scene.insert(some);
        scene.count();
    }
    agrees(&scene, &items);
    scene.restart();
    scene.restart();
    agrees(&scene, &items);
    let mode = std::os::unix::fs::PermissionsExt::mode(&scene.path().metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_daemons_own_records_and_impossible_dates_are_not_counted() {
    let mut scene = Scene::new();
    let later = |ms| item(NOW_MS + ms);
    scene.insert(&[
        with(item(NOW_MS), "operation", "DashboardRequests"),
        with(item(NOW_MS), "operation", "LedgerStart"),
        later(2 * HOUR_MS),
        later(90 * 24 * HOUR_MS),
        later(-9 * 24 * HOUR_MS),
        with(item(NOW_MS), "timestamp", "yesterday"),
        with(with(item(NOW_MS), "repeated", 41), "outcome", "refused"),
        // A clock that was a little fast.
        later(HOUR_MS / 2),
    ]);
    scene.count();
    for resolution in Resolution::ALL {
        assert_eq!(sum(&scene.counted(resolution), REQUESTS), 43, "{resolution:?}");
    }
}

#[test]
fn how_far_counting_has_come_is_told() {
    let mut scene = Scene::new();
    scene.insert(&week(&mut Random(2), 9_000));
    let mut before = 0;
    loop {
        let progress = scene.rollups.catch_up(Duration::ZERO, NOW_MS).unwrap();
        assert!(progress.thousandths > before, "{progress:?} after {before}");
        before = progress.thousandths;
        if progress.is_done {
            break;
        }
        assert!(progress.thousandths < 1000, "{progress:?}");
    }
    assert_eq!(before, 1000);
}

#[test]
fn what_is_too_old_is_deleted_as_time_goes_on() {
    let mut scene = Scene::new();
    let items = week(&mut Random(3), 3_000);
    scene.insert(&items);
    scene.count();
    let rows = |scene: &Scene| Resolution::ALL.map(|resolution| scene.counted(resolution).len());
    let [minutes, quarters, hours] = rows(&scene);
    assert!(minutes > 0 && quarters > minutes && hours > 500);
    scene.now_ms += 3 * HOUR_MS;
    scene.count();
    assert_eq!(rows(&scene)[0], 0, "minutes are kept for two hours");
    assert!(rows(&scene)[1] > 0);
    scene.now_ms += 24 * HOUR_MS;
    scene.count();
    assert_eq!(rows(&scene)[1], 0, "quarters of an hour for 25");
    assert_eq!(rows(&scene)[2], hours - as_expected_before(&items, scene.now_ms));
    scene.now_ms += 8 * 24 * HOUR_MS;
    scene.count();
    assert_eq!(rows(&scene), [0, 0, 0]);
}

#[test]
fn what_a_fast_clock_has_deleted_is_counted_again_when_it_is_put_right() {
    let mut scene = Scene::new();
    let items = week(&mut Random(13), 3_000);
    scene.insert(&items);
    scene.count();
    scene.now_ms += 400 * 24 * HOUR_MS;
    scene.count();
    assert!(Resolution::ALL.iter().all(|resolution| scene.counted(*resolution).is_empty()));
    scene.now_ms = NOW_MS;
    scene.count();
    agrees(&scene, &items);
}

/// The rows of hours that are too old by then.
fn as_expected_before(items: &[Value], now_ms: i64) -> usize {
    let oldest = Resolution::HOUR.oldest(now_ms / 1000);
    expected(items, Resolution::HOUR).iter().filter(|(start, ..)| *start < oldest).count()
}

/// A failure that another file does not mend.
fn refused(result: Result<super::Progress, RollupError>) -> String {
    result.unwrap_err().to_string()
}
