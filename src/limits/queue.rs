//! Requests that wait for a limit instead of getting a 429, callers taking turns.
//!
//! Each caller has a line. The lines are visited in turn; a line that gets a place goes to the end of the turn. Who is
//! next at a scope and does not fit there is not overtaken there: a large request is not starved by small ones. Others,
//! whose scopes are free, pass.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::clock::Clock;
use super::cost::Ask;
use super::state::{FLEET, HOST, Hold, Obstacle, State, Try};
use super::{Admission, Inner};
use crate::error::Refusal;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In the order of turns; none is empty.
    lines: VecDeque<Line>,
    waiting: usize,
    next_id: u64,
    /// What those who are next wait for. Nobody who needs the same may pass.
    pub ahead: Vec<Obstacle>,
    /// A task is looking after the queue.
    driven: bool,
}

#[derive(Debug)]
struct Line {
    caller: Option<Box<str>>,
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    ask: Ask,
    grant: oneshot::Sender<Hold>,
}

/// A place in the queue. Dropping it leaves the queue.
pub(super) struct Waiting {
    inner: Arc<Inner>,
    id: u64,
    deadline: u64,
    /// What was in the way on arrival.
    obstacle: Obstacle,
    grant: oneshot::Receiver<Hold>,
}

/// Joins the end of the caller's line.
pub(super) fn enter(inner: &Arc<Inner>, state: &mut State, ask: Ask, obstacle: Obstacle, deadline: u64) -> Waiting {
    let (sender, grant) = oneshot::channel();
    let id = state.queue.push(ask, sender);
    if state.queue.ahead.iter().all(|other| other.whose != obstacle.whose) {
        state.queue.ahead.push(obstacle);
    }
    if !std::mem::replace(&mut state.queue.driven, true) {
        tokio::spawn(drive(inner.clone()));
    } else {
        // The next look may have to come sooner than the one that is planned.
        inner.freed.notify_one();
    }
    Waiting { inner: inner.clone(), id, deadline, obstacle, grant }
}

impl Waiting {
    pub async fn granted(mut self) -> Result<Admission, Refusal> {
        let inner = self.inner.clone();
        tokio::select! {
            biased;
            hold = &mut self.grant => {
                if let Ok(hold) = hold {
                    return Ok(Admission::new(&inner, hold));
                }
            }
            () = inner.clock.sleep_until(self.deadline) => {}
        }
        let mut state = inner.lock();
        if let Ok(hold) = self.grant.try_recv() {
            return Ok(Admission::new(&inner, hold));
        }
        // Of what is in the way by now, the part that this request shares, if it is known.
        let asked = state.queue.remove(self.id);
        let obstacle = match asked {
            Some(ask) => {
                let now = inner.clock.now();
                let slots = state.slots(&ask, now);
                let ahead = state.queue.ahead.iter().find(|other| slots.contains(other.whose)).copied();
                ahead.unwrap_or(self.obstacle)
            }
            None => self.obstacle,
        };
        Err(state.refuse(&obstacle, true))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let now = self.inner.clock.now();
        self.inner.free(|state| {
            state.queue.remove(self.id);
            // Granted in the moment in which the client left: nothing of it counts.
            if let Ok(mut hold) = self.grant.try_recv() {
                state.cancel(&mut hold, now);
                state.end(&mut hold);
            }
        });
    }
}

/// Looks after the queue until it is empty.
async fn drive(inner: Arc<Inner>) {
    loop {
        let next = {
            let mut state = inner.lock();
            let next = pump(&mut state, &*inner.clock, inner.clock.now());
            if state.queue.is_empty() {
                state.queue.driven = false;
                return;
            }
            if state.queue.ahead.iter().any(|obstacle| obstacle.whose == FLEET) {
                inner.hungry.notify_one();
            }
            next
        };
        tokio::select! {
            () = inner.freed.notified() => {}
            () = inner.clock.sleep_until(next) => {}
        }
    }
}

/// Admits who can be admitted, in turn. Returns when time alone will let the next one pass.
fn pump(state: &mut State, clock: &dyn Clock, now: u64) -> u64 {
    let mut queue = std::mem::take(&mut state.queue);
    queue.ahead.clear();
    let mut next = u64::MAX;
    let mut turn = 0;
    'turns: while turn < queue.lines.len() {
        let line = &mut queue.lines[turn];
        let mut granted = false;
        let mut at = 0;
        while at < line.waiters.len() {
            let slots = state.slots(&line.waiters[at].ask, now);
            if queue.ahead.iter().any(|obstacle| slots.contains(obstacle.whose)) {
                at += 1;
                continue;
            }
            let Some(waiter) = line.waiters.remove(at) else { break };
            match state.attempt(clock, waiter.ask, now) {
                Try::Admitted(hold) => {
                    queue.waiting -= 1;
                    if let Err(mut hold) = waiter.grant.send(hold) {
                        state.cancel(&mut hold, now);
                        state.end(&mut hold);
                        continue;
                    }
                    granted = true;
                    break;
                }
                Try::Blocked { ask, obstacle } => {
                    line.waiters.insert(at, Waiter { ask, ..waiter });
                    queue.ahead.push(obstacle);
                    if obstacle.block.wait > 0 {
                        next = next.min(now.saturating_add(obstacle.block.wait));
                    }
                    if matches!(obstacle.whose, HOST | FLEET) {
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

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    pub fn len(&self) -> usize {
        self.waiting
    }

    fn push(&mut self, ask: Ask, grant: oneshot::Sender<Hold>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting += 1;
        let caller = ask.caller.clone();
        let waiter = Waiter { id, ask, grant };
        match self.lines.iter_mut().find(|line| line.caller == caller) {
            Some(line) => line.waiters.push_back(waiter),
            None => self.lines.push_back(Line { caller, waiters: VecDeque::from([waiter]) }),
        }
        id
    }

    fn remove(&mut self, id: u64) -> Option<Ask> {
        for turn in 0..self.lines.len() {
            let waiters = &mut self.lines[turn].waiters;
            let Ok(at) = waiters.binary_search_by_key(&id, |waiter| waiter.id) else { continue };
            let ask = waiters.remove(at).map(|waiter| waiter.ask);
            self.waiting -= 1;
            if waiters.is_empty() {
                self.lines.remove(turn);
            }
            return ask;
        }
        None
    }
}
