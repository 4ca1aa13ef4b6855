//! Traces and metrics for a collector of OpenTelemetry, by OTLP over HTTP.
//!
//! A request that has ended leaves one small note in a bounded queue, and nobody waits: what finds no room is lost and
//! counted. One task makes spans and metrics of the notes and sends them. No text of a prompt, an answer or an error is
//! in a note.

mod ended;
mod exporter;
mod instruments;
mod lane;
mod parent;
mod post;
mod resource;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use ended::Ended;
pub(crate) use parent::Parent;

use crate::settings;
use exporter::Exporter;
use post::Collector;

/// Notes that wait for the task; it takes each at once.
const QUEUE: usize = 2048;
/// What the last of it gets at a stop, and when a reload names another collector.
pub(crate) const LAST: Duration = Duration::from_secs(2);

/// What is told to a collector, if one is configured.
#[derive(Debug)]
pub(crate) struct Telemetry {
    /// Of this process.
    instance: uuid::Uuid,
    tally: Arc<Tally>,
    queue: ArcSwapOption<mpsc::Sender<Ended>>,
    task: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    /// Takes the time by which all has to be over.
    stop: oneshot::Sender<Instant>,
    task: JoinHandle<()>,
}

/// What a reload changes.
#[derive(Debug)]
pub(crate) enum Change {
    Nothing,
    /// Nothing is told from then on.
    Off,
    To(Box<Collector>),
}

/// What the metrics page tells of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    dropped: AtomicU64,
    failures: AtomicU64,
}

impl Tally {
    fn lose(&self, spans: u64) {
        self.dropped.fetch_add(spans, Ordering::Relaxed);
    }

    fn fail(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Spans that no collector has taken, and never will.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Exports that a collector did not take.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

impl Change {
    /// Prepares what the settings say. Nothing is contacted.
    ///
    /// # Errors
    /// A sentence that says why the collector cannot be reached that way.
    pub(crate) fn between(
        old: Option<&settings::Telemetry>,
        new: Option<&settings::Telemetry>,
    ) -> Result<Change, String> {
        match new {
            _ if old == new => Ok(Change::Nothing),
            None => Ok(Change::Off),
            Some(settings) => Ok(Change::To(Box::new(Collector::new(settings)?))),
        }
    }
}

impl Telemetry {
    pub(crate) fn new() -> Telemetry {
        Telemetry {
            instance: uuid::Uuid::now_v7(),
            tally: Arc::default(),
            queue: ArcSwapOption::empty(),
            task: Mutex::const_new(None),
        }
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A request has ended. The note is made only if somebody wants it.
    pub(crate) fn tell(&self, note: impl FnOnce() -> Ended) {
        if let Some(queue) = &*self.queue.load() {
            let note = note();
            let is_sampled = note.is_sampled();
            if queue.try_send(note).is_err() && is_sampled {
                self.tally.lose(1);
            }
        }
    }

    /// Takes over what a reload, or the start, says. A former task sends what it has, beside.
    pub(crate) async fn apply(&self, change: Change, host_id: &str) {
        let next = match change {
            Change::Nothing => return,
            Change::Off => None,
            Change::To(collector) => Some(collector),
        };
        let mut task = self.task.lock().await;
        let former = task.take();
        match next {
            Some(collector) => {
                let (queue, notes) = mpsc::channel(QUEUE);
                let (stop, stopped) = oneshot::channel();
                let resource = resource::of(host_id, self.instance);
                let exporter = Exporter::new(*collector, resource, notes, Arc::clone(&self.tally));
                self.queue.store(Some(Arc::new(queue)));
                *task = Some(Running { stop, task: tokio::spawn(exporter.run(stopped)) });
            }
            None => self.queue.store(None),
        }
        if let Some(former) = former {
            let _ = former.stop.send(Instant::now() + LAST);
        }
    }

    /// Sends what there is, for no longer than [`LAST`]. Nothing is told afterwards.
    pub(crate) async fn stop(&self) {
        self.queue.store(None);
        let Some(running) = self.task.lock().await.take() else { return };
        let _ = running.stop.send(Instant::now() + LAST);
        // The task keeps to the time itself, but for what cannot be interrupted.
        let _ = tokio::time::timeout(LAST + Duration::from_secs(1), running.task).await;
    }
}
