//! How many connections there may be, all together and of one user.
//!
//! What exceeds a user's share is closed at once, so that it does not wait before others. What exceeds the whole waits,
//! and an idle connection of whoever has most of them makes room. A user who has few connections does not wait behind
//! those who have many: there are some spare places for them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::activity::Activity;
use super::shares::{self, Shares};
use crate::caller::User;
use crate::metrics::Metrics;

/// How often who stands in line looks for a place, and a full house for somebody who waits outside.
const LOOK: Duration = Duration::from_millis(50);
/// A client that has taken nothing of its answer for so long has to leave if its place is needed.
const LEAST_STALLED: Duration = Duration::from_secs(5);
/// Events that strangers cause are logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The places of one kind of listener.
#[derive(Debug)]
pub(crate) struct Places {
    kind: Kind,
    most: usize,
    most_of_a_user: usize,
    /// With the spare ones.
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
    is_full: AtomicBool,
    looked: Seldom,
    full_logged: Seldom,
    user_logged: Seldom,
    metrics: Arc<Metrics>,
}

/// Where a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Where requests to models come in.
    Main,
    /// The admin address. Here a connection without a request yields at once, also to the same user: whoever asks how the
    /// daemon is must get through.
    Admin,
}

#[derive(Debug)]
struct Taken {
    next: u64,
    connections: HashMap<u64, (User, Arc<Activity>)>,
    shares: Shares,
    in_line: Shares,
}

/// What a connection is accepted with, before it is known whose it is.
pub(super) type Permit = OwnedSemaphorePermit;

/// What an accepted connection gets.
#[derive(Debug)]
pub(super) enum Seat {
    Place(Place),
    /// There is none now, and it may wait for one.
    Line(InLine),
    /// It is to be closed.
    Refused,
}

/// Somebody who waits for a place, until dropped.
#[derive(Debug)]
pub(super) struct InLine {
    places: Arc<Places>,
    user: User,
}

/// One connection's place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    pub(super) activity: Arc<Activity>,
    _permit: OwnedSemaphorePermit,
}

impl Kind {
    /// The value of the label `listener`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Main => "main",
            Kind::Admin => "admin",
        }
    }

    /// How many places there are beyond the whole, for users who have few connections.
    fn spare(self, most: usize) -> usize {
        match self {
            Kind::Main => shares::spare(most),
            Kind::Admin => most / 4,
        }
    }

    /// How many accepted connections wait for a place, a quarter of them one user's. At the admin address nobody waits:
    /// idle connections yield at once, and whoever has one of the others may not have a second.
    fn longest_line(self, most: usize) -> usize {
        match self {
            Kind::Main => (most / 2).max(64),
            Kind::Admin => 0,
        }
    }

    /// How many connections there may be, with those in spare places and in the line.
    pub(crate) fn all(self, most: usize) -> usize {
        most.saturating_add(self.spare(most) + self.longest_line(most))
    }

    /// For how long a connection must have been idle to make room.
    fn least_idle(self) -> Duration {
        match self {
            Kind::Main => Duration::from_secs(2),
            Kind::Admin => Duration::ZERO,
        }
    }
}

impl Taken {
    /// Whether a user has so many connections; those that were just asked to end are not counted.
    fn has(&self, user: User, most: usize) -> bool {
        let all = self.shares.of(user);
        if all < most {
            return false;
        }
        let leaving = self.connections.values().filter(|(other, activity)| *other == user && activity.is_leaving());
        all - leaving.count() >= most
    }
}

impl Places {
    pub(crate) fn new(kind: Kind, most: usize, most_of_a_user: usize, metrics: Arc<Metrics>) -> Arc<Places> {
        let spare = kind.spare(most);
        // The end of the line is for users who have few in it.
        let longest = kind.longest_line(most);
        let in_line = Shares::new(longest - longest / 8, longest / 8);
        let taken = Taken { next: 0, connections: HashMap::new(), shares: Shares::new(most, spare), in_line };
        Arc::new(Places {
            kind,
            most,
            most_of_a_user,
            free: Arc::new(Semaphore::new(most + spare)),
            taken: Mutex::new(taken),
            is_full: AtomicBool::new(false),
            looked: Seldom::default(),
            full_logged: Seldom::default(),
            user_logged: Seldom::default(),
            metrics,
        })
    }

    /// Waits until somebody can be seated, a newcomer at least. `somebody_waits` tells whether room has to be made for that.
    ///
    /// As long as there are spare places this returns at once, however full the house is: connections that are not accepted
    /// fill the kernel's queue, and when that is full, even a newcomer tries in vain, with longer and longer pauses.
    pub(super) async fn open(&self, somebody_waits: impl Fn() -> bool) -> Permit {
        loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                return permit;
            }
            if somebody_waits() {
                self.note_full();
                self.look_for_room();
            }
            if let Ok(Ok(permit)) = tokio::time::timeout(LOOK, Arc::clone(&self.free).acquire_owned()).await {
                return permit;
            }
        }
    }

    /// Seats a user.
    pub(super) fn seat(self: &Arc<Self>, permit: Permit, user: User) -> Seat {
        let has_all = self.has_all(user);
        let mut taken = self.taken();
        // The first free place is for who stands in line.
        let has_room = taken.in_line.is_empty() && taken.shares.has_room();
        if has_all && (has_room || self.kind == Kind::Admin) {
            drop(taken);
            self.note_user(user);
            return Seat::Refused;
        }
        if has_room {
            return Seat::Place(self.enter(&mut taken, permit, user));
        }
        drop(taken);
        self.note_full();
        let has_made_room = self.look_for_room() && self.kind == Kind::Admin;
        taken = self.taken();
        if has_made_room || !has_all && taken.shares.has_spare_for(user) {
            return Seat::Place(self.enter(&mut taken, permit, user));
        }
        let is_open = taken.in_line.has_room() || taken.in_line.has_spare_for(user);
        if !is_open || taken.in_line.of(user) >= self.kind.longest_line(self.most) / 4 {
            drop(taken);
            self.metrics.connection_refused("line");
            return Seat::Refused;
        }
        taken.in_line.take(user);
        drop(taken);
        Seat::Line(InLine { places: Arc::clone(self), user })
    }

    /// The place for who stands in line, if there is one. A spare one comes free for them too: when the user has few again.
    fn seat_from_line(self: &Arc<Self>, user: User) -> Option<Seat> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        let mut taken = self.taken();
        if !taken.shares.has_room() && !taken.shares.has_spare_for(user) {
            return None;
        }
        if taken.has(user, self.most_of_a_user) {
            drop(taken);
            self.note_user(user);
            return Some(Seat::Refused);
        }
        Some(Seat::Place(self.enter(&mut taken, permit, user)))
    }

    /// Whether a user has as many as a user may have, and at the admin address none of them yields.
    fn has_all(&self, user: User) -> bool {
        if !self.taken().has(user, self.most_of_a_user) {
            return false;
        }
        if self.kind == Kind::Admin {
            // It leaves a moment later, so that for so long there may be more than the bound.
            self.make_room(Some(user));
        }
        self.taken().has(user, self.most_of_a_user)
    }

    fn enter(self: &Arc<Self>, taken: &mut Taken, permit: Permit, user: User) -> Place {
        if taken.shares.has_room() {
            self.is_full.store(false, Relaxed);
        }
        let activity = Activity::new();
        let number = taken.next;
        taken.next += 1;
        taken.connections.insert(number, (user, Arc::clone(&activity)));
        taken.shares.take(user);
        self.metrics.connection_opened(self.kind.name());
        Place { places: Arc::clone(self), number, activity, _permit: permit }
    }

    /// Makes room for whoever waits; false if nobody was asked. At the main listeners all connections are looked at only so
    /// often, however many wait.
    fn look_for_room(&self) -> bool {
        (self.kind == Kind::Admin || self.looked.is_due_every(LOOK / 5)) && self.make_room(None)
    }

    /// Asks the connection that has been idle for longest to end: of `user`, or of the user who has most connections.
    /// If none is idle, the one that has not taken anything of its answer for longest, or else the one with the slowest
    /// unfinished body. False if there is none.
    fn make_room(&self, user: Option<User>) -> bool {
        let taken = self.taken();
        let greatest = taken.shares.greatest();
        let chosen = |candidate: &User| match user {
            Some(user) => *candidate == user,
            None => taken.shares.of(*candidate) == greatest,
        };
        // One at a time: those who were asked are about to leave.
        let one_at_a_time = user.is_none() && self.kind == Kind::Main;
        if one_at_a_time && taken.connections.values().any(|(_, activity)| activity.is_leaving()) {
            return false;
        }
        let asked = taken.connections.values().filter(|(user, activity)| chosen(user) && !activity.is_told());
        let candidates: Vec<Arc<Activity>> = asked.map(|(_, activity)| Arc::clone(activity)).collect();
        drop(taken);
        let asked = self.ask_idle(&candidates) || ask_stalled(&candidates) || self.ask_slow(&candidates);
        if asked {
            self.metrics.connection_cut("room");
        }
        asked
    }

    fn ask_idle(&self, candidates: &[Arc<Activity>]) -> bool {
        let idle = candidates.iter().filter_map(|activity| Some((activity.idle()?, activity)));
        let longest = idle.filter(|(idle, _)| *idle >= self.kind.least_idle()).max_by_key(|(idle, _)| *idle);
        let Some((_, longest)) = longest else { return false };
        let asked = longest.tell();
        if self.kind == Kind::Admin {
            longest.evict();
        }
        asked
    }

    fn ask_slow(&self, candidates: &[Arc<Activity>]) -> bool {
        if self.kind == Kind::Admin {
            return false;
        }
        let arriving = candidates.iter().filter_map(|activity| Some((activity.slowest_arrival()?, activity)));
        let Some((_, slowest)) = arriving.min_by_key(|(speed, _)| *speed) else { return false };
        let asked = slowest.tell();
        slowest.cut_arrivals();
        asked
    }

    fn note_full(&self) {
        if self.is_full.swap(true, Relaxed) {
            return;
        }
        self.metrics.connections_full(self.kind.name());
        if self.full_logged.is_due() {
            let (listener, most) = (self.kind.name(), self.most);
            tracing::warn!(listener, max_connections = most, "all connections are taken; new ones wait");
        }
    }

    fn note_user(&self, user: User) {
        self.metrics.connection_refused("user");
        if self.user_logged.is_due() {
            let (listener, most) = (self.kind.name(), self.most_of_a_user);
            let uid = if let User::Local(uid) = user { Some(uid) } else { None };
            let host = if let User::Host(host) = user { Some(host.to_string()) } else { None };
            tracing::warn!(
                listener,
                uid,
                host,
                max_connections_per_user = most,
                "one user has as many connections as a user may have; its further ones are closed"
            );
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The place, at once or when there is one.
    pub(super) async fn place(self) -> Option<Place> {
        match self {
            Seat::Place(place) => Some(place),
            Seat::Line(in_line) => in_line.place().await,
            Seat::Refused => None,
        }
    }
}

impl InLine {
    /// Waits for a place; none if the user has got as many as a user may have meanwhile.
    async fn place(self) -> Option<Place> {
        loop {
            match self.places.seat_from_line(self.user) {
                Some(Seat::Place(place)) => return Some(place),
                Some(_) => return None,
                None => {}
            }
            self.places.look_for_room();
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.places.taken().in_line.give_back(self.user);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some((user, _)) = taken.connections.remove(&self.number) {
            taken.shares.give_back(user);
        }
        drop(taken);
        self.places.metrics.connection_ended(self.places.kind.name());
    }
}

fn ask_stalled(candidates: &[Arc<Activity>]) -> bool {
    let stalled = candidates.iter().filter_map(|activity| Some((activity.blocked()?, activity)));
    let stalled = stalled.filter(|(blocked, _)| *blocked >= LEAST_STALLED);
    let Some((_, longest)) = stalled.max_by_key(|(blocked, _)| *blocked) else { return false };
    let asked = longest.tell();
    longest.evict();
    asked
}

/// Lets one event in a while through.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub(super) fn is_due(&self) -> bool {
        self.is_due_every(LOG_INTERVAL)
    }

    fn is_due_every(&self, interval: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= interval);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests;
