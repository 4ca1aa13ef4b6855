//! The ledger behind the real daemon: what the stand-in for Bedrock received, what clients saw, and what stands in
//! DynamoDB Local afterwards are joined request by request.

mod anchors;
mod canaries;
mod flushes;
mod full_disk;
mod items;
mod kill;
mod leaving;
mod outages;
mod questions;
mod second_daemon;

use std::collections::BTreeMap;
use std::process::Output;

use serde_json::Value;
use simulator::Simulator;
use tempfile::TempDir;
use test_support::dynamodb::{self, Proxy};
use test_support::*;

const KEYS: [&str; 2] = ["requestId", "timestamp"];
const DENIED: &str = "cohere.command-r-v1:0";

/// A ledger directory that outlives daemons, and the table that it is shipped to.
struct Scene {
    state: TempDir,
    table: &'static str,
    endpoint: String,
}

impl Scene {
    async fn new(table: &'static str) -> Scene {
        dynamodb::create_table(table, &KEYS).await;
        Scene { state: tempfile::tempdir().unwrap(), table, endpoint: dynamodb::endpoint() }
    }

    fn through(self, proxy: &Proxy) -> Scene {
        Scene { endpoint: proxy.endpoint(), ..self }
    }

    fn setup(&self, bedrock: &Simulator, audit: &str, more: &str) -> Setup {
        let Scene { state, table, endpoint } = self;
        Setup::tls(bedrock)
            .with(&format!("[audit]\nstate_dir = \"{}\"\ntable = \"{table}\"\n{audit}\n{more}", state.path().display()))
            .environment(dynamodb::environment(endpoint))
    }

    /// Every request's item of the table by its requestId; two of one request fail the test.
    async fn items(&self) -> BTreeMap<String, Value> {
        let mut items = self.all_items().await;
        items.retain(|_, item| item["operation"] != "LedgerStart");
        items
    }

    /// The same with what the daemon says of the chain's beginning.
    async fn all_items(&self) -> BTreeMap<String, Value> {
        dynamodb::items(&dynamodb::local(), self.table).await
    }
}

/// What `/status` says of the ledger.
async fn ledger(daemon: &Daemon) -> Value {
    daemon.admin_get("/status").await.json()["audit"].take()
}

/// Waits until no request is open and DynamoDB has confirmed every record; `/metrics` has to say the same.
async fn shipped(daemon: &Daemon) {
    until_async("everything to be shipped", || async {
        let ledger = ledger(daemon).await;
        (ledger["pending"] == 0 && ledger["open"] == 0).then_some(())
    })
    .await;
    assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_audit_pending"), Some(0.0));
    let ledger = ledger(daemon).await;
    assert_eq!(ledger["lastShippedAt"].is_string(), ledger["shipped"].as_u64() > Some(0), "{ledger}");
}

async fn stopped(mut daemon: Daemon) {
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.log_text());
}

fn id_of(answer: &Answer) -> String {
    answer.header("x-bedrock-sidecar-request-id").unwrap_or_else(|| panic!("no request id in {answer:?}")).to_owned()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asserts that an item says so; what is expected to be null has to be absent.
#[track_caller]
fn says(item: &Value, expected: Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(item.get(name).unwrap_or(&Value::Null), value, "{name} in {item:#}");
    }
}
