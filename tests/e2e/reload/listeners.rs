//! Addresses that a reload adds and takes away, and what else under `[listen]` and `[log]` follows it.

use http::Method;
use test_support::*;
use tokio::net::{TcpStream, UnixStream};

use super::{ask, free, listen};

#[tokio::test]
async fn addresses_come_and_go_and_nobody_is_cut_off() {
    let bedrock = bedrock().await;
    let (first, second) = (free().to_string(), free().to_string());
    let (first, second) = (first.as_str(), second.as_str());
    let setup = Setup::plain(&bedrock).listen(&listen(&[first], ""));
    let socket = setup.path().join("added.sock");
    let daemon = setup.ready().await;
    let mut kept = Http1::to(first.parse().unwrap()).await;
    let mut answers = vec![kept.send(ask("before")).await];
    bedrock.gate().close();
    let mut streaming = Http1::to(first.parse().unwrap()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(streaming.start(asked).await.unwrap());

    let unix = format!("unix_socket = \"{}\"", socket.display());
    let both = listen(&[first, second], &unix);
    daemon.reload(&listen(&[first], ""), &both).await;
    answers.push(kept.send(ask("on the old one")).await);
    answers.push(send(second.parse().unwrap(), ask("on the new one")).await);
    let mut local = Http1::on(UnixStream::connect(&socket).await.unwrap(), "localhost").await;
    answers.push(local.send(ask("on the socket")).await);

    daemon.reload(&both, &listen(&[second], "")).await;
    let last = kept.send(ask("the last one there")).await;
    assert_eq!(last.header("connection"), Some("close"), "{last:?}");
    answers.push(last);
    until_async("the old address to be closed", || async { TcpStream::connect(first).await.err() }).await;
    eventually("the socket to be gone", || !socket.exists()).await;
    answers.push(send(second.parse().unwrap(), ask("on the new one")).await);
    bedrock.gate().open();
    stream.end().await.unwrap();
    assert_eq!(daemon.record_with_id(&stream.request_id).await["outcome"], "completed");
    for answer in &answers {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(daemon.record_of(answer).await["outcome"], "completed");
    }
}

/// The admin address, time-outs and the log's level follow at once; what cannot is said by name.
#[tokio::test]
async fn time_outs_the_level_and_the_admin_address_follow_and_the_rest_is_named() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[log]\nlevel = \"info\"").ready().await;
    let admin = free();
    let text = std::fs::read_to_string(daemon.config_path()).unwrap();
    let changed = text
        .replace(
            "admin_address = \"127.0.0.1:0\"\n",
            &format!("admin_address = \"{admin}\"\nidle_timeout = \"1s\"\nmax_connections = 77\n"),
        )
        .replace("level = \"info\"", "level = \"debug\"");
    std::fs::write(daemon.config_path(), changed).unwrap();
    daemon.signal("HUP");
    let line = daemon.says("changes of these keys take effect at the next restart").await;
    assert_eq!(line["keys"], "listen.max_connections, listen.max_connections_per_user", "{line}");
    until_async("the new admin address", || async { TcpStream::connect(admin).await.ok() }).await;
    assert_eq!(get(admin, "/ready").await.status, 200);
    let old = daemon.admin;
    until_async("the old admin address to be closed", || async { TcpStream::connect(old).await.err() }).await;

    // An idle connection ends after the new time, and the reload's own words are at debug level.
    let cut = "bedrock_sidecar_connections_cut_total{reason=\"idle\"}";
    let mut idle = Http1::to(daemon.address()).await;
    let answer = idle.send(ask("then idle")).await;
    assert_eq!(answer.status, 200);
    daemon.record_of(&answer).await;
    until_async("the idle connection to be cut", || async {
        metric(&get(admin, "/metrics").await.text(), cut).filter(|count| *count >= 1.0)
    })
    .await;
    eventually("a line at debug level", || daemon.lines().iter().any(|line| line["level"] == "DEBUG")).await;
}
