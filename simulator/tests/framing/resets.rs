//! What a client's resets come to: in the record, in the tally, and with a server that has had enough.

use std::time::Duration;

use http_body_util::BodyExt;
use simulator::framing::Framing;
use simulator::{Ended, Options, Simulator};

use crate::client::{CONVERSE, Client, Road, STREAM};

const H2: Road = Road { http2: true, tls: false };
const CANCEL: u32 = 8;

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

/// A client that stops at the announced length and drops the stream, as one that does not know better.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_that_is_cancelled_is_counted() {
    for name in ["h2-empty-end-late", "h2-trailers-late"] {
        let framing: Framing = name.parse().unwrap();
        let simulator =
            Simulator::start(Options { framing: Some(framing.into()), ..Options::default() }).await.unwrap();
        let mut client = Client::new(&simulator, H2);
        let mut incoming = client.begin(CONVERSE).await.unwrap().into_body();
        let mut read = 0;
        while read < simulator.requests()[0].answer_length {
            read += incoming.frame().await.unwrap().unwrap().into_data().unwrap().len() as u64;
        }
        drop(incoming);
        eventually(name, || simulator.connections()[0].resets() == 1).await;
        let tally = simulator.connections().remove(0);
        assert_eq!((tally.client_resets.get(&CANCEL), tally.cancelled_whole), (Some(&1), 1));
        let record = simulator.requests().remove(0);
        assert_eq!((record.client_reset, record.cancelled_whole), (Some(CANCEL), true));
        assert_eq!((record.ended, record.sent_whole), (Ended::ClientWentAway, false));
        assert_eq!((record.stream, record.connection), (Some(1), tally.number));
        simulator.clear();
        assert_eq!(simulator.connections()[0].resets(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cancelled_in_the_middle_is_not_counted_as_whole() {
    let framing = Some(Framing::PLAIN.into());
    let simulator = Simulator::start(Options { framing, ..Options::default() }).await.unwrap();
    simulator.gate().close();
    simulator.gate().release(2);
    let mut incoming = Client::new(&simulator, H2).begin(STREAM).await.unwrap().into_body();
    incoming.frame().await.unwrap().unwrap();
    drop(incoming);
    eventually("the reset", || simulator.connections()[0].resets() == 1).await;
    eventually("the record", || simulator.requests()[0].ended == Ended::ClientWentAway).await;
    assert_eq!(simulator.connections()[0].cancelled_whole, 0);
    assert!(!simulator.requests()[0].cancelled_whole);
    assert_eq!(simulator.gate().state().waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_enough_of_resets() {
    let framing = "h2-empty-end-late".parse::<Framing>().unwrap();
    let options = Options { framing: Some(framing.into()), calm_after_resets: Some(3), ..Options::default() };
    let simulator = Simulator::start(options).await.unwrap();
    let mut client = Client::new(&simulator, H2);
    for count in 1..=3 {
        drop(client.begin(CONVERSE).await.unwrap());
        eventually("the reset", || simulator.connections()[0].resets() == count).await;
    }
    eventually("the end", || !simulator.connections()[0].open).await;
    assert_eq!(simulator.connections()[0].goaways, 1);
    client.send(CONVERSE).await.unwrap();
    assert_eq!(simulator.connections().len(), 2, "the next request needs a new connection");
}
