//! The figures are those of `/v1/dashboard/usage`, of the requests that the user may see.

use serde_json::Value;
use test_support::users::{as_user, can_be_others};
use test_support::*;

use super::*;
use crate::callers::users::{other_user, said_by};

const ALICE: u32 = 61_011;

#[tokio::test]
async fn the_figures_are_those_that_the_daemon_tells() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    for _ in 0..3 {
        asked(&daemon).await;
    }
    let refused = daemon.post(&converse_path("no.such-model"), converse("hello")).await;
    assert_eq!(daemon.record_of(&refused).await["success"], false);
    let (_directory, config) = config_of(&daemon);
    // Until what is shown and what is told are of the same records.
    let (text, usage) = until_async("all four", || async {
        let mut command = program();
        command.args(arguments(&config, &[])).stdin(std::process::Stdio::null());
        let text = String::from_utf8(output(command).await.stdout).unwrap();
        let usage = daemon.admin_get("/v1/dashboard/usage?window=1h&by=model").await.json();
        (usage["total"]["requests"] == 4 && text.contains("4 requests")).then_some((text, usage))
    })
    .await;
    let total = &usage["total"];
    let of = |key: &str| total[key].as_u64().unwrap();
    assert_eq!((of("errors"), of("inputTokens") > 0), (1, true), "{usage}");
    let line = |label: &str| {
        let line = text.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("no {label}: {text}"));
        line.split_once("  ").unwrap().1.trim_start().to_owned()
    };
    assert!(line("Last 1 h").starts_with("4 requests · 1 error (25.0 %)"), "{text}");
    let tokens = ["inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens"].map(of);
    let expected =
        format!("in {} · out {} · cache read {} · cache write {}", tokens[0], tokens[1], tokens[2], tokens[3]);
    assert_eq!(line("Tokens"), expected, "{text}");
    let ms = |value: &Value| match value.as_u64().unwrap() {
        ms @ 0..1_000 => format!("{ms} ms"),
        ms => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
    };
    let (latency, first) = (&total["latencyMs"], &total["firstByteMs"]);
    let expected = format!(
        "p50 {} · p95 {} · p99 {} · first byte {}, p95 {}",
        ms(&latency["p50"]),
        ms(&latency["p95"]),
        ms(&latency["p99"]),
        ms(&first["p50"]),
        ms(&first["p95"])
    );
    assert_eq!(line("Latency"), expected, "{text}");
    let kinds = usage["errors"].as_array().unwrap();
    let expected: Vec<String> = kinds
        .iter()
        .map(|kind| format!("{} × {} {}", kind["requests"], kind["statusCode"], kind["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(line("Errors"), expected.join(" · "), "{text}");
    for group in usage["groups"].as_array().unwrap() {
        let name = format!(" {} ", group["name"].as_str().unwrap());
        let row = text.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("{group}: {text}"));
        let cells: Vec<&str> = row[name.len()..].split_whitespace().collect();
        let (requests, errors) = (group["requests"].to_string(), group["errors"].to_string());
        assert_eq!((cells[0], cells[1]), (&*requests, &*errors), "{row}");
    }
}

#[tokio::test]
async fn another_user_sees_no_more_than_its_own_requests() {
    if !can_be_others("another_user_sees_no_more_than_its_own_requests") {
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let of_root = asked(&daemon).await;
    let text = raw::converse(daemon.address(), ON_DEMAND, "from alice", "Connection: close\r\n");
    let answer = said_by(other_user(ALICE, "ask", &daemon.address().to_string(), &text)).await;
    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
    let of_alice = daemon.record("that of alice", |record| record["callerUid"] == ALICE).await;
    let (_directory, config) = config_of(&daemon);
    let mut command = as_user(ALICE, program().get_program());
    command.args(arguments(&config, &["--by", "caller"])).env("TERM", "xterm");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let mut terminal = Terminal::of(&command, (24, 80));
    let screen = terminal.until_screen("its request", |screen| screen.contains(short(&of_alice))).await;
    assert!(!screen.contains(short(&of_root)) && !screen.contains("uid:0"), "{screen}");
    let line = format!("\nLast 1 h      1 request of your own (uid {ALICE}) · 0 errors · ");
    assert!(screen.contains(&line) && screen.contains(&format!("\n uid:{ALICE} ")), "{screen}");
    terminal.press("q");
    assert_eq!(terminal.ended().await.1, Some(0));
    // Root sees both.
    let (mut all, _config) = start(&daemon, &[], (24, 80));
    let screen = all.until_screen("both", |screen| screen.contains(short(&of_alice))).await;
    assert!(screen.contains(short(&of_root)) && screen.contains("\nLast 1 h      2 requests · "), "{screen}");
    all.press("q");
    assert_eq!(all.ended().await.1, Some(0));
}
