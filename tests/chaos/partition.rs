//! A real partition: the daemon in a network namespace of its own, between which and an upstream packets vanish.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use simulator::{Options, Simulator};
use test_support::*;
use tokio::net::UnixStream;

use crate::ask::{Door, Line, Manner, Protocol};
use crate::book::{Answer, End, Saw};
use crate::stage::REGIONS;

const TEST: &str = "a_partition_is_survived";

/// A namespace with a link to this one; it goes when dropped.
struct Namespace {
    name: String,
    /// This side's end of the link.
    link: String,
    /// The address of this side, as the namespace sees it.
    here: IpAddr,
}

/// Where programs of the system are found, whatever the environment says.
fn tool(name: &str) -> Command {
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|place| Path::new(place).join(name));
    Command::new(places.into_iter().find(|path| path.exists()).unwrap_or_else(|| name.into()))
}

fn run(program: &str, arguments: &str) -> Result<Output, String> {
    let output = tool(program).args(arguments.split(' ')).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(output) } else { Err(format!("{program} {arguments}: {said}")) }
}

impl Namespace {
    /// # Errors
    /// Why this cannot be had here.
    fn new() -> Result<Namespace, String> {
        if users::own_uid() != 0 {
            return Err("needs root".to_owned());
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = (std::process::id() * 4 + NUMBER.fetch_add(1, Ordering::Relaxed)) % 10_000;
        // Of the addresses that are meant for tests of networks (RFC 2544).
        let (net, host) = (id / 64 % 250, id % 64 * 4);
        let (here, there) = (format!("198.18.{net}.{}", host + 1), format!("198.18.{net}.{}", host + 2));
        let (name, link, far) = (format!("chaos{id}"), format!("chaosh{id}"), format!("chaosn{id}"));
        run("ip", &format!("netns add {name}"))?;
        let namespace = Namespace { name: name.clone(), link: link.clone(), here: here.parse().unwrap() };
        run("ip", &format!("link add {link} type veth peer name {far} netns {name}"))?;
        run("ip", &format!("addr add {here}/30 dev {link}"))?;
        run("ip", &format!("link set {link} up"))?;
        run("ip", &format!("-n {name} addr add {there}/30 dev {far}"))?;
        run("ip", &format!("-n {name} link set {far} up"))?;
        run("ip", &format!("-n {name} link set lo up"))?;
        namespace.nft("list ruleset")?;
        Ok(namespace)
    }

    fn nft(&self, rule: &str) -> Result<Output, String> {
        run("ip", &format!("netns exec {} nft {rule}", self.name))
    }

    /// Packets from and to this port vanish.
    fn cut(&self, port: u16) {
        for rule in [
            "add table ip cut".to_owned(),
            "add chain ip cut out { type filter hook output priority 0 ; }".to_owned(),
            "add chain ip cut in { type filter hook input priority 0 ; }".to_owned(),
            format!("add rule ip cut out tcp dport {port} drop"),
            format!("add rule ip cut in tcp sport {port} drop"),
        ] {
            self.nft(&rule).unwrap();
        }
    }

    fn heal(&self) {
        self.nft("delete table ip cut").unwrap();
    }

    fn link(&self, state: &str) {
        run("ip", &format!("link set {} {state}", self.link)).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run("ip", &format!("link del {}", self.link));
        let _ = run("ip", &format!("netns del {}", self.name));
    }
}

async fn bedrock_at(here: IpAddr, region: &str) -> Simulator {
    bedrock_with(options(here, region)).await
}

fn options(here: IpAddr, region: &str) -> Options {
    let options = Options { plain_address: None, tls_address: Some(SocketAddr::new(here, 0)), ..Options::default() };
    Options { region: region.into(), certificate_names: vec![here.to_string()], ..options }
}

/// The daemon in the namespace, with a Unix socket that reaches it from here.
async fn daemon_in(namespace: &Namespace, setup: Setup) -> (Daemon, PathBuf) {
    let socket = setup.path().join("bedrock.sock");
    let setup = setup.listen(&format!(
        "addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\nunix_socket = \"{}\"\n",
        socket.display()
    ));
    let mut command = tool("ip");
    command.args(["netns", "exec", &namespace.name]).arg(program().get_program()).args([
        "run",
        "--config",
        &setup.write(),
    ]);
    (Daemon::spawn(command, BTreeMap::new(), setup.directory).await, socket)
}

/// Asks one thing after the other.
struct Client {
    door: Door,
    next: usize,
    /// Status and region of each, by the request's id.
    seen: BTreeMap<String, (u16, Option<String>)>,
}

impl Client {
    fn converse(&mut self, verb: &str, prompt: &str) -> Request {
        self.next += 1;
        let body = padded(&converse(prompt), 400 + self.next);
        request(Method::POST, &format!("/model/{}/{verb}", encoded(ON_DEMAND)), body)
    }

    /// The answer, which has to be whole.
    async fn ask(&mut self) -> Answer {
        let request = self.converse("converse", "hello");
        let mut line = Line::to(&self.door, Protocol::Http1).await.unwrap();
        match line.ask(request, Manner::Reads).await {
            Saw::Answer(answer) if answer.end == End::Whole => {
                let id = answer.id.clone().unwrap();
                assert!(matches!(answer.status, 200 | 503), "{answer:?}");
                self.seen.insert(id, (answer.status, answer.region.clone()));
                answer
            }
            other => panic!("{other:?}"),
        }
    }

    /// Asks until the answers come like this three times in a row.
    async fn until(&mut self, what: &str, status: u16, region: Option<&str>) {
        let start = Instant::now();
        let mut in_a_row = 0;
        while in_a_row < 3 {
            let answer = self.ask().await;
            let fits = answer.status == status && region.is_none_or(|region| answer.region.as_deref() == Some(region));
            in_a_row = if fits { in_a_row + 1 } else { 0 };
            assert!(start.elapsed() < 2 * DEADLINE, "in vain: waited for {what}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{what}: after {:.1} s", start.elapsed().as_secs_f32());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_survived() {
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(why) => {
            println!("NOT RUN: {TEST}: {why}");
            return;
        }
    };
    let bedrocks = [bedrock_at(namespace.here, REGIONS[0]).await, bedrock_at(namespace.here, REGIONS[1]).await];
    let setup = Setup::several(&[(&bedrocks[0], REGIONS[0]), (&bedrocks[1], REGIONS[1])])
        .with("[upstream_timeouts]\nconnect = \"2s\"\nfirst_byte = \"3s\"\nidle = \"3s\"\n[audit]\ntable = \"\"\n");
    let (mut daemon, socket) = daemon_in(&namespace, setup).await;
    let mut client = Client { door: Door::Unix(socket.clone()), next: 0, seen: BTreeMap::new() };
    client.until("the first upstream to serve", 200, Some(REGIONS[0])).await;

    // Amid an answer, and while nothing is under way.
    let request = client.converse("converse-stream", "events 3000 pace 20");
    let mut stream = Http1::on(UnixStream::connect(&socket).await.unwrap(), "localhost").await;
    let response = stream.start(request).await.unwrap();
    assert_eq!(response.status(), 200, "the stream has begun");
    let mut reader = Reader::new(response);
    reader.until(1).await.unwrap();
    let port = bedrocks[0].tls_endpoint().rsplit(':').next().unwrap().parse().unwrap();
    namespace.cut(port);
    client.until("the other upstream to serve", 200, Some(REGIONS[1])).await;
    assert!(reader.end().await.is_err(), "the client can see that its stream was cut");
    let record = daemon.record_with_id(&reader.request_id).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("upstream_broke"), &json!(200)), "{record}");
    assert!(record["responseSize"].as_u64() >= Some(reader.bytes.len() as u64), "{record}");
    namespace.heal();
    client.until("the first upstream to serve again", 200, Some(REGIONS[0])).await;

    namespace.link("down");
    client.until("refusals without a network", 503, None).await;
    namespace.link("up");
    client.until("the first upstream to serve after the link is back", 200, Some(REGIONS[0])).await;

    // A request that a model may have seen went nowhere else.
    let mut sent: BTreeMap<usize, Vec<Option<u16>>> = BTreeMap::new();
    for one in bedrocks.iter().flat_map(|bedrock| received(bedrock, "Converse")) {
        sent.entry(one.body_length).or_default().push(one.status);
    }
    assert!(sent.values().all(|all| all.len() == 1), "{sent:?}");
    for (id, (status, region)) in &client.seen {
        let record = daemon.record_with_id(id).await;
        assert_eq!(record["statusCode"], *status, "{record}");
        let outcomes: &[&str] = if *status == 200 { &["completed"] } else { &["upstream_broke", "refused"] };
        assert!(outcomes.contains(&record["outcome"].as_str().unwrap()), "{record}");
        if *status == 200 {
            assert_eq!(record["destinationRegion"], json!(region), "{record}");
        }
    }
    let records: Vec<Value> = daemon.records();
    let ids: Vec<&Value> = records.iter().map(|record| &record["requestId"]).collect();
    assert!(
        client.seen.keys().all(|id| ids.iter().filter(|other| ***other == json!(id)).count() == 1),
        "one record each"
    );
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
}

/// HTTP/1.1 has no pings: here the kernel finds out that a path has gone, both under a request that waits for its answer and
/// under one that was just sent on a connection that was kept. Otherwise both would wait for `first_byte`, 15 minutes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: the kernel waits for 30 s"]
async fn a_silent_path_ends_requests_over_http1_long_before_first_byte() {
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(why) => {
            println!("NOT RUN: a_silent_path_ends_requests_over_http1_long_before_first_byte: {why}");
            return;
        }
    };
    let bedrock = bedrock_with(Options { http2: false, ..options(namespace.here, REGIONS[0]) }).await;
    let setup = Setup::several(&[(&bedrock, REGIONS[0])])
        .with("[upstream_timeouts]\nfirst_byte = \"15m\"\n[audit]\ntable = \"\"\n");
    let (daemon, socket) = daemon_in(&namespace, setup).await;
    let mut client = Client { door: Door::Unix(socket.clone()), next: 0, seen: BTreeMap::new() };
    let waiting = {
        let request = client.converse("converse", "think 600000 hello");
        let mut connection = Http1::on(UnixStream::connect(&socket).await.unwrap(), "localhost").await;
        tokio::spawn(async move { test_support::Answer::of(connection.start(request).await.unwrap()).await.unwrap() })
    };
    eventually("the request to arrive", || received(&bedrock, "Converse").len() == 1).await;
    client.until("a connection to be kept", 200, Some(REGIONS[0])).await;
    namespace.cut(bedrock.tls_endpoint().rsplit(':').next().unwrap().parse().unwrap());
    let request = client.converse("converse", "hello");
    let mut connection = Http1::on(UnixStream::connect(&socket).await.unwrap(), "localhost").await;
    let sent =
        tokio::spawn(async move { test_support::Answer::of(connection.start(request).await.unwrap()).await.unwrap() });
    for (what, asked) in [("the one that waited", waiting), ("the one that was sent", sent)] {
        let answer = tokio::time::timeout(Duration::from_secs(300), asked).await.expect(what).unwrap();
        assert_eq!(answer.status, 503, "{what}: {answer:?}");
        let record = daemon.record_of(&answer).await;
        let told = (&record["outcome"], &record["statusCode"], &record["attempts"]);
        assert_eq!(told, (&json!("upstream_broke"), &json!(503), &json!(1)), "{what}: {record}");
        println!("{what}: after {} ms", record["latency"]);
    }
}
