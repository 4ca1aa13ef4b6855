//! Who waits for a limit. Each caller has a line, and the lines are in the order of their turns.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::outcome::{Obstacle, Reservation};
use super::request::WeighedRequest;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In the order of turns; none is empty.
    pub(super) lines: VecDeque<Line>,
    pub(super) waiting: usize,
    next_id: u64,
    /// What those who are next wait for. Nobody who needs the same may pass.
    pub(super) obstacles: Vec<Obstacle>,
    /// A task is looking after the queue.
    pub(super) served: bool,
}

/// The requests of one caller, the oldest first.
#[derive(Debug)]
pub(super) struct Line {
    caller: Option<Box<str>>,
    pub(super) waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) request: WeighedRequest,
    pub(super) grant: oneshot::Sender<Reservation>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Joins the end of the caller's line. Returns the number by which the request can leave.
    pub(super) fn push(&mut self, request: WeighedRequest, grant: oneshot::Sender<Reservation>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting += 1;
        let caller = request.caller.clone();
        let waiter = Waiter { id, request, grant };
        match self.lines.iter_mut().find(|line| line.caller == caller) {
            Some(line) => line.waiters.push_back(waiter),
            None => self.lines.push_back(Line { caller, waiters: VecDeque::from([waiter]) }),
        }
        id
    }

    /// Leaves the queue; none when the request is no longer in it.
    pub(super) fn remove(&mut self, id: u64) -> Option<WeighedRequest> {
        for turn in 0..self.lines.len() {
            let waiters = &mut self.lines[turn].waiters;
            let Ok(at) = waiters.binary_search_by_key(&id, |waiter| waiter.id) else { continue };
            let request = waiters.remove(at).map(|waiter| waiter.request);
            self.waiting -= 1;
            if waiters.is_empty() {
                self.lines.remove(turn);
            }
            return request;
        }
        None
    }
}
