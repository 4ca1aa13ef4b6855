//! This test executable, run again as another process: to be killed, or to have an environment of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bedrock_sidecar::auditor::cli;
use clap::Parser;

use test_support::dynamodb;

use super::{kill, kit};

/// A command that runs the given role in a child.
pub(super) fn command(role: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "ledger::child::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env("AUDIT_TEST_ROLE", role)
        .env("AUDIT_TEST_DIRECTORY", directory)
        .stdin(Stdio::null());
    command
}

/// Runs `audit …` as the daemon's command would, and returns whether all is in order and what was printed.
pub(super) fn audit(directory: &Path, table: Option<&str>, arguments: &str) -> (bool, String) {
    run(directory, table.map(|table| (table, dynamodb::endpoint())), arguments)
}

/// The same with the table behind a proxy.
pub(super) fn audit_behind(endpoint: &str, directory: &Path, table: &str, arguments: &str) -> (bool, String) {
    run(directory, Some((table, endpoint.to_owned())), arguments)
}

fn run(directory: &Path, table: Option<(&str, String)>, arguments: &str) -> (bool, String) {
    let mut command = command("cli", directory);
    command.env("AUDIT_TEST_ARGUMENTS", arguments);
    if let Some((table, endpoint)) = table {
        command.env("AUDIT_TEST_TABLE", table).envs(dynamodb::environment(&endpoint));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let (_, printed) = text.split_once("<<<\n").unwrap();
    let (printed, verdict) = printed.rsplit_once(">>>").unwrap();
    (verdict.starts_with("true"), printed.to_owned())
}

#[derive(Debug, Parser)]
pub(super) struct Audit {
    #[command(subcommand)]
    pub command: cli::Command,
}

/// Not a test: what the child does.
#[tokio::test]
#[ignore = "run by other tests, as a process of its own"]
async fn child() {
    let Ok(role) = std::env::var("AUDIT_TEST_ROLE") else { return };
    let directory = PathBuf::from(std::env::var("AUDIT_TEST_DIRECTORY").unwrap());
    let mut settings = kit::settings(&directory);
    settings.table = std::env::var("AUDIT_TEST_TABLE").ok();
    match role.as_str() {
        "cli" => {
            let arguments = std::env::var("AUDIT_TEST_ARGUMENTS").unwrap();
            let parsed = Audit::parse_from(std::iter::once("audit").chain(arguments.split_whitespace()));
            let mut out = Vec::new();
            let result = cli::run(&parsed.command, &settings, &mut out).await.unwrap();
            println!("<<<\n{}>>>{result}", String::from_utf8(out).unwrap());
        }
        "load" => kill::load(&settings).await,
        other => panic!("no such role: {other}"),
    }
}
