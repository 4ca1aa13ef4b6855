//! However it ends, the terminal is as it was.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use test_support::terminal::{ENTER, LEAVE};
use test_support::users::is_installed;
use test_support::*;

use super::*;

#[tokio::test]
async fn the_terminal_is_given_back_at_every_end() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    for end in ["q", "\u{3}", "\u{1c}", "TERM", "HUP"] {
        let (mut terminal, _config) = start(&daemon, &[], (24, 80));
        terminal.until_screen("a screen", |screen| screen.starts_with("READY: ")).await;
        assert!(!terminal.is_restored(), "keys come at once");
        match end {
            "TERM" => terminal.signal(Signal::TERM),
            "HUP" => terminal.signal(Signal::HUP),
            keys => terminal.press(keys),
        }
        until("the end", || terminal.child.try_wait().unwrap()).await;
        assert!(terminal.is_restored(), "{end:?}");
        let (shown, code) = terminal.ended().await;
        assert_eq!(code, Some(0), "{end:?}: {shown:?}");
        assert!(shown.starts_with(ENTER) && shown.ends_with(LEAVE), "{end:?}: {shown:?}");
        assert_eq!((shown.matches(ENTER).count(), shown.matches(LEAVE).count()), (1, 1), "{end:?}");
    }
}

/// A connection that has stalled, or an emulator in which somebody selects text.
#[tokio::test]
async fn it_ends_also_where_the_terminal_takes_no_output() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let (mut terminal, _config) = start(&daemon, &[], (24, 80));
    terminal.until_screen("a screen", |screen| screen.starts_with("READY: ")).await;
    // From here on it can neither draw nor leave the other screen.
    terminal.stop_output();
    terminal.signal(Signal::TERM);
    let status = until("the end", || terminal.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(1));
    assert!(terminal.is_restored());
}

/// Ctrl-Z within a shell: it prints its prompt in a terminal that was given back, and `fg` goes on.
#[tokio::test]
async fn it_can_be_stopped_and_continued() {
    if !is_installed("bash") {
        println!("NOT RUN: it_can_be_stopped_and_continued (needs bash)");
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let (_directory, config) = config_of(&daemon);
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "--noediting", "-i"]).env("TERM", "xterm").env("PS1", "PROMPT> ");
    shell.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let mut terminal = Terminal::of(&shell, (24, 80));
    let program = program().get_program().to_str().unwrap().to_owned();
    let line = format!("{program} {}\n", arguments(&config, &["--interval", "1"]).join(" "));
    eventually("a prompt", || terminal.shown().contains("PROMPT> ")).await;
    terminal.press(&line);
    terminal.until_screen("a screen", |screen| screen.starts_with("READY: ")).await;
    terminal.press("\u{1a}");
    let told = |terminal: &Terminal| terminal.shown().rsplit(LEAVE).next().unwrap().contains("PROMPT> ");
    eventually("the shell", || terminal.shown().contains(LEAVE) && told(&terminal)).await;
    assert!(terminal.is_restored() && terminal.shown().contains("Stopped"), "{:?}", terminal.shown());
    terminal.press("fg\n");
    eventually("the screen again", || terminal.shown().matches(ENTER).count() == 2).await;
    let before = terminal.shown().matches("\u{1b}[H").count();
    eventually("more frames", || terminal.shown().matches("\u{1b}[H").count() > before + 2).await;
    terminal.press("q");
    eventually("the shell", || terminal.shown().matches(LEAVE).count() == 2 && told(&terminal)).await;
    assert!(terminal.is_restored());
    terminal.press("exit $?\n");
    let (shown, code) = terminal.ended().await;
    assert_eq!(code, Some(0), "{shown:?}");
}

/// Where no shell could continue it, Ctrl-Z does nothing.
#[tokio::test]
async fn it_does_not_stop_where_nobody_could_continue_it() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let (mut terminal, _config) = start(&daemon, &[], (24, 80));
    terminal.until_screen("a screen", |screen| screen.starts_with("READY: ")).await;
    terminal.press("\u{1a}");
    eventually("the screen again", || terminal.shown().matches(ENTER).count() == 2).await;
    terminal.press("q");
    assert_eq!(terminal.ended().await.1, Some(0));
}

#[tokio::test]
async fn it_works_in_tmux() {
    if Command::new("tmux").arg("-V").output().is_err() || !is_installed("bash") {
        println!("NOT RUN: it_works_in_tmux (needs tmux and bash)");
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let record = asked(&daemon).await;
    let (directory, config) = config_of(&daemon);
    let socket = directory.path().join("tmux");
    let tmux = |words: &[&str]| {
        let mut command = Command::new("tmux");
        command.args(["-f", "/dev/null", "-S"]).arg(&socket).args(words).env("TERM", "xterm").stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let _server = Server(&socket);
    let shell = "PS1='PROMPT> ' exec bash --norc --noprofile -i";
    tmux(&["new-session", "-d", "-x", "80", "-y", "24", shell]);
    eventually("a prompt", || tmux(&["capture-pane", "-p"]).contains("PROMPT>")).await;
    let program = program().get_program().to_str().unwrap().to_owned();
    let line = format!("clear; {program} {}", arguments(&config, &[]).join(" "));
    tmux(&["send-keys", "-l", &line]);
    tmux(&["send-keys", "Enter"]);
    let row = format!("\n>{} ", short(&record));
    let screen =
        until("the request", || Some(tmux(&["capture-pane", "-p"])).filter(|screen| screen.contains(&row))).await;
    assert!(screen.starts_with("READY: ") && screen.ends_with("? help\n"), "{screen}");
    assert_eq!(screen.lines().count(), 24, "{screen}");
    tmux(&["send-keys", "Enter"]);
    eventually("the record", || tmux(&["capture-pane", "-p"]).starts_with("The record of a request")).await;
    tmux(&["send-keys", "Escape"]);
    eventually("the figures", || tmux(&["capture-pane", "-p"]).contains("\nLatency ")).await;
    tmux(&["send-keys", "q"]);
    eventually("the shell", || tmux(&["capture-pane", "-p"]).trim_end().ends_with("PROMPT>")).await;
    assert!(!tmux(&["capture-pane", "-p"]).contains("Latency"), "the other screen is gone");
}

/// A server of tmux, which ends with the test however that ends.
struct Server<'a>(&'a std::path::Path);

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(self.0).arg("kill-server").status();
    }
}
