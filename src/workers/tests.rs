use std::pin::{Pin, pin};
use std::sync::mpsc;
use std::task::{Context, Waker};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;

fn workers(count: usize) -> (Arc<Workers>, RollCall) {
    let roll = RollCall::default();
    (Workers::start(NonZeroUsize::new(count).unwrap(), &roll).unwrap(), roll)
}

/// A connection that lasts until what is returned is dropped, and on which thread that is.
async fn connection(workers: &Workers) -> (oneshot::Sender<()>, Number) {
    let (end, ended) = oneshot::channel();
    let (tell, told) = oneshot::channel();
    workers.serve(async move {
        let _ = tell.send(here());
        let _ = ended.await;
    });
    (end, told.await.unwrap().expect("a worker"))
}

/// Blocks the first one until what is returned is dropped.
async fn blocked(workers: &Workers) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (tell, told) = oneshot::channel();
    workers.serve(async move {
        let _ = tell.send(here());
        let _ = released.recv();
    });
    assert_eq!(told.await.unwrap().unwrap().own, 0);
    release
}

/// Waits until one of them has so many.
async fn connections(workers: &Workers, own: usize, count: usize) {
    within(async {
        while workers.workers[own].load.connections.load(Relaxed) != count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn is_pending(future: Pin<&mut impl Future>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Far longer than it may take, so that what hangs fails.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it does not hang")
}

#[tokio::test]
async fn connections_go_where_the_fewest_are() {
    let (workers, _roll) = workers(3);
    let mut open = Vec::new();
    for _ in 0..3 {
        for expected in 0..3 {
            let (end, number) = connection(&workers).await;
            assert_eq!((number.own, number.of.get()), (expected, 3));
            open.push(end);
        }
    }
    // The second worker's connections end, one of them and then another.
    for at in [1, 3] {
        drop(open.remove(at));
    }
    connections(&workers, 1, 1).await;
    for _ in 0..2 {
        let (end, number) = connection(&workers).await;
        assert_eq!(number.own, 1);
        open.push(end);
    }
    assert_eq!(here(), None);
}

/// The socket was registered with this thread's runtime before.
#[tokio::test]
async fn a_socket_is_served_on_the_thread_that_it_was_given_to() {
    use crate::listen::stream::Socket;
    let (workers, _roll) = workers(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let socket = Socket::of_tcp(accepted).unwrap();
    let (tell, told) = oneshot::channel();
    workers.serve(async move {
        let mut stream = socket.registered().unwrap();
        let mut asked = [0; 4];
        stream.read_exact(&mut asked).await.unwrap();
        stream.write_all(&asked).await.unwrap();
        let _ = tell.send(std::thread::current().name().map(str::to_owned));
    });
    client.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!((&answer, told.await.unwrap().as_deref()), (b"ping", Some("worker-0")));
}

#[tokio::test]
async fn a_worker_that_is_blocked_is_missed() {
    let (workers, roll) = workers(2);
    let release = blocked(&workers).await;
    let mut call = pin!(roll.all_answer());
    assert!(is_pending(call.as_mut()));
    for _ in 0..3 {
        let (end, other) = connection(&workers).await;
        assert_eq!(other.own, 1, "the other one serves");
        assert!(is_pending(call.as_mut()), "the first one does not answer");
        drop(end);
        connections(&workers, 1, 0).await;
    }
    drop(release);
    within(call).await;
}

#[tokio::test]
async fn a_worker_that_has_ended_is_missed_and_one_that_panicked_over_a_connection_is_not() {
    let (workers, roll) = workers(1);
    workers.serve(async { panic!("as asked") });
    let (_end, number) = connection(&workers).await;
    assert_eq!(number.own, 0, "it goes on");
    within(roll.all_answer()).await;
    workers.stop().await;
    assert!(is_pending(pin!(roll.all_answer())), "nobody answers");
}

#[tokio::test]
async fn what_is_still_going_on_at_the_end_is_dropped() {
    struct Held(Option<oneshot::Sender<()>>);
    impl Drop for Held {
        fn drop(&mut self) {
            let _ = self.0.take().map(|dropped| dropped.send(()));
        }
    }
    let (workers, _roll) = workers(2);
    let (dropped, mut is_dropped) = oneshot::channel();
    let held = Held(Some(dropped));
    let own = Arc::clone(&workers);
    workers.serve(async move {
        let _held = (held, own);
        std::future::pending().await
    });
    workers.stop().await;
    assert_eq!(is_dropped.try_recv(), Ok(()));
    // Nobody is served any more, and who comes is let go.
    let (dropped, is_dropped) = oneshot::channel();
    let held = Held(Some(dropped));
    workers.serve(async move {
        let _held = held;
        std::future::pending().await
    });
    assert_eq!(is_dropped.await, Ok(()));
}

/// What it has been given before anybody could know waits, and nothing is added to it.
#[tokio::test]
async fn a_worker_that_looks_at_nothing_is_given_nothing_more() {
    let (workers, _roll) = workers(2);
    let release = blocked(&workers).await;
    let mut open = vec![connection(&workers).await.0];
    let (tell, told) = oneshot::channel();
    workers.serve(async move {
        let _ = tell.send(here());
    });
    for _ in 0..10 {
        let (end, number) = connection(&workers).await;
        assert_eq!(number.own, 1);
        open.push(end);
    }
    drop(release);
    assert_eq!(within(told).await.unwrap().unwrap().own, 0, "it was there");
    connections(&workers, 0, 0).await;
    assert_eq!(connection(&workers).await.1.own, 0, "it serves again");
}

#[test]
fn who_is_late_comes_last_and_before_that_who_has_more_to_do() {
    let of = |connections, requests, given: &[u64]| {
        let load = Load::default();
        load.connections.store(connections, Relaxed);
        load.requests.store(requests, Relaxed);
        given.iter().for_each(|at| load.give(*at));
        load
    };
    let late = of(0, 0, &[900, 1000]);
    let loads =
        [of(2, 0, &[]), of(2, 1, &[]), of(1, 9, &[]), of(1, 0, &[901]), of(0, 0, &[950, 800]), of(0, 0, &[900])];
    let ranks: Vec<_> = loads.iter().chain([&late]).map(|load| load.rank(1000)).collect();
    assert!(ranks.is_sorted(), "{ranks:?}");
    assert_eq!(ranks.iter().map(|rank| rank.0).collect::<Vec<_>>(), [false, false, false, false, false, true, true]);
    late.seen();
    late.seen();
    assert_eq!(late.rank(2000), (false, 0, 0));
    late.give(2000);
    assert!(!late.rank(2001).0, "what was given before is forgotten");
}

#[tokio::test]
async fn tasks_of_all_runtimes_are_counted() {
    let (workers, _roll) = workers(2);
    let before = workers.tasks();
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(connection(&workers).await);
    }
    let own = tokio::spawn(std::future::pending::<()>());
    assert_eq!(workers.tasks(), before + 5);
    own.abort();
    drop(open);
    within(async {
        while workers.tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What a worker starts for others runs on the runtime that started the workers.
#[tokio::test]
async fn what_requests_share_runs_on_no_worker() {
    let (workers, _roll) = workers(1);
    let name = || std::thread::current().name().map(str::to_owned);
    let (tell, told) = oneshot::channel();
    workers.serve(async move {
        let _ = tell.send((name(), elsewhere().spawn(async move { (name(), here()) })));
    });
    let (worker, shared) = told.await.unwrap();
    assert_eq!(worker.as_deref(), Some("worker-0"));
    assert_eq!(shared.await.unwrap(), (name(), None));
    assert_eq!(elsewhere().id(), Handle::current().id());
}
