//! Shipping: ended records go from the index to DynamoDB, in batches of 25, a few at a time, until each is confirmed.
//!
//! It has a thread and a runtime of its own, at a lower priority than the requests'. Memory holds the batches in flight
//! and nothing else, however long the table cannot be reached.

mod batch;
mod body;
mod filling;
mod in_flight;
mod retry;

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::batch::{BatchSender, Delivered};
use self::filling::Filling;
use self::in_flight::InFlight;
use self::retry::Retry;
use super::clients::Clients;
use super::core::Core;
use super::dynamo::{self, FailureClass};
use super::health::Component;
use super::index::read::records_after;
use super::index::write::ShippingProgress;
use super::index::{IndexError, open_to_read};
use super::task::{IndexProgress, Task};

/// BatchWriteItem takes no more.
const BATCH_SIZE: usize = 25;
/// Batches that are sent concurrently.
const MAX_IN_FLIGHT: usize = 4;
/// How often the shipper looks whether it is to send again what was set aside.
const RETRY_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How often an idle shipper tries a table that could not be reached.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Ships until the ledger stops; to be run on a thread of its own.
pub(crate) fn run(core: Arc<Core>, table: String, clients: Clients, progress: watch::Receiver<IndexProgress>) {
    // On Linux this is the calling thread's alone. Requests come first.
    let _ = rustix::process::setpriority_process(None, 10);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            core.health.report_failure(Component::Shipping, &format!("records are not shipped: {error}"));
            return;
        }
    };
    let mut stopping = core.stopping.subscribe();
    runtime.block_on(async {
        let sender = Arc::new(BatchSender { core, clients, table });
        let shipper = Shipper {
            sender,
            progress,
            batches: JoinSet::new(),
            in_flight: InFlight::default(),
            cursor: Cursor::default(),
            retry: Retry::at_start(),
            filling: Filling::default(),
        };
        tokio::select! {
            () = shipper.run() => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
}

struct Shipper {
    sender: Arc<BatchSender>,
    progress: watch::Receiver<IndexProgress>,
    batches: JoinSet<(u64, Delivered)>,
    in_flight: InFlight,
    cursor: Cursor,
    retry: Retry,
    filling: Filling,
}

/// How far records were read from the index.
#[derive(Default)]
struct Cursor {
    generation: u64,
    db: Option<Connection>,
    /// The last record read.
    id: i64,
}

impl Shipper {
    async fn run(mut self) {
        self.probe().await;
        let mut retry_checks = tokio::time::interval(RETRY_CHECK_INTERVAL);
        let mut next_probe = Instant::now() + PROBE_INTERVAL;
        loop {
            let now = *self.progress.borrow_and_update();
            if self.cursor.generation != now.generation {
                self.cursor = Cursor { generation: now.generation, db: None, id: now.shipped_id };
                self.in_flight.clear();
            }
            while self.batches.len() < MAX_IN_FLIGHT
                && self.filling.is_due(now.last_id - self.cursor.id, Instant::now())
            {
                match self.send_next() {
                    Ok(true) => self.filling.begin_next(),
                    Ok(false) => {
                        self.filling.begin_next();
                        break;
                    }
                    Err(error) => {
                        self.sender.core.health.report_failure(
                            Component::Shipping,
                            &format!("records cannot be read for shipping: {error}"),
                        );
                        self.cursor.db = None;
                        if error.is_corrupt() {
                            self.sender.core.send(Task::IndexDamaged(error));
                        }
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        break;
                    }
                }
            }
            let idle = self.batches.is_empty();
            let may_send = self.batches.len() < MAX_IN_FLIGHT;
            tokio::select! {
                changed = self.progress.changed() => if changed.is_err() { return },
                Some(done) = self.batches.join_next(), if !idle => if let Ok((generation, delivered)) = done {
                    self.delivered(generation, delivered);
                },
                Some((generation, achieved)) = self.retry.achieved() => {
                    self.sender.core.counts.add_shipped(retry::taken(&achieved));
                    if generation == self.progress.borrow().generation {
                        self.sender.core.send(Task::Shipped(generation, achieved));
                    } else {
                        self.retry.again();
                    }
                }
                () = self.filling.wait(), if may_send => {}
                () = tokio::time::sleep_until(next_probe), if idle => {
                    next_probe = Instant::now() + PROBE_INTERVAL;
                    if self.sender.core.counts.table_reachable() != Some(true) {
                        self.probe().await;
                    }
                }
                _ = retry_checks.tick() => self.retry.check(&self.sender, self.cursor.generation, &self.progress),
            }
        }
    }

    /// Reads the next batch and sends it off; false when there was none.
    fn send_next(&mut self) -> Result<bool, IndexError> {
        let db = match &self.cursor.db {
            Some(db) => db,
            None => self.cursor.db.insert(open_to_read(&self.sender.core.state_dir.database())?),
        };
        let records = records_after(db, self.cursor.id, BATCH_SIZE)?;
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(false) };
        self.cursor.id = last.id;
        self.in_flight.sent(first.id, last.id);
        let (sender, generation) = (self.sender.clone(), self.cursor.generation);
        self.batches.spawn(async move { (generation, sender.deliver(records).await) });
        Ok(true)
    }

    fn delivered(&mut self, generation: u64, delivered: Delivered) {
        let counts = &self.sender.core.counts;
        counts.add_shipped(delivered.confirmed);
        if generation != self.cursor.generation {
            return;
        }
        let mut achieved: Vec<ShippingProgress> =
            delivered.rejected.into_iter().map(|(id, reason)| ShippingProgress::SetAside { id, reason }).collect();
        if let Some(run) = self.in_flight.finish(delivered.first, delivered.confirmed) {
            achieved.push(ShippingProgress::Until { id: run.last, count: run.confirmed });
        }
        if !achieved.is_empty() {
            self.sender.core.send(Task::Shipped(generation, achieved));
        }
    }

    /// Finds out whether the table can be reached, when sending records has not told.
    async fn probe(&self) {
        let client = self.sender.clients.client().await;
        let answer = client.describe_table().table_name(&self.sender.table).send().await;
        let counts = &self.sender.core.counts;
        match answer.map_err(|error| dynamo::classify(error, &self.sender.table)) {
            Ok(answer) => match answer.table().map(dynamo::table_keys) {
                Some(Err(why)) => {
                    counts.set_table_reachable(false);
                    self.sender.core.health.report_failure(
                        Component::Shipping,
                        &format!("the table {} cannot hold records: {why}", self.sender.table),
                    );
                }
                _ => {
                    counts.set_table_reachable(true);
                    self.sender.core.health.report_success(Component::Shipping);
                }
            },
            // Describing needs a permission that shipping does not need.
            Err(failure) if failure.class == FailureClass::Credentials => self.sender.clients.reset().await,
            Err(failure) => {
                counts.set_table_reachable(false);
                self.sender.core.health.report_failure(Component::Shipping, &failure.sentence);
            }
        }
    }
}
