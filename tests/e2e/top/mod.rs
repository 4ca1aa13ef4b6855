//! `bedrock-sidecar top`: in terminals of several kinds, without one, as another user, and beside the daemon's own figures.

mod ends;
mod figures;
mod screens;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use test_support::terminal::Terminal;
use test_support::*;

/// A configuration that everybody may read, and that has no more than the daemon's addresses.
fn config_of(daemon: &Daemon) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("top.toml");
    let text = format!("[listen]\naddresses = [\"{}\"]\nadmin_address = \"{}\"\n", daemon.address(), daemon.admin);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    (directory, path)
}

/// The words behind `bedrock-sidecar`.
fn arguments(config: &std::path::Path, words: &[&str]) -> Vec<String> {
    let all = ["top"].iter().chain(words).map(|word| (*word).to_owned());
    all.chain(["--config".to_owned(), config.display().to_string()]).collect()
}

/// The command in a terminal of its own, where it asks every second.
fn start(daemon: &Daemon, words: &[&str], size: (u16, u16)) -> (Terminal, tempfile::TempDir) {
    let (directory, config) = config_of(daemon);
    let mut command = program();
    command.args(arguments(&config, words)).args(["--interval", "1"]).env("TERM", "xterm-256color");
    (Terminal::of(&command, size), directory)
}

/// A command without a terminal, to its end.
async fn output(mut command: Command) -> std::process::Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// A request that succeeds, and its record.
async fn asked(daemon: &Daemon) -> Value {
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    let record = daemon.record_of(&answer).await;
    assert_eq!((answer.status, &record["success"]), (200, &Value::Bool(true)));
    record
}

/// The end of the id of a record, as a narrow screen has it.
fn short(record: &Value) -> &str {
    let id = record["requestId"].as_str().unwrap();
    &id[id.len() - 6..]
}
