//! Work that takes time in proportion to a body (hashes, scans, copies), done so that it holds up nobody else's events.
//! Requests whose bodies may be large are not served by the workers (`service.rs`) but on the runtime with several threads,
//! where this work can have a thread to itself.

use std::sync::LazyLock;

use http_body::Body;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

/// In bytes. A smaller body takes less time than moving the work elsewhere.
const LARGE: usize = 256 * 1024;

/// So many large bodies are worked on at once, that other requests find a core: half of the cores', and one at least.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new((cores / 2).max(1))
});

/// Whether a body may turn out so large that a worker must not serve its request.
pub(crate) fn may_be(body: &impl Body) -> bool {
    body.size_hint().upper().is_none_or(|most| most > LARGE as u64)
}

/// Does work on `size` bytes. If that is much, other tasks leave this thread before, and the work waits for its turn.
pub(crate) async fn work<T>(size: usize, work: impl FnOnce() -> T) -> T {
    let may_block = || Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
    if size <= LARGE || !may_block() {
        return work();
    }
    // Nobody closes it.
    let _turn = Box::pin(TURNS.acquire()).await;
    tokio::task::block_in_place(work)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The runtime's only thread is at work, and another task runs meanwhile: the work waits for it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_run_while_a_large_body_is_worked_on() {
        let (ran, running) = std::sync::mpsc::channel();
        let worked = tokio::spawn(async move {
            tokio::spawn(async move { ran.send(()) });
            work(LARGE + 1, move || running.recv_timeout(Duration::from_secs(60))).await
        });
        worked.await.unwrap().expect("the other task runs");
    }

    #[tokio::test]
    async fn where_there_is_one_thread_the_work_is_done_all_the_same() {
        assert_eq!(work(LARGE + 1, || 1).await + work(1, || 1).await, 2);
    }
}
