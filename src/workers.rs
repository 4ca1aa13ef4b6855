//! The threads that serve connections. Each has a runtime of its own, which nobody else's thread helps out: a client, its
//! request and the upstream's answer are on one thread, and the kernel has nobody to wake.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::lifecycle::roll_call::{Calls, RollCall};

/// What a thread gets at the end for work that blocks, such as reading a file.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// A worker that has not looked at a new connection for so many milliseconds is blocked, or may as well be.
const LATE: u64 = 100;

thread_local! {
    static HERE: Cell<Option<Number>> = const { Cell::new(None) };
    /// On a worker's thread: its own load, and the runtime that it was started from.
    static OWN: OnceCell<(Arc<Load>, Handle)> = const { OnceCell::new() };
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
    /// The runtime of everything else.
    main: Handle,
    begun: Instant,
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    load: Arc<Load>,
}

/// What a worker has to do.
#[derive(Debug, Default)]
struct Load {
    connections: AtomicUsize,
    /// Whose answers have not ended.
    requests: AtomicUsize,
    /// Connections that it was given and has not looked at.
    unseen: AtomicUsize,
    /// Since when there have been any, in milliseconds from the workers' start.
    since: AtomicU64,
}

impl Load {
    /// The worker with the least is the next one to get a connection. One that looks at none gets none as long as another
    /// one does: what it has been given waits. A request weighs as much as a connection, so that idle ones weigh less.
    fn rank(&self, now: u64) -> (bool, usize, usize) {
        let unseen = self.unseen.load(Relaxed);
        let is_late = unseen > 0 && now.saturating_sub(self.since.load(Relaxed)) >= LATE;
        (is_late, unseen, self.connections.load(Relaxed) + self.requests.load(Relaxed))
    }

    fn give(&self, now: u64) {
        if self.unseen.fetch_add(1, Relaxed) == 0 {
            self.since.store(now, Relaxed);
        }
    }

    fn seen(&self) {
        self.unseen.fetch_sub(1, Relaxed);
    }
}

/// One connection more, until it is dropped.
struct Connected(Arc<Load>);

impl Connected {
    fn new(load: &Arc<Load>) -> Connected {
        load.connections.fetch_add(1, Relaxed);
        Connected(Arc::clone(load))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// A request of a worker's connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Load>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// Counts a request of the worker that runs this; none on any other thread.
pub(crate) fn busy() -> Option<Busy> {
    let load = OWN.with(|own| own.get().map(|(load, _)| Arc::clone(load)))?;
    load.requests.fetch_add(1, Relaxed);
    Some(Busy(load))
}

/// The worker that runs this; none on any other thread.
pub(crate) fn here() -> Option<Number> {
    HERE.get()
}

/// The runtime for what takes long, and for what requests of several workers share: one that is blocked must hold up no
/// other's. On any other thread that is the runtime that runs this.
pub(crate) fn elsewhere() -> Handle {
    OWN.with(|own| own.get().map(|(_, main)| main.clone())).unwrap_or_else(Handle::current)
}

impl Workers {
    /// Starts so many, beside the runtime that runs this. Each is on the roll: one that hangs, or has ended, is missed.
    ///
    /// # Errors
    /// The kernel gives no thread, or no descriptors for a runtime.
    pub(crate) fn start(count: NonZeroUsize, roll: &RollCall) -> io::Result<Arc<Workers>> {
        let (stop, stopped) = watch::channel(false);
        let main = Handle::current();
        let start = |own| Worker::start(Number { own, of: count }, main.clone(), roll.add().1, stopped.clone());
        let workers = (0..count.get()).map(start).collect::<io::Result<_>>()?;
        Ok(Arc::new(Workers { workers, main, begun: Instant::now(), stop }))
    }

    /// The runtime of everything else.
    pub(crate) fn main(&self) -> &Handle {
        &self.main
    }

    /// How many tasks have not ended, theirs and everybody else's.
    pub(crate) fn tasks(&self) -> usize {
        let runtimes = self.workers.iter().map(|worker| &worker.runtime).chain([&self.main]);
        runtimes.map(|runtime| runtime.metrics().num_alive_tasks()).sum()
    }

    /// Has the worker with the least to do serve one more connection.
    pub(crate) fn serve(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load.rank(now)) else { return };
        worker.load.give(now);
        let connected = Connected::new(&worker.load);
        worker.runtime.spawn(async move {
            connected.0.seen();
            connection.await;
            drop(connected);
        });
    }

    /// Ends them, and drops what they still do. One that is blocked is not waited for.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(2 * LAST_MOMENT, self.stop.closed()).await;
    }
}

impl Worker {
    fn start(number: Number, main: Handle, calls: Calls, stopped: watch::Receiver<bool>) -> io::Result<Worker> {
        // The runtime is the thread's from the start: where others run, it may not be dropped.
        let (begun, has_begun) = std::sync::mpsc::sync_channel(1);
        let load = Arc::<Load>::default();
        let own = Arc::clone(&load);
        let serve = move || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let _ = begun.send(Ok(runtime.handle().clone()));
                HERE.set(Some(number));
                let _ = OWN.with(|known| known.set((own, main)));
                run(runtime, calls, stopped);
            }
            Err(error) => {
                let _ = begun.send(Err(error));
            }
        };
        std::thread::Builder::new().name(format!("worker-{}", number.own)).spawn(serve)?;
        let runtime = has_begun.recv().map_err(io::Error::other)??;
        Ok(Worker { runtime, load })
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
