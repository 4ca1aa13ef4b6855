//! How requests wait for a limit instead of getting a 429, callers taking turns.
//!
//! The callers' lines are visited in turn; a line that gets a place goes to the end of the turn. Who is next at a scope
//! and does not fit there is not overtaken there: a large request is not starved by small ones. Others, whose scopes are
//! free, pass.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::admission::Admission;
use super::clock::Clock;
use super::outcome::{Obstacle, Outcome, Reservation};
use super::queue::Waiter;
use super::request::WeighedRequest;
use super::shared::Shared;
use super::slot::{FLEET, HOST};
use super::state::State;
use crate::error::Refusal;
use crate::workers;

/// A place in the queue. Dropping it leaves the queue.
pub(super) struct Waiting {
    shared: Arc<Shared>,
    id: u64,
    deadline: u64,
    /// What was in the way on arrival.
    obstacle: Obstacle,
    grant: oneshot::Receiver<Reservation>,
}

/// Joins the end of the caller's line, until `deadline` on the limits' clock.
pub(super) fn enter(
    shared: &Arc<Shared>,
    state: &mut State,
    request: WeighedRequest,
    obstacle: Obstacle,
    deadline: u64,
) -> Waiting {
    let (sender, grant) = oneshot::channel();
    let id = state.queue.push(request, sender);
    if state.queue.obstacles.iter().all(|other| other.scope != obstacle.scope) {
        state.queue.obstacles.push(obstacle);
    }
    if !std::mem::replace(&mut state.queue.served, true) {
        // All wait in it, wherever they run.
        workers::elsewhere().spawn(serve_queue(shared.clone()));
    } else {
        // The next look may have to come sooner than the one that is planned.
        shared.freed.notify_one();
    }
    Waiting { shared: shared.clone(), id, deadline, obstacle, grant }
}

impl Waiting {
    pub(super) async fn granted(mut self) -> Result<Admission, Refusal> {
        let shared = self.shared.clone();
        tokio::select! {
            biased;
            reservation = &mut self.grant => {
                if let Ok(reservation) = reservation {
                    return Ok(Admission::new(&shared, reservation));
                }
            }
            () = shared.clock.sleep_until(self.deadline) => {}
        }
        let mut state = shared.lock();
        if let Ok(reservation) = self.grant.try_recv() {
            return Ok(Admission::new(&shared, reservation));
        }
        // Of what is in the way by now, the part that this request shares, if it is known.
        let request = state.queue.remove(self.id);
        let obstacle = request.and_then(|request| state.obstacle_ahead(&request, shared.clock.now()));
        Err(state.refuse(&obstacle.unwrap_or(self.obstacle), true))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        self.shared.free(|state| {
            state.queue.remove(self.id);
            // Granted in the moment in which the client left: nothing of it counts.
            if let Ok(mut reservation) = self.grant.try_recv() {
                state.cancel(&mut reservation, now);
                state.end(&mut reservation);
            }
        });
    }
}

/// Looks after the queue until it is empty.
async fn serve_queue(shared: Arc<Shared>) {
    loop {
        let next = {
            let mut state = shared.lock();
            let next = admit_waiting(&mut state, &*shared.clock, shared.clock.now());
            if state.queue.is_empty() {
                state.queue.served = false;
                return;
            }
            if state.queue.obstacles.iter().any(|obstacle| obstacle.scope == FLEET) {
                shared.lease_wanted.notify_one();
            }
            next
        };
        tokio::select! {
            () = shared.freed.notified() => {}
            () = shared.clock.sleep_until(next) => {}
        }
    }
}

/// Admits who can be admitted, in turn. Returns when time alone will let the next one pass.
fn admit_waiting(state: &mut State, clock: &dyn Clock, now: u64) -> u64 {
    let mut queue = std::mem::take(&mut state.queue);
    queue.obstacles.clear();
    let mut next = u64::MAX;
    let mut turn = 0;
    'turns: while turn < queue.lines.len() {
        let line = &mut queue.lines[turn];
        let mut granted = false;
        let mut at = 0;
        while at < line.waiters.len() {
            let slots = state.slots(&line.waiters[at].request, now);
            if queue.obstacles.iter().any(|obstacle| slots.contains(obstacle.scope)) {
                at += 1;
                continue;
            }
            let Some(waiter) = line.waiters.remove(at) else { break };
            match state.attempt(clock, waiter.request, now) {
                Outcome::Admitted(reservation) => {
                    queue.waiting -= 1;
                    if let Err(mut reservation) = waiter.grant.send(reservation) {
                        state.cancel(&mut reservation, now);
                        state.end(&mut reservation);
                        continue;
                    }
                    granted = true;
                    break;
                }
                Outcome::Blocked { request, obstacle } => {
                    line.waiters.insert(at, Waiter { request, ..waiter });
                    queue.obstacles.push(obstacle);
                    if obstacle.exceeded.wait > 0 {
                        next = next.min(now.saturating_add(obstacle.exceeded.wait));
                    }
                    if matches!(obstacle.scope, HOST | FLEET) {
                        // Everyone needs these.
                        break 'turns;
                    }
                    at += 1;
                }
            }
        }
        if granted {
            if let Some(line) = queue.lines.remove(turn)
                && !line.waiters.is_empty()
            {
                queue.lines.push_back(line);
            }
        } else if queue.lines[turn].waiters.is_empty() {
            queue.lines.remove(turn);
        } else {
            turn += 1;
        }
    }
    state.queue = queue;
    next
}
