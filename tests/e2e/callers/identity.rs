//! Nobody becomes somebody else: by a port that was used before, by a lack of descriptors, by hiding from the kernel.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use test_support::users::{can_be_others, own_uid, this_test_as};
use test_support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const ATTACKER: u32 = 61_011;
const VICTIM: u32 = 61_012;

/// This binary again, as another user. It says `PORT n` when it has done its part, and leaves when its input ends.
fn other_user(uid: u32, part: &str, server: SocketAddr, port: u16, text: &str) -> Child {
    this_test_as(uid, "callers::identity::another_process")
        .env("E2E_PART", part)
        .env("E2E_SERVER", server.to_string())
        .env("E2E_PORT", port.to_string())
        .env("E2E_TEXT", text)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads what a child says until it names its port.
async fn port_of(child: &mut Child) -> u16 {
    let mut stdout = child.stdout.take().unwrap();
    tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() > 0 {
            said.push(byte[0]);
            if let Some(line) = String::from_utf8_lossy(&said).lines().find_map(|line| line.strip_prefix("PORT "))
                && byte[0] == b'\n'
            {
                return line.trim().parse().unwrap();
            }
        }
        panic!("no port: {}", String::from_utf8_lossy(&said));
    })
    .await
    .unwrap()
}

/// Not a test of its own: the other side of the one below.
#[test]
fn another_process() {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let part = var("E2E_PART");
    if part.is_empty() {
        return;
    }
    let server: SocketAddr = var("E2E_SERVER").parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    let local = SocketAddr::from(([127, 0, 0, 1], var("E2E_PORT").parse::<u16>().unwrap()));
    socket.bind(&SockAddr::from(local)).unwrap();
    socket.connect(&SockAddr::from(server)).unwrap();
    let mut stream = StdStream::from(socket);
    let port = stream.local_addr().unwrap().port();
    stream.write_all(var("E2E_TEXT").as_bytes()).unwrap();
    if part == "reset" {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        println!("PORT {port}");
    } else {
        println!("PORT {port}");
        let _ = std::io::stdin().read(&mut [0]);
    }
}

/// The attacker's connection is reset while it waits to be accepted. It keeps its data, and the client's address, from
/// which the victim connects meanwhile.
#[tokio::test]
async fn a_request_from_a_dead_connection_is_not_its_successors() {
    if !can_be_others("a_request_from_a_dead_connection_is_not_its_successors") {
        return;
    }
    let bedrock = bedrock().await;
    let daemon =
        Setup::plain(&bedrock).with(&format!("[[callers]]\nname = \"victim\"\nusers = [\"{VICTIM}\"]")).ready().await;
    for round in 0..5 {
        // The kernel takes connections for a daemon that does not run just now.
        daemon.signal("STOP");
        let stolen = raw::converse(daemon.address(), ON_DEMAND, &format!("stolen {round}"), "");
        let mut attacker = other_user(ATTACKER, "reset", daemon.address(), 0, &stolen);
        let port = port_of(&mut attacker).await;
        let mut victim = other_user(VICTIM, "stay", daemon.address(), port, "");
        assert_eq!(port_of(&mut victim).await, port);
        daemon.signal("CONT");
        // What was sent over the dead connection comes before this one.
        let own = raw::converse(daemon.address(), ON_DEMAND, &format!("own {round}"), "Connection: close\r\n");
        assert!(raw::exchange(daemon.address(), own).await.unwrap().contains("echo: own"));
        drop(victim.stdin.take());
        victim.wait().unwrap();
        attacker.wait().unwrap();
    }
    let prompts = received(&bedrock, "Converse");
    assert!(!prompts.iter().any(|one| String::from_utf8_lossy(&one.body).contains("stolen")), "a stolen name");
    // Each of them came after what was stolen.
    eventually("the other requests' records", || {
        daemon.records().iter().filter(|record| record["callerUid"] == own_uid()).count() == 5
    })
    .await;
    let of_victim = |record: &Value| record["callerUid"] == VICTIM || record["caller"] == "victim";
    assert!(!daemon.records().iter().any(of_victim), "{:?}", daemon.records());
    let gone = metric(&daemon.metrics().await, "bedrock_sidecar_connections_refused_total{reason=\"gone\"}");
    assert_eq!(gone, Some(5.0));
}

/// The last descriptor goes to the connection itself, and none is left to ask who it is.
#[tokio::test]
async fn without_descriptors_a_callers_rules_still_hold() {
    let bedrock = bedrock().await;
    let text = format!("[[callers]]\nname = \"me\"\nusers = [\"{}\"]\ndeny_models = [\"*nova-lite*\"]", own_uid());
    let daemon = Setup::plain(&bedrock)
        .listen("addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\nmax_connections_per_user = 1024\n")
        .with(&text)
        .ready()
        .await;
    let limit = |most: String| {
        let status = std::process::Command::new("prlimit")
            .args(["--pid", &daemon.pid().to_string(), &format!("--nofile={most}:")])
            .status()
            .unwrap();
        assert!(status.success(), "prlimit");
    };
    let open = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let denied = raw::converse(daemon.address(), ON_DEMAND, "denied", "");
    let before = open();
    limit((before + 6).to_string());
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut connection = TcpStream::connect(daemon.address()).await.unwrap();
        connection.write_all(denied.as_bytes()).await.unwrap();
        connections.push(connection);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    limit((before + 200).to_string());
    for connection in &mut connections {
        let answer = raw::until(connection, "AccessDeniedException").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    for record in daemon.all_records(20).await {
        assert_eq!((&record["callerUid"], &record["outcome"]), (&own_uid().into(), &"refused".into()), "{record}");
    }
    assert!(received(&bedrock, "Converse").is_empty());
}

/// A client that has only finished writing is still there, and known.
#[tokio::test]
async fn a_client_that_has_only_finished_writing_keeps_its_name() {
    let bedrock = bedrock().await;
    let daemon =
        Setup::plain(&bedrock).with(&format!("[[callers]]\nname = \"me\"\nusers = [\"{}\"]", own_uid())).ready().await;
    for round in 1..=5 {
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        let text = raw::converse(daemon.address(), ON_DEMAND, &format!("half {round}"), "Connection: close\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = raw::rest(&mut stream).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{round}: {answer}");
    }
    for record in daemon.all_records(5).await {
        assert_eq!((&record["caller"], &record["callerUid"]), (&"me".into(), &own_uid().into()), "{record}");
    }
}

/// The sandbox forbids what is needed to know users by TCP: that is said at start.
#[tokio::test]
async fn a_sandbox_without_netlink_is_said_at_start() {
    if !can_filter() {
        println!("NOT RUN: a_sandbox_without_netlink_is_said_at_start (needs python3 and seccomp)");
        return;
    }
    let with_users = format!("[[callers]]\nname = \"me\"\nusers = [\"{}\"]", own_uid());
    let blind = |setup: Setup| {
        let config = setup.write();
        let mut program = std::process::Command::new("python3");
        program.args(["-c", NO_NETLINK]).arg(program_path()).args(["run", "--config", &config]);
        (program, setup.directory)
    };
    let (mut program, _directory) = blind(Setup::alone().with(&with_users));
    let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the kernel does not say which user has connected by TCP"), "{said}");
    assert!(said.contains("AF_NETLINK"), "{said}");

    let (program, directory) = blind(Setup::alone());
    let daemon = Daemon::spawn(program, std::collections::BTreeMap::new(), directory).await;
    assert_eq!(daemon.get("/health").await.status, 200, "without rules for users nobody needs to be known");
    eventually("the warning", || daemon.log_text().contains("RestrictAddressFamilies=")).await;
}

fn program_path() -> std::ffi::OsString {
    test_support::program().get_program().to_owned()
}

/// Answers `socket(AF_NETLINK, …)` with EAFNOSUPPORT, as RestrictAddressFamilies= does, and becomes the program.
const NO_NETLINK: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
SOCKET = {"x86_64": 41, "aarch64": 198}[os.uname().machine]
def op(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
filter = op(0x20, 0, 0, 0) + op(0x15, 0, 3, SOCKET) + op(0x20, 0, 0, 16) + op(0x15, 0, 1, 16) + op(0x06, 0, 0, 0x00050000 | 97) + op(0x06, 0, 0, 0x7fff0000)
buffer = ctypes.create_string_buffer(filter)
class Program(ctypes.Structure): _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(filter) // 8, ctypes.addressof(buffer))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0): sys.exit(99)
os.execv(sys.argv[1], sys.argv[1:])
"#;

fn can_filter() -> bool {
    let tried = std::process::Command::new("python3").args(["-c", NO_NETLINK, "/bin/true"]).status();
    tried.is_ok_and(|status| status.success())
}
