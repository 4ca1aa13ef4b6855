//! `GET /v1/dashboard/events`: server-sent events for who watches the dashboard. The records come from the index, as those of
//! every question do: requests do not know that somebody watches.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::access::scope;
use super::desk::{Question, Turn};
use super::status;
use crate::auditor::{self, Query, Scope};
use crate::caller::{Peer, User};
use crate::error::Refusal;
use crate::exchange::Body;
use crate::panics;
use crate::road::Road;

pub(super) const PATH: &str = "/v1/dashboard/events";

/// How soon a stream ends when the daemon stops, and every how many of these it says how the daemon is.
const TICK: Duration = Duration::from_millis(500);
const TICKS_OF_STATUS: u64 = 4;
/// Records that end within it come together.
const GATHERING: Duration = Duration::from_millis(250);
/// The newest of them that are told; a page has no room for more.
const MOST_RECORDS: usize = 50;
/// Events that wait for a client that does not read.
const MOST_WAITING: usize = 8;

/// Whoever follows, and what.
struct Follower {
    road: Arc<ArcSwap<Road>>,
    peer: Peer,
    query: Query,
    sender: mpsc::Sender<Bytes>,
    _turn: Turn,
}

/// Begins a stream of events.
///
/// # Errors
/// 403 for who may see no records, 400 for filters that cannot be read, 429 if too many watch.
pub(super) fn follow(
    road: &Arc<ArcSwap<Road>>,
    peer: &Peer,
    raw_query: &str,
    main: &Handle,
) -> Result<Response<Body>, Refusal> {
    let now = road.load_full();
    let scope = scope(&now, peer, None)?;
    let query = Query { limit: MOST_RECORDS, ..Query::parse(raw_query)? };
    let question = Question { is_auditor: matches!(scope, Scope::All), to_table: false };
    let turn = now.followers.turn((User::of(peer), None), question, Instant::now())?;
    let (sender, pieces) = mpsc::channel(MOST_WAITING);
    let follower = Follower { road: Arc::clone(road), peer: peer.clone(), query, sender, _turn: turn };
    main.spawn(panics::contained(follower.run()));
    let mut answer = Response::new(Body::live(pieces));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(answer)
}

/// What became of the newest records.
enum Told {
    All,
    /// They could not be read.
    Nothing,
    /// The client has left, or may see no records any more.
    Left,
}

impl Follower {
    /// Ends when the client leaves, may see no records any more, or the daemon stops.
    async fn run(self) {
        let mut progress = self.road.load().audit.progress();
        // A reload may close the address; whoever watches comes again at the new one.
        let address = self.road.load().settings.listen.admin_address;
        let mut told = *progress.borrow_and_update();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0;
        loop {
            tokio::select! {
                () = self.sender.closed() => return,
                _ = ticks.tick() => {
                    let road = self.road.load_full();
                    let is_over = road.stopping.load(Ordering::Relaxed) || road.settings.listen.admin_address != address;
                    let Ok(scope) = scope(&road, &self.peer, None) else { return };
                    if is_over {
                        return;
                    }
                    let is_due = count % TICKS_OF_STATUS == 0;
                    if is_due && !self.tell("status", status::status(&road, &self.peer, &scope)).await {
                        return;
                    }
                    count += 1;
                }
                changed = progress.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    sleep(GATHERING).await;
                    let now = *progress.borrow_and_update();
                    // Ids of an index that was opened anew tell nothing of those before.
                    let is_same = now.generation == told.generation;
                    if is_same && now.last_id > told.last_id {
                        match self.tell_records((told.last_id, now.last_id)).await {
                            Told::Left => return,
                            // They are read again with those that follow.
                            Told::Nothing => continue,
                            Told::All => {}
                        }
                    }
                    told = now;
                }
            }
        }
    }

    async fn tell_records(&self, ids: (i64, i64)) -> Told {
        let road = self.road.load_full();
        let Ok(scope) = scope(&road, &self.peer, None) else { return Told::Left };
        // An index that cannot be read now is said by `status`.
        let Ok(items) = auditor::between(&road.audit, &self.query, scope, ids).await else { return Told::Nothing };
        for item in items {
            if !self.tell("request", item).await {
                return Told::Left;
            }
        }
        Told::All
    }

    /// JSON has no line breaks, so that an event is one line of data. False when the client has left.
    async fn tell(&self, event: &'static str, data: impl Display) -> bool {
        self.sender.send(Bytes::from(format!("event: {event}\ndata: {data}\n\n"))).await.is_ok()
    }
}
