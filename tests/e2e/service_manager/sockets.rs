//! sd_listen_fds(3): sockets that the service manager holds.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use http::Method;
use serde_json::json;
use test_support::users::own_uid;
use test_support::*;
use tokio::net::UnixStream;

fn tcp() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn copy(socket: impl Into<OwnedFd>) -> OwnedFd {
    socket.into()
}

fn listen(addresses: &[&str], socket: Option<&Path>) -> String {
    let socket = socket.map(|path| format!("unix_socket = \"{}\"\n", path.display())).unwrap_or_default();
    format!("addresses = {addresses:?}\nadmin_address = \"127.0.0.1:0\"\n{socket}")
}

/// Connections that come while no daemon runs are served by the next one, and the sockets stay what they were.
#[tokio::test]
async fn sockets_outlive_the_daemon() {
    let bedrock = bedrock().await;
    let (main, address) = tcp();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bedrock.sock");
    let unix = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();

    for life in ["first", "second"] {
        // In the kernel's queue, before there is a daemon.
        let mut queued = Http1::to(address.parse().unwrap()).await;
        let setup = Setup::plain(&bedrock).listen(&listen(&[&address, "127.0.0.1:0"], Some(&path)));
        let sockets = [copy(main.try_clone().unwrap()), copy(unix.try_clone().unwrap())];
        let mut daemon = setup.start_with_sockets(sockets, "tcp:local").await;
        daemon.until_ready().await;
        assert_eq!(daemon.places[0], address);
        assert_eq!(daemon.places[2], path.to_str().unwrap());
        let said: Vec<_> = daemon
            .lines()
            .into_iter()
            .filter(|line| line["message"] == "listening on a socket of the service manager")
            .collect();
        let said: Vec<_> = said.iter().map(|line| (&line["address"], &line["name"])).collect();
        assert_eq!(said, [(&json!(address), &json!("tcp")), (&json!(path), &json!("local"))], "{life}");

        let asked = || request(Method::POST, &converse_path(ON_DEMAND), converse(life));
        let mut local = Http1::on(UnixStream::connect(&path).await.unwrap(), "localhost").await;
        let mut own = Http1::to(daemon.places[1].parse().unwrap()).await;
        let (queued, local, own) = (queued.send(asked()).await, local.send(asked()).await, own.send(asked()).await);
        for (answer, source) in [(queued, "127.0.0.1"), (local, path.to_str().unwrap()), (own, "127.0.0.1")] {
            assert_eq!(answer.status, 200, "{answer:?}");
            let record = daemon.record_of(&answer).await;
            assert_eq!((&record["sourceIP"], &record["callerUid"]), (&json!(source), &json!(own_uid())), "{life}");
        }
        daemon.signal("TERM");
        assert_eq!(daemon.ended().await.code(), Some(0));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640, "the file is not ours");
    }
}

/// Its clients would wait for an answer for ever.
#[tokio::test]
async fn a_socket_that_the_configuration_does_not_name_is_refused() {
    let (named, address) = tcp();
    let (other, stray) = tcp();
    let setup = Setup::alone().listen(&listen(&[&address], None));
    let mut program = setup.command_with_sockets([copy(named), copy(other)], "listen:listen");
    let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said.lines().last().unwrap(),
        format!(
            "bedrock-sidecar: the service manager passes a socket for {stray}, which [listen] does not name: make \
             ListenStream= of bedrock-sidecar-listen.socket (systemctl edit) and [listen] the same, or stop and mask that unit."
        )
    );
}

#[tokio::test]
async fn what_is_no_listening_socket_is_refused() {
    let (named, address) = tcp();
    let connected = std::net::TcpStream::connect(&address).unwrap();
    for (other, names, expected) in [
        (
            copy(connected),
            "a:b",
            "descriptor 4 (\"b\") that the service manager passes is no listening TCP or unix socket",
        ),
        (
            copy(std::fs::File::open("/dev/null").unwrap()),
            "a:b",
            "descriptor 4 (\"b\") that the service manager passes",
        ),
        (copy(tcp().0), "a:b:c", "the sockets that the service manager passes cannot be taken"),
    ] {
        let setup = Setup::alone().listen(&listen(&[&address], None));
        let mut program = setup.command_with_sockets([copy(named.try_clone().unwrap()), other], names);
        let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("bedrock-sidecar: {expected}")), "{said}");
    }
}

/// A program that the daemon starts neither sees the variables nor gets the sockets.
#[tokio::test]
async fn children_inherit_nothing_of_it() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock).credentials("[credentials]\nsource = \"profile\"\nprofile = \"p\"\n");
    let (script, seen, config) =
        (setup.path().join("process"), setup.path().join("seen"), setup.path().join("aws-config"));
    let keys = format!(
        r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{}"}}"#,
        simulator::DEFAULT_ACCESS_KEY_ID,
        simulator::DEFAULT_SECRET_ACCESS_KEY
    );
    let text = format!("#!/bin/sh\n(env; ls -l /proc/$$/fd) >{}\necho '{keys}'\n", seen.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(&config, format!("[profile p]\ncredential_process = {}\n", script.display())).unwrap();
    let (main, address) = tcp();
    let (other, second) = tcp();
    let setup = setup.listen(&listen(&[&address, &second], None)).env("AWS_CONFIG_FILE", config.to_str().unwrap());
    let daemon = setup.start_with_sockets([copy(main), copy(other)], "a:b").await;
    daemon.until_ready().await;
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("x")).await.status, 200);
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("STATE_DIRECTORY=") && seen.contains("/dev/null"), "{seen}");
    assert!(!seen.contains("LISTEN_") && !seen.contains("socket:["), "{seen}");
}

/// While the daemon drains, the service manager's sockets are the next daemon's: whoever connects waits for it.
#[tokio::test]
async fn who_comes_during_a_drain_is_served_by_the_next_daemon() {
    let bedrock = bedrock().await;
    let (main, address) = tcp();
    let (other, second) = tcp();
    let copies = || [copy(main.try_clone().unwrap()), copy(other.try_clone().unwrap())];
    let setup = || Setup::plain(&bedrock).listen(&listen(&[&address, &second], None));
    let mut first = setup().start_with_sockets(copies(), "a:b").await;
    first.until_ready().await;
    bedrock.gate().close();
    let mut connection = Http1::to(address.parse().unwrap()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(connection.start(asked).await.unwrap());
    first.signal("TERM");
    first.says("draining").await;
    let mut queued = Http1::to(address.parse().unwrap()).await;
    let waiting =
        tokio::spawn(async move { queued.send(request(Method::POST, &converse_path(ON_DEMAND), converse("x"))).await });
    bedrock.gate().open();
    stream.end().await.unwrap();
    assert_eq!(first.ended().await.code(), Some(0));
    assert_eq!(first.record_with_id(&stream.request_id).await["outcome"], "completed");
    assert_eq!(first.records().iter().filter(|record| record["operation"] == "Converse").count(), 0);
    let next = setup().start_with_sockets(copies(), "a:b").await;
    let answer = within("the answer of the next daemon", waiting).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(next.record_of(&answer).await["outcome"], "completed");
}

/// Its clients would wait for ever, as at a start.
#[tokio::test]
async fn a_reload_does_not_give_up_a_socket_of_the_service_manager() {
    let bedrock = bedrock().await;
    let (main, address) = tcp();
    let (other, second) = tcp();
    let both = listen(&[&address, &second], None);
    let setup = Setup::plain(&bedrock).listen(&both);
    let daemon = setup.start_with_sockets([copy(main), copy(other)], "a:b").await;
    daemon.until_ready().await;
    let text = std::fs::read_to_string(daemon.config_path()).unwrap();
    std::fs::write(daemon.config_path(), text.replace(&both, &listen(&[&address], None))).unwrap();
    daemon.signal("HUP");
    let line = daemon.says("the new configuration cannot be used; the old one stays in force").await;
    let expected = format!("the service manager passes a socket for {second}, which [listen] does not name");
    assert!(line["reason"].as_str().unwrap().starts_with(&expected), "{line}");
    let answer = post(second.parse().unwrap(), &converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
}
