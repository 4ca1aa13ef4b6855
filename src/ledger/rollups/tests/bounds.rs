//! Whatever names clients send, the file stays small and the sums stay right.

use super::*;
use crate::ledger::rollups::file::File;
use crate::ledger::rollups::key::OTHER;

const UID: usize = 2;
const MODEL: usize = 4;

#[test]
fn who_sends_many_names_loses_the_names_of_his_own_models_only() {
    let mut scene = Scene::new();
    let hostile = |n: u64| with(with(item(NOW_MS), "modelId", format!("model-{n}")), "callerUid", 666);
    let mut items: Vec<Value> = (0..5_000).map(hostile).collect();
    items.extend([item(NOW_MS), with(item(NOW_MS), "modelId", "x".repeat(2_000))]);
    scene.insert(&items);
    scene.count();
    for resolution in Resolution::ALL {
        let rows = scene.counted(resolution);
        assert_eq!((sum(&rows, REQUESTS), sum(&rows, OUTPUT_TOKENS)), (5_002, 5_002 * 5), "{resolution:?}");
        let (his, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row[UID] == 666);
        assert!(his.len() <= 128, "{} rows", his.len());
        let other = his.iter().find(|row| row[MODEL] == OTHER).unwrap();
        assert!(other[REQUESTS].as_i64().unwrap() > 4_800);
        let mut models: Vec<usize> = others.iter().map(|row| row[MODEL].as_str().unwrap().len()).collect();
        models.sort_unstable();
        assert_eq!(models, ["amazon.nova".len(), 200]);
    }
}

/// Who comes over TLS has no uid.
#[test]
fn callers_without_a_uid_are_told_apart_by_their_names() {
    const CALLER: usize = 3;
    let mut scene = Scene::new();
    let of = |caller: &str, model: String| {
        let mut one = with(with(item(NOW_MS), "caller", caller), "modelId", model);
        one.as_object_mut().unwrap().remove("callerUid");
        one
    };
    let mut items: Vec<Value> = (0..500).map(|n| of("hostile", format!("model-{n}"))).collect();
    items.push(of("other", "amazon.nova".to_owned()));
    scene.insert(&items);
    scene.count();
    for resolution in Resolution::ALL {
        let rows = scene.counted(resolution);
        let models: Vec<_> = rows.iter().filter(|row| row[CALLER] == "other").map(|row| &row[MODEL]).collect();
        assert_eq!(models, ["amazon.nova"], "{resolution:?}");
    }
}

#[test]
fn many_users_with_many_names_share_what_room_there_is() {
    let mut scene = Scene::new();
    let mut random = Random(4);
    let items: Vec<Value> = (0..12_000)
        .map(|_| {
            let one = with(item(NOW_MS), "modelId", format!("model-{}", random.below(1_000)));
            let one = with(one, "operation", format!("Operation{}", random.below(50)));
            let one = with(one, "caller", format!("caller-{}", random.below(20)));
            with(one, "callerUid", 1_000 + random.below(900))
        })
        .collect();
    scene.insert(&items);
    scene.count();
    for resolution in Resolution::ALL {
        let rows = scene.counted(resolution);
        assert_eq!((sum(&rows, REQUESTS), sum(&rows, OUTPUT_TOKENS)), (12_000, 60_000), "{resolution:?}");
        assert!(rows.len() <= 641, "{} rows", rows.len());
        assert!(rows.iter().any(|row| row[UID] == -1 && row[MODEL] == OTHER), "{resolution:?}");
    }
    let size = scene.path().metadata().unwrap().len();
    println!("three intervals with all the names there is room for: {size} bytes");
}

#[test]
fn a_file_without_room_loses_its_older_half_and_goes_on() {
    let mut scene = Scene::new();
    scene.insert(&week(&mut Random(12), 6_000));
    scene.count();
    let rows = |scene: &Scene| Resolution::ALL.map(|resolution| scene.counted(resolution));
    let before = rows(&scene);
    scene.rollups = Rollups::new(&scene.state_dir());
    let mut file = File::open(&scene.path()).unwrap();
    let used = file.used_bytes().unwrap();
    file.sweep(NOW_MS / 1000, used).unwrap();
    assert_eq!(rows(&scene), before, "there is room");
    file.sweep(NOW_MS / 1000, used / 3).unwrap();
    assert!(file.used_bytes().unwrap() <= used / 3);
    drop(file);
    for (before, after) in before.iter().zip(rows(&scene)) {
        assert!(!after.is_empty() && after.len() < before.len());
        assert!(before.ends_with(&after), "the newest are kept");
    }
    scene.insert(&[item(NOW_MS)]);
    let counted = |scene: &Scene| sum(&scene.counted(Resolution::MINUTE), REQUESTS);
    let minutes = counted(&scene);
    scene.count();
    assert_eq!(counted(&scene), minutes + 1);
}
