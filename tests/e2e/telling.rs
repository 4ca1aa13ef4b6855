//! What the daemon tells of its requests: metrics, as docs/metrics.md lists them, and how long a request waited for what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use test_support::users::own_uid;
use test_support::*;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What docs/metrics.md says of one metric.
#[derive(Debug)]
struct Row {
    kind: String,
    labels: BTreeSet<String>,
    meaning: String,
}

/// The rows of the page, by the names that the metrics have in a query.
fn documented() -> BTreeMap<String, Row> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `bedrock_sidecar_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("{line}") };
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let row = Row { kind: kind.to_owned(), labels, meaning: meaning.replace('`', "") };
        assert!(rows.insert(name.trim_matches('`').to_owned(), row).is_none(), "twice: {line}");
    }
    rows
}

/// The metrics of a page: their type, help, and the labels of their samples.
fn shown(page: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::<String, Row>::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, meaning) = help.split_once(' ').unwrap();
            let meaning = meaning.strip_suffix('.').unwrap().to_owned();
            rows.insert(name.to_owned(), Row { kind: String::new(), labels: BTreeSet::new(), meaning });
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            name.clone_into(&mut current);
            rows.get_mut(name).unwrap().kind = kind.to_owned();
        } else if let Some((sample, rest)) = line.split_once('{') {
            assert!(sample.starts_with(&current), "{line}");
            let labels = rest.split_once('}').unwrap().0.split("\",").map(|pair| pair.split_once('=').unwrap().0);
            rows.get_mut(&current).unwrap().labels.extend(labels.filter(|label| *label != "le").map(str::to_owned));
        }
    }
    let suffix = |kind: &str| match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    };
    rows.into_iter().map(|(name, row)| (name + suffix(&row.kind), row)).collect()
}

/// Calls of all kinds, then every metric that the daemon shows against docs/metrics.md. That the page lists those too that
/// are not shown here is held by a test of the library.
#[tokio::test]
async fn every_metric_is_documented_with_its_type_labels_and_help() {
    let bedrock = bedrock().await;
    let setup = Setup::tls(&bedrock);
    let prices = setup.path().join("prices.toml");
    std::fs::write(&prices, "[[prices]]\nmodel = \"*\"\ninput = 1\noutput = 1\n").unwrap();
    let daemon =
        setup.with(&format!("[limits]\nprices_file = \"{}\"\nrequests_per_minute = 2", prices.display())).ready().await;
    assert_eq!(daemon.post(&stream_path(ON_DEMAND), converse("hello")).await.status, 200);
    assert_eq!(daemon.post(&converse_path(PROFILE_ONLY), converse("hello")).await.status, 200);
    let limited = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(daemon.record_of(&limited).await["statusCode"], 429);
    let documented = documented();
    let page = daemon.metrics().await;
    let shown = shown(&page);
    assert!(shown.len() > 25, "{shown:#?}");
    for (name, row) in &shown {
        let page = documented.get(name).unwrap_or_else(|| panic!("docs/metrics.md lacks {name}: {row:?}"));
        assert_eq!((&page.kind, &page.meaning), (&row.kind, &row.meaning), "{name}");
        assert!(row.labels.is_empty() || row.labels == page.labels, "{name}: {row:?}, {page:?}");
    }
}

/// By the names of `[[callers]]`; everybody else is one.
#[tokio::test]
async fn tokens_and_money_are_counted_by_model_and_caller() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let prices = setup.path().join("prices.toml");
    std::fs::write(&prices, "[[prices]]\nmodel = \"amazon.*\"\ninput = 1000\noutput = 2000\n").unwrap();
    let daemon = setup
        .with(&format!(
            "[limits]\nprices_file = \"{}\"\n[[callers]]\nname = \"app\"\nusers = [\"{}\"]\noperations = [\"Converse\"]",
            prices.display(),
            own_uid()
        ))
        .ready()
        .await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("one two three")).await;
    assert_eq!(answer.status, 200);
    let record = daemon.record_of(&answer).await;
    assert_eq!(record["caller"], "app");
    let page = daemon.metrics().await;
    let counted = |name: &str, labels: &str| metric(&page, &format!("bedrock_sidecar_{name}_total{{{labels}}}"));
    for (direction, field) in [("input", "inputTokens"), ("output", "outputTokens")] {
        let tokens = record[field].as_f64();
        assert!(tokens > Some(0.0), "{record}");
        assert_eq!(counted("tokens", &format!("model=\"{ON_DEMAND}\",direction=\"{direction}\"")), tokens);
        assert_eq!(counted("caller_tokens", &format!("caller=\"app\",direction=\"{direction}\"")), tokens);
    }
    let dollars = record["costNanoUsd"].as_f64().unwrap() / 1e9;
    assert!(dollars > 0.0);
    for (name, labels) in
        [("cost_usd", format!("model=\"{ON_DEMAND}\"")), ("caller_cost_usd", "caller=\"app\"".to_owned())]
    {
        let counted = counted(name, &labels).unwrap();
        assert!((counted - dollars).abs() < 1e-12, "{name}: {counted} {dollars}");
    }
}

/// The line says how long a request waited for a place, also of one whose client did not wait for it.
#[tokio::test]
async fn the_time_in_the_queue_is_told() {
    const WAIT: Duration = Duration::from_millis(60);
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\nconcurrent_requests = 1\nmax_wait = \"60s\"").ready().await;
    bedrock.gate().close();
    let address = daemon.address();
    let asked = |path: &str| tokio::spawn(send(address, request(Method::POST, path, converse("events 2"))));
    let waiting = async |count: u64| {
        until_async("the queue", || async {
            (daemon.admin_get("/status").await.json()["limits"]["waiting"] == count).then_some(())
        })
        .await;
    };
    let first = asked(&stream_path(ON_DEMAND));
    eventually("the first to hold the place", || bedrock.gate().state().waiting == 1).await;
    let second = asked(&converse_path(ON_DEMAND));
    waiting(1).await;
    let leaves = asked(&converse_path(PROFILE_ONLY));
    waiting(2).await;
    let since = Instant::now();
    eventually("the time to pass", || since.elapsed() >= WAIT).await;
    leaves.abort();
    waiting(1).await;
    bedrock.gate().open();
    let (first, second) = (within("the first", first).await.unwrap(), within("the second", second).await.unwrap());
    assert_eq!([first.status, second.status], [200, 200]);

    let queued = |record: &Value| Duration::from_millis(record["queuedMs"].as_u64().unwrap());
    let whole = |record: &Value| Duration::from_millis(record["latency"].as_u64().unwrap());
    let [first, second] = [daemon.record_of(&first).await, daemon.record_of(&second).await];
    assert!(queued(&first) < WAIT && queued(&second) >= WAIT, "{first} {second}");
    assert!(queued(&second) <= whole(&second), "{second}");
    let left = daemon.record("the one that left", |record| record["outcome"] == "client_disconnected").await;
    assert!(queued(&left) >= WAIT && left["attempts"] == 0, "{left}");
    let page = daemon.metrics().await;
    assert_eq!(metric(&page, "bedrock_sidecar_queued_seconds_count"), Some(3.0));
    assert!(metric(&page, "bedrock_sidecar_queued_seconds_sum").unwrap() >= 2.0 * WAIT.as_secs_f64());
}

/// Forwards connections, and holds back the first bytes of new ones while it is held.
struct Dialled {
    address: SocketAddr,
    held: watch::Sender<bool>,
    /// New connections that wait for their first bytes.
    waiting: Arc<AtomicUsize>,
}

impl Dialled {
    async fn to(target: SocketAddr) -> Dialled {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, hold) = watch::channel(false);
        let waiting = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut hold, counted) = (hold.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    counted.fetch_add(1, Ordering::Relaxed);
                    let free = hold.wait_for(|held| !held).await.is_ok();
                    counted.fetch_sub(1, Ordering::Relaxed);
                    if free && let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Dialled { address, held, waiting }
    }
}

#[tokio::test]
async fn the_time_in_which_a_connection_is_made_is_told() {
    const WAIT: Duration = Duration::from_millis(60);
    let bedrock = bedrock().await;
    let target: u16 = bedrock.tls_endpoint().rsplit_once(':').unwrap().1.parse().unwrap();
    let dialled = Dialled::to(SocketAddr::from(([127, 0, 0, 1], target))).await;
    let endpoint = bedrock.tls_endpoint().replace(&target.to_string(), &dialled.address.port().to_string());
    let setup = Setup::tls(&bedrock);
    let ca = setup.path().join("ca-0.pem");
    let connect = "[upstream_timeouts]\nconnect = \"60s\"";
    let daemon = setup.upstreams(&upstream("us-east-1", &endpoint, Some(&ca))).with(connect).ready().await;
    let address = daemon.address();
    let ask = || tokio::spawn(async move { post(address, &converse_path(ON_DEMAND), converse("hello")).await });

    dialled.held.send_replace(true);
    let first = ask();
    eventually("a connection to be made", || dialled.waiting.load(Ordering::Relaxed) > 0).await;
    let since = Instant::now();
    eventually("the time to pass", || since.elapsed() >= WAIT).await;
    dialled.held.send_replace(false);
    let first = within("the first", first).await.unwrap();
    let second = within("the second", ask()).await.unwrap();
    // The stand-in takes no request for another port than its own; it has answered all the same.
    assert_eq!([first.status, second.status], [400, 400]);
    let [first, second] = [daemon.record_of(&first).await, daemon.record_of(&second).await];
    let told = |record: &Value| record["connectingMs"].as_u64().unwrap();
    assert!(
        Duration::from_millis(told(&first)) >= WAIT && told(&first) <= first["latency"].as_u64().unwrap(),
        "{first}"
    );
    assert!(told(&second) < told(&first), "a connection is there: {second}");
    let page = daemon.metrics().await;
    assert_eq!(metric(&page, "bedrock_sidecar_connecting_seconds_count"), Some(2.0));
    assert!(metric(&page, "bedrock_sidecar_connecting_seconds_sum").unwrap() >= WAIT.as_secs_f64());
}

/// Tasks that never end are a leak, and this is where it shows.
#[tokio::test]
async fn tasks_come_with_connections_and_go_with_them() {
    const CONNECTIONS: usize = 20;
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let tasks = async || metric(&daemon.metrics().await, "bedrock_sidecar_tasks").unwrap();
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&"completed".into(), &200.into()), "{record}");
    let none = until_async("nobody to be connected", || async {
        let page = daemon.metrics().await;
        let connections = metric(&page, "bedrock_sidecar_connections{listener=\"main\"}");
        (connections == Some(0.0)).then(|| metric(&page, "bedrock_sidecar_tasks").unwrap())
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(tokio::net::TcpStream::connect(daemon.address()).await.unwrap());
    }
    let more = none + CONNECTIONS as f64 / 2.0;
    until_async("tasks for those who are connected", || async { (tasks().await > more).then_some(()) }).await;
    drop(clients);
    until_async("no tasks of those who have left", || async { (tasks().await < more).then_some(()) }).await;
}
