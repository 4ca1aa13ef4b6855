//! SIGHUP, from outside: nothing that has not changed is lost, and what cannot be used is refused.

mod audit;
mod carried;
mod listeners;
mod log;
mod moved;
mod refused;
mod secret;
mod tls;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use http::Method;
use test_support::*;
use tokio::task::JoinSet;

const REFUSED: &str = "the new configuration cannot be used; the old one stays in force";
const RELOADED: &str = "configuration reloaded";

fn ask(prompt: &str) -> Request {
    request(Method::POST, &converse_path(ON_DEMAND), converse(prompt))
}

/// How often the log has this message.
fn count(daemon: &Daemon, message: &str) -> usize {
    daemon.lines().iter().filter(|line| line["message"] == message).count()
}

/// An address that nobody listens on. Its IP is of this call alone: nobody else who asks for any port there is given this one
/// before the daemon binds it.
fn free() -> SocketAddr {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id().wrapping_mul(64).wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed));
    let ip = Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() | (own & 0x003f_ffff));
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// What stands under `[listen]`.
fn listen(addresses: &[&str], more: &str) -> String {
    format!("addresses = {addresses:?}\nadmin_address = \"127.0.0.1:0\"\n{more}")
}

/// Writes a configuration that cannot be used, and waits for the reason of its refusal.
async fn refusal(daemon: &Daemon, text: &str) -> String {
    let before = count(daemon, REFUSED);
    std::fs::write(daemon.config_path(), text).unwrap();
    daemon.signal("HUP");
    let lines = || daemon.lines().into_iter().filter(|line| line["message"] == REFUSED);
    let line = until("the refusal", || lines().nth(before)).await;
    line["reason"].as_str().unwrap().to_owned()
}

/// Clients that never stop, each on a connection of its own.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: JoinSet<Vec<Answer>>,
}

impl Load {
    async fn start(daemon: &Daemon) -> Load {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            let (stop, answered, address) = (Arc::clone(&stop), Arc::clone(&answered), daemon.address());
            clients.spawn(async move {
                let mut connection = Http1::to(address).await;
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    answers.push(connection.send(ask("load")).await);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                answers
            });
        }
        let load = Load { stop, answered, clients };
        load.goes_on().await;
        load
    }

    /// Waits for some more answers.
    async fn goes_on(&self) {
        let enough = self.answered.load(Ordering::Relaxed) + 20;
        eventually("more load", || self.answered.load(Ordering::Relaxed) > enough).await;
    }

    /// All answers were 200, and every one has its record.
    async fn ends_well(self, daemon: &Daemon) {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.clients.join_all().await.concat();
        let failed: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
        assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), answers.len(), failed.first());
        eventually("all records", || {
            daemon.records().iter().filter(|record| record["outcome"] == "completed").count() >= answers.len()
        })
        .await;
    }
}
