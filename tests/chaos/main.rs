//! Load of all kinds while everything around the daemon fails, and a reckoning at the end. See `plan.rs` for the faults, and
//! `verdict.rs` for what has to hold.
//!
//! `CHAOS_SECONDS=N` sets how long faults come, `CHAOS_SEED=N` which ones: the plan follows from the seed alone, what the
//! load meets also from the machine's timing. The seed is printed, so that a run can be repeated.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests state expectations by unwrapping, and print what was done"
)]

mod ask;
mod book;
mod causes;
mod evidence;
mod growth;
mod load;
mod partition;
mod plan;
mod proxy;
mod random;
mod secrets;
mod stage;
mod troubles;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use load::Load;
use plan::Plan;
use stage::Stage;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_answers_and_records_are_true() {
    chaos("chaos", 120).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: half an hour of faults"]
async fn whatever_fails_for_half_an_hour_answers_and_records_are_true() {
    chaos("chaos-long", 1800).await;
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

async fn chaos(table: &'static str, seconds: u64) {
    let seed = variable("CHAOS_SEED").unwrap_or_else(|| uuid::Uuid::now_v7().as_u64_pair().1 % 1_000_000);
    let lasts = Duration::from_secs(variable("CHAOS_SECONDS").unwrap_or(seconds));
    println!("seed {seed}, {} s of faults; CHAOS_SEED={seed} repeats the plan", lasts.as_secs());

    let stage = Arc::new(Stage::set(table).await);
    let watched = Arc::clone(&stage);
    let mut beside = JoinSet::new();
    beside.spawn(async move { watched.watch_the_machine().await });
    let load = Load::start(&stage, seed);
    stage.recovered(&load, "the start").await;
    let (start, mut plan) = (Instant::now(), Plan::new(seed));
    while start.elapsed() < lasts {
        let round = plan.next_round();
        println!("{:4} s: {round}", start.elapsed().as_secs());
        troubles::play(&stage, &round).await;
        let took = stage.recovered(&load, &round.to_string()).await;
        println!("{:4} s: served again after {:.1} s", start.elapsed().as_secs(), took.as_secs_f32());
        growth::sample(&stage).await;
    }
    stage.first_upstream_serves(&load).await;
    growth::settle(&stage, &load).await;
    load.stop().await;
    growth::idle(&stage, &load).await;
    growth::comes_back(&stage).await;
    let failures = verdict::judge(&stage, load.book()).await;
    assert!(
        failures.is_empty(),
        "{} failures with CHAOS_SEED={seed} CHAOS_SECONDS={} (CONTRIBUTING.md says how to repeat it):\n{}",
        failures.len(),
        lasts.as_secs(),
        failures.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n")
    );
}
