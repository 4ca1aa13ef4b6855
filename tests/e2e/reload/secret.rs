//! A reload while the source of the credential is away.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use simulator::{AwsKey, DEFAULT_BEARER_TOKEN, Options, ROTATED_BEARER_TOKEN, short_term_key};
use test_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Load, REFUSED, RELOADED, ask, count};

/// A stand-in for Secrets Manager that can go away: it takes questions then, and keeps silent.
struct SecretsManager {
    address: SocketAddr,
    away: Arc<AtomicBool>,
    back: Arc<Notify>,
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl SecretsManager {
    async fn start() -> SecretsManager {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (away, back) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let asked = Arc::new(AtomicUsize::new(0));
        let mut serving = JoinSet::new();
        let (is_away, is_back, counted) = (Arc::clone(&away), Arc::clone(&back), Arc::clone(&asked));
        serving.spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                clients.spawn(answer(stream, Arc::clone(&is_away), Arc::clone(&is_back), Arc::clone(&counted)));
            }
        });
        SecretsManager { address, away, back, asked, _serving: serving }
    }

    fn go_away(&self) {
        self.away.store(true, Ordering::SeqCst);
    }

    fn come_back(&self) {
        self.away.store(false, Ordering::SeqCst);
        self.back.notify_waiters();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The daemon reads `name` from here.
    fn section(name: &str) -> String {
        format!("[credentials]\nsource = \"secrets_manager\"\nsecret_id = \"{name}\"\nregion = \"us-gov-west-1\"\n")
    }

    fn in_front_of(&self, setup: Setup) -> Setup {
        setup
            .credentials(&SecretsManager::section("commercial"))
            .env("AWS_ENDPOINT_URL_SECRETS_MANAGER", format!("http://{}", self.address))
            .env("AWS_ACCESS_KEY_ID", "AKIAHOST")
            .env("AWS_SECRET_ACCESS_KEY", "of-this-host")
    }
}

/// Secrets that do not exist are called `missing`.
async fn answer(mut stream: TcpStream, away: Arc<AtomicBool>, back: Arc<Notify>, asked: Arc<AtomicUsize>) {
    let mut waiting = VecDeque::new();
    let mut buffer = [0; 4096];
    loop {
        let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
        waiting.extend(&buffer[..read]);
        let text = String::from_utf8_lossy(waiting.make_contiguous()).into_owned();
        if !text.contains("\"SecretId\"") || !text.ends_with('}') {
            continue;
        }
        waiting.clear();
        asked.fetch_add(1, Ordering::SeqCst);
        let returning = back.notified();
        if away.load(Ordering::SeqCst) {
            returning.await;
        }
        let (status, body) = if text.contains("\"missing\"") {
            ("400 Bad Request", json!({ "__type": "ResourceNotFoundException", "message": "x" }))
        } else {
            ("200 OK", json!({ "Name": "commercial", "SecretString": DEFAULT_BEARER_TOKEN }))
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The headline: an admin changes a limit while Secrets Manager is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_while_secrets_manager_is_away_fails_no_request() {
    let bedrock = bedrock().await;
    let manager = SecretsManager::start().await;
    let daemon = manager.in_front_of(Setup::tls(&bedrock)).with("[limits]\nconcurrent_requests = 99").ready().await;
    let load = Load::start(&daemon).await;
    manager.go_away();
    daemon.reload("concurrent_requests = 99", "concurrent_requests = 98").await;
    load.goes_on().await;
    assert_eq!(daemon.admin_get("/ready").await.status, 200);
    load.ends_well(&daemon).await;
    let limits = daemon.admin_get("/status").await.json()["limits"].to_string();
    assert!(limits.contains("98"), "{limits}");
}

/// A file that breaks, and not only a service that hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_with_a_broken_secret_keeps_the_key_that_works() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[limits]\nconcurrent_requests = 99").ready().await;
    let load = Load::start(&daemon).await;
    std::fs::remove_file(daemon.secret_path()).unwrap();
    daemon.reload("concurrent_requests = 99", "concurrent_requests = 98").await;
    load.goes_on().await;
    load.ends_well(&daemon).await;
    // SIGHUP still reads the source: a new key is in use right after it.
    bedrock.set_bearer_tokens(vec![DEFAULT_BEARER_TOKEN.into(), ROTATED_BEARER_TOKEN.into()]);
    std::fs::write(daemon.secret_path(), ROTATED_BEARER_TOKEN).unwrap();
    daemon.reload("concurrent_requests = 98", "concurrent_requests = 97").await;
    bedrock.clear();
    let answer = send(daemon.address(), ask("after")).await;
    assert_eq!(answer.status, 200);
    daemon.record_of(&answer).await;
    let sent = received(&bedrock, "Converse").pop().unwrap();
    assert_eq!(sent.header("authorization"), Some(&*format!("Bearer {ROTATED_BEARER_TOKEN}")));
}

/// The new file names a secret that cannot be read: the old one goes on, and the daemon says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_would_lose_a_working_credential_is_refused() {
    let bedrock = bedrock().await;
    let manager = SecretsManager::start().await;
    let daemon = manager.in_front_of(Setup::tls(&bedrock)).ready().await;
    let load = Load::start(&daemon).await;
    let good = std::fs::read_to_string(daemon.config_path()).unwrap();
    let lost = good.replace("\"commercial\"", "\"missing\"");
    std::fs::write(daemon.config_path(), lost).unwrap();
    daemon.signal("HUP");
    let line = daemon.says(REFUSED).await;
    let reason = line["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("us-east-1 would lose the credential that it has: "), "{reason}");
    assert!(reason.contains("the secret missing in us-gov-west-1 does not exist"), "{reason}");
    let status = daemon.admin_get("/status").await.json();
    assert_eq!((&status["reloadRefused"], &status["ready"]), (&json!(reason), &json!(true)), "{status}");
    load.goes_on().await;
    load.ends_well(&daemon).await;

    std::fs::write(daemon.config_path(), good).unwrap();
    daemon.signal("HUP");
    daemon.says(RELOADED).await;
    assert_eq!(daemon.admin_get("/status").await.json()["reloadRefused"], json!(null));
}

/// A reload waits for a secret. Until it comes, nothing else does: requests, the watchdog, another SIGHUP, SIGTERM.
#[tokio::test]
async fn whatever_happens_during_a_reload_is_attended_to() {
    let bedrock = bedrock().await;
    let manager = SecretsManager::start().await;
    let mut daemon = manager.in_front_of(Setup::plain(&bedrock)).ready().await;
    let good = std::fs::read_to_string(daemon.config_path()).unwrap();
    let of = |name: &str| good.replace("\"commercial\"", &format!("\"{name}\""));

    // The second SIGHUP comes while the first one waits, and is not lost: the file that it was sent for is read.
    manager.go_away();
    let before = manager.asked();
    std::fs::write(daemon.config_path(), of("second")).unwrap();
    daemon.signal("HUP");
    eventually("the new secret to be asked for", || manager.asked() > before).await;
    let answer = send(daemon.address(), ask("meanwhile")).await;
    assert_eq!(answer.status, 200);
    daemon.record_of(&answer).await;
    std::fs::write(daemon.config_path(), format!("{}[models]\ndeny = [\"amazon.nova-lite*\"]\n", of("third"))).unwrap();
    daemon.signal("HUP");
    manager.come_back();
    eventually("both reloads", || count(&daemon, RELOADED) == 2).await;
    let denied = send(daemon.address(), ask("denied")).await;
    assert!(refused(&denied, 403, "AccessDeniedException").contains("models.deny"));
    assert_eq!(daemon.record_of(&denied).await["outcome"], "refused");

    // SIGTERM does not wait for it either.
    manager.go_away();
    let before = manager.asked();
    std::fs::write(daemon.config_path(), of("fourth")).unwrap();
    daemon.signal("HUP");
    eventually("the fourth secret to be asked for", || manager.asked() > before).await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!((count(&daemon, RELOADED), count(&daemon, REFUSED)), (2, 0), "the third reload had not ended");
}

/// The start waits for a secret; a stop that comes meanwhile does not.
#[tokio::test]
async fn a_stop_during_the_start_is_obeyed() {
    let bedrock = bedrock().await;
    let manager = SecretsManager::start().await;
    manager.go_away();
    let setup = manager.in_front_of(Setup::plain(&bedrock));
    let config = setup.write();
    let starting = {
        let manager = format!("http://{}", manager.address);
        let mut program = program();
        program.args(["run", "--config", &config]).env_clear().env("HOME", setup.path());
        program.env("STATE_DIRECTORY", setup.path()).env("AWS_ENDPOINT_URL_SECRETS_MANAGER", manager);
        program.env("AWS_ACCESS_KEY_ID", "AKIAHOST").env("AWS_SECRET_ACCESS_KEY", "of-this-host");
        program.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    eventually("the secret to be asked for", || manager.asked() > 0).await;
    let told = std::process::Command::new("kill").args(["-TERM", &starting.id().to_string()]).status().unwrap();
    assert!(told.success());
    let output = tokio::task::spawn_blocking(move || starting.wait_with_output().unwrap()).await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("stopped before it served") && !log.contains("\"listening\""), "{log}");
}

/// The source gives a key of the region that the new file adds. Neither the reload that is refused nor what it has read
/// takes the key that works away; a reload that moves to the other region takes the new one.
#[tokio::test]
async fn a_reload_replaces_no_key_by_one_of_another_region_unless_it_moves_there() {
    let (east, west) =
        (bedrock().await, bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await);
    let now = jiff::Timestamp::now().as_second();
    let key = |region| short_term_key(&AwsKey::default_long_lived(), region, now, 3600);
    let daemon = Setup::plain(&east).one_thread().secret(&key("us-east-1")).ready().await;
    let handshakes =
        "bedrock_sidecar_upstream_handshakes_total{region=\"us-east-1\",plane=\"runtime\",result=\"success\"}";
    let served = send(daemon.address(), ask("before")).await;
    assert_eq!((served.status, served.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")));
    daemon.record_of(&served).await;
    let connections = metric(&daemon.metrics().await, handshakes);

    let good = std::fs::read_to_string(daemon.config_path()).unwrap();
    let first = upstream("us-east-1", &east.plain_endpoint(), None);
    let other = upstream("us-west-2", &west.plain_endpoint(), None);
    assert!(good.contains(&first), "{good}");
    std::fs::write(daemon.secret_path(), key("us-west-2")).unwrap();
    std::fs::write(daemon.config_path(), good.replace(&first, &format!("{first}{other}"))).unwrap();
    daemon.signal("HUP");
    let reason = daemon.says(REFUSED).await["reason"].to_string();
    assert!(reason.contains("us-east-1 would lose the credential that it has: "), "{reason}");
    let kept = send(daemon.address(), ask("kept")).await;
    assert_eq!((kept.status, kept.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")), "{kept:?}");
    assert_eq!(daemon.record_of(&kept).await["destinationRegion"], "us-east-1");

    // With the key of the east back, the other upstream is added, and the connections go on.
    std::fs::write(daemon.secret_path(), key("us-east-1")).unwrap();
    daemon.signal("HUP");
    daemon.says(RELOADED).await;
    let added = send(daemon.address(), ask("added")).await;
    assert_eq!((added.status, added.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")), "{added:?}");
    daemon.record_of(&added).await;
    assert_eq!(metric(&daemon.metrics().await, handshakes), connections);

    std::fs::write(daemon.secret_path(), key("us-west-2")).unwrap();
    std::fs::write(daemon.config_path(), good.replace(&first, &other)).unwrap();
    daemon.signal("HUP");
    eventually("the second reload", || count(&daemon, RELOADED) == 2).await;
    let moved = send(daemon.address(), ask("moved")).await;
    assert_eq!((moved.status, moved.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{moved:?}");
    assert_eq!(daemon.record_of(&moved).await["destinationRegion"], "us-west-2");
}

/// The same where both upstreams are there already: whether the reload or the daemon itself reads the source.
#[tokio::test]
async fn a_key_of_one_region_takes_no_key_away_from_another_region() {
    let (east, west) =
        (bedrock().await, bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await);
    let now = jiff::Timestamp::now().as_second();
    let key = |region| short_term_key(&AwsKey::default_long_lived(), region, now, 3600);
    let upstreams =
        [upstream("us-east-1", &east.plain_endpoint(), None), upstream("us-west-2", &west.plain_endpoint(), None)];
    let setup = Setup::alone().upstreams(&upstreams.concat()).secret(&key("us-east-1"));
    let daemon = setup.with("[limits]\nconcurrent_requests = 99").ready().await;
    std::fs::write(daemon.secret_path(), key("us-west-2")).unwrap();
    daemon.reload("concurrent_requests = 99", "concurrent_requests = 98").await;
    let kept = send(daemon.address(), ask("kept")).await;
    assert_eq!((kept.status, kept.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")), "{kept:?}");
    assert_eq!(daemon.record_of(&kept).await["destinationRegion"], "us-east-1");
    let reason = daemon.says("the source gives a commercial credential that cannot work").await["reason"].to_string();
    assert!(reason.contains("valid in us-west-2 only, and not in us-east-1"), "{reason}");

    // When the key of the east is refused, the one that there is serves whom it can.
    east.set_aws_keys(Vec::new());
    let moved = until_async("the west", || async {
        let answer = send(daemon.address(), ask("moved")).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(moved.header("x-bedrock-sidecar-region"), Some("us-west-2"), "{moved:?}");
    assert_eq!(daemon.record_of(&moved).await["destinationRegion"], "us-west-2");
}

/// A region may have two upstreams. What one of them never had, it does not lose.
#[tokio::test]
async fn an_upstream_without_a_credential_does_not_keep_another_one_of_its_region_from_being_reloaded() {
    let (first, second) = (bedrock().await, bedrock().await);
    let nowhere = tempfile::tempdir().unwrap().path().join("none");
    let upstreams = format!(
        "{}{}credentials = {{ source = \"file\", file = \"{}\" }}\n",
        upstream("us-east-1", &first.plain_endpoint(), None),
        upstream("us-east-1", &second.plain_endpoint(), None),
        nowhere.display()
    );
    let setup = Setup::alone().upstreams(&upstreams).secret(DEFAULT_BEARER_TOKEN);
    let daemon = setup.with("[limits]\nconcurrent_requests = 99").ready().await;
    daemon.reload("concurrent_requests = 99", "concurrent_requests = 98").await;
    let answer = send(daemon.address(), ask("after")).await;
    assert_eq!((answer.status, received(&first, "Converse").len()), (200, 1), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
}

/// The counter stands for all sources that there have been.
#[tokio::test]
async fn reads_of_a_source_that_a_reload_has_brought_are_counted_on() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[limits]\nconcurrent_requests = 99").ready().await;
    daemon.reload("concurrent_requests = 99", "concurrent_requests = 98").await;
    let reads = "bedrock_sidecar_credential_refresh_total{result=\"success\"}";
    let before = metric(&daemon.metrics().await, reads).unwrap();
    assert!(before >= 2.0, "{before}");
    let (old, new) = (daemon.secret_path(), daemon.secret_path().with_extension("new"));
    std::fs::copy(&old, &new).unwrap();
    daemon.reload(&format!("{}\"", old.display()), &format!("{}\"", new.display())).await;
    let after = metric(&daemon.metrics().await, reads).unwrap();
    assert!(after > before, "{before} and then {after}");
}
