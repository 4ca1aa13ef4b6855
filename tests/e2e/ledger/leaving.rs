//! Clients that leave while their request's opening waits for the disk.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use test_support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Scene, ledger, shipped, stopped, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_during_the_fsync_leaves_one_record() {
    let bedrock = bedrock().await;
    let scene = Scene::new("e2e-leaving").await;
    let daemon = scene.setup(&bedrock, "durability = \"disk\"", "").ready().await;
    let address = daemon.address();
    let clients = (0..600_u64).map(|number| {
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(raw::converse(address, ON_DEMAND, "hello", "").as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_micros(number % 100 * 100)).await;
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    shipped(&daemon).await;
    assert!(ledger(&daemon).await["shipped"].as_u64().unwrap() > 0);
    stopped(daemon).await;

    let export = text(&scene.setup(&bedrock, "", "").command(&["audit", "export"]).await);
    let ids: Vec<String> = export
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["requestId"].as_str().map(str::to_owned))
        .collect();
    assert!(!ids.is_empty(), "{export}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "a request has two records");
    let verified = scene.setup(&bedrock, "", "").command(&["audit", "verify", "--source", "dynamodb"]).await;
    assert!(verified.status.success(), "{}", text(&verified));
}
