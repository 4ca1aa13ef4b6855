//! `bedrock-sidecar status`: in a terminal, in a pipe, of a daemon that serves, that cannot, and that is not there.

use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use simulator::{Effect, Fault};
use test_support::terminal::{ENTER, LEAVE, Terminal};
use test_support::*;

/// What no page may show.
const CANARY: &str = "CANARY-OF-A-PROMPT";

/// The command, for the daemon wherever it has bound.
fn status_of(daemon: &Daemon, words: &[&str]) -> Command {
    let config = std::fs::read_to_string(daemon.config_path()).unwrap();
    let bound = config.replacen("127.0.0.1:0", &daemon.address().to_string(), 1);
    let path = daemon.directory.path().join("status.toml");
    std::fs::write(&path, bound.replace("127.0.0.1:0", &daemon.admin.to_string())).unwrap();
    let mut command = program();
    command.arg("status").args(words).arg("--config").arg(path).env_clear().stdin(Stdio::null());
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn as_json(daemon: &Daemon) -> (Value, Option<i32>) {
    let output = output(status_of(daemon, &[])).await;
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
}

/// Runs a command with a terminal of this width as its standard output: what it shows, and its exit code.
async fn in_terminal(command: Command, columns: u16) -> (String, Option<i32>) {
    let (shown, code) = Terminal::of_output(command, (40, columns)).ended().await;
    (shown.replace("\r\n", "\n"), code)
}

/// Numbers that differ from run to run become `N`.
fn steady(screen: &str) -> String {
    let mut text = String::new();
    for one in screen.chars() {
        match one {
            '0'..='9' if text.ends_with('N') => {}
            '0'..='9' => text.push('N'),
            _ => text.push(one),
        }
    }
    text
}

#[tokio::test]
async fn a_terminal_gets_one_screen_and_everything_else_json() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[limits]\nconcurrent_requests = 10\n").ready().await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse(CANARY)).await;
    assert_eq!(daemon.record_of(&answer).await["success"], true);

    let (status, code) = as_json(&daemon).await;
    assert_eq!((code, &status["ready"], &status["reasons"]), (Some(0), &json!(true), &json!([])));
    let upstream = &status["upstreams"][0];
    assert_eq!(upstream["region"], "us-east-1");
    assert_eq!(upstream["runtime"]["endpoint"], json!(bedrock.tls_endpoint()));
    assert_eq!(upstream["control"]["endpoint"], json!(bedrock.tls_endpoint()));
    assert!(upstream["models"].as_u64() > Some(3) && upstream["modelsListedSecondsAgo"].is_u64(), "{status}");
    assert_eq!(status["connections"]["max"], 1024);
    assert_eq!((&status["bodies"]["bytes"], &status["lastErrors"]), (&json!(0), &json!([])));
    assert!(status["upSeconds"].is_u64() && status["log"]["dropped"] == 0, "{status}");

    let mut command = status_of(&daemon, &[]);
    let (shown, code) = in_terminal(command, 200).await;
    assert_eq!(code, Some(0), "{shown}");
    let steadied = steady(&shown);
    for line in [
        "READY: requests go to us-east-N with the Bedrock API key.\n\nDaemon ",
        "Daemon        version N.N.N · up N s · ",
        "Credential    Bedrock API key · read N s ago\n",
        "Upstreams     us-east-N · ",
        " models listed N s ago · ",
        "Limits        this host · concurrent_requests N of N (N %)\n",
        "Records       ledger N",
        " · no table\n",
        "Connections   N of N,N · N requests in flight · bodies N B of N.N MiB\n",
        "Last errors   none since the start\n",
    ] {
        assert!(steadied.contains(line), "{line}\n{steadied}");
    }
    assert!(!shown.contains('\u{1b}'), "without TERM there are no colours: {shown:?}");

    command = status_of(&daemon, &["--json"]);
    let (shown, code) = in_terminal(command, 80).await;
    assert_eq!((code, serde_json::from_str::<Value>(&shown).unwrap()["ready"] == true), (Some(0), true));

    command = status_of(&daemon, &[]);
    command.env("TERM", "xterm-256color");
    let (shown, _) = in_terminal(command, 60).await;
    assert!(shown.starts_with("\u{1b}[32mREADY\u{1b}[0m: "), "{shown:?}");
    command = status_of(&daemon, &[]);
    command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let (shown, _) = in_terminal(command, 60).await;
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    let too_long = shown.lines().find(|line| line.chars().count() > 60 && line.trim().contains(' '));
    assert_eq!(too_long.filter(|line| !line.contains('/')), None, "{shown}");
}

#[tokio::test]
async fn the_first_line_says_why_a_daemon_is_not_ready() {
    let bedrock = bedrock().await;
    let setup = Setup::tls(&bedrock);
    let daemon = setup.ready().await;
    std::fs::remove_file(daemon.secret_path()).unwrap();
    let config = daemon.config_path();
    let text = std::fs::read_to_string(&config).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let path = fresh.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let other = Daemon::spawn(
        {
            let mut program = program();
            program.args(["run", "--config", path.to_str().unwrap()]);
            program
        },
        [].into(),
        fresh,
    )
    .await;
    let (shown, code) = in_terminal(status_of(&other, &[]), 400).await;
    assert_eq!(code, Some(1), "{shown}");
    let first = shown.lines().next().unwrap();
    assert!(first.starts_with("NOT READY: no commercial credential: "), "{shown}");
    assert!(first.ends_with("; `bedrock-sidecar check --online` tries each part and says what to do."), "{shown}");
    let (status, code) = as_json(&other).await;
    assert_eq!((code, &status["ready"]), (Some(1), &json!(false)));
}

#[tokio::test]
async fn the_latest_failures_are_shown_by_kind_and_without_the_prompt() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    bedrock.inject(
        Fault::once(Effect::Error {
            status: 400,
            error_type: "ValidationException".into(),
            message: format!("what is {CANARY}?"),
            capital: false,
            headers: Default::default(),
        })
        .times(3)
        .on("Converse"),
    );
    let mut last = String::new();
    for _ in 0..3 {
        let answer = daemon.post(&converse_path(ON_DEMAND), converse(CANARY)).await;
        assert_eq!(answer.status, 400);
        last = daemon.record_of(&answer).await["requestId"].as_str().unwrap().to_owned();
    }
    let unknown = daemon.post(&converse_path(CANARY), converse("hello")).await;
    assert_eq!((unknown.status, &daemon.record_of(&unknown).await["success"]), (400, &json!(false)));

    let (status, code) = as_json(&daemon).await;
    assert_eq!(code, Some(0), "errors of requests do not make the daemon unready");
    let errors = status["lastErrors"].as_array().unwrap();
    let told: Vec<Value> = errors
        .iter()
        .map(|one| {
            json!([one["status"], one["errorType"], one["operation"], one["model"], one["count"], one["outcome"]])
        })
        .collect();
    assert_eq!(
        told,
        [
            json!([400, "ValidationException", "Converse", "other", 1, "upstream_error"]),
            json!([400, "ValidationException", "Converse", ON_DEMAND, 3, "upstream_error"]),
        ]
    );
    assert_eq!((&errors[1]["requestId"], &errors[1]["region"]), (&json!(last), &json!("us-east-1")));
    let (shown, _) = in_terminal(status_of(&daemon, &[]), 200).await;
    assert!(!format!("{status}{shown}").contains(CANARY), "{status}{shown}");
    assert!(shown.contains(" · 400 ValidationException · Converse · "), "{shown}");
    assert!(shown.contains(" · 3 times · "), "{shown}");
}

#[tokio::test]
async fn what_answers_without_being_the_daemon_is_said_in_one_sentence() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let setup = Setup::alone().listen(&format!("admin_address = \"{}\"\n", daemon.address()));
    let output = setup.command(&["status"]).await;
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), complaint.lines().count()), (Some(1), 1), "{complaint}");
    assert!(complaint.contains("what listens there is no bedrock-sidecar (its answer to /status: 404"), "{complaint}");
    assert_eq!(output.stdout, b"");
}

#[tokio::test]
async fn a_watched_screen_is_drawn_anew_and_the_terminal_given_back() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).ready().await;
    let mut command = status_of(&daemon, &["--watch", "1"]);
    command.env("TERM", "xterm").env("NO_COLOR", "1");
    let watched = Terminal::of_output(command, (12, 30));
    eventually("three frames", || watched.shown().matches("\u{1b}[H").count() >= 3).await;
    // It goes on while the daemon is away.
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    eventually("a frame that says so", || watched.shown().contains("no daemon answers on")).await;
    watched.signal(Signal::INT);
    let (shown, code) = watched.ended().await;
    assert_eq!(code, Some(1), "the last answer was none");
    assert!(shown.starts_with(ENTER) && shown.ends_with(LEAVE), "{shown:?}");
    assert!(shown.contains("every 1 s; Ctrl-C ends") && shown.contains("READY: requests go to us-east-1"), "{shown:?}");
    assert!(!shown.contains("\u{1b}[1m") && !shown.contains(CANARY), "{shown:?}");
    let frames = shown.trim_start_matches(ENTER).trim_end_matches(LEAVE).split("\u{1b}[H").skip(1);
    for frame in frames {
        assert!(frame.matches("\r\n").count() < 12 && frame.ends_with("\u{1b}[J"), "{frame:?}");
    }
}

#[tokio::test]
async fn a_watched_screen_ends_also_where_the_terminal_takes_no_output() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let mut command = status_of(&daemon, &["--watch", "1"]);
    command.env("TERM", "xterm");
    let mut watched = Terminal::of_output(command, (12, 30));
    eventually("a frame", || watched.shown().contains("READY")).await;
    watched.stop_output();
    watched.signal(Signal::TERM);
    let status = until("the end", || watched.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(1), "the daemon was ready, but it had to be cut off");
}

#[tokio::test]
async fn only_a_terminal_can_be_watched() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let output = output(status_of(&daemon, &["--watch"])).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{said}");
    assert!(said.starts_with("bedrock-sidecar: --watch needs a terminal"), "{said}");
    let mut dumb = status_of(&daemon, &["--watch"]);
    dumb.env("TERM", "dumb");
    let (shown, code) = in_terminal(dumb, 80).await;
    assert_eq!((code, shown.as_str()), (Some(2), ""));
    for words in [["--watch", "0"], ["--watch", "x"], ["--watch", "--json"]] {
        let code = self::output(status_of(&daemon, &words)).await.status.code();
        assert_eq!(code, Some(2), "{words:?}");
    }
}
