//! `status --watch`: the same screen, drawn anew every few seconds until Ctrl-C, beside what the terminal shows otherwise.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{asked, code_of, screen};
use crate::cli::other_screen::OtherScreen;
use crate::cli::terminal::{self, EndsAnyway, Terminal};
use crate::settings::Settings;

/// Bad usage, as clap reports it.
const EX_USAGE: u8 = 2;

/// Why standard output cannot be drawn anew.
pub(super) fn objection() -> Option<&'static str> {
    match Terminal::of_stdout() {
        None => Some("--watch needs a terminal as its standard output; without --watch, the answer is JSON"),
        Some(_) if terminal::is_dumb() => Some(
            "--watch needs a terminal that can be drawn anew, and TERM says that this one cannot; leave out --watch",
        ),
        Some(_) => None,
    }
}

pub(super) fn refused(objection: &str) -> ExitCode {
    crate::cli::complain(&format!("bedrock-sidecar: {objection}."));
    ExitCode::from(EX_USAGE)
}

/// Draws until a signal says to end. The code is that of the last answer.
pub(super) async fn watch(settings: &Settings, every: Duration, out: &mut dyn Write) -> io::Result<ExitCode> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut end = std::pin::pin!(terminal::told_to_end()?);
    let _ends = EndsAnyway::after(|| {})?;
    let mut other = OtherScreen::enter(out)?;
    let mut code = ExitCode::FAILURE;
    loop {
        let answer = tokio::select! {
            biased;
            () = &mut end => return Ok(code),
            answer = asked(settings) => answer,
        };
        code = code_of(&answer);
        let pause = tokio::time::sleep(every);
        tokio::pin!(pause);
        loop {
            let Some(terminal) = Terminal::of_stdout() else { return Ok(code) };
            let text = match &answer {
                Ok(status) => screen::screen(status, &terminal),
                Err(sentence) => terminal.paragraph(&screen::failure(sentence), 0),
            };
            let heading = heading(every);
            other.draw([&*heading, ""].into_iter().chain(text.lines()), terminal::rows())?;
            tokio::select! {
                biased;
                () = &mut end => return Ok(code),
                _ = resized.recv() => {}
                () = &mut pause => break,
            }
        }
    }
}

fn heading(every: Duration) -> String {
    let now = jiff::Timestamp::now().strftime("%H:%M:%S UTC");
    format!("{now}, every {} s; Ctrl-C ends", every.as_secs())
}
