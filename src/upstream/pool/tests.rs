//! The pool against servers in the test's own process: who waits for a connection, and for how long.

mod driver;
mod ending;
mod server;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;

use self::server::{PATIENT, ask, ask_many, certificate, pool, server};
use super::*;

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect(what);
}

#[tokio::test]
async fn those_who_wait_share_a_connection_that_can_carry_them() {
    let (pool, seen) = server(Some(100), PATIENT, 0).await;
    let all = ask_many(&pool, 60);
    seen.until("all are in progress", |seen| seen.requests.load(Ordering::SeqCst) == 60).await;
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
    seen.answers.add_permits(60);
    assert!(all.join_all().await.iter().all(Result::is_ok));
    let status = pool.take_status();
    assert_eq!((status.http1, status.http2, status.succeeded, status.failed), (0, 1, 1, 0));
    assert_eq!(pool.take_status().succeeded, 0, "told once");
}

/// No request is kept waiting out of sight, on a connection whose streams are all taken.
#[tokio::test]
async fn a_peer_that_allows_few_streams_gets_more_connections() {
    for most in [1, 5] {
        let (pool, seen) = server(Some(most), PATIENT, 0).await;
        let all = ask_many(&pool, 20);
        seen.until("all are in progress", |seen| seen.requests.load(Ordering::SeqCst) == 20).await;
        let connections = seen.connections.load(Ordering::SeqCst);
        assert!(connections >= 20 / most as usize && connections <= 20, "{most}: {connections}");
        seen.answers.add_permits(20);
        assert!(all.join_all().await.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn a_peer_of_http1_gets_a_connection_for_each_request_and_they_are_used_again() {
    let (pool, seen) = server(None, PATIENT, 0).await;
    for round in 1..=2 {
        let all = ask_many(&pool, 8);
        seen.until("all are in progress", |seen| seen.requests.load(Ordering::SeqCst) == 8 * round).await;
        seen.answers.add_permits(8);
        assert!(all.join_all().await.iter().all(Result::is_ok));
        assert_eq!(seen.connections.load(Ordering::SeqCst), 8, "round {round}");
    }
    assert_eq!(pool.take_status().http1, 8);
}

/// The limit of open files reckons with one bound for a host, however many threads there are.
#[tokio::test]
async fn pools_of_one_endpoint_share_the_bound_on_connections_that_wait() {
    const MANY: usize = 150;
    let (pool, seen) = server(None, PATIENT, 0).await;
    let _other = pool.sibling();
    let all = ask_many(&pool, MANY);
    seen.until("all are in progress", |seen| seen.requests.load(Ordering::SeqCst) == MANY).await;
    seen.answers.add_permits(MANY);
    assert!(all.join_all().await.iter().all(Result::is_ok));
    until("the others to be closed", || pool.take_status().http1 <= 128).await;
    assert_eq!(pool.take_status().http1, 128, "half of 256");
}

/// A pool is its thread's, also for what others give back.
#[tokio::test]
async fn a_connection_that_comes_back_elsewhere_has_the_next_one_opened_at_home() {
    let (pool, seen) = server(Some(1), PATIENT, 1).await;
    ask(&pool).await.unwrap();
    let lease = pool.lease(PATIENT.connect).await.unwrap();
    pool.lock().opening = 1_000_000;
    let waiting = ask_many(&pool, 2);
    until("both to wait", || pool.lock().waiting.len() == 2).await;
    pool.lock().opening = 0;
    seen.answers.add_permits(2);
    // No runtime runs there at all.
    std::thread::spawn(move || drop(lease)).join().unwrap();
    assert!(waiting.join_all().await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_connection_that_becomes_free_goes_to_who_waits() {
    let (pool, seen) = server(Some(1), PATIENT, 1).await;
    ask(&pool).await.unwrap();
    // The server opens no further connections, as far as this pool is concerned.
    pool.lock().opening = 1_000_000;
    let all = ask_many(&pool, 3);
    seen.until("one is in progress", |seen| seen.requests.load(Ordering::SeqCst) == 2).await;
    seen.answers.add_permits(3);
    assert!(all.join_all().await.iter().all(Result::is_ok));
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
}

/// A listener that accepts and says nothing.
async fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            held.push(socket);
        }
    });
    (address, accepted)
}

#[tokio::test]
async fn nobody_waits_for_longer_than_one_connect_time_out() {
    let (address, accepted) = silent().await;
    let times = Times { connect: Duration::from_secs(1), ..PATIENT };
    let pool = pool(address, Some(&certificate().0), times);
    let began = Instant::now();
    let outcomes = ask_many(&pool, 30).join_all().await;
    assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error, SendError::Connect { .. }), "{error}");
        assert!(error.to_string().contains("no handshake within 1 s"), "{error}");
    }
    assert!(accepted.load(Ordering::SeqCst) <= 2, "{accepted:?}");
}

#[tokio::test]
async fn a_failed_attempt_fails_those_who_came_before_it_began_and_nobody_else() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pool = pool(address, Some(&certificate().0), PATIENT);
    let outcomes = ask_many(&pool, 50).join_all().await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(SendError::Connect { .. }))), "{outcomes:?}");
    let attempts = pool.take_status().failed;
    assert!((1..=50).contains(&attempts), "{attempts}");

    // By hand: of three who wait, two came before the attempt began.
    let mut state = pool.lock();
    let mut places = Vec::new();
    for came in [6, 6, 7] {
        let (place, waiting) = oneshot::channel();
        state.waiting.push_back(Waiter { came, place });
        places.push(waiting);
    }
    state.fail(7, "refused");
    let failed: Vec<bool> = places.iter_mut().map(|waiting| waiting.try_recv().is_ok()).collect();
    assert_eq!(failed, [true, true, false]);
}

/// A port behind which nothing serves: a few tries, and a pause between them.
#[tokio::test]
async fn a_port_that_accepts_and_closes_is_tried_a_few_times() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            drop(socket);
        }
    });
    let plain = pool(address, None, PATIENT);
    for _ in 0..20 {
        let before = accepted.load(Ordering::SeqCst);
        ask(&plain).await.unwrap_err();
        let tried = accepted.load(Ordering::SeqCst) - before;
        assert!(tried <= 1 + MAX_REPEATS as usize, "{tried}");
    }
    let secured = pool(address, Some(&certificate().0), PATIENT);
    let error = ask(&secured).await.unwrap_err();
    assert!(matches!(error, SendError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn failed_attempts_are_told_once() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pool = pool(address, None, PATIENT);
    ask(&pool).await.unwrap_err();
    assert!(pool.take_status().failed >= 1);
    assert_eq!(pool.take_status().failed, 0);
}

/// A breaker counts each handshake once, by its number, and knows nothing of several pools.
#[tokio::test]
async fn pools_of_one_endpoint_number_their_attempts_in_one_row_and_count_together() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pool = pool(address, Some(&certificate().0), PATIENT);
    let other = pool.sibling();
    let mut numbers = Vec::new();
    for pool in [&pool, &other, &other, &pool] {
        let Handshake { number, last } = ask(pool).await.unwrap_err().handshake().unwrap();
        numbers.push((number, last));
    }
    assert_eq!(numbers, [(1, 1), (2, 2), (3, 3), (4, 4)]);
    assert_eq!((other.take_status().failed, pool.take_status().failed), (4, 0));

    // Who came after an attempt waits for the next one of its own pool.
    let (state, others) = (pool.lock(), other.lock());
    assert_eq!((state.last_begun(), others.last_begun()), (4, 3));
    let next = |last| (state.first_begun_after(last), others.first_begun_after(last));
    assert_eq!([next(0), next(1), next(2), next(3), next(4)], [(1, 2), (4, 2), (4, 3), (4, 3), (4, 4)]);
}
