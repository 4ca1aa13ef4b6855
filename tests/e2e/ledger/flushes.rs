//! What `durability = "disk"` promises. A small library stands before the C library's flushes: it watches those of the
//! journal, holds them up and lets them fail.

use std::process::Command;

use serde_json::Value;
use simulator::Simulator;
use tempfile::TempDir;
use test_support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{stopped, text};

/// A ledger whose flushes are watched.
struct Watched {
    directory: TempDir,
}

impl Watched {
    /// None where the library cannot be made.
    fn new(test: &str) -> Option<Watched> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("flushes.c"), include_str!("flushes.c")).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o", "flushes.so", "flushes.c"]).current_dir(directory.path());
        match compiler.output() {
            Ok(output) => assert!(output.status.success(), "{}", text(&output)),
            Err(error) => {
                println!("NOT RUN: {test}: cc: {error}");
                return None;
            }
        }
        Some(Watched { directory })
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn setup(&self, bedrock: &Simulator) -> Setup {
        let audit = format!("[audit]\nstate_dir = \"{}\"\ntable = \"\"\ndurability = \"disk\"", self.path("state"));
        Setup::plain(bedrock).with(&audit).env("LD_PRELOAD", self.path("flushes.so")).env("FLUSHES", self.path(""))
    }

    fn set(&self, name: &str) {
        std::fs::write(self.path(name), "").unwrap();
    }

    fn unset(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    async fn holds(&self) {
        eventually("a flush of the journal", || std::fs::exists(self.path("held")).unwrap()).await;
    }

    /// Id and outcome of every request in the ledger, after a stop and another start.
    async fn records(&self, bedrock: &Simulator, daemon: Daemon) -> Vec<(String, String)> {
        stopped(daemon).await;
        stopped(self.setup(bedrock).ready().await).await;
        let verified = self.setup(bedrock).command(&["audit", "verify"]).await;
        assert!(verified.status.success(), "{}", text(&verified));
        let export = self.setup(bedrock).command(&["audit", "export"]).await;
        let items = String::from_utf8_lossy(&export.stdout).into_owned();
        let items = items.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let requests = items.filter(|item| item["requestId"].is_string() && item["operation"] != "LedgerStart");
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        requests.map(|item| (word(&item["requestId"]), word(&item["outcome"]))).collect()
    }
}

/// The flush that is held may be that of the ledger's start.
async fn opened(daemon: &Daemon) {
    until_async("the opening", || async { (super::ledger(daemon).await["open"] == 1).then_some(()) }).await;
}

#[tokio::test]
async fn nothing_goes_upstream_before_its_opening_is_on_the_disk() {
    let bedrock = bedrock().await;
    let Some(watched) = Watched::new("nothing_goes_upstream_before_its_opening_is_on_the_disk") else { return };
    let daemon = watched.setup(&bedrock).ready().await;
    watched.set("hold");
    let address = daemon.address();
    let asked = tokio::spawn(async move { post(address, &converse_path(ON_DEMAND), converse("hello")).await });
    watched.holds().await;
    opened(&daemon).await;
    assert!(received(&bedrock, "Converse").is_empty(), "it waits for the disk");
    watched.unset("hold");
    let answer = asked.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    let done = std::fs::read_to_string(watched.path("done")).unwrap();
    assert!(done.lines().any(|path| path.ends_with(".journal")), "the file: {done}");
    assert!(done.lines().any(|path| path.ends_with("/journal")), "its name: {done}");
}

#[tokio::test]
async fn a_request_whose_flush_fails_has_one_record() {
    let bedrock = bedrock().await;
    let Some(watched) = Watched::new("a_request_whose_flush_fails_has_one_record") else { return };
    let daemon = watched.setup(&bedrock).ready().await;
    // Once it is open: before that, the flush of the ledger's start may fail, and then nothing can be opened.
    watched.set("hold");
    let address = daemon.address();
    let asked = tokio::spawn(async move { post(address, &converse_path(ON_DEMAND), converse("hello")).await });
    opened(&daemon).await;
    watched.set("fail");
    watched.unset("hold");
    let denied = asked.await.unwrap();
    let sentence = refused(&denied, 503, "ServiceUnavailableException");
    assert!(sentence.contains("cannot be recorded") && sentence.contains("flushed to the disk"), "{sentence}");
    assert!(received(&bedrock, "Converse").is_empty(), "what is not on the disk is not sent");
    let denied = daemon.record_of(&denied).await;
    watched.unset("fail");
    let served = until_async("requests to be served again", || async {
        Some(daemon.post(&converse_path(ON_DEMAND), converse("again")).await).filter(|answer| answer.status == 200)
    })
    .await;
    let served = daemon.record_of(&served).await;
    let records = watched.records(&bedrock, daemon).await;
    let of = |record: &Value| -> Vec<&str> {
        let same = records.iter().filter(|(id, _)| *id == record["requestId"]);
        same.map(|(_, outcome)| outcome.as_str()).collect()
    };
    assert_eq!((of(&denied), of(&served)), (vec!["refused"], vec!["completed"]), "{records:?}");
    assert!(records.iter().all(|(_, outcome)| outcome != "interrupted"), "{records:?}");
}

#[tokio::test]
async fn a_request_whose_client_leaves_during_its_flush_has_one_record() {
    let bedrock = bedrock().await;
    let Some(watched) = Watched::new("a_request_whose_client_leaves_during_its_flush_has_one_record") else { return };
    let daemon = watched.setup(&bedrock).ready().await;
    watched.set("hold");
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    let request = raw::converse(daemon.address(), ON_DEMAND, "hello", "");
    stream.write_all(request.as_bytes()).await.unwrap();
    watched.holds().await;
    opened(&daemon).await;
    drop(stream);
    let left = daemon.record("who has left", |record| record["outcome"] == "client_disconnected").await;
    assert_eq!((left["statusCode"].as_u64(), left["attempts"].as_u64()), (Some(499), Some(0)), "{left}");
    watched.unset("hold");
    let records = watched.records(&bedrock, daemon).await;
    let id = left["requestId"].as_str().unwrap().to_owned();
    assert_eq!(records, [(id, "client_disconnected".to_owned())]);
    assert!(received(&bedrock, "Converse").is_empty());
}
