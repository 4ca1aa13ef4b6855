//! sd_notify(3): what the daemon says of itself.

use http::Method;
use test_support::*;
use tokio::net::UnixDatagram;

/// A model for which nobody's thread is blocked.
const OTHER: &str = "amazon.nova-micro-v1:0";

/// The receiver of NOTIFY_SOCKET.
struct Manager(UnixDatagram);

impl Manager {
    fn of(setup: Setup) -> (Manager, Setup) {
        let path = setup.path().join("notify");
        let manager = Manager(UnixDatagram::bind(&path).unwrap());
        (manager, setup.env("NOTIFY_SOCKET", path.to_str().unwrap()))
    }

    /// Messages that were on their way may still come, and then, for many times the interval, none.
    async fn hears_no_more(&self, line: &str) {
        let silence = std::time::Duration::from_secs(3);
        within("silence", async { while tokio::time::timeout(silence, self.hears(line)).await.is_ok() {} }).await;
    }

    /// The next message in which a line begins so.
    async fn hears(&self, line: &str) -> String {
        let mut buffer = [0; 4096];
        within(line, async {
            loop {
                let length = self.0.recv(&mut buffer).await.unwrap();
                let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
                if message.lines().any(|said| said.starts_with(line)) {
                    return message;
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn start_watchdog_reload_and_stop_are_told() {
    let bedrock = bedrock().await;
    let (manager, setup) = Manager::of(Setup::plain(&bedrock).env("WATCHDOG_USEC", "200000"));
    let mut daemon = setup.start().await;
    let ready = format!(
        "READY=1\nSTATUS=Ready: commercial Bedrock of us-east-1 (Bedrock API key). Listening on {}\n",
        daemon.places[0]
    );
    assert_eq!(manager.hears("READY=1").await, ready);
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }

    let good = std::fs::read_to_string(daemon.config_path()).unwrap();
    let refused = format!(
        "{}. The last reload was refused: {}:2:13: invalid type: integer `1`, expected a list; write for example addresses = [\"…\"]\n",
        ready.trim_end(),
        daemon.config_path().display()
    );
    let bad = "[listen]\naddresses = 1";
    for (text, said, status) in [
        (good.as_str(), "configuration reloaded", &ready),
        (bad, "the new configuration cannot be used; the old one stays in force", &refused),
        (&good, "configuration reloaded", &ready),
    ] {
        std::fs::write(daemon.config_path(), text).unwrap();
        daemon.signal("HUP");
        let reloading = manager.hears("RELOADING=1").await;
        assert!(reloading.contains("\nMONOTONIC_USEC="), "Type=notify-reload goes by it: {reloading}");
        assert_eq!(manager.hears("READY=1").await, *status, "{said}");
        daemon.says(said).await;
    }

    daemon.signal("TERM");
    let stopping = manager.hears("STOPPING=1").await;
    // 30 s of drain.timeout, and what follows.
    assert!(stopping.contains("\nEXTEND_TIMEOUT_USEC=57000000\n"), "{stopping}");
    assert_eq!(daemon.ended().await.code(), Some(0));
}

/// A stream is waited for: the manager hears again and again for how long, and that the daemon lives.
#[tokio::test]
async fn a_drain_asks_for_time_as_long_as_it_lasts() {
    let bedrock = bedrock().await;
    let (manager, setup) = Manager::of(Setup::plain(&bedrock).env("WATCHDOG_USEC", "200000"));
    let mut daemon = setup.ready().await;
    bedrock.gate().close();
    let mut connection = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 12"));
    let mut stream = Reader::new(connection.start(asked).await.unwrap());
    daemon.signal("TERM");
    let stopping = manager.hears("STOPPING=1").await;
    assert!(stopping.contains("\nSTATUS=Draining: 1 requests in progress, for 30 s at most\n"), "{stopping}");
    let mut longest = 57_000_000;
    for _ in 0..3 {
        let message = manager.hears("EXTEND_TIMEOUT_USEC=").await;
        assert!(message.contains("STATUS=Draining: 1 requests in progress, for 2") && message.contains("WATCHDOG=1"));
        let line = message.lines().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
        let left: u64 = line.unwrap().parse().unwrap();
        assert!((27_000_000..longest).contains(&left), "{message}");
        longest = left;
    }
    bedrock.gate().open();
    stream.end().await.unwrap();
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(daemon.record_with_id(&stream.request_id).await["outcome"], "completed");
}

/// Nothing is in flight, and a table that does not answer is shipped to: that is waited for too.
#[tokio::test]
async fn a_stop_asks_for_time_until_the_last_records_are_shipped() {
    let bedrock = bedrock().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let setup = Setup::plain(&bedrock).env("WATCHDOG_USEC", "200000").environment(dynamodb::environment(&endpoint));
    let (manager, setup) = Manager::of(setup.with("[audit]\ntable = \"audit\""));
    let mut daemon = setup.ready().await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    daemon.record_of(&answer).await;
    daemon.signal("TERM");
    manager.hears("STOPPING=1").await;
    for _ in 0..3 {
        manager.hears("EXTEND_TIMEOUT_USEC=").await;
    }
    assert_eq!(daemon.ended().await.code(), Some(0));
}

/// One thread of several that serve: the others go on, and the watchdog hears nothing more.
#[tokio::test]
async fn a_blocked_thread_silences_the_watchdog() {
    if !cfg!(debug_assertions) {
        println!("NOT RUN: blocked threads (the build is optimised)");
        return;
    }
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock).with("[runtime]\nthreads = 2").env("WATCHDOG_USEC", "200000");
    let (manager, setup) = Manager::of(setup.env("BEDROCK_SIDECAR_BLOCK", ON_DEMAND));
    let daemon = setup.ready().await;
    manager.hears("WATCHDOG=1").await;
    // They get a thread each.
    let (mut first, mut second) = (Http1::to(daemon.address()).await, Http1::to(daemon.address()).await);
    for connection in [&mut first, &mut second] {
        let answer = connection.send(request(Method::POST, &converse_path(OTHER), converse("hello"))).await;
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    }
    tokio::spawn(async move { first.start(request(Method::POST, &converse_path(ON_DEMAND), converse("x"))).await });
    daemon.says("a test has blocked this thread").await;
    let answer = second.send(request(Method::POST, &converse_path(OTHER), converse("hello"))).await;
    assert_eq!(answer.status, 200, "the other thread serves");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    manager.hears_no_more("WATCHDOG=1").await;
}

/// A service manager that does not read for a while stops nothing: no reload, no request, no end.
#[tokio::test]
async fn a_manager_that_does_not_read_stops_nothing() {
    let bedrock = bedrock().await;
    let (manager, setup) = Manager::of(Setup::plain(&bedrock).env("WATCHDOG_USEC", "200000"));
    let path = setup.path().join("notify");
    let mut daemon = setup.ready().await;
    manager.hears("READY=1").await;
    // Its queue is full, and what the daemon sends now would wait.
    let crowd = UnixDatagram::unbound().unwrap();
    crowd.connect(&path).unwrap();
    let reloads =
        |daemon: &Daemon| daemon.lines().iter().filter(|line| line["message"] == "configuration reloaded").count();
    for number in 1..=3 {
        while crowd.try_send(b"X=1").is_ok() {}
        daemon.signal("HUP");
        eventually("the reload", || reloads(&daemon) == number).await;
    }
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!(answer.status, 200);
    daemon.record_of(&answer).await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_status_follows_the_credential() {
    let bedrock = bedrock().await;
    let (manager, setup) = Manager::of(Setup::plain(&bedrock).secret("{}"));
    let daemon = setup.start().await;
    let first = manager.hears("READY=1").await;
    let status = first.lines().find_map(|line| line.strip_prefix("STATUS=Not ready: no commercial credential: "));
    let place = format!("Listening on {}", daemon.places[0]);
    assert!(status.is_some_and(|status| status.ends_with(&place)), "{first}");
    std::fs::write(daemon.secret_path(), simulator::DEFAULT_BEARER_TOKEN).unwrap();
    manager.hears("STATUS=Ready: commercial Bedrock of us-east-1 (Bedrock API key).").await;
}
