//! sd_notify(3): what the daemon says of itself.

use test_support::*;
use tokio::net::UnixDatagram;

/// The receiver of NOTIFY_SOCKET.
struct Manager(UnixDatagram);

impl Manager {
    fn of(setup: Setup) -> (Manager, Setup) {
        let path = setup.path().join("notify");
        let manager = Manager(UnixDatagram::bind(&path).unwrap());
        (manager, setup.env("NOTIFY_SOCKET", path.to_str().unwrap()))
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
    for (text, said) in [
        (good.as_str(), "configuration reloaded"),
        ("[listen]\naddresses = 1", "the new configuration cannot be used; the old one stays in force"),
    ] {
        std::fs::write(daemon.config_path(), text).unwrap();
        daemon.signal("HUP");
        let reloading = manager.hears("RELOADING=1").await;
        assert!(reloading.contains("\nMONOTONIC_USEC="), "Type=notify-reload goes by it: {reloading}");
        assert_eq!(manager.hears("READY=1").await, ready, "{said}");
        daemon.says(said).await;
    }

    daemon.signal("TERM");
    let stopping = manager.hears("STOPPING=1").await;
    // 30 s of drain.timeout, and what follows.
    assert!(stopping.contains("\nEXTEND_TIMEOUT_USEC=47000000\n"), "{stopping}");
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
