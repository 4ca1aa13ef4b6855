//! A million records: how long counting and a question take, and with how much memory.

use std::time::Instant;

use super::*;
use crate::ledger::rollups::read::{Selection, for_each};

const RECORDS: i64 = 1_000_000;

/// The daemon's own memory in KiB: what is resident, without what the kernel keeps of files, and the most since the last
/// call.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let found = (field("RssAnon:"), field("VmHWM:"));
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    found
}

#[test]
#[ignore = "slow: a database of a gigabyte"]
fn a_million_records_are_counted_in_bounded_memory_and_asked_for_in_no_time() {
    let scene = Scene::new();
    let mut db = Connection::open(scene.state_dir().database()).unwrap();
    let fill = db.transaction().unwrap();
    fill.execute("INSERT INTO chains VALUES (1, 'c', 'h', 0, '', 0, '')", []).unwrap();
    {
        let mut insert =
            fill.prepare("INSERT INTO records VALUES (?1, 1, ?1, ?2, 1, 'billing', ?3, ?4, ?5, ?6)").unwrap();
        let (mut random, padding) = (Random(20), "x".repeat(400));
        for id in 1..=RECORDS {
            let started_ms = NOW_MS - (RECORDS - id) * 7 * 24 * HOUR_MS / RECORDS;
            let (uid, model) = (
                1_000 + u32::try_from(random.below(5)).unwrap(),
                format!("anthropic.claude-model-{}", random.below(10)),
            );
            let one = with(with(item(started_ms), "latency", 200 + random.below(30_000)), "callerUid", uid);
            let one = with(with(with(one, "modelId", &*model), "caller", "billing"), "userArn", &*padding);
            insert.execute((id, started_ms, uid, model, format!("{id:064}"), one.to_string())).unwrap();
        }
    }
    fill.commit().unwrap();
    drop(db);

    let before = memory();
    let begun = Instant::now();
    let (mut steps, mut longest) = (0, Duration::ZERO);
    loop {
        let step = Instant::now();
        let progress = scene.rollups.catch_up(Duration::ZERO, NOW_MS).unwrap();
        (steps, longest) = (steps + 1, longest.max(step.elapsed()));
        if progress.is_done {
            break;
        }
    }
    let after = memory();
    println!("{RECORDS} records: {:?} in {steps} steps, the longest {longest:?}", begun.elapsed());
    println!(
        "memory: {} KiB before, {} KiB after; resident at most {} KiB more",
        before.0,
        after.0,
        after.1 - before.1.min(after.1)
    );
    println!("file: {} KiB", scene.path().metadata().unwrap().len() / 1024);
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
            Ok(requests)
        };
        let (requests, _) = scene.rollups.ask(Duration::ZERO, NOW_MS, read).unwrap();
        println!("{window} s: {requests} requests in {:?}", begun.elapsed());
        assert!(requests.abs_diff((RECORDS * window / 604_800).cast_unsigned()) < 20_000);
    }
    let step = longest.as_millis();
    assert!(step < 1_000, "a step took {step} ms");
    assert!(after.0.saturating_sub(before.0) < 2_048, "it keeps {} KiB", after.0 - before.0);
}
