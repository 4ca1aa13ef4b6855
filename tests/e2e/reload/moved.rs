//! The daemon moves to another address while clients keep coming.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use test_support::*;

use super::{free, listen};

const MOVES: usize = 6;

/// What one client got for its requests.
#[derive(Debug, Default)]
struct Outcome {
    served: usize,
    /// It was connected, sent its request, and got no answer.
    lost: Vec<String>,
}

/// A connection for each request. Whoever is refused one goes to the next address.
fn client(places: [SocketAddr; 2], stop: Arc<AtomicBool>, served: Arc<AtomicU64>) -> JoinHandle<Outcome> {
    std::thread::spawn(move || {
        let (mut outcome, mut at) = (Outcome::default(), 0);
        while !stop.load(Ordering::Relaxed) {
            let place = places[at];
            let Ok(mut stream) = TcpStream::connect(place) else {
                at = 1 - at;
                continue;
            };
            let asked = raw::converse(place, ON_DEMAND, "while moving", "Connection: close\r\n");
            let mut answer = String::new();
            let outcome_of = stream.write_all(asked.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
            if outcome_of.is_ok() && answer.starts_with("HTTP/1.1 200 ") {
                outcome.served += 1;
                served.fetch_add(1, Ordering::Relaxed);
            } else {
                outcome.lost.push(format!("{outcome_of:?} {answer}"));
            }
        }
        outcome
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_address_under_load_loses_no_request() {
    let bedrock = bedrock().await;
    let places = [free(), free()];
    let texts = places.map(|place| listen(&[&place.to_string()], ""));
    let daemon = Setup::plain(&bedrock).listen(&texts[0]).ready().await;
    let (stop, served, current) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default(), AtomicUsize::new(0));
    let clients: Vec<_> = (0..6).map(|_| client(places, Arc::clone(&stop), Arc::clone(&served))).collect();
    for _ in 0..MOVES {
        let enough = served.load(Ordering::Relaxed) + 20;
        eventually("more requests", || served.load(Ordering::Relaxed) > enough).await;
        let at = current.fetch_xor(1, Ordering::Relaxed);
        daemon.reload(&texts[at], &texts[1 - at]).await;
        eventually("the old address to be closed", || TcpStream::connect(places[at]).is_err()).await;
    }
    stop.store(true, Ordering::Relaxed);
    let outcomes =
        tokio::task::spawn_blocking(|| clients.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>());
    let outcomes = within("the clients", outcomes).await.unwrap();
    let lost: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.lost).collect();
    let answered: usize = outcomes.iter().map(|outcome| outcome.served).sum();
    assert!(lost.is_empty(), "{} lost, {answered} served: {:?}", lost.len(), lost.first());
    eventually("all records", || {
        daemon.records().iter().filter(|record| record["outcome"] == "completed").count() >= answered
    })
    .await;
}
