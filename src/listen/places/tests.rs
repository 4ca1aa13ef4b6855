use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

async fn place(places: &Arc<Places>, uid: u32) -> Option<Place> {
    let permit = places.open(|| false).await;
    match places.seat(permit, User::Local(uid)) {
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
    assert_eq!(places.free.available_permits(), 10, "what was refused has given its place back");
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
    let permit = at_once(places.open(|| true)).expect("there is a spare place");
    let Seat::Place(newcomer) = places.seat(permit, User::Local(1)) else { panic!("there is a spare place") };
    assert!(at_once(places.open(|| false)).is_none() && !old.activity.is_told(), "nobody waits");
    assert!(at_once(places.open(|| true)).is_none() && old.activity.is_told(), "it makes room");
    for other in [&small, &busy, &young, &newcomer] {
        assert!(!other.activity.is_told(), "one is enough");
    }
}

#[tokio::test]
async fn a_user_with_few_connections_does_not_wait_behind_those_with_many() {
    let places = Places::new(Kind::Main, 8, 5, Arc::default());
    let mut crowd = Vec::new();
    for uid in [1, 1, 1, 1, 2, 2, 2, 2] {
        crowd.push(place(&places, uid).await.unwrap());
    }
    let seat = async |uid| {
        let permit = places.open(|| true).await;
        places.seat(permit, User::Local(uid))
    };
    let Seat::Line(first) = seat(1).await else { panic!("it has many, and waits") };
    drop(first);
    let Seat::Place(third) = seat(3).await else { panic!("no spare place") };
    let Seat::Place(_second) = seat(3).await else { panic!("one is few") };
    let Seat::Line(fourth) = seat(3).await else { panic!("two are no longer few of eight") };
    let Seat::Place(_other) = seat(4).await else { panic!("no spare place for another one") };
    // A place that becomes free is not for who comes later.
    drop(crowd.pop());
    let Seat::Line(last) = seat(2).await else { panic!("the line goes first") };
    drop(last);
    let Some(Seat::Place(again)) = places.seat_from_line(User::Local(2)) else { panic!("there is a place") };
    crowd.push(again);
    let waiting = tokio::spawn(fourth.place());
    tokio::time::sleep(LOOK * 3).await;
    assert!(!waiting.is_finished());
    drop(crowd.pop());
    assert!(waiting.await.unwrap().is_some(), "a place for who stood in line");
    drop(third);
    assert!(places.taken().in_line.is_empty());
}

#[tokio::test]
async fn users_with_few_connections_each_do_not_take_all_spare_places() {
    let places = Places::new(Kind::Main, 128, 64, Arc::default());
    let mut crowd = Vec::new();
    for at in 0..128 {
        crowd.push(place(&places, at % 2).await.unwrap());
    }
    let seat = async |uid| {
        let permit = tokio::time::timeout(LOOK * 20, places.open(|| true)).await.unwrap();
        match places.seat(permit, User::Local(uid)) {
            Seat::Place(place) => Some(place),
            Seat::Line(_) | Seat::Refused => None,
        }
    };
    // Of 16 spare places, 10 users want two each.
    let mut some = Vec::new();
    for uid in (10..20).chain(10..20) {
        some.extend(seat(uid).await);
    }
    assert_eq!(some.len(), 10, "one for each, and none twice when half of them is taken");
    assert!(seat(50).await.is_some(), "a newcomer finds one");
}

#[tokio::test]
async fn a_user_with_one_connection_waits_for_a_second_and_is_not_sent_away() {
    let places = Places::new(Kind::Main, 128, 64, Arc::default());
    let mut crowd = Vec::new();
    for at in 0..128 {
        crowd.push(place(&places, at % 2).await.unwrap());
    }
    let seat = async |uid| {
        let permit = tokio::time::timeout(LOOK * 20, places.open(|| true)).await.unwrap();
        places.seat(permit, User::Local(uid))
    };
    // Ten others with one or two each have taken half of the spare places, and want more, as the two do.
    let mut line = Vec::new();
    for uid in (10..20).chain(0..2).cycle().take(12 * 40) {
        match seat(uid).await {
            Seat::Place(one) => crowd.push(one),
            Seat::Line(one) => line.push(one),
            Seat::Refused => {}
        }
    }
    let Seat::Place(first) = seat(50).await else { panic!("a newcomer finds a place") };
    let Seat::Line(second) = seat(50).await else { panic!("the line has room for who has none in it") };
    assert!(places.seat_from_line(User::Local(50)).is_none(), "the other half is for newcomers");
    drop(first);
    let seated = tokio::time::timeout(LOOK * 200, second.place()).await;
    assert!(seated.unwrap().is_some(), "it has none now");
    assert!(line.len() < Kind::Main.longest_line(128), "{}", line.len());
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_makes_room() {
    let places = Places::new(Kind::Main, 2, 2, Arc::default());
    let stalled = place(&places, 1).await.unwrap();
    let busy = place(&places, 1).await.unwrap();
    let _requests = (stalled.activity.request(), busy.activity.request());
    stalled.activity.waits();
    assert!(!places.make_room(None), "a moment is no stall");
    tokio::time::sleep(LEAST_STALLED + Duration::from_millis(100)).await;
    assert!(places.make_room(None) && stalled.activity.is_told() && !busy.activity.is_told());
    tokio::time::timeout(Duration::from_secs(10), stalled.activity.until_late()).await.unwrap();
}

#[tokio::test]
async fn the_line_has_an_end() {
    let places = Places::new(Kind::Main, 4, 5, Arc::default());
    let mut crowd = Vec::new();
    for _ in 0..4 {
        crowd.push(place(&places, 1).await.unwrap());
    }
    let mut line = Vec::new();
    for at in 0..17 {
        let permit = places.open(|| true).await;
        match places.seat(permit, User::Local(1)) {
            Seat::Line(in_line) => line.push(in_line),
            Seat::Refused => assert_eq!(at, 16),
            Seat::Place(_) => panic!("there is no place"),
        }
    }
    assert_eq!(line.len(), 16);
}

#[tokio::test]
async fn a_full_house_looks_out_for_newcomers_all_the_time() {
    let places = Places::new(Kind::Main, 4, 4, Arc::default());
    let mut crowd = Vec::new();
    for _ in 0..4 {
        crowd.push(place(&places, 1).await.unwrap());
    }
    // Nobody waits yet. Whoever comes next must not wait for the next look.
    for uid in 2..10 {
        let permit = at_once(places.open(|| false)).expect("there are spare places");
        let Seat::Place(place) = places.seat(permit, User::Local(uid)) else { panic!("no spare place") };
        crowd.push(place);
    }
    assert!(at_once(places.open(|| false)).is_none(), "all are taken");
    drop(crowd);
    drop(at_once(places.open(|| false)).expect("there are places"));
}

#[tokio::test]
async fn at_the_admin_address_each_newcomer_takes_the_place_of_an_idle_one() {
    let places = Places::new(Kind::Admin, 64, 32, Arc::default());
    let mut held = Vec::new();
    for at in 0..64 {
        held.push(place(&places, at % 12).await.unwrap());
    }
    for at in 0..10 {
        let permit = at_once(places.open(|| true)).expect("nobody waits");
        let Seat::Place(newcomer) = places.seat(permit, User::Local(at)) else { panic!("{at} is not seated") };
        held.push(newcomer);
        let asked = held.iter().position(|one| one.activity.is_told()).expect("one was asked to leave");
        at_once(held.swap_remove(asked).activity.until_late()).expect("at once");
    }
    let _requests: Vec<_> = held.iter().map(|one| one.activity.request()).collect();
    let permit = at_once(places.open(|| true)).expect("there are spare places");
    assert!(matches!(places.seat(permit, User::Local(1)), Seat::Refused), "nobody is idle, and this user has some");
    let permit = at_once(places.open(|| true)).expect("there are spare places");
    assert!(matches!(places.seat(permit, User::Local(50)), Seat::Place(_)), "somebody else has none");
}
