//! `bedrock-sidecar top`: the dashboard in a terminal. Every few seconds it asks the daemon on its admin address, and draws
//! the answers; keys choose what is asked and shown. Without a terminal it is one screen of text.
//!
//! The escape codes are plain ANSI by `other_screen`, as `status --watch` uses them: a screen of lines needs no layout
//! engine, and ratatui with crossterm would bring more code into the daemon's binary than all of this.

mod columns;
mod data;
mod draw;
mod figures;
mod keys;
mod record;
mod stage;
mod totals;
mod view;

use std::io::{self, IsTerminal, Write};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::data::{Answer, By, Question, Window};
use self::stage::Stage;
use self::view::{Then, View};
use super::failed;
use super::terminal::{self, EndsAnyway, Terminal};
use crate::settings::Settings;

/// Where nobody tells how many rows there are.
const ROWS: usize = 24;

/// What is shown at first.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// How far back the figures go
    #[arg(long, value_enum, default_value = "1h")]
    window: Window,
    /// What the figures are told apart by
    #[arg(long, value_enum, default_value = "model")]
    by: By,
    /// Seconds between questions to the daemon, 1 to 3600
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

pub(super) fn top(settings: &Settings, asked: &Top, out: &mut dyn Write) -> io::Result<ExitCode> {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Ok(failed(&format!("the runtime cannot start: {error}"))),
    };
    let question = Question { window: asked.window, by: asked.by, only_errors: false };
    let every = Duration::from_secs(asked.interval);
    // Keys are read from the standard input: without one that is a terminal, nothing could be chosen.
    let can_be_drawn = Terminal::of_stdout().is_some() && io::stdin().is_terminal() && !terminal::is_dumb();
    if can_be_drawn {
        return runtime.block_on(live(settings, View::new(question, every), out));
    }
    let mut view = View::new(question, every);
    match runtime.block_on(data::ask(settings, question)) {
        Ok(answer) => view.take(Ok(answer)),
        Err(sentence) => return Ok(failed(&sentence)),
    }
    let terminal = Terminal::of_stdout().unwrap_or_else(Terminal::of_file);
    for line in draw::text(&view, &Terminal { colours: false, ..terminal }) {
        writeln!(out, "{line}")?;
    }
    Ok(view.code())
}

type Asking<'a> = Pin<Box<dyn Future<Output = Result<Answer, String>> + 'a>>;

/// Draws until a key or a signal says to end. The code is that of the last answer.
async fn live(settings: &Settings, mut view: View, out: &mut dyn Write) -> io::Result<ExitCode> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut continued = signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?;
    let mut end = std::pin::pin!(terminal::told_to_end()?);
    let before = tcgetattr(io::stdin())?;
    let _ends = EndsAnyway::after(move || {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    })?;
    let mut stage = Stage::enter(out)?;
    let ask = |question: Question| -> Option<Asking<'_>> { Some(Box::pin(data::ask(settings, question))) };
    let mut asking = ask(view.question);
    let mut next = Instant::now();
    loop {
        let Some(terminal) = Terminal::of_stdout() else { return Ok(view.code()) };
        let rows = Some(terminal::rows()).filter(|rows| *rows > 0).unwrap_or(ROWS);
        stage.draw(&draw::screen(&view, &terminal, rows), rows)?;
        tokio::select! {
            biased;
            () = &mut end => return Ok(view.code()),
            _ = resized.recv() => {}
            _ = continued.recv() => stage.reenter()?,
            key = stage.key() => match view.press(key?, &terminal, rows) {
                Then::Draw => {}
                // What was asked before is not waited for.
                Then::Ask => asking = ask(view.question),
                Then::Suspend => stage.suspend()?,
                Then::End => return Ok(view.code()),
            },
            answer = answered(&mut asking) => {
                view.take(answer);
                asking = None;
                next = Instant::now() + view.every;
            }
            () = tokio::time::sleep_until(next), if asking.is_none() && !view.is_paused => asking = ask(view.question),
        }
    }
}

/// The answer to what is being asked; never, if that is nothing.
async fn answered(asking: &mut Option<Asking<'_>>) -> Result<Answer, String> {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}
