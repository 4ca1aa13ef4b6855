//! `kill -9` at random moments under load. The child writes down, through a pipe that outlives it, what it was promised;
//! whatever was promised has to be in the ledger exactly once, as it was.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::settings;

use super::child;
use super::kit::{self, completed, record};
use test_support::dynamodb::{self, create_table};

/// Opens and closes records until it is killed. `o ID SIZE` is printed once an opening is durable, `c ID SIZE` once an end is.
pub(super) async fn load(settings: &settings::Audit) {
    // The test harness has begun a line.
    println!();
    let audit = Ledger::start(settings).await.unwrap();
    let mut tasks = Vec::new();
    for worker in 0..4_u64 {
        let audit = audit.clone();
        tasks.push(tokio::spawn(async move {
            for number in 0.. {
                let record = record(worker * 1_000_000 + number);
                let opened = audit.open(&record).await.unwrap();
                say('o', &record.request_id, record.request_size);
                tokio::task::yield_now().await;
                // Some stay open for a while, some for ever.
                if number % 7 == 3 {
                    let audit = audit.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(number % 50)).await;
                        audit.close(opened, &completed(&record));
                        say('c', &record.request_id, record.request_size);
                    });
                } else if number % 97 != 5 {
                    audit.close(opened, &completed(&record));
                    say('c', &record.request_id, record.request_size);
                }
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

fn say(what: char, id: &str, size: u64) {
    let line = format!("{what} {id} {size}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_promised_is_lost_by_kill_9() {
    killed("killed", 5).await;
}

/// `AUDIT_KILLS=N` sets how often.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: sixty kills"]
async fn nothing_that_was_promised_is_lost_by_many_kills() {
    let kills = std::env::var("AUDIT_KILLS").ok().and_then(|kills| kills.parse().ok());
    killed("killed-often", kills.unwrap_or(60)).await;
}

async fn killed(table: &str, kills: usize) {
    let client = create_table(table, &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = kit::in_table(directory.path(), table);
    let mut promised: BTreeMap<String, (u64, bool)> = BTreeMap::new();
    for _ in 0..kills {
        let mut child = child::command("load", directory.path())
            .env("AUDIT_TEST_TABLE", table)
            .envs(dynamodb::environment(&dynamodb::endpoint()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || std::io::read_to_string(output).unwrap());
        let chance = uuid::Uuid::now_v7().as_u64_pair().1 % 700;
        tokio::time::sleep(Duration::from_millis(150 + chance)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reading.await.unwrap().split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["o", id, size] => drop(promised.insert((*id).to_owned(), (size.parse().unwrap(), false))),
                ["c", id, _] => promised.get_mut(*id).unwrap().1 = true,
                _ => {}
            }
        }
    }
    let audit = Ledger::start_with(&settings, Some(dynamodb::local())).await.unwrap();
    audit.stop(kit::far()).await;
    assert_eq!(audit.status().pending, 0);
    drop(audit);

    // `items` panics on a request that is there twice.
    let shipped = dynamodb::items(&client, table).await;
    println!("{} kills, {} requests promised, {} items", kills, promised.len(), shipped.len());
    assert!(!promised.is_empty());
    for (id, (size, closed)) in &promised {
        let item = shipped.get(id).unwrap_or_else(|| panic!("{id} is lost"));
        assert_eq!(item["requestSize"], *size, "{id} was given another's record");
        if *closed {
            assert_eq!((&item["outcome"], &item["responseSize"]), (&"completed".into(), &(size * 2).into()), "{id}");
        }
    }
    let interrupted = shipped.values().filter(|item| item["outcome"] == "interrupted").count();
    assert!(interrupted > 0);
    // What is there beyond what was promised are the few whose promise was cut off in the pipe.
    assert!(shipped.len() <= promised.len() + kills * 8);
    for source in ["ledger", "dynamodb"] {
        let (whole, report) = child::audit(directory.path(), Some(table), &format!("verify --source {source}"));
        assert!(whole, "{report}");
    }
}
