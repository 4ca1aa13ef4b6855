//! Whatever becomes of the file, or of the index behind it, the figures are those of the records, and nothing counts twice.

use super::*;
use crate::ledger::index::prune::PruneRule;

/// A file that has counted a week, and these records.
fn filled() -> (Scene, Vec<Value>) {
    let mut scene = Scene::new();
    let items = week(&mut Random(7), 3_000);
    scene.insert(&items);
    scene.count();
    agrees(&scene, &items);
    (scene, items)
}

#[test]
fn a_lost_file_is_filled_anew_also_while_it_is_in_use() {
    let (mut scene, mut items) = filled();
    std::fs::remove_file(scene.path()).unwrap();
    items.push(item(NOW_MS));
    scene.insert(&items[3_000..]);
    scene.count();
    agrees(&scene, &items);
    std::fs::remove_file(scene.path()).unwrap();
    scene.restart();
    agrees(&scene, &items);
}

#[test]
fn a_damaged_file_is_filled_anew() {
    for from in [0, 100, 4_096, 9_000] {
        let (mut scene, items) = filled();
        // Closed, so that all of it is in the file itself.
        scene.rollups = Rollups::new(&scene.state_dir());
        let mut bytes = std::fs::read(scene.path()).unwrap();
        assert!(bytes.len() > 100_000);
        bytes[from..].fill(0x5a);
        std::fs::write(scene.path(), bytes).unwrap();
        let one = item(NOW_MS);
        scene.insert(std::slice::from_ref(&one));
        // What the marker's page does not show, a question finds.
        let read = |db: &Connection| {
            db.query_row("SELECT sum(requests), count(DISTINCT model) FROM sums", [], |row| row.get::<_, i64>(0))
        };
        scene.rollups.ask(Duration::from_secs(60), NOW_MS, read).unwrap();
        agrees(&scene, &[items, vec![one]].concat());
    }
}

#[test]
fn a_file_of_another_version_is_filled_anew() {
    for change in ["PRAGMA user_version = 7", "DROP TABLE marker", "ALTER TABLE sums DROP COLUMN unpriced"] {
        let (mut scene, items) = filled();
        scene.rollups = Rollups::new(&scene.state_dir());
        Connection::open(scene.path()).unwrap().execute_batch(change).unwrap();
        let one = item(NOW_MS);
        scene.insert(std::slice::from_ref(&one));
        scene.restart();
        agrees(&scene, &[items, vec![one]].concat());
    }
}

#[test]
fn a_step_that_fails_half_way_counts_nothing_and_the_next_one_counts_once() {
    let (mut scene, mut items) = filled();
    let more = week(&mut Random(8), 2_500);
    let execute = |statement: &str| Connection::open(scene.path()).unwrap().execute_batch(statement).unwrap();
    // The marker is the last that a step writes.
    execute("CREATE TRIGGER refuse BEFORE INSERT ON marker BEGIN SELECT RAISE(ABORT, 'no marker'); END");
    let path = scene.path();
    scene.insert(&more);
    for _ in 0..3 {
        assert!(refused(scene.rollups.catch_up(Duration::ZERO, NOW_MS)).contains("no marker"));
        agrees(&scene, &items);
    }
    Connection::open(path).unwrap().execute_batch("DROP TRIGGER refuse").unwrap();
    scene.count();
    items.extend(more);
    agrees(&scene, &items);
}

#[test]
fn a_copy_of_the_file_that_is_older_counts_on_from_where_it_was() {
    let (mut scene, mut items) = filled();
    let copy = scene.directory.path().join("copy");
    // As a process that is killed leaves it: the log beside it.
    for suffix in ["", "-wal"] {
        let name = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::copy(name(&scene.path()), name(&copy)).unwrap();
    }
    let more = week(&mut Random(9), 2_500);
    scene.insert(&more);
    scene.count();
    scene.rollups = Rollups::new(&scene.state_dir());
    for suffix in ["", "-wal"] {
        let name = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::rename(name(&copy), name(&scene.path())).unwrap();
    }
    scene.restart();
    items.extend(more);
    agrees(&scene, &items);
}

#[test]
fn another_ledger_behind_the_file_is_counted_from_its_beginning() {
    let (scene, _) = filled();
    let mut other = Scene::new();
    let items = week(&mut Random(10), 1_500);
    other.insert_into_chain("d", &items);
    drop(scene.rollups);
    std::fs::copy(scene.directory.path().join("rollups.db"), other.path()).unwrap();
    other.restart();
    agrees(&other, &items);
    // The same chain with other ids, as after a rebuild that has lost records.
    Connection::open(other.directory.path().join("ledger.db"))
        .unwrap()
        .execute_batch("DELETE FROM records WHERE seq <= 100; UPDATE records SET id = id - 100")
        .unwrap();
    other.restart();
    agrees(&other, &items[100..]);
}

#[test]
fn what_is_deleted_for_its_age_stays_counted() {
    let (mut scene, mut items) = filled();
    let rule =
        PruneRule { now_ms: NOW_MS, before_ms: NOW_MS + 1, max_bytes: 0, max_unshipped_bytes: None, local_only: true };
    while scene.index.prune(rule).unwrap().more {}
    scene.restart();
    agrees(&scene, &items);
    items.push(item(NOW_MS));
    scene.insert(&items[3_000..]);
    scene.count();
    agrees(&scene, &items);
}

const DAY_MS: i64 = 24 * HOUR_MS;

#[test]
fn a_clock_that_was_behind_for_a_moment_costs_nothing() {
    let (mut scene, mut items) = filled();
    scene.now_ms = NOW_MS - 5 * DAY_MS;
    scene.count();
    scene.now_ms = NOW_MS;
    scene.count();
    agrees(&scene, &items);
    // From the start of the host, until somebody mends it.
    items.push(item(NOW_MS));
    scene.insert(&items[3_000..]);
    scene.now_ms = NOW_MS - 2 * HOUR_MS;
    scene.restart();
    scene.now_ms = NOW_MS;
    scene.count();
    agrees(&scene, &items);
}

#[test]
fn a_clock_that_was_ahead_before_a_restart_costs_nothing() {
    let (mut scene, items) = filled();
    scene.now_ms = NOW_MS + 10 * DAY_MS;
    scene.count();
    scene.now_ms = NOW_MS;
    scene.restart();
    agrees(&scene, &items);
}

#[test]
fn records_that_ended_before_a_long_one_began_to_be_old_are_counted() {
    let mut scene = Scene::new();
    // In the order in which they ended.
    let items = [item(NOW_MS - 2 * HOUR_MS), item(NOW_MS - 2 * HOUR_MS), item(NOW_MS - 4 * HOUR_MS)];
    scene.insert(&items);
    scene.count();
    agrees(&scene, &items);
}

#[test]
fn records_that_lie_in_the_future_are_counted_once_when_they_are_due() {
    let (mut scene, mut items) = filled();
    items.extend([item(NOW_MS + 2 * HOUR_MS), item(NOW_MS + 3 * HOUR_MS)]);
    scene.insert(&items[3_000..]);
    scene.count();
    agrees(&scene, &items[..3_000]);
    scene.now_ms = NOW_MS + 3 * HOUR_MS;
    for _ in 0..2 {
        scene.count();
        assert_eq!(sum(&scene.counted(Resolution::MINUTE), REQUESTS), 2);
        scene.insert(&[item(NOW_MS - 30 * DAY_MS)]);
    }
}

#[test]
fn what_can_be_counted_only_once_is_kept_whatever_the_clock_does() {
    let (mut scene, mut items) = filled();
    let rule =
        PruneRule { now_ms: NOW_MS, before_ms: NOW_MS + 1, max_bytes: 0, max_unshipped_bytes: None, local_only: true };
    while scene.index.prune(rule).unwrap().more {}
    // One that is passed over while the clock is behind.
    items.push(item(NOW_MS));
    scene.insert(&items[3_000..]);
    scene.now_ms = NOW_MS - 2 * HOUR_MS;
    scene.count();
    scene.now_ms = NOW_MS;
    scene.count();
    agrees(&scene, &items[..3_000]);
    scene.insert(&items[3_000..]);
    for _ in 0..2 {
        scene.count();
        agrees(&scene, &items);
    }
}
