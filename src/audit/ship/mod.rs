//! Shipping: ended records travel from SQLite to DynamoDB, in batches of 25, a few at a time, until each is confirmed.
//!
//! It has a thread and a runtime of its own, at a lower priority than the road's. Memory holds the batches under way and
//! nothing else, however long the table is away.

mod batch;
pub mod dynamo;
pub mod source;
mod window;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::batch::{Delivered, Lane};
use self::source::Clients;
use self::window::Window;
use super::core::{Part, Shared};
use super::keeper::{Progress, Task};
use super::store::read::stored_after;
use super::store::write::Shipped;
use super::store::{StoreError, open_to_read};

/// BatchWriteItem takes no more.
const BATCH: usize = 25;
/// Batches under way at a time.
const LANES: usize = 4;
/// How often an idle shipper tries a table that could not be reached.
const PROBE: Duration = Duration::from_secs(30);

/// Ships until the ledger stops; to be run on a thread of its own.
pub fn run(core: Shared, table: String, clients: Clients, progress: watch::Receiver<Progress>) {
    // On Linux this is the calling thread's alone. Requests come first.
    let _ = rustix::process::setpriority_process(None, 10);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return core.trouble(Part::Shipping, &format!("records are not shipped: {error}")),
    };
    let mut stopping = core.stopping.subscribe();
    runtime.block_on(async {
        let lane = Arc::new(Lane { core, clients, table, works: Notify::new() });
        let shipper =
            Shipper { lane, progress, lanes: JoinSet::new(), window: Window::default(), cursor: Cursor::default() };
        tokio::select! {
            () = shipper.run() => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
}

struct Shipper {
    lane: Arc<Lane>,
    progress: watch::Receiver<Progress>,
    lanes: JoinSet<(u64, Delivered)>,
    window: Window,
    cursor: Cursor,
}

/// How far records were read from SQLite.
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
        loop {
            let now = *self.progress.borrow_and_update();
            if self.cursor.generation != now.generation {
                self.cursor = Cursor { generation: now.generation, db: None, id: now.shipped_id };
                self.window.clear();
            }
            while self.lanes.len() < LANES && self.cursor.id < now.last_id {
                match self.send_next() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        self.lane
                            .core
                            .trouble(Part::Shipping, &format!("records cannot be read for shipping: {error}"));
                        self.cursor.db = None;
                        if error.is_corrupt() {
                            self.lane.core.tell(Task::Damaged(error));
                        }
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        break;
                    }
                }
            }
            let idle = self.lanes.is_empty();
            tokio::select! {
                changed = self.progress.changed() => if changed.is_err() { return },
                Some(done) = self.lanes.join_next(), if !idle => if let Ok((generation, delivered)) = done {
                    self.delivered(generation, delivered);
                },
                () = tokio::time::sleep(PROBE), if idle => if self.lane.core.counts.table_reachable.load(Relaxed) != 1 {
                    self.probe().await;
                },
            }
        }
    }

    /// Reads the next batch and sends it off; false when there was none.
    fn send_next(&mut self) -> Result<bool, StoreError> {
        let db = match &self.cursor.db {
            Some(db) => db,
            None => self.cursor.db.insert(open_to_read(&self.lane.core.home.database())?),
        };
        let rows = stored_after(db, self.cursor.id, BATCH)?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(false) };
        self.cursor.id = last.id;
        let bytes = rows.iter().map(|row| row.item.len() as u64).sum();
        self.window.sent(first.id, last.id, bytes);
        let (lane, generation) = (self.lane.clone(), self.cursor.generation);
        self.lanes.spawn(async move { (generation, lane.deliver(rows).await) });
        Ok(true)
    }

    fn delivered(&mut self, generation: u64, delivered: Delivered) {
        let counts = &self.lane.core.counts;
        counts.shipped.fetch_add(delivered.confirmed, Relaxed);
        if generation != self.cursor.generation {
            return;
        }
        let mut marks: Vec<Shipped> =
            delivered.poison.into_iter().map(|(id, reason)| Shipped::SetAside { id, reason }).collect();
        if let Some(row) = self.window.arrived(delivered.first, delivered.confirmed) {
            marks.push(Shipped::Until { id: row.last, count: row.confirmed, bytes: row.bytes });
        }
        if !marks.is_empty() {
            self.lane.core.tell(Task::Shipped(generation, marks));
        }
    }

    /// Looks whether the table is there, when no record has told.
    async fn probe(&self) {
        let client = self.lane.clients.client().await;
        let answer = client.describe_table().table_name(&self.lane.table).send().await;
        let counts = &self.lane.core.counts;
        match answer.map_err(|error| dynamo::failure(error, &self.lane.table)) {
            Ok(answer) => match answer.table().map(dynamo::shape) {
                Some(Err(why)) => {
                    counts.table_reachable.store(2, Relaxed);
                    self.lane
                        .core
                        .trouble(Part::Shipping, &format!("the table {} cannot hold records: {why}", self.lane.table));
                }
                _ => {
                    counts.table_reachable.store(1, Relaxed);
                    self.lane.core.works(Part::Shipping);
                }
            },
            // Describing needs a permission that shipping does not need.
            Err(failure) if failure.class == dynamo::Class::Credentials => self.lane.clients.forget().await,
            Err(failure) => {
                counts.table_reachable.store(2, Relaxed);
                self.lane.core.trouble(Part::Shipping, &failure.sentence);
            }
        }
    }
}
