//! The same by the control interface, as tests in other processes and languages use it.

use serde_json::{Value, json};
use simulator::{Options, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{CONVERSE, Client, Road};

async fn control(simulator: &Simulator, method: &str, what: &str, body: Value) -> (u16, Value) {
    let endpoint = simulator.plain_endpoint();
    let authority = endpoint.trim_start_matches("http://");
    let body = body.to_string();
    let mut stream = TcpStream::connect(authority).await.unwrap();
    let request = format!(
        "{method} /_simulator/{what} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn framings_are_chosen_listed_and_taken_back() {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let road = Road { http2: true, tls: false };
    let mut client = Client::new(&simulator, road);
    client.send(CONVERSE).await.unwrap();
    assert_eq!(simulator.requests()[0].framing, None);

    let wanted = json!({"framing": "h2-trailers", "calm_after_resets": 5});
    assert_eq!(control(&simulator, "POST", "framing", wanted.clone()).await, (200, wanted.clone()));
    assert_eq!(control(&simulator, "GET", "framing", Value::Null).await, (200, wanted));
    assert_eq!(control(&simulator, "POST", "framing", json!({"framing": "h3-none"})).await.0, 400);
    // hyper's connection retires; the next one is framed by hand.
    while simulator.requests().last().unwrap().framing.is_none() {
        let _ = client.send(CONVERSE).await;
    }
    assert!(client.send(CONVERSE).await.unwrap().trailers);

    let fault = json!({"effect": {"kind": "framing", "variant": "h2-rst-cancel-middle"}});
    assert_eq!(control(&simulator, "POST", "faults", fault.clone()).await.0, 200);
    assert_eq!(control(&simulator, "GET", "faults", Value::Null).await.1[0]["effect"], fault["effect"]);
    assert!(client.send(CONVERSE).await.unwrap().broke.is_some());

    let (_, requests) = control(&simulator, "GET", "requests", Value::Null).await;
    let last = requests.as_array().unwrap().last().unwrap();
    assert_eq!((&last["framing"], &last["sent_whole"]), (&json!("h2-rst-cancel-middle"), &json!(false)));
    let (_, connections) = control(&simulator, "GET", "connections", Value::Null).await;
    assert!(connections.as_array().unwrap().iter().any(|connection| connection["http2"] == true));
    let (_, list) = control(&simulator, "GET", "framings", Value::Null).await;
    assert!(list.as_array().unwrap().contains(&json!({
        "name": "h2-trailers", "verdict": "whole", "about": "trailers end the stream"
    })));

    assert_eq!(control(&simulator, "DELETE", "framing", Value::Null).await.0, 200);
    assert_eq!(control(&simulator, "GET", "framing", Value::Null).await.1["framing"], Value::Null);
    assert!(!client.send(CONVERSE).await.unwrap().trailers);
}

#[test]
fn the_program_lists_the_names() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bedrock-simulator")).arg("--list-framings").output();
    let listed = String::from_utf8(output.unwrap().stdout).unwrap();
    for framing in simulator::framing::ALL.iter() {
        assert!(listed.contains(&format!("{framing} ")), "{framing}");
    }
}
