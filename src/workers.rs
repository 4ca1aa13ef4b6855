//! The threads that serve connections. Each has a runtime of its own, which nobody else's thread helps out: what a request
//! waits for is woken on the thread that it runs on, and the kernel has nobody to wake.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::lifecycle::roll_call::{Calls, RollCall};

/// What a thread gets at the end for work that blocks, such as reading a file.
const LAST_MOMENT: Duration = Duration::from_secs(1);

thread_local! {
    static HERE: Cell<Option<Number>> = const { Cell::new(None) };
}

/// Which of the workers a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    /// From 0.
    pub own: usize,
    /// How many there are.
    pub of: NonZeroUsize,
}

/// All of them. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// One connection more, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The worker that runs this; none on any other thread.
pub(crate) fn here() -> Option<Number> {
    HERE.get()
}

impl Workers {
    /// Starts so many. Each is on the roll: one that hangs, or has ended, is missed.
    ///
    /// # Errors
    /// The kernel gives no thread, or no descriptors for a runtime.
    pub(crate) fn start(count: NonZeroUsize, roll: &RollCall) -> io::Result<Arc<Workers>> {
        let (stop, stopped) = watch::channel(false);
        let start = |own| Worker::start(Number { own, of: count }, roll.add().1, stopped.clone());
        let workers = (0..count.get()).map(start).collect::<io::Result<_>>()?;
        Ok(Arc::new(Workers { workers, stop }))
    }

    /// Has the worker with the fewest connections serve one more.
    pub(crate) fn serve(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let Some(worker) = self.workers.iter().min_by_key(|worker| worker.connections.load(Relaxed)) else { return };
        worker.connections.fetch_add(1, Relaxed);
        let counted = Counted(Arc::clone(&worker.connections));
        worker.runtime.spawn(async move {
            let _counted = counted;
            connection.await;
        });
    }

    /// Ends them, and drops what they still do. One that is blocked is not waited for.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(2 * LAST_MOMENT, self.stop.closed()).await;
    }
}

impl Worker {
    fn start(number: Number, calls: Calls, stopped: watch::Receiver<bool>) -> io::Result<Worker> {
        // The runtime is the thread's from the start: where others run, it may not be dropped.
        let (begun, has_begun) = std::sync::mpsc::sync_channel(1);
        let main = move || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let _ = begun.send(Ok(runtime.handle().clone()));
                HERE.set(Some(number));
                run(runtime, calls, stopped);
            }
            Err(error) => {
                let _ = begun.send(Err(error));
            }
        };
        std::thread::Builder::new().name(format!("worker-{}", number.own)).spawn(main)?;
        let runtime = has_begun.recv().map_err(io::Error::other)??;
        Ok(Worker { runtime, connections: Arc::default() })
    }
}

/// Runs what is spawned there, and answers the roll call, until it is told to stop.
fn run(runtime: Runtime, mut calls: Calls, mut stopped: watch::Receiver<bool>) {
    runtime.block_on(async {
        loop {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = calls.answer() => {}
            }
        }
    });
    runtime.shutdown_timeout(LAST_MOMENT);
    // Only now: whoever waits for the threads' ends waits for what they did, too.
    drop(stopped);
}

#[cfg(test)]
mod tests;
