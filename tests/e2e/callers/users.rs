//! Callers by the user that they run as.

use std::io::{Read, Write};
use std::process::Child;

use serde_json::{Value, json};
use test_support::users::{can_be_others, this_test_as};
use test_support::*;

const ALICE: u32 = 61_001;
const BOB: u32 = 61_002;
const HIT_AND_RUN: usize = 400;

/// This binary again, as another user: sends `text` to `place` so many times, and prints what comes.
pub(crate) fn other_user(uid: u32, part: &str, place: &str, text: &str) -> Child {
    this_test_as(uid, "callers::users::another_process")
        .env("E2E_PART", part)
        .env("E2E_PLACE", place)
        .env("E2E_TEXT", text)
        .spawn()
        .unwrap()
}

pub(crate) async fn said_by(child: Child) -> String {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Not a test of its own: the other side of those below.
#[test]
fn another_process() {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let (part, place, text) = (var("E2E_PART"), var("E2E_PLACE"), var("E2E_TEXT"));
    match part.as_str() {
        "" => {}
        "ask" => {
            let mut answer = String::new();
            if place.starts_with('/') {
                let mut stream = std::os::unix::net::UnixStream::connect(place).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                stream.read_to_string(&mut answer).unwrap();
            } else {
                let mut stream = std::net::TcpStream::connect(place).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                stream.read_to_string(&mut answer).unwrap();
            }
            println!("{answer}");
        }
        "hit_and_run" => {
            for _ in 0..HIT_AND_RUN {
                std::net::TcpStream::connect(&place).unwrap().write_all(text.as_bytes()).unwrap();
            }
        }
        other => panic!("no part {other}"),
    }
}

#[tokio::test]
async fn users_are_told_apart_over_ipv4_ipv6_and_the_unix_socket() {
    if !can_be_others("users_are_told_apart_over_ipv4_ipv6_and_the_unix_socket") {
        return;
    }
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let socket = setup.path().join("bedrock.sock");
    std::fs::set_permissions(setup.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let listen = format!(
        "addresses = [\"127.0.0.1:0\", \"[::1]:0\"]\nadmin_address = \"127.0.0.1:0\"\nunix_socket = \"{}\"\n",
        socket.display()
    );
    let daemon = setup
        .listen(&listen)
        .with(&format!("[[callers]]\nname = \"alice\"\nusers = [\"{ALICE}\"]\n[policy]\nrequire_known_caller = true"))
        .ready()
        .await;
    assert_eq!(daemon.places.len(), 3, "{:?}", daemon.places);
    let rule = format!("require_known_caller at config.toml:{}", daemon.line_of("require_known_caller"));
    for place in &daemon.places {
        let host = if place.starts_with('/') { "localhost" } else { place };
        let body = converse(&format!("from {place}"));
        let text = format!(
            "POST {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            converse_path(ON_DEMAND),
            body.len()
        );
        let answer = said_by(other_user(ALICE, "ask", place, &text)).await;
        assert!(answer.contains("HTTP/1.1 200 OK"), "{place}: {answer}");
        let answer = said_by(other_user(BOB, "ask", place, &text)).await;
        assert!(answer.contains("HTTP/1.1 403 Forbidden") && answer.contains("AccessDeniedException"), "{answer}");
        assert!(answer.contains(&rule), "{place}: {answer}");
    }
    let of = |uid: u32| daemon.records().into_iter().filter(|one| one["callerUid"] == uid).collect::<Vec<_>>();
    until("all lines", || Some(()).filter(|()| of(ALICE).len() == 3 && of(BOB).len() == 3)).await;
    for record in of(ALICE) {
        assert_eq!(
            (&record["caller"], &record["identityVerified"], &record["statusCode"]),
            (&json!("alice"), &json!(false), &json!(200)),
            "a uid is no proof of identity: {record}"
        );
    }
    for record in of(BOB) {
        assert_eq!((&record["caller"], &record["outcome"]), (&Value::Null, &json!("refused")), "{record}");
    }
    assert_eq!(received(&bedrock, "Converse").len(), 3);
}

#[tokio::test]
async fn who_writes_and_closes_at_once_is_never_taken_for_root() {
    if !can_be_others("who_writes_and_closes_at_once_is_never_taken_for_root") {
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .with(&format!(
            "[[callers]]\nname = \"root\"\nusers = [\"0\"]\n[[callers]]\nname = \"alice\"\nusers = [\"{ALICE}\"]\ndata_classification = \"internal\""
        ))
        .ready()
        .await;
    let text = raw::converse(daemon.address(), ON_DEMAND, "hit and run", "");
    said_by(other_user(ALICE, "hit_and_run", &daemon.address().to_string(), &text)).await;
    // Connections are accepted in their order, so all those are in when this one is.
    let last = async |model: &str| {
        let text = raw::converse(daemon.address(), model, "last", "Connection: close\r\n");
        said_by(other_user(ALICE, "ask", &daemon.address().to_string(), &text)).await;
        daemon.record("the last one", |record| record["modelId"] == model).await;
    };
    last("amazon.nova-pro-v1:0").await;
    until_async("the end of all", || async {
        (metric(&daemon.metrics().await, "bedrock_sidecar_in_flight") == Some(0.0)).then_some(())
    })
    .await;
    // They have all ended, and the line of another one comes after theirs.
    last("amazon.nova-micro-v1:0").await;
    let records = daemon.records();
    let mine = records.iter().filter(|record| record["caller"] == "alice" && record["callerUid"] == ALICE).count();
    let unknown = records.iter().filter(|record| record["caller"].is_null() && record["callerUid"].is_null()).count();
    println!("connect, write, close: {mine} known, {unknown} unknown of {}", records.len());
    assert_eq!(mine + unknown, records.len(), "{records:?}");
    let gone =
        metric(&daemon.metrics().await, "bedrock_sidecar_connections_refused_total{reason=\"gone\"}").unwrap_or(0.0);
    assert!(mine >= 2 && (records.len() > 2 || gone > 0.0), "nobody has hit and run: {records:?}");
}
