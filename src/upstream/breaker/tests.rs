//! Each with a clock that is moved by hand.

use super::*;
use Seen::{Failed, Served, Throttled};

const UNREACHED: Seen = Seen::Unreached { handshake: None };

/// A clock that is moved by hand.
struct Bench {
    inner: Inner,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        let now = Instant::now();
        Bench { inner: Inner::new(now), now }
    }

    fn after(&mut self, pause: Duration) -> &mut Bench {
        self.now += pause;
        self
    }

    /// A call that begins and ends now.
    fn call(&mut self, seen: Seen) -> Option<Change> {
        self.inner.seen(self.now, self.now, seen, || 0)
    }

    fn calls(&mut self, seen: Seen, count: usize) -> Vec<Change> {
        (0..count).filter_map(|_| self.call(seen)).collect()
    }

    fn turn(&mut self) -> Permitted {
        self.inner.turn(self.now)
    }

    fn position(&self) -> Position {
        self.inner.status(self.now).position
    }
}

fn opened(change: Option<Change>) -> (Why, Duration) {
    match change {
        Some(Change::Opened { why, pause } | Change::OpenedAgain { why, pause }) => (why, pause),
        other => panic!("not opened: {other:?}"),
    }
}

#[test]
fn connects_that_fail_in_a_row_open_it_and_one_that_succeeds_begins_anew() {
    let mut bench = Bench::new();
    assert!(bench.calls(UNREACHED, 2).is_empty());
    assert_eq!(bench.call(Throttled), None, "who answers at all was reached");
    assert!(bench.calls(UNREACHED, 2).is_empty());
    assert_eq!(opened(bench.call(UNREACHED)), (Why::Unreachable, FIRST_PAUSE));
    assert_eq!((bench.turn(), bench.position()), (Permitted::No, Position::Open));
}

#[test]
fn a_handshake_that_many_have_waited_for_counts_once() {
    let mut bench = Bench::new();
    let failed = |number| Seen::Unreached { handshake: Some(Handshake { number, last: number }) };
    assert!(bench.calls(failed(7), 100).is_empty());
    assert!(bench.calls(failed(8), 100).is_empty());
    assert!(bench.calls(failed(7), 100).is_empty(), "one who tells of it late");
    assert_eq!(opened(bench.call(failed(9))), (Why::Unreachable, FIRST_PAUSE));
    // The probe's own handshake tells something new, and what others have waited for does not.
    assert_eq!(bench.after(FIRST_PAUSE).turn(), Permitted::Probe(1));
    assert_eq!(bench.call(failed(9)), None);
    assert_eq!(opened(bench.call(failed(10))).0, Why::Unreachable);
    // Nor does it after the breaker has closed.
    bench.after(LONGEST_PAUSE).turn();
    assert_eq!(bench.call(Served), Some(Change::Closed));
    assert!(bench.calls(failed(10), 100).is_empty());
}

/// Each thread has its own, and one blip ends them all.
#[test]
fn handshakes_that_were_under_way_together_count_once_and_those_that_follow_count() {
    let mut bench = Bench::new();
    let failed = |number, last| Seen::Unreached { handshake: Some(Handshake { number, last }) };
    for number in 1..=8 {
        assert_eq!(bench.call(failed(number, 8)), None);
    }
    // They do not begin together for ever.
    assert_eq!(bench.call(failed(10, 11)), None);
    assert_eq!(bench.call(failed(9, 12)), None, "one that was slower to fail is not a third");
    assert_eq!(bench.call(failed(11, 12)), None);
    assert_eq!(opened(bench.call(failed(12, 14))), (Why::Unreachable, FIRST_PAUSE));
}

/// Who has waited through one incident tells of it later, with the number of an attempt that has only just begun.
#[test]
fn a_failure_of_who_came_before_the_last_one_tells_nothing_new() {
    let mut bench = Bench::new();
    let failed = |number| Seen::Unreached { handshake: Some(Handshake { number, last: number }) };
    let came = bench.now;
    bench.after(Duration::from_secs(5));
    for number in 1..=9 {
        let now = bench.now + Duration::from_millis(number);
        assert_eq!(bench.inner.seen(came, now, failed(number), || 0), None);
    }
    let second = bench.after(Duration::from_secs(5)).call(failed(10));
    assert_eq!((second, bench.inner.unreached), (None, 2));
    assert_eq!(opened(bench.call(failed(11))).0, Why::Unreachable);
}

#[test]
fn half_of_the_calls_must_fail_and_there_must_be_enough_of_them_within_the_window() {
    let mut bench = Bench::new();
    assert!(bench.calls(Failed, 9).is_empty());
    assert_eq!(opened(bench.call(Failed)).0, Why::Failing);

    let mut bench = Bench::new();
    bench.calls(Served, 12);
    assert!(bench.calls(Failed, 11).is_empty(), "less than half");
    assert_eq!(opened(bench.call(Failed)).0, Why::Failing);

    let mut bench = Bench::new();
    assert!(bench.calls(Failed, 9).is_empty());
    bench.after(BUCKET * 10);
    assert!(bench.calls(Failed, 9).is_empty(), "those of before are forgotten");
    let mut bench = Bench::new();
    for _ in 0..100 {
        assert!(bench.after(BUCKET * 2).calls(Failed, 1).is_empty(), "too few at a time to tell");
    }
    // A failure opens it, never a success.
    let mut bench = Bench::new();
    bench.calls(Failed, 9);
    assert_eq!(bench.call(Served), None);
}

#[test]
fn throttles_never_open_it() {
    let mut bench = Bench::new();
    assert!(bench.calls(Throttled, 1_000).is_empty());
    bench.calls(Failed, 8);
    assert!(bench.calls(Throttled, 100).is_empty());
    assert_eq!(bench.turn(), Permitted::Go);
}

#[test]
fn after_the_pause_one_probe_at_a_time_goes_and_its_success_closes() {
    let mut bench = Bench::new();
    let (_, pause) = opened(bench.calls(UNREACHED, 3).pop());
    assert_eq!(bench.after(pause - Duration::from_millis(1)).turn(), Permitted::No);
    assert_eq!(bench.after(Duration::from_millis(1)).turn(), Permitted::Probe(1));
    assert_eq!((bench.turn(), bench.position()), (Permitted::No, Position::HalfOpen));
    assert_eq!(bench.call(Served), Some(Change::Closed));
    assert_eq!((bench.turn(), bench.position()), (Permitted::Go, Position::Closed));
    assert_eq!(bench.call(Served), None, "it is said once");
}

#[test]
fn a_probe_that_fails_doubles_the_pause_up_to_its_bound_and_a_good_while_forgives() {
    let mut bench = Bench::new();
    let mut pauses = vec![opened(bench.calls(UNREACHED, 3).pop()).1];
    for _ in 0..5 {
        let pause = *pauses.last().unwrap();
        assert!(matches!(bench.after(pause).turn(), Permitted::Probe(_)));
        pauses.push(opened(bench.call(Failed)).1);
    }
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60].map(Duration::from_secs));
    // Closed for a moment only: the pause goes on growing.
    bench.after(LONGEST_PAUSE).turn();
    assert_eq!(bench.call(Served), Some(Change::Closed));
    assert_eq!(opened(bench.calls(UNREACHED, 3).pop()).1, LONGEST_PAUSE);
    bench.after(LONGEST_PAUSE).turn();
    assert_eq!(bench.call(Served), Some(Change::Closed));
    assert_eq!(opened(bench.after(FORGIVEN_AFTER).calls(UNREACHED, 3).pop()).1, FIRST_PAUSE);
}

#[test]
fn the_pause_is_shortened_by_a_quarter_at_most() {
    for (draw, expected) in [(0, 5_000), (500, 4_375), (999, 3_751), (u64::MAX, 4_231)] {
        let mut inner = Inner::new(Instant::now());
        assert_eq!(inner.open(Why::Failing, Instant::now(), draw).as_millis(), expected, "{draw}");
    }
}

#[test]
fn a_probe_whose_client_leaves_makes_room_for_another_one() {
    let mut bench = Bench::new();
    let (_, pause) = opened(bench.calls(UNREACHED, 3).pop());
    assert_eq!(bench.after(pause).turn(), Permitted::Probe(1));
    bench.inner.probe_ended(1);
    assert_eq!((bench.position(), bench.turn()), (Position::Open, Permitted::Probe(2)));
    // One that has ended before says nothing about the next.
    bench.inner.probe_ended(1);
    assert_eq!(bench.turn(), Permitted::No);
    assert_eq!(bench.after(LONGEST_PROBE).turn(), Permitted::Probe(3), "nobody waits for a probe for ever");
}

#[test]
fn what_began_before_the_opening_changes_nothing_and_what_began_after_it_proves_something() {
    let mut bench = Bench::new();
    let began = bench.now;
    bench.after(Duration::from_secs(1)).calls(UNREACHED, 3);
    let late = |bench: &mut Bench, seen| bench.inner.seen(began, bench.now, seen, || 0);
    assert_eq!(late(&mut bench, Served), None);
    assert_eq!(late(&mut bench, Failed), None);
    assert_eq!(bench.position(), Position::Open);
    // Requests that had nowhere else to go.
    assert_eq!(bench.call(UNREACHED), None);
    assert_eq!(bench.call(Served), Some(Change::Closed));
}

#[test]
fn a_dropped_probe_is_not_held() {
    let start = Instant::now();
    let breaker = Breaker::new("us-east-1", Plane::Runtime, start);
    for _ in 0..3 {
        breaker.seen(start, start, UNREACHED);
    }
    assert!(matches!(breaker.turn(start), Turn::PassOver) && breaker.is_unreachable());
    let later = start + FIRST_PAUSE;
    let probe = breaker.turn(later);
    assert!(matches!(probe, Turn::Probe(_)) && matches!(breaker.turn(later), Turn::PassOver));
    drop(probe);
    let probe = breaker.turn(later);
    assert!(matches!(probe, Turn::Probe(_)));
    breaker.seen(later, later, Served);
    drop(probe);
    assert!(matches!(breaker.turn(later), Turn::Go) && !breaker.is_unreachable());
    assert_eq!(breaker.status(later).position.number(), 0);
}
