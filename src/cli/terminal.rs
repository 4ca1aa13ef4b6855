//! The terminal that an answer is written to: how wide it is, whether it shows colours, and text that fits it.

use std::io::{self, IsTerminal};
use std::time::Duration;

use rustix::termios::{QueueSelector, tcflush};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::fitting::{clipped, safe};

/// Narrower ones get lines of this length all the same.
const NARROWEST: usize = 40;
/// Where nobody tells the width.
const USUAL: usize = 80;
/// What is no terminal.
const FILE: usize = 120;

/// What standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terminal {
    pub width: usize,
    pub colours: bool,
}

/// How a piece of text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Strong,
    Faint,
    Good,
    Doubtful,
    Bad,
    /// The line that the cursor is on.
    Chosen,
}

/// How long a command has to end by itself, and then after what waits for its terminal was thrown away.
const TIME_TO_END: Duration = Duration::from_secs(1);
const LAST_TIME: Duration = Duration::from_millis(200);

/// Pieces of one paragraph.
pub(super) type Text = Vec<(Tone, String)>;

/// It cannot be drawn anew.
pub(super) fn is_dumb() -> bool {
    dumb(std::env::var("TERM").ok())
}

fn dumb(term: Option<String>) -> bool {
    term.is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Ends with the signals that end a program, Ctrl-C among them.
///
/// # Errors
/// The signals cannot be listened for.
pub(super) fn told_to_end() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    })
}

/// Ends the process if it is told to end and has not ended soon after: who writes to a terminal that takes no output waits for
/// ever. Dropped, it does nothing.
pub(super) struct EndsAnyway(JoinHandle<()>);

impl EndsAnyway {
    /// `give_back` comes before the end. It may not write.
    ///
    /// # Errors
    /// The signals cannot be listened for.
    pub(super) fn after(give_back: impl FnOnce() + Send + 'static) -> io::Result<EndsAnyway> {
        let told = told_to_end()?;
        Ok(EndsAnyway(tokio::spawn(async move {
            told.await;
            tokio::time::sleep(TIME_TO_END).await;
            // Makes room for what shows again what was there before.
            let _ = tcflush(io::stdout(), QueueSelector::OFlush);
            tokio::time::sleep(LAST_TIME).await;
            give_back();
            std::process::exit(1);
        })))
    }
}

impl Drop for EndsAnyway {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The lines that standard output has room for; 0 where nobody tells.
pub(super) fn rows() -> usize {
    rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row))
}

impl Terminal {
    /// None if standard output is no terminal.
    pub(super) fn of_stdout() -> Option<Terminal> {
        let stdout = io::stdout();
        stdout.is_terminal().then(|| {
            let size = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
            let variable = |name: &str| std::env::var(name).ok();
            Terminal::new(size, variable)
        })
    }

    /// For standard output that is none, such as a file.
    pub(super) fn of_file() -> Terminal {
        let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        Terminal { width: told.unwrap_or(FILE).max(NARROWEST), colours: false }
    }

    /// `size` is what the terminal tells of its width, 0 if it does not.
    fn new(size: usize, variable: impl Fn(&str) -> Option<String>) -> Terminal {
        let told = if size > 0 { Some(size) } else { variable("COLUMNS").and_then(|columns| columns.parse().ok()) };
        let is_dumb = dumb(variable("TERM"));
        // https://no-color.org: any value but the empty one.
        let is_unwanted = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        Terminal { width: told.unwrap_or(USUAL).max(NARROWEST), colours: !is_dumb && !is_unwanted }
    }

    /// One paragraph in lines of the terminal's width, broken between words; those after the first begin at `indent`.
    pub(super) fn paragraph(&self, text: &Text, indent: usize) -> String {
        let mut lines = String::new();
        let mut column = 0;
        for (tone, piece) in text {
            let mut shown = String::new();
            for word in piece.split_inclusive(' ') {
                let word = safe(word);
                let length = word.trim_end().chars().count();
                if column > indent && column + length > self.width {
                    self.paint(&mut lines, *tone, &shown);
                    shown.clear();
                    lines.truncate(lines.trim_end().len());
                    lines.push('\n');
                    lines.extend(std::iter::repeat_n(' ', indent));
                    column = indent;
                }
                column += word.chars().count();
                shown.push_str(&word);
            }
            self.paint(&mut lines, *tone, &shown);
        }
        lines.truncate(lines.trim_end().len());
        lines.push('\n');
        lines
    }

    /// One line; what does not fit is cut off.
    pub(super) fn line(&self, text: &Text) -> String {
        let mut line = String::new();
        let mut left = self.width;
        let length: usize = text.iter().map(|(_, piece)| safe(piece).chars().count()).sum();
        for (tone, piece) in text {
            let piece = safe(piece);
            let is_cut = length > self.width && piece.chars().count() >= left;
            // One more, so that the cut is marked where this piece would just fit and the next one would not.
            let shown = if is_cut { clipped(&format!("{piece} "), left) } else { piece };
            left -= shown.chars().count();
            self.paint(&mut line, *tone, &shown);
        }
        line.truncate(line.trim_end_matches(' ').len());
        line
    }

    fn paint(&self, lines: &mut String, tone: Tone, text: &str) {
        let code = match tone {
            Tone::Plain => None,
            Tone::Strong => Some("1"),
            Tone::Faint => Some("2"),
            Tone::Good => Some("32"),
            Tone::Doubtful => Some("33"),
            Tone::Bad => Some("1;31"),
            Tone::Chosen => Some("7"),
        };
        match code.filter(|_| self.colours && !text.trim().is_empty()) {
            Some(code) => {
                let blank = text.len() - text.trim_end().len();
                let (text, blank) = text.split_at(text.len() - blank);
                lines.extend(["\u{1b}[", code, "m", text, "\u{1b}[0m", blank]);
            }
            None => lines.push_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(size: usize, variables: &[(&str, &str)]) -> Terminal {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Terminal::new(size, find)
    }

    #[test]
    fn colours_and_width_are_as_the_terminal_says() {
        let of = |size, variables: &[(&str, &str)]| {
            let Terminal { width, colours } = terminal(size, variables);
            (width, colours)
        };
        assert_eq!(of(120, &[("TERM", "xterm")]), (120, true));
        assert_eq!(of(120, &[("TERM", "xterm"), ("NO_COLOR", "")]), (120, true));
        assert_eq!(of(120, &[("TERM", "xterm"), ("NO_COLOR", "1")]), (120, false));
        assert_eq!(of(0, &[("TERM", "dumb"), ("COLUMNS", "100")]), (100, false));
        assert_eq!(of(0, &[]), (80, false));
        assert_eq!(of(7, &[]), (40, false));
    }

    #[test]
    fn lines_break_between_words_and_colours_end_with_them() {
        let plain = Terminal { width: 40, colours: false };
        let text = vec![
            (Tone::Bad, "Label   ".to_owned()),
            (Tone::Plain, "many words that do not fit in one line".to_owned()),
        ];
        assert_eq!(
            plain.paragraph(&text, 8),
            "Label   many words that do not fit in one\n        line\n".replacen(
                " one\n        line",
                "\n        one line",
                1
            )
        );
        let painted = Terminal { colours: true, ..plain }.paragraph(&text, 8);
        assert!(painted.starts_with("\u{1b}[1;31mLabel\u{1b}[0m   many"), "{painted:?}");
        let hostile = vec![(Tone::Plain, "a\u{1b}[31mb\nc".to_owned())];
        assert_eq!(plain.paragraph(&hostile, 0), "a\\u{1b}[31mb c\n");
    }

    #[test]
    fn a_line_is_cut_where_the_terminal_ends() {
        let terminal = Terminal { width: 10, colours: false };
        let line = |pieces: &[&str]| {
            let text: Text = pieces.iter().map(|piece| (Tone::Strong, (*piece).to_owned())).collect();
            let painted = Terminal { colours: true, ..terminal }.line(&text);
            assert_eq!(painted.replace("\u{1b}[1m", "").replace("\u{1b}[0m", ""), terminal.line(&text), "{painted:?}");
            terminal.line(&text)
        };
        assert_eq!(line(&["0123456789"]), "0123456789");
        assert_eq!(line(&["01234", "56789"]), "0123456789");
        assert_eq!(line(&["01234", "567890"]), "0123456789".replace('9', "…"));
        assert_eq!(line(&["0123456789", "x", "y"]), "0123456789".replace('9', "…"));
        assert_eq!(line(&["a\u{7}", "   "]), "a\\u{7}");
        assert_eq!(line(&["\u{1b}\u{1b}\u{1b}"]), "\\u{1b}\\u{…");
    }
}
