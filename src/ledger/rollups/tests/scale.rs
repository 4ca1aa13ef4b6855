//! A million records: how long counting and a question take, and with how much memory.

use std::time::Instant;

use super::*;
use crate::ledger::rollups::read::{Selection, for_each};

/// `ROLLUPS_TEST_RECORDS` makes it more.
fn records() -> i64 {
    std::env::var("ROLLUPS_TEST_RECORDS").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000_000)
}
/// Names the state directory to the process that measures: what filled it has left memory behind.
const DIRECTORY: &str = "ROLLUPS_TEST_DIRECTORY";

/// The process's own memory in KiB, without what the kernel keeps of files.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "slow: a database of a gigabyte"]
fn a_million_records_are_counted_in_bounded_memory_and_asked_for_in_no_time() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return measure(StateDir { root: directory.into() });
    }
    let scene = Scene::new();
    fill(&scene);
    let test = std::thread::current().name().unwrap().to_owned();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &test, "--ignored", "--nocapture"]).env(DIRECTORY, scene.directory.path());
    assert!(command.status().unwrap().success());
}

/// A week's records.
fn fill(scene: &Scene) {
    let mut db = Connection::open(scene.state_dir().database()).unwrap();
    let fill = db.transaction().unwrap();
    fill.execute("INSERT INTO chains VALUES (1, 'c', 'h', 0, '', 0, '')", []).unwrap();
    let mut insert = fill.prepare("INSERT INTO records VALUES (?1, 1, ?1, ?2, 1, 'billing', ?3, ?4, ?5, ?6)").unwrap();
    let (mut random, padding, records) = (Random(20), "x".repeat(400), records());
    for id in 1..=records {
        let started_ms = NOW_MS - (records - id) * 7 * 24 * HOUR_MS / records;
        let uid = 1_000 + u32::try_from(random.below(5)).unwrap();
        let model = format!("anthropic.claude-model-{}", random.below(10));
        let one = with(with(item(started_ms), "latency", 200 + random.below(30_000)), "callerUid", uid);
        let one = with(with(with(one, "modelId", &*model), "caller", "billing"), "userArn", &*padding);
        insert.execute((id, started_ms, uid, model, format!("{id:064}"), one.to_string())).unwrap();
    }
    drop(insert);
    fill.commit().unwrap();
}

fn measure(state_dir: StateDir) {
    let rollups = Rollups::new(&state_dir);
    let before = memory();
    let begun = Instant::now();
    let (mut steps, mut longest, mut most) = (0, Duration::ZERO, before);
    loop {
        let step = Instant::now();
        let progress = rollups.catch_up(Duration::ZERO, NOW_MS).unwrap();
        (steps, longest, most) = (steps + 1, longest.max(step.elapsed()), most.max(memory()));
        if progress.is_done {
            break;
        }
    }
    println!("{} records: {:?} in {steps} steps, the longest {longest:?}", records(), begun.elapsed());
    println!("file: {} KiB", state_dir.rollups().metadata().unwrap().len() / 1024);
    for (resolution, window) in
        [(Resolution::MINUTE, 3_600), (Resolution::QUARTER, 86_400), (Resolution::HOUR, 604_800)]
    {
        let begun = Instant::now();
        let selection = Selection {
            resolution,
            from: resolution.start(NOW_MS / 1000 - window),
            to: NOW_MS / 1000,
            model: None,
            operation: None,
            region: None,
            caller: None,
            own: None,
        };
        let read = |db: &Connection| {
            let mut requests = 0;
            for_each(db, &selection, |row| {
                requests += row.sums()?.requests;
                Ok(())
            })?;
            Ok((requests, memory()))
        };
        let ((requests, taken), _) = rollups.ask(Duration::ZERO, NOW_MS, read).unwrap();
        most = most.max(taken);
        println!("{window} s: {requests} requests in {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(1));
        // A window begins at a whole step, an hour at most.
        assert!(requests.abs_diff((records() * window / 604_800).cast_unsigned()) < records().cast_unsigned() / 50);
    }
    println!("memory: {before} KiB before, {most} KiB at most");
    assert!(longest < Duration::from_secs(1), "a step took {longest:?}");
    assert!(most - before < 2_048, "it takes {} KiB", most - before);
}
