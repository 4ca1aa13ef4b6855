//! How many connections there may be, all together and of one user.
//!
//! What exceeds a user's share is closed at once, so that it does not wait before others. What exceeds the whole waits,
//! and an idle connection of whoever has most of them makes room. A user who has few connections does not wait behind
//! those who have many: there are some spare places for them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::activity::Activity;
use crate::caller::Peer;
use crate::metrics::Metrics;

/// How often a full house looks for somebody who waits outside.
const LOOK: Duration = Duration::from_millis(50);
/// Events that strangers cause are logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The places of one kind of listener.
#[derive(Debug)]
pub(crate) struct Places {
    kind: Kind,
    most: usize,
    most_of_a_user: usize,
    free: Arc<Semaphore>,
    spare: Arc<Semaphore>,
    taken: Mutex<Taken>,
    is_full: AtomicBool,
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

/// Who shares a bound: a user of this host, or whoever comes from one other host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum User {
    Uid(u32),
    Host(IpAddr),
    Unknown,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    connections: HashMap<u64, (User, Arc<Activity>)>,
    of_user: HashMap<User, usize>,
    in_line: HashMap<User, usize>,
}

/// What a connection is accepted with, before it is known whose it is.
#[derive(Debug)]
pub(super) struct Permit {
    permit: OwnedSemaphorePermit,
    is_spare: bool,
}

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

    /// How many places there are beyond the whole, for users who have few connections. The admin address needs none: there
    /// idle connections yield at once.
    fn spare(self, most: usize) -> usize {
        match self {
            Kind::Main => spare(most),
            Kind::Admin => 0,
        }
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
        let all = self.of_user.get(&user).copied().unwrap_or(0);
        if all < most {
            return false;
        }
        let leaving = self.connections.values().filter(|(other, activity)| *other == user && activity.is_leaving());
        all - leaving.count() >= most
    }
}

impl Places {
    pub(crate) fn new(kind: Kind, most: usize, most_of_a_user: usize, metrics: Arc<Metrics>) -> Arc<Places> {
        Arc::new(Places {
            kind,
            most,
            most_of_a_user,
            free: Arc::new(Semaphore::new(most)),
            spare: Arc::new(Semaphore::new(kind.spare(most))),
            taken: Mutex::default(),
            is_full: AtomicBool::new(false),
            full_logged: Seldom::default(),
            user_logged: Seldom::default(),
            metrics,
        })
    }

    /// Waits for a place. `somebody_waits` tells whether it is needed already.
    pub(super) async fn free(&self, somebody_waits: impl Fn() -> bool) -> Permit {
        loop {
            // The first free place is for who stands in line.
            let has_line = !self.taken().in_line.is_empty();
            if !has_line && let Some(permit) = self.try_free() {
                return permit;
            }
            if somebody_waits() {
                self.note_full();
                self.make_room(None);
                if let Ok(permit) = Arc::clone(&self.spare).try_acquire_owned() {
                    return Permit { permit, is_spare: true };
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn try_free(&self) -> Option<Permit> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        self.is_full.store(false, Relaxed);
        Some(Permit { permit, is_spare: false })
    }

    /// Seats a peer.
    pub(super) fn seat(self: &Arc<Self>, permit: Permit, peer: &Peer) -> Seat {
        let user = User::of(peer);
        let mut taken = self.taken();
        let has = taken.of_user.get(&user).copied().unwrap_or(0);
        if !permit.is_spare || has < few(self.most) {
            drop(taken);
            return self.take(permit, user).map_or(Seat::Refused, Seat::Place);
        }
        let all: usize = taken.in_line.values().sum();
        let own = taken.in_line.get(&user).copied().unwrap_or(0);
        if own >= longest_line(self.most) / 4 || all >= longest_line(self.most) {
            drop(taken);
            self.metrics.connection_refused("line");
            return Seat::Refused;
        }
        taken.in_line.insert(user, own + 1);
        drop(taken);
        Seat::Line(InLine { places: Arc::clone(self), user })
    }

    /// Gives the place to a user; none if that user has as many as a user may have.
    fn take(self: &Arc<Self>, permit: Permit, user: User) -> Option<Place> {
        let mut taken = self.taken();
        let mut has_all = taken.has(user, self.most_of_a_user);
        if has_all && self.kind == Kind::Admin {
            drop(taken);
            // It leaves a moment later, so that for so long there may be more than the bound.
            self.make_room(Some(user));
            taken = self.taken();
            has_all = taken.has(user, self.most_of_a_user);
        }
        if has_all {
            drop(taken);
            self.note_user(user);
            return None;
        }
        let activity = Activity::new();
        let number = taken.next;
        taken.next += 1;
        taken.connections.insert(number, (user, Arc::clone(&activity)));
        *taken.of_user.entry(user).or_default() += 1;
        drop(taken);
        self.metrics.connection_opened(self.kind.name());
        Some(Place { places: Arc::clone(self), number, activity, _permit: permit.permit })
    }

    /// Asks the connection that has been idle for longest to end: of `user`, or of the user who has most connections.
    /// If none is idle, the connection with the slowest unfinished body. False if there is none.
    fn make_room(&self, user: Option<User>) -> bool {
        let taken = self.taken();
        let most = taken.of_user.values().copied().max().unwrap_or(0);
        let chosen = |candidate: &User| match user {
            Some(user) => *candidate == user,
            None => taken.of_user.get(candidate) == Some(&most),
        };
        // One at a time: those who were asked are about to leave.
        if user.is_none() && taken.connections.values().any(|(_, activity)| activity.is_leaving()) {
            return false;
        }
        let idle = taken.connections.values().filter(|(user, activity)| chosen(user) && !activity.is_told());
        let idle = idle.filter_map(|(_, activity)| Some((activity.idle()?, activity)));
        let longest = idle.filter(|(idle, _)| *idle >= self.kind.least_idle()).max_by_key(|(idle, _)| *idle);
        let mut asked = longest.is_some_and(|(_, activity)| activity.tell());
        if !asked && self.kind == Kind::Main {
            let others = taken.connections.values().filter(|(user, activity)| chosen(user) && !activity.is_told());
            let slowest = others.filter_map(|(_, activity)| Some((activity.slowest_arrival()?, activity)));
            if let Some((_, activity)) = slowest.min_by_key(|(speed, _)| *speed) {
                asked = activity.tell();
                activity.cut_arrivals();
            }
        }
        if asked {
            self.metrics.connection_cut("room");
        }
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
            let uid = if let User::Uid(uid) = user { Some(uid) } else { None };
            tracing::warn!(
                listener,
                uid,
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
            if let Some(permit) = self.places.try_free() {
                return self.places.take(permit, self.user);
            }
            self.places.make_room(None);
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.in_line.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                taken.in_line.remove(&self.user);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some((user, _)) = taken.connections.remove(&self.number)
            && let Some(count) = taken.of_user.get_mut(&user)
        {
            *count -= 1;
            if *count == 0 {
                taken.of_user.remove(&user);
            }
        }
        drop(taken);
        self.places.metrics.connection_ended(self.places.kind.name());
    }
}

impl User {
    pub(super) fn of(peer: &Peer) -> User {
        match (peer.uid, peer.source.parse::<IpAddr>()) {
            (Some(uid), _) => User::Uid(uid),
            (None, Ok(ip)) if !ip.is_loopback() => User::Host(ip),
            (None, _) => User::Unknown,
        }
    }
}

/// A user with fewer connections than this gets a spare place.
pub(super) fn few(most: usize) -> usize {
    (most / 64).max(1)
}

/// How much there is beyond the whole for users who have few.
pub(super) fn spare(most: usize) -> usize {
    (most / 8).max(8)
}

/// How many accepted connections wait for a place, a quarter of them one user's.
fn longest_line(most: usize) -> usize {
    (most / 2).max(64)
}

/// How many connections there may be beyond `most` at the main listeners: in spare places and in the line.
pub(crate) fn beyond(most: usize) -> usize {
    Kind::Main.spare(most) + longest_line(most)
}

/// Lets one event in a while through.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub(super) fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uid: u32) -> Peer {
        Peer { uid: Some(uid), source: "127.0.0.1".to_owned(), ..Peer::default() }
    }

    async fn place(places: &Arc<Places>, uid: u32) -> Option<Place> {
        let permit = places.free(|| false).await;
        match places.seat(permit, &of(uid)) {
            Seat::Place(place) => Some(place),
            Seat::Refused => None,
            Seat::Line(_) => panic!("there was a place"),
        }
    }

    #[tokio::test]
    async fn a_user_gets_no_more_than_its_share() {
        let places = Places::new(Kind::Main, 4, 2, Arc::default());
        let first = place(&places, 1).await.unwrap();
        let _second = place(&places, 1).await.unwrap();
        assert!(place(&places, 1).await.is_none());
        let _other = place(&places, 2).await.unwrap();
        drop(first);
        assert!(place(&places, 1).await.is_some());
        assert_eq!(places.free.available_permits(), 2, "what was refused has given its place back");
    }

    #[tokio::test]
    async fn who_was_told_and_stays_does_not_keep_others_from_being_told() {
        let places = Places::new(Kind::Main, 4, 4, Arc::default());
        // Idle for longer, so that it is told first.
        let stays = place(&places, 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let idle = place(&places, 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        assert!(places.make_room(None));
        assert!(!places.make_room(None), "one at a time");
        assert!(stays.activity.is_told() && !idle.activity.is_told());
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        assert!(places.make_room(None) && idle.activity.is_told());
        let _request = stays.activity.request();
        tokio::time::timeout(Duration::from_secs(10), stays.activity.until_late()).await.unwrap();
    }

    #[tokio::test]
    async fn the_longest_idle_connection_of_the_greatest_user_makes_room() {
        // Where a connection needs to have been idle for no particular time.
        let places = Places::new(Kind::Admin, 4, 3, Arc::default());
        let a_moment = || tokio::time::sleep(Duration::from_millis(20));
        let small = place(&places, 1).await.unwrap();
        let busy = place(&places, 2).await.unwrap();
        let _request = busy.activity.request();
        a_moment().await;
        let old = place(&places, 2).await.unwrap();
        a_moment().await;
        let young = place(&places, 2).await.unwrap();
        a_moment().await;
        let unneeded = tokio::time::timeout(Duration::from_millis(200), places.free(|| false)).await;
        assert!(unneeded.is_err() && !old.activity.is_told(), "nobody waits");
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.free(|| true).await }
        });
        old.activity.until_told().await;
        tokio::time::sleep(LOOK * 3).await;
        for other in [&small, &busy, &young] {
            assert!(!other.activity.is_told(), "one is enough");
        }
        drop(old);
        drop(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn a_user_with_few_connections_does_not_wait_behind_those_with_many() {
        let places = Places::new(Kind::Main, 4, 2, Arc::default());
        let mut crowd = Vec::new();
        for uid in [1, 1, 2, 2] {
            crowd.push(place(&places, uid).await.unwrap());
        }
        let seat = async |uid| {
            let permit = places.free(|| true).await;
            places.seat(permit, &of(uid))
        };
        let Seat::Line(first) = seat(1).await else { panic!("it has many, and waits") };
        drop(first);
        let Seat::Place(third) = seat(3).await else { panic!("no spare place") };
        let Seat::Line(fourth) = seat(3).await else { panic!("one is no longer few of four") };
        let Seat::Place(_other) = seat(4).await else { panic!("no spare place for another one") };
        // A place that becomes free is not for who comes later.
        drop(crowd.pop());
        let newcomer = tokio::time::timeout(LOOK * 3, places.free(|| false)).await;
        assert!(newcomer.is_err(), "the line goes first");
        crowd.push(places.take(places.try_free().unwrap(), User::of(&of(2))).unwrap());
        let waiting = tokio::spawn(fourth.place());
        tokio::time::sleep(LOOK * 3).await;
        assert!(!waiting.is_finished());
        drop(crowd.pop());
        assert!(waiting.await.unwrap().is_some(), "a place for who stood in line");
        drop(third);
        assert_eq!(places.spare.available_permits(), 7, "one of eight is taken");
        assert!(places.taken().in_line.is_empty());
    }

    #[tokio::test]
    async fn the_line_has_an_end() {
        let places = Places::new(Kind::Main, 4, 4, Arc::default());
        let mut crowd = Vec::new();
        for _ in 0..4 {
            crowd.push(place(&places, 1).await.unwrap());
        }
        let mut line = Vec::new();
        for at in 0..17 {
            let permit = places.free(|| true).await;
            match places.seat(permit, &of(1)) {
                Seat::Line(in_line) => line.push(in_line),
                Seat::Refused => assert_eq!(at, 16),
                Seat::Place(_) => panic!("there is no place"),
            }
        }
        assert_eq!(line.len(), 16);
    }

    #[test]
    fn hosts_are_users_where_no_uid_is_known_and_loopback_is_one() {
        let from = |source: &str| User::of(&Peer { source: source.to_owned(), ..Peer::default() });
        assert_eq!(from("127.0.0.1"), from("127.0.0.2"));
        assert_ne!(from("10.0.0.1"), from("10.0.0.2"));
    }
}
