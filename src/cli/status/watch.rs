//! `status --watch`: the same screen, drawn anew every few seconds until Ctrl-C, beside what the terminal shows otherwise.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::terminal::Terminal;
use super::{asked, code_of, screen};
use crate::settings::Settings;

/// Bad usage, as clap reports it.
const EX_USAGE: u8 = 2;

/// The terminal's other screen, without a cursor, whose long lines are cut off instead of wrapped.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";

/// Why standard output cannot be drawn anew.
pub(super) fn objection() -> Option<&'static str> {
    match Terminal::of_stdout() {
        None => Some("--watch needs a terminal as its standard output; without --watch, the answer is JSON"),
        Some(_) if super::terminal::is_dumb() => Some(
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
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut end = std::pin::pin!(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    });
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
            other.draw(&frame(&heading(every), &text, super::terminal::rows()))?;
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

/// What makes the screen show this, as far as it has rows; 0 is any number. Each line clears what stood behind it, so that
/// nothing flickers.
fn frame(heading: &str, text: &str, rows: usize) -> String {
    let lines = [heading, ""].into_iter().chain(text.lines());
    let lines = lines.take(if rows == 0 { usize::MAX } else { rows });
    let mut frame = String::from("\u{1b}[H");
    for (at, line) in lines.enumerate() {
        // Before the line and not behind it: behind the last row, the terminal would scroll.
        let next = if at == 0 { "" } else { "\r\n" };
        let _ = write!(frame, "{next}{line}\u{1b}[K");
    }
    frame + "\u{1b}[J"
}

/// Gives the terminal back as it was, however this ends.
struct OtherScreen<'a>(&'a mut dyn Write);

impl<'a> OtherScreen<'a> {
    fn enter(out: &'a mut dyn Write) -> io::Result<OtherScreen<'a>> {
        let mut screen = OtherScreen(out);
        screen.draw(ENTER)?;
        Ok(screen)
    }

    fn draw(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.0.flush()
    }
}

impl Drop for OtherScreen<'_> {
    fn drop(&mut self) {
        let _ = self.draw(LEAVE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_as_many_lines_as_the_terminal_and_clears_the_rest() {
        assert_eq!(frame("h", "a\nb\n", 0), "\u{1b}[Hh\u{1b}[K\r\n\u{1b}[K\r\na\u{1b}[K\r\nb\u{1b}[K\u{1b}[J");
        assert_eq!(frame("h", "a\nb\n", 3), "\u{1b}[Hh\u{1b}[K\r\n\u{1b}[K\r\na\u{1b}[K\u{1b}[J");
    }

    #[test]
    fn the_terminal_is_given_back() {
        let mut written = Vec::new();
        drop(OtherScreen::enter(&mut written).unwrap());
        assert_eq!(String::from_utf8(written).unwrap(), format!("{ENTER}{LEAVE}"));
    }
}
