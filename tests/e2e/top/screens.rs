//! What is shown, and what keys do.

use serde_json::json;
use test_support::terminal::ENTER;
use test_support::*;

use super::*;

#[tokio::test]
async fn the_request_that_was_just_made_is_shown_and_opens_to_its_record() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let (mut terminal, _config) = start(&daemon, &[], (24, 80));
    let first = terminal.until_screen("an idle daemon", |screen| screen.contains("no requests in the last 1 h")).await;
    assert!(first.starts_with("READY: requests go to us-east-1 with the Bedrock API key."), "{first}");
    assert_eq!(first.lines().count(), 24, "{first}");

    let record = asked(&daemon).await;
    let row = format!("\n>{} ", short(&record));
    let screen = terminal.until_screen("the request", |screen| screen.contains(&row)).await;
    let line = screen.lines().find(|line| line.starts_with(row.trim_start())).unwrap();
    let took = format!("{} ms", record["latency"]);
    let tokens = format!("{}/{}", record["inputTokens"], record["outputTokens"]);
    let time = &record["timestamp"].as_str().unwrap()[11..19];
    for cell in [time, "uid:", "…nova-lite", " 200 completed ", &took, &tokens] {
        assert!(line.contains(cell), "{cell}: {line}");
    }

    terminal.press("\r");
    let opened = terminal.until_screen("its record", |screen| screen.starts_with("The record of a request")).await;
    for name in ["requestId", "modelId", "operation", "callerUid", "inputTokens", "destinationRegion"] {
        let value = record[name].as_str().map_or_else(|| record[name].to_string(), str::to_owned);
        assert!(opened.contains(&format!("\n{name:<22}{value}\n")), "{name}: {value}\n{opened}");
    }
    terminal.press("\u{1b}[6~");
    terminal.until_screen("its end", |screen| screen.contains("\nuserArn ")).await;
    terminal.press("\u{1b}");
    terminal.until_screen("the figures again", |screen| screen.contains("\nLatency ")).await;
    terminal.press("q");
    assert_eq!(terminal.ended().await.1, Some(0));
}

#[tokio::test]
async fn keys_choose_the_window_the_groups_and_the_errors() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock)
        .with(&format!("[[callers]]\nname = \"everybody\"\nusers = [\"{}\"]\n", users::own_uid()))
        .ready()
        .await;
    let good = asked(&daemon).await;
    let answer = daemon.post(&converse_path("no.such-model"), converse("hello")).await;
    let bad = daemon.record_of(&answer).await;
    assert_eq!((answer.status, &bad["success"]), (400, &json!(false)));
    let (mut terminal, _config) = start(&daemon, &["--window", "24h", "--by", "caller"], (24, 80));
    let screen = terminal.until_screen("the start", |screen| screen.contains(&format!(" {} ", short(&good)))).await;
    assert!(screen.contains("\nLast 24 h     2 requests · 1 error (50.0 %)"), "{screen}");
    assert!(screen.contains("\n CALLER ") && screen.contains("\n everybody  "), "{screen}");
    for (key, window, title, name) in [
        ("1", "15 min", "CALLER", "everybody"),
        ("m", "15 min", "MODEL", ON_DEMAND),
        ("2", "1 h", "MODEL", "no.such-model"),
        ("o", "1 h", "OPERATION", "Converse"),
        ("4", "7 d", "OPERATION", "Converse"),
        ("u", "7 d", "UPSTREAM", "us-east-1"),
    ] {
        terminal.press(key);
        let what = format!("{key}: {window} by {title} with {name}");
        let fits = |screen: &str| {
            let has = |start: String| screen.lines().any(|line| line.starts_with(&start));
            has(format!("Last {window:<9}")) && has(format!(" {title} ")) && has(format!(" {name} "))
        };
        terminal.until_screen(&what, fits).await;
    }
    terminal.press("e");
    let errors = terminal.until_screen("errors only", |screen| !screen.contains(short(&good))).await;
    assert!(errors.contains("ERRORS ONLY") && errors.contains(&format!("\n>{} ", short(&bad))), "{errors}");
    terminal.press("e");
    terminal.until_screen("all", |screen| screen.contains(short(&good))).await;

    terminal.press("pj\r");
    let opened = terminal.until_screen("the older one", |screen| screen.contains("The record of a request")).await;
    assert!(opened.contains(good["requestId"].as_str().unwrap()), "{opened}");
    terminal.press("\u{1b}?");
    terminal.until_screen("the help", |screen| screen.contains("It changes nothing.")).await;
    terminal.press("?");
    let paused = terminal.until_screen("the pause", |screen| screen.contains(" PAUSED · ")).await;
    let newer = asked(&daemon).await;
    let mark = |screen: &str| screen.lines().next().unwrap().to_owned();
    terminal.resize((40, 150));
    let wide = terminal.until_screen("a larger screen", |screen| screen.lines().count() == 40).await;
    assert!(
        wide.contains(" P99 ") && wide.contains(" CACHE ") && mark(&wide).ends_with(&mark(&paused)[58..]),
        "{wide}"
    );
    assert!(!wide.contains(short(&newer)), "it is paused: {wide}");
    terminal.press("p");
    terminal.until_screen("the newest", |screen| screen.contains(short(&newer))).await;
    terminal.press("q");
    let (shown, code) = terminal.ended().await;
    assert_eq!(code, Some(0));
    assert!(shown.contains("\u{1b}[7m>"), "the cursor's line has a colour of its own");
    assert!(!shown.contains("hello"), "{shown:?}");
}

#[tokio::test]
async fn it_goes_on_while_the_daemon_is_away() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).ready().await;
    let record = asked(&daemon).await;
    let bound = std::fs::read_to_string(daemon.config_path()).unwrap();
    let bound = bound.replacen("127.0.0.1:0", &daemon.address().to_string(), 1);
    let bound = bound.replace("127.0.0.1:0", &daemon.admin.to_string());
    let (mut terminal, _config) = start(&daemon, &[], (24, 80));
    terminal.until_screen("the request", |screen| screen.contains(short(&record))).await;
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    let gone = terminal
        .until_screen("that it is gone", |screen| screen.starts_with("NO ANSWER, asked again every 1 s: no daemon"))
        .await;
    assert!(gone.contains(short(&record)) && gone.contains(" AS OF ") && gone.contains("its log says why."), "{gone}");
    // Its records are in the directory, and so is its credential.
    std::fs::write(daemon.config_path(), bound).unwrap();
    let config = daemon.config_path();
    let directory = std::mem::replace(&mut daemon.directory, tempfile::tempdir().unwrap());
    let mut again = program();
    again.args(["run", "--config", config.to_str().unwrap()]);
    let again = Daemon::spawn(again, [].into(), directory).await;
    again.until_ready().await;
    let back = terminal.until_screen("that it is back", |screen| screen.starts_with("READY: ")).await;
    assert!(back.contains(short(&record)), "{back}");
    terminal.press("q");
    let (shown, code) = terminal.ended().await;
    assert_eq!((code, shown.matches(ENTER).count()), (Some(0), 1));
}

#[tokio::test]
async fn without_a_terminal_it_is_one_screen_of_text() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::tls(&bedrock).ready().await;
    let record = asked(&daemon).await;
    let (_directory, config) = config_of(&daemon);
    let command = || {
        let mut command = program();
        command.args(arguments(&config, &[])).env_clear().stdin(std::process::Stdio::null());
        command
    };
    let piped = output(command()).await;
    let text = String::from_utf8(piped.stdout).unwrap();
    assert_eq!(piped.status.code(), Some(0), "{text}");
    assert!(!text.contains('\u{1b}') && text.starts_with("READY: "), "{text}");
    assert!(text.contains("\nLast 1 h      1 request · 0 errors") && text.contains(short(&record)), "{text}");
    assert!(text.contains(&format!("\n {ON_DEMAND} ")) && !text.contains("q quit"), "{text}");

    for (name, value) in [("TERM", "dumb"), ("NO_SUCH", "x")] {
        let mut dumb = program();
        dumb.args(arguments(&config, &[])).env(name, value);
        let (shown, code) = Terminal::of(&dumb, (24, 80)).ended().await;
        assert_eq!((code, shown.contains('\u{1b}')), (Some(0), false), "{shown:?}");
        assert!(shown.contains("\nLast 1 h      1 request") && shown.lines().all(|line| line.chars().count() <= 80));
    }
    let mut bright = program();
    bright.args(arguments(&config, &[])).envs([("TERM", "xterm"), ("NO_COLOR", "1")]);
    let mut terminal = Terminal::of(&bright, (24, 80));
    terminal.until_screen("the request", |screen| screen.contains(short(&record))).await;
    terminal.press("q");
    let (shown, _) = terminal.ended().await;
    assert!(!shown.contains("\u{1b}[1m") && !shown.contains("\u{1b}[7m") && !shown.contains("\u{1b}[0m"), "{shown:?}");

    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    let gone = output(command()).await;
    let said = String::from_utf8(gone.stderr).unwrap();
    assert_eq!((gone.status.code(), gone.stdout.len()), (Some(1), 0));
    assert!(said.starts_with("bedrock-sidecar: no daemon answers on "), "{said}");
    for words in [["--window", "2h"], ["--by", "region"], ["--interval", "0"]] {
        let mut command = command();
        command.args(words);
        assert_eq!(output(command).await.status.code(), Some(2), "{words:?}");
    }
}
