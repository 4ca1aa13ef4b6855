//! Callers on other hosts, which a network namespace stands for. Making one needs root and `ip`.

use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use http::Method;
use serde_json::json;
use test_support::users::own_uid;
use test_support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::certificates::{Pki, secured, tls_port};

const TEST: &str = "callers::remote::what_one_remote_host_fills_is_not_anothers";
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 1);
const ONE: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 3);
const MB: usize = 1_000_000;

/// A network of two other hosts, removed when dropped.
struct OtherHosts(String);

impl OtherHosts {
    fn new() -> Option<OtherHosts> {
        let hosts = OtherHosts(format!("e2e-{}", std::process::id()));
        let name = &hosts.0;
        let (ours, theirs) = (format!("v{}", std::process::id()), format!("w{}", std::process::id()));
        let made = ip(&["netns", "add", name])
            && ip(&["link", "add", &ours, "type", "veth", "peer", "name", &theirs, "netns", name])
            && ip(&["address", "add", &format!("{SERVER}/24"), "dev", &ours])
            && ip(&["link", "set", &ours, "up"])
            && ip(&["-n", name, "address", "add", &format!("{ONE}/24"), "dev", &theirs])
            && ip(&["-n", name, "address", "add", &format!("{OTHER}/24"), "dev", &theirs])
            && ip(&["-n", name, "link", "set", &theirs, "up"]);
        made.then_some(hosts)
    }
}

impl Drop for OtherHosts {
    fn drop(&mut self) {
        // The pair of links goes with it.
        ip(&["netns", "delete", &self.0]);
    }
}

fn ip(words: &[&str]) -> bool {
    Command::new("ip").args(words).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

async fn from(host: Ipv4Addr, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((host, 0).into()).unwrap();
    within("a connection", socket.connect((SERVER, port).into())).await.unwrap()
}

/// In the namespace: one host fills its part of the memory for bodies, and the other is served. The end of the standard
/// input tells that it is full.
async fn fill_and_ask(port: u16, folder: &Path) {
    let path = converse_path(ON_DEMAND);
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", 10 * MB);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = secured(folder, from(ONE, port).await, Some("one")).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; 10 * MB - 1]).await.unwrap();
        stream.flush().await.unwrap();
        held.push(stream);
    }
    // Not before all has been read: what is asked now takes room that the rest of it would find no more.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    let ask = async |host, certificate| {
        let stream = secured(folder, from(host, port).await, Some(certificate)).await.unwrap();
        let mut connection = Http1::on(stream, "localhost").await;
        connection.send(request(Method::POST, &path, padded(&converse("x"), 9 * MB))).await
    };
    let answer = ask(ONE, "one").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let answer = ask(OTHER, "other").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    drop(held);
}

#[tokio::test]
async fn what_one_remote_host_fills_is_not_anothers() {
    if let Ok(port) = std::env::var("REMOTE_PORT") {
        let folder = std::env::var("REMOTE_FOLDER").unwrap();
        return fill_and_ask(port.parse().unwrap(), folder.as_ref()).await;
    }
    let hosts = if own_uid() == 0 { OtherHosts::new() } else { None };
    let Some(hosts) = hosts else {
        println!("NOT RUN: {TEST} (needs root, and ip with the right to make a network namespace)");
        return;
    };
    let bedrock = bedrock().await;
    let pki = Pki::new();
    pki.issue("server", "server", "localhost");
    pki.issue("one", "one", "one.internal");
    pki.issue("other", "other", "other.internal");
    let limits = "[limits]\nmax_body_bytes = 10000000\nmax_buffered_bytes = 40000000";
    let daemon = Setup::plain(&bedrock).listen(&pki.listen("0.0.0.0:0")).with(limits).ready().await;
    let mut child = Command::new("ip");
    child.args(["netns", "exec", &hosts.0]).arg(std::env::current_exe().unwrap());
    child.args(["--exact", TEST, "--nocapture"]);
    child.env("REMOTE_PORT", tls_port(&daemon).to_string()).env("REMOTE_FOLDER", pki.folder());
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let told = child.stdin.take();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    until_async("the first host to have no more room", || async {
        let taken = metric(&daemon.metrics().await, "bedrock_sidecar_buffered_bytes");
        (taken == Some(20e6) || ended.is_finished()).then_some(())
    })
    .await;
    drop(told);
    let output = ended.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let served = daemon.record("the other host", |record| record["statusCode"] == 200).await;
    assert_eq!(served["sourceIP"], OTHER.to_string(), "{served}");
    assert_eq!(served.get("callerUid").unwrap_or(&json!(null)), &json!(null), "{served}");
    let refused = daemon.record("the first host", |record| record["statusCode"] == 503).await;
    assert_eq!(refused["sourceIP"], ONE.to_string(), "{refused}");
}
