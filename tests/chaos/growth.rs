//! What the daemon holds: descriptors, threads, memory, connections, requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use test_support::{DEADLINE, Daemon, metric};

use crate::load::Load;
use crate::plan::Round;
use crate::stage::Stage;
use crate::troubles;

/// At one moment, of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pid: u32,
    descriptors: usize,
    threads: usize,
    /// Resident, in KiB.
    memory: u64,
}

/// How long the load runs between the two looks at the end.
const LOAD: Duration = Duration::from_secs(8);
/// Descriptors and threads that come and go: connections to DynamoDB and to the secret, blocking tasks.
const SLACK: usize = 24;
/// What allocators and 20 MB bodies may leave resident.
const MEMORY_SLACK: u64 = 256 * 1024;

fn of(daemon: &Daemon) -> Sample {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", daemon.pid())).unwrap().count();
    Sample { pid: daemon.pid(), descriptors: count("fd"), threads: count("task"), memory: daemon.memory().0 }
}

/// Takes a sample under load.
pub(crate) async fn sample(stage: &Stage) {
    let sample = stage.with_daemon(async |daemon| of(daemon)).await;
    stage.samples.lock().unwrap().push(sample);
}

/// Takes three idle samples of one process: between the first two there is load while much fails, then load alone.
pub(crate) async fn settle(stage: &Arc<Stage>, load: &Load) {
    for round in [None, Some(Round::in_one_life()), None] {
        if let Some(round) = round {
            println!("in one life: {round}");
            troubles::play(stage, &round).await;
            stage.recovered(load, "what fails in one life").await;
        }
        tokio::time::sleep(LOAD).await;
        load.pause(true);
        idle(stage, load).await;
        load.pause(false);
    }
}

/// Waits until no client has a request under way, and the daemon holds nothing that belongs to a request or a client. If that
/// never comes, what clients have under way tells a slow client from a leak.
pub(crate) async fn idle(stage: &Stage, load: &Load) {
    let names = ["in_flight", "connections{listener=\"main\"}", "buffered_bytes"];
    let start = Instant::now();
    loop {
        let page = stage.with_daemon(async |daemon| daemon.metrics().await).await;
        // What is not there at all is no zero.
        let held = names.map(|name| metric(&page, &format!("bedrock_sidecar_{name}")));
        let under_way = load.book().under_way();
        if held == [Some(0.0); 3] && under_way.is_empty() {
            break;
        }
        assert!(start.elapsed() < 2 * DEADLINE, "{names:?} are still {held:?}; clients have under way: {under_way:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("idle after {:.1} s", start.elapsed().as_secs_f32());
    sample(stage).await;
}

/// What has grown.
pub(crate) fn judge(samples: &[Sample]) -> Vec<String> {
    let last = samples.last().unwrap();
    let mut grown = Vec::new();
    for before in samples.iter().filter(|sample| sample.pid == last.pid) {
        let [more_descriptors, more_threads] = [(last.descriptors, before.descriptors), (last.threads, before.threads)]
            .map(|(now, then)| now > then + SLACK);
        let more_memory = last.memory > before.memory + before.memory / 2 + MEMORY_SLACK;
        if more_descriptors || more_threads || more_memory {
            grown.push(format!("it has grown: {before:?}, and at the end {last:?}"));
        }
    }
    println!("held at the end: {last:?}");
    grown
}
