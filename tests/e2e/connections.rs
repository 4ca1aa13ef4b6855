//! Nobody can shut out the others: idle connections, slow heads, one user's many connections, answers that nobody takes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use test_support::users::{as_user, can_be_others, this_test_as};
use test_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn listen(keys: &str) -> String {
    format!("addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\n{keys}\n")
}

/// Whether the daemon has closed this connection, at once or within a while.
async fn closes(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    let mut buffer = [0; 4096];
    while within("the connection's end", stream.read(&mut buffer)).await.is_ok_and(|read| read > 0) {}
    start.elapsed()
}

async fn count(daemon: &Daemon, line: &str) -> f64 {
    metric(&daemon.metrics().await, &format!("bedrock_sidecar_{line}")).unwrap_or(0.0)
}

#[tokio::test]
async fn idle_connections_end_whatever_they_began_with() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).listen(&listen("idle_timeout = \"1s\"")).ready().await;
    let whole = raw::converse(daemon.address(), ON_DEMAND, "once", "");
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("empty lines", b"\r\n\r\n".to_vec()),
        ("the preface", PREFACE.to_vec()),
        ("the preface and settings", [PREFACE, SETTINGS].concat()),
        ("a request", whole.into_bytes()),
    ] {
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let took = closes(&mut stream).await;
        assert!(took >= Duration::from_millis(700) && took < Duration::from_secs(20), "{what}: {took:?}");
    }
    // A client of HTTP/2 is told so.
    let two = Http2::to(daemon.address()).await;
    assert_eq!(two.send(request(Method::GET, "/health", "")).await.status, 200);
    until_async("the end of all", || async {
        (count(&daemon, "connections{listener=\"main\"}").await == 0.0).then_some(())
    })
    .await;
    assert!(count(&daemon, "connections_cut_total{reason=\"idle\"}").await >= 4.0);
}

#[tokio::test]
async fn a_request_in_progress_is_not_idle() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).listen(&listen("idle_timeout = \"1s\"\nwrite_timeout = \"1s\"")).ready().await;
    let slow = || request(Method::POST, &stream_path(ON_DEMAND), converse("events 3 pace 1500"));
    let mut one = Http1::to(daemon.address()).await;
    let two = Http2::to(daemon.address()).await;
    let (one, two) = tokio::join!(one.send(slow()), two.send(slow()));
    for answer in [one, two] {
        assert_eq!(answer.status, 200);
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    }
}

#[tokio::test]
async fn a_head_must_come_within_its_time() {
    let daemon = Setup::alone().listen(&listen("header_timeout = \"500ms\"")).start().await;
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    stream.write_all(b"GET /health HTT").await.unwrap();
    let start = Instant::now();
    let answer = raw::rest(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("listen.header_timeout"), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    // Half a preface is no head of either protocol.
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    stream.write_all(&PREFACE[..10]).await.unwrap();
    assert!(closes(&mut stream).await < Duration::from_secs(25));
}

#[tokio::test]
async fn one_user_gets_its_share_and_others_are_served() {
    if !can_be_others("one_user_gets_its_share_and_others_are_served") {
        return;
    }
    let daemon = Setup::alone().listen(&listen("max_connections = 8")).start().await;
    let mut mine = Vec::new();
    for _ in 0..4 {
        mine.push(TcpStream::connect(daemon.address()).await.unwrap());
    }
    until_async("all four", || async { (count(&daemon, "connections{listener=\"main\"}").await == 4.0).then_some(()) })
        .await;
    for _ in 0..3 {
        let mut excess = TcpStream::connect(daemon.address()).await.unwrap();
        assert!(closes(&mut excess).await < Duration::from_secs(25));
    }
    let others = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{}; printf 'GET /health HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
        daemon.address().port()
    );
    let output = as_user(61_021, "bash").args(["-c", &others]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("HTTP/1.1 200 "), "{output:?}");
    assert_eq!(count(&daemon, "connections_refused_total{reason=\"user\"}").await, 3.0);
    mine.clear();
    until_async("their ends", || async {
        (count(&daemon, "connections{listener=\"main\"}").await == 0.0).then_some(())
    })
    .await;
    daemon.has_said_all().await;
    let said: Vec<_> = daemon
        .lines()
        .into_iter()
        .filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("one user has as many")))
        .collect();
    assert_eq!(said.len(), 1, "said once: {said:?}");
    assert_eq!((&said[0]["max_connections_per_user"], &said[0]["level"]), (&json!(4), &json!("WARN")), "{said:?}");
}

#[tokio::test]
async fn an_idle_connection_makes_room_when_all_are_taken() {
    let daemon = Setup::alone().listen(&listen("max_connections = 3\nmax_connections_per_user = 3")).start().await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut connection = Http1::to(daemon.address()).await;
        assert_eq!(connection.send(request(Method::GET, "/health", "")).await.status, 200);
        idle.push(connection);
    }
    let start = Instant::now();
    assert_eq!(daemon.get("/health").await.status, 200);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let full = daemon.says("all connections are taken; new ones wait").await;
    assert_eq!((&full["listener"], &full["max_connections"]), (&json!("main"), &json!(3)), "{full}");
    assert_eq!(count(&daemon, "connections_full_total{listener=\"main\"}").await, 1.0);
    assert_eq!(count(&daemon, "connections_cut_total{reason=\"room\"}").await, 1.0);
}

#[tokio::test]
async fn silent_connections_do_not_hide_the_admin_address() {
    let daemon = Setup::alone().listen(&listen("max_connections = 4")).start().await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(daemon.address()).await.unwrap());
    }
    for _ in 0..100 {
        silent.push(TcpStream::connect(daemon.admin).await.unwrap());
    }
    for path in ["/health", "/status", "/metrics"] {
        let start = Instant::now();
        assert_eq!(daemon.admin_get(path).await.status, 200);
        assert!(start.elapsed() < Duration::from_secs(25), "{path}: {:?}", start.elapsed());
    }
    assert!(count(&daemon, "connections{listener=\"admin\"}").await <= 34.0);
}

/// Whatever is configured for others.
#[tokio::test]
async fn the_admin_address_has_little_patience() {
    let daemon = Setup::alone().listen(&listen("idle_timeout = \"1h\"\nheader_timeout = \"1h\"")).start().await;
    for begun in ["", "GET /health HTT"] {
        let mut stream = TcpStream::connect(daemon.admin).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let took = closes(&mut stream).await;
        assert!(took > Duration::from_secs(5) && took < Duration::from_secs(40), "{begun}: {took:?}");
    }
}

/// One answer that is far larger than all buffers on its way, of which the client takes the head and no more.
#[tokio::test]
async fn an_answer_that_nobody_takes_is_cut_over_http1() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .listen(&listen("write_timeout = \"1s\""))
        .with("[limits]\nconcurrent_requests = 1")
        .ready()
        .await;
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    let body = converse("repeat 60000000");
    let text = format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        stream_path(ON_DEMAND),
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let record = daemon.record("the stalled answer", |record| record["outcome"] == "client_stalled").await;
    assert_eq!((&record["statusCode"], &record["success"]), (&json!(200), &json!(false)), "{record}");
    assert!(record["errorMessage"].as_str().unwrap().contains("listen.write_timeout"), "{record}");
    let next = daemon.post(&converse_path(ON_DEMAND), converse("next")).await;
    assert_eq!(next.status, 200, "the place is free again: {next:?}");
    let mut all = Vec::new();
    let ended = within("the end", stream.read_to_end(&mut all)).await;
    assert!(ended.is_err() || !all.ends_with(b"0\r\n\r\n"), "a broken answer never ends cleanly");
    assert_eq!(count(&daemon, "connections_cut_total{reason=\"write_timeout\"}").await, 1.0);
    eventually("the upstream's end", || {
        received(&bedrock, "ConverseStream").iter().all(|one| one.ended == simulator::Ended::ClientWentAway)
    })
    .await;
}

#[tokio::test]
async fn a_slow_client_that_takes_its_answer_is_not_cut() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).listen(&listen("write_timeout = \"3s\"")).ready().await;
    // A small window opens again after every few reads. The usual one, of megabytes, would stay shut for seconds at this
    // speed, and then the daemon's kernel could not tell this client from one that has stopped.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(128 * 1024).unwrap();
    let mut stream = socket.connect(daemon.address()).await.unwrap();
    let body = converse("repeat 12000000");
    let text = format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        stream_path(ON_DEMAND),
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let slow = Instant::now();
    let mut last = Vec::new();
    loop {
        let read = within("bytes", stream.read(&mut buffer)).await.unwrap();
        if read == 0 {
            break;
        }
        last = buffer[..read].to_vec();
        if slow.elapsed() < Duration::from_secs(7) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(last.ends_with(b"0\r\n\r\n"), "the whole answer");
    daemon.record("the whole answer", |record| record["outcome"] == "completed").await;
}

/// Whether an answer over HTTP/1.1 has come to its end.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
    length.map_or(bytes.ends_with(b"\r\n0\r\n\r\n"), |length| bytes.len() == end + 4 + length)
}

/// The kernel holds megabytes for a client that reads nothing, so some of these answers end just as it takes no more. A record
/// says that an answer was given whole only if the client can still read all of it.
#[tokio::test]
async fn an_answer_is_complete_only_if_its_client_can_read_all_of_it() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .listen(&listen("write_timeout = \"1s\""))
        .with("[limits]\nmax_buffered_bytes = 1000000000")
        .ready()
        .await;
    let sizes: Vec<usize> = (1..=128).map(|step| step * 40_000).collect();
    let mut clients = Vec::new();
    for size in &sizes {
        let path = if size % 80_000 == 0 { converse_path(ON_DEMAND) } else { stream_path(ON_DEMAND) };
        let body = converse(&format!("repeat {size}"));
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        clients.push(stream);
    }
    let records = daemon.all_records(sizes.len()).await;
    // What is still unsent is cut by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut whole = 0;
    for mut stream in clients {
        let mut all = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        // A connection that has sent all stays open.
        while let Ok(Ok(read @ 1..)) = tokio::time::timeout(Duration::from_millis(500), stream.read(&mut buffer)).await
        {
            all.extend_from_slice(&buffer[..read]);
            if is_whole(&all) {
                break;
            }
        }
        let text = String::from_utf8_lossy(&all);
        let lower = text.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
        let id = lower.split("x-bedrock-sidecar-request-id: ").nth(1).and_then(|rest| rest.lines().next());
        let Some(id) = id else { continue };
        let record = records.iter().find(|record| record["requestId"] == id).unwrap();
        let came = is_whole(&all);
        assert_eq!(record["outcome"] == "completed", came, "{} bytes came of {lower}: {record}", all.len());
        whole += usize::from(came);
    }
    assert!(whole > 0 && whole < sizes.len(), "{whole} of {} are whole", sizes.len());
}

/// The window of one stream stays shut while another stream of the same connection is served.
#[tokio::test]
async fn a_stream_whose_window_never_opens_is_cut_over_http2() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .listen(&listen("write_timeout = \"1s\""))
        .with("[limits]\nconcurrent_requests = 1")
        .ready()
        .await;
    let socket = TcpStream::connect(daemon.address()).await.unwrap();
    let (mut client, connection) = h2::client::Builder::new()
        .initial_window_size(1000)
        .initial_connection_window_size(1_000_000)
        .handshake::<_, bytes::Bytes>(socket)
        .await
        .unwrap();
    tokio::spawn(connection);
    let ask = |path: String, prompt: &str| {
        let body = bytes::Bytes::from(converse(prompt));
        let uri = format!("http://{}{path}", daemon.address());
        (http::Request::post(uri).header("content-type", "application/json").body(()).unwrap(), body)
    };
    let (head, body) = ask(stream_path(ON_DEMAND), "repeat 400000");
    let (answer, mut send) = client.send_request(head, false).unwrap();
    send.send_data(body, true).unwrap();
    let answer = within("the head", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut stalled = answer.into_body();
    let record = daemon.record("the stalled answer", |record| record["outcome"] == "client_stalled").await;
    assert_eq!(record["statusCode"], 200, "{record}");

    let (head, body) = ask(converse_path(ON_DEMAND), "next");
    let (answer, mut send) = client.send_request(head, false).unwrap();
    send.send_data(body, true).unwrap();
    let answer = within("the next head", answer).await.unwrap();
    assert_eq!(answer.status(), 200, "its place is free, and the connection still good");
    drop(answer);

    // Once the window opens, the stream is reset: what was cut must not look finished.
    let mut error = None;
    while let Some(data) = within("the end of the stream", stalled.data()).await {
        match data {
            Ok(data) => stalled.flow_control().release_capacity(data.len()).unwrap(),
            Err(reset) => {
                error = Some(reset);
                break;
            }
        }
    }
    assert!(error.is_some(), "a broken answer never ends cleanly");
    assert_eq!(count(&daemon, "connections_cut_total{reason=\"write_timeout\"}").await, 1.0);
}

#[tokio::test]
async fn tcp_probes_watch_over_every_accepted_connection() {
    let daemon = Setup::alone().start().await;
    for address in [daemon.address(), daemon.admin] {
        let mut kept = Http1::to(address).await;
        assert_eq!(kept.send(request(Method::GET, "/health", "")).await.status, 200);
        let port = format!(":{:04X} ", address.port());
        // `tr` is 2 while the keepalive timer runs.
        let probed = || {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            table.lines().skip(1).any(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                format!("{} ", fields[1]).ends_with(&port) && fields[3] == "01" && fields[5].starts_with("02:")
            })
        };
        eventually("the keepalive timer", probed).await;
    }
}

/// A ping of HTTP/2 also finds out about a client that a proxy of TCP stands for.
#[tokio::test]
async fn a_quiet_http2_connection_is_pinged() {
    let daemon = Setup::alone().start().await;
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    stream.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    loop {
        let frame = within("a ping", raw::read_h2_frame(&mut stream)).await;
        let (kind, flags, _) = frame.expect("a ping before the connection ends");
        if kind == 6 && flags & 1 == 0 {
            return;
        }
    }
}

#[tokio::test]
async fn the_unix_socket_has_the_mode_and_group_that_are_configured() {
    let setup = Setup::alone();
    let socket = setup.path().join("bedrock.sock");
    let keys = format!(
        "addresses = []\nadmin_address = \"127.0.0.1:0\"\nunix_socket = \"{}\"\nunix_socket_mode = \"0660\"\nunix_socket_group = \"61031\"\n",
        socket.display()
    );
    if !can_be_others("the_unix_socket_has_the_mode_and_group_that_are_configured") {
        return;
    }
    std::fs::set_permissions(setup.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = setup.listen(&keys).start().await;
    let metadata = std::fs::symlink_metadata(&socket).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, 61_031));
    let mut connection = Http1::on(UnixStream::connect(&socket).await.unwrap(), "localhost").await;
    assert_eq!(connection.send(request(Method::GET, "/health", "")).await.status, 200);
    let can = |uid: u32| {
        let mut other = this_test_as(uid, "connections::another_process");
        other.env("E2E_SOCKET", &socket).stderr(std::process::Stdio::null()).status().unwrap().success()
    };
    assert!(can(61_031), "a member of the group");
    assert!(!can(61_032), "nobody else");
    let left: Vec<_> =
        std::fs::read_dir(daemon.directory.path()).unwrap().flatten().map(|one| one.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".b")), "{left:?}");
}

/// Not a test of its own: the other side of the one above.
#[test]
fn another_process() {
    if let Some(path) = std::env::var_os("E2E_SOCKET") {
        std::os::unix::net::UnixStream::connect(path).unwrap();
    }
}

/// As many descriptors as the connections need, or a sentence.
#[tokio::test]
async fn descriptors_are_provided_at_start_or_missed_aloud() {
    for (limit, aloud) in [("-Sn 100", false), ("-n 300", true)] {
        let keys = "max_connections = 200\nmax_connections_per_user = 200";
        let setup = Setup::alone().listen(&listen(keys));
        let config = setup.write();
        let program = test_support::program().get_program().to_owned();
        let mut shell = if aloud {
            // Without the right to go beyond the hard limit.
            let mut shell = std::process::Command::new("setpriv");
            shell.args(["--bounding-set=-sys_resource", "--inh-caps=-sys_resource", "bash"]);
            shell
        } else {
            std::process::Command::new("bash")
        };
        shell.arg("-c").arg(format!("ulimit {limit}; exec \"$0\" run --config \"$1\"")).arg(program).arg(&config);
        if aloud && !can_be_others("descriptors_are_provided_at_start_or_missed_aloud") {
            return;
        }
        let daemon = Daemon::spawn(shell, std::collections::BTreeMap::new(), setup.directory).await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
        let soft: u64 = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap()
            .split_whitespace()
            .nth(3)
            .unwrap()
            .parse()
            .unwrap();
        daemon.has_said_all().await;
        let said = daemon.log_text().contains("raise LimitNOFILE=");
        assert_eq!((said, soft >= 656), (aloud, !aloud), "{limit}: {soft} {}", daemon.log_text());
        // However many connections there are, some descriptors stay free, and the admin address answers.
        let mut kept = Http1::to(daemon.address()).await;
        assert_eq!(kept.send(request(Method::GET, "/health", "")).await.status, 200);
        let mut crowd = Vec::new();
        for _ in 0..250 {
            crowd.push(TcpStream::connect(daemon.address()).await.unwrap());
        }
        until_async("many connections", || async {
            let page = daemon.metrics().await;
            (metric(&page, "bedrock_sidecar_connections{listener=\"main\"}")? >= 15.0).then_some(())
        })
        .await;
        for _ in 0..20 {
            assert_eq!(daemon.admin_get("/health").await.status, 200);
        }
        let answer = kept.send(request(Method::GET, "/no/such/operation", "")).await;
        daemon.record_of(&answer).await;
        assert!(!daemon.log_text().contains("cannot accept"), "{}", daemon.log_text());
    }
}

/// One connection of HTTP/2 carries many requests, each with a descriptor upstream: they have a bound of their own.
#[tokio::test]
async fn one_user_has_only_so_many_requests_in_progress() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).listen(&listen("max_connections = 8")).ready().await;
    let slow = || request(Method::POST, &stream_path(ON_DEMAND), converse("events 3 pace 2000"));
    let connection = std::sync::Arc::new(Http2::to(daemon.address()).await);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (connection, slow) = (std::sync::Arc::clone(&connection), slow());
        all.spawn(async move { connection.send(slow).await });
    }
    let answers = all.join_all().await;
    let (served, excess): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!((served.len(), excess.len()), (32, 8));
    for answer in &excess {
        refused(answer, 503, "ServiceUnavailableException");
        assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
    }
    let record = daemon.record_of(&excess[0]).await;
    assert_eq!((&record["outcome"], &record["operation"]), (&json!("refused"), &json!("ConverseStream")));
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("after")).await.status, 200, "all have ended");
}

/// A trickle keeps no place that somebody waits for.
#[tokio::test]
async fn the_slowest_body_makes_room_when_all_are_taken() {
    let bedrock = bedrock().await;
    let keys = "max_connections = 3\nmax_connections_per_user = 3";
    let daemon = Setup::plain(&bedrock).listen(&listen(keys)).ready().await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        let path = converse_path(ON_DEMAND);
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b' '; 60_000]).await.unwrap();
        slow.push(stream);
    }
    let start = Instant::now();
    assert_eq!(daemon.get("/health").await.status, 200);
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    let record = daemon.record("the 408", |record| record["statusCode"] == 408).await;
    assert!(record["errorMessage"].as_str().unwrap().contains("needed for others"), "{record}");
    assert_eq!(count(&daemon, "connections_cut_total{reason=\"room\"}").await, 1.0);
}
