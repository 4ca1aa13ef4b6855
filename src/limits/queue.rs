//! Who waits for a limit. Each caller has a line, and the lines are in the order of their turns.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::outcome::{Obstacle, Reservation};
use super::request::WeighedRequest;
use crate::caller::User;

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
    /// Of callers without an entry.
    user: Option<User>,
    pub(super) waiters: VecDeque<Waiter>,
}

impl Line {
    fn is_of(&self, request: &WeighedRequest) -> bool {
        self.caller == request.caller && (self.caller.is_some() || self.user == Some(request.user))
    }
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
        let line = self.lines.iter().position(|line| line.is_of(&request));
        let (caller, user) = (request.caller.clone(), request.caller.is_none().then_some(request.user));
        let waiter = Waiter { id, request, grant };
        match line.and_then(|line| self.lines.get_mut(line)) {
            Some(line) => line.waiters.push_back(waiter),
            None => self.lines.push_back(Line { caller, user, waiters: VecDeque::from([waiter]) }),
        }
        id
    }

    /// Whether there is a place for the request among `most`. If all are taken, the longest line gives its last one up
    /// for a caller whose own line is shorter: so one caller may have all places, but not against others.
    pub(super) fn has_place(&mut self, request: &WeighedRequest, most: usize) -> bool {
        if self.waiting < most {
            return true;
        }
        let own = self.lines.iter().find(|line| line.is_of(request)).map_or(0, |line| line.waiters.len());
        let Some(longest) = self.lines.iter_mut().max_by_key(|line| line.waiters.len()) else { return false };
        if longest.waiters.len() <= own + 1 {
            return false;
        }
        // Dropping its grant refuses it.
        longest.waiters.pop_back();
        self.waiting -= 1;
        true
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
