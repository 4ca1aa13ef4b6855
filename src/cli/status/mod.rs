//! `bedrock-sidecar status`: what the running daemon says of itself, asked on its admin address. A terminal gets one
//! screen, whatever else reads it gets the JSON.

mod attention;
pub(super) mod parts;
mod screen;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

pub(super) use self::attention::{list, part};
use super::admin::{self, Admin};
use super::failed;
use super::terminal::Terminal;
use crate::settings::Settings;

pub(super) fn status(
    settings: &Settings,
    json: bool,
    watched: Option<Duration>,
    out: &mut dyn Write,
) -> io::Result<ExitCode> {
    if let Some(objection) = watched.and_then(|_| watch::objection()) {
        return Ok(watch::refused(objection));
    }
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Ok(failed(&format!("the runtime cannot start: {error}"))),
    };
    if let Some(every) = watched {
        return runtime.block_on(watch::watch(settings, every, out));
    }
    let answer = runtime.block_on(asked(settings));
    match &answer {
        Ok(status) => match Terminal::of_stdout().filter(|_| !json) {
            Some(terminal) => write!(out, "{}", screen::screen(status, &terminal))?,
            None => writeln!(out, "{status:#}")?,
        },
        Err(sentence) => return Ok(failed(sentence)),
    }
    Ok(code_of(&answer))
}

/// Success only if the daemon is ready.
pub(super) fn code_of(answer: &Result<Value, String>) -> ExitCode {
    match answer {
        Ok(status) if status["ready"] == true => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The daemon's answer, or why there is none and what to do.
async fn asked(settings: &Settings) -> Result<Value, String> {
    admin::asked(settings, async |daemon: &mut Admin| daemon.status().await).await
}
