//! What the daemon holds: descriptors, threads, tasks, memory, connections, requests.

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
    /// Nothing was under way.
    idle: bool,
    descriptors: usize,
    threads: usize,
    /// What its runtime has not ended.
    tasks: usize,
    /// Resident, in KiB.
    memory: u64,
}

/// How long the load runs between the two looks at the end.
const LOAD: Duration = Duration::from_secs(8);
/// Descriptors, threads and tasks that come and go: connections to DynamoDB and to the secret, blocking tasks.
const SLACK: usize = 24;
/// The same while nothing is under way: connections that are kept for later.
const IDLE_SLACK: usize = 12;
/// What the allocator may leave resident.
const MEMORY_SLACK: u64 = 32 * 1024;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a count")]
async fn of(daemon: &Daemon, idle: bool) -> Sample {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", daemon.pid())).unwrap().count();
    let tasks = metric(&daemon.metrics().await, "bedrock_sidecar_tasks").unwrap() as usize;
    let (descriptors, threads, memory) = (count("fd"), count("task"), daemon.memory().0);
    Sample { pid: daemon.pid(), idle, descriptors, threads, tasks, memory }
}

/// Takes a sample under load.
pub(crate) async fn sample(stage: &Stage) {
    take(stage, false).await;
}

async fn take(stage: &Stage, idle: bool) {
    let sample = stage.with_daemon(async |daemon| of(daemon, idle).await).await;
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
    take(stage, true).await;
}

/// Waits, a bounded time, until the idle daemon holds no more than it did since the process began, and takes a sample then.
pub(crate) async fn comes_back(stage: &Stage) {
    let start = Instant::now();
    loop {
        let now = stage.with_daemon(async |daemon| of(daemon, true).await).await;
        let is_back = grown(&stage.samples.lock().unwrap(), &now).is_empty();
        if is_back || start.elapsed() > DEADLINE {
            println!("after {:.1} s it holds no more than before: {is_back}", start.elapsed().as_secs_f32());
            stage.samples.lock().unwrap().push(now);
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a process holds at last and did not hold before. Its memory is compared with the most that it took in the first half
/// of its life: the first samples may come before the first 20 MB bodies.
fn grown(samples: &[Sample], last: &Sample) -> Vec<String> {
    let of_its_process: Vec<&Sample> = samples.iter().filter(|sample| sample.pid == last.pid).collect();
    let counts = |sample: &Sample| [sample.descriptors, sample.threads, sample.tasks];
    let has_more = |before: &&&Sample| {
        let slack = if before.idle { IDLE_SLACK } else { SLACK };
        counts(last).into_iter().zip(counts(before)).any(|(now, then)| now > then + slack)
    };
    let more = of_its_process.iter().filter(has_more);
    let mut grown: Vec<String> =
        more.map(|before| format!("it has grown: {before:?}, and at the end {last:?}")).collect();
    let first_half = of_its_process.iter().take(of_its_process.len().div_ceil(2));
    let most = first_half.map(|sample| sample.memory).max().unwrap_or(u64::MAX);
    if last.memory > most.saturating_add(MEMORY_SLACK) {
        grown.push(format!("its memory has grown from {most} KiB to {} KiB", last.memory));
    }
    grown
}

/// What has grown.
pub(crate) fn judge(samples: &[Sample]) -> Vec<String> {
    let last = samples.last().unwrap();
    for sample in samples.iter().filter(|sample| sample.pid == last.pid) {
        println!("held: {sample:?}");
    }
    grown(samples, last)
}
