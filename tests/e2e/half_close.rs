//! Clients that finish sending and still read, as `nc` and some old proxies do; and those that only look so.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use serde_json::json;
use test_support::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// A stream's request, of which the upstream says nothing until the gate opens.
fn streaming(events: usize) -> String {
    let body = converse(&format!("events {events}"));
    let path = stream_path(ON_DEMAND);
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn finished<T: AsyncRead + AsyncWrite + Unpin>(mut stream: T, requests: &str) -> (T, String) {
    stream.write_all(requests.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end as well: what has come before it is looked at.
    let _ = within("the end of the answer", stream.read_to_end(&mut answer)).await;
    (stream, String::from_utf8_lossy(&answer).into_owned())
}

async fn is_waiting(bedrock: &simulator::Simulator) {
    until("the stream to wait at the gate", || Some(()).filter(|()| bedrock.gate().state().waiting > 0)).await;
}

#[tokio::test]
async fn who_has_finished_sending_gets_the_answer() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let one = raw::converse(daemon.address(), ON_DEMAND, "x", "");
    for (count, requests) in [(1, one.clone()), (3, one.repeat(3))] {
        let before = daemon.records().len();
        let stream = TcpStream::connect(daemon.address()).await.unwrap();
        let (_, answer) = finished(stream, &requests).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), count, "{answer}");
        let records = until("the records", || Some(daemon.records()).filter(|all| all.len() >= before + count)).await;
        for record in &records[before..] {
            assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("completed"), &json!(200)), "{record}");
        }
    }
    // An answer that takes its time, and one whose body comes in parts.
    bedrock.gate().close();
    let stream = TcpStream::connect(daemon.address()).await.unwrap();
    let client = tokio::spawn(async move { finished(stream, &streaming(3)).await });
    is_waiting(&bedrock).await;
    // Longer than between two looks at the client.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    bedrock.gate().open();
    let (_, answer) = client.await.unwrap();
    assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
    let record = daemon.record("the stream", |record| record["operation"] == "ConverseStream").await;
    assert_eq!(record["outcome"], "completed", "{record}");
    // A refusal is an answer too.
    let stream = TcpStream::connect(daemon.address()).await.unwrap();
    let (_, answer) = finished(stream, "POST /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    // Half a request is none, but leaves a record.
    let half = &one[..one.len() - 5];
    let stream = TcpStream::connect(daemon.address()).await.unwrap();
    let (_, answer) = finished(stream, half).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    daemon.record("half a request", |record| record["outcome"] == "refused" && record["statusCode"] == 400).await;
}

/// The last bytes of an answer wait for a client that takes its time, after its request has ended.
#[tokio::test]
async fn who_has_finished_sending_may_take_the_answer_slowly() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    // However much the kernel holds, of some of these the last bytes are the daemon's to send.
    let mut clients = tokio::task::JoinSet::new();
    for bytes in (0..24).map(|step| 100_000 + step * 200_000) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let mut stream = socket.connect(daemon.address()).await.unwrap();
        let request = raw::converse(daemon.address(), ON_DEMAND, &format!("repeat {bytes}"), "");
        clients.spawn(async move {
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            // Longer than between two looks at the client.
            tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
            let mut answer = Vec::new();
            let end = within("the end of the answer", stream.read_to_end(&mut answer)).await;
            assert!(end.is_ok() && answer.ends_with(b"}"), "{bytes}: {} came, {end:?}", answer.len());
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let records = until("the records", || Some(daemon.records()).filter(|all| all.len() >= 24)).await;
    assert!(records.iter().all(|record| record["outcome"] == "completed"), "{records:?}");
}

#[tokio::test]
async fn over_a_unix_socket_too() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let path = setup.path().join("socket");
    let listen = format!(
        "addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\nunix_socket = \"{}\"\n",
        path.display()
    );
    let daemon = setup.listen(&listen).ready().await;
    let request = raw::converse(daemon.address(), ON_DEMAND, "x", "");
    let (_, answer) = finished(tokio::net::UnixStream::connect(&path).await.unwrap(), &request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    daemon.record("the answer", |record| record["outcome"] == "completed").await;
    // And who leaves is not waited for.
    bedrock.gate().close();
    let stream = UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut &stream, streaming(3).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    is_waiting(&bedrock).await;
    drop(stream);
    let record = daemon.record("who left", |record| record["operation"] == "ConverseStream").await;
    assert_eq!(record["outcome"], "client_disconnected", "{record}");
}

/// Who finishes sending and then leaves is noticed while the upstream still thinks: nobody pays for an answer that nobody
/// reads.
#[tokio::test]
async fn who_finishes_sending_and_leaves_is_not_waited_for() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.gate().close();
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    stream.write_all(streaming(3).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    is_waiting(&bedrock).await;
    drop(stream);
    let record = daemon.record("who left", |record| record["operation"] == "ConverseStream").await;
    assert_eq!(record["outcome"], "client_disconnected", "{record}");
}
