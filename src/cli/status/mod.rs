//! `bedrock-sidecar status`: what the running daemon says of itself, asked on its admin address. A terminal gets one
//! screen, whatever else reads it gets the JSON.

mod attention;
mod screen;
mod terminal;
mod watch;
pub(super) mod words;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::failed;
use crate::settings::Settings;
use terminal::Terminal;

/// The daemon answers from memory.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The page grows with callers and models that have limits.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

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

fn code_of(answer: &Result<Value, String>) -> ExitCode {
    match answer {
        Ok(status) if status["ready"] == true => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The daemon's answer, or why there is none and what to do.
async fn asked(settings: &Settings) -> Result<Value, String> {
    let waited = tokio::time::timeout(TIMEOUT, ask(settings)).await;
    let answer = waited.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
    answer.map_err(|reason| {
        let file =
            settings.path.as_ref().map_or("the built-in defaults".to_owned(), |path| path.display().to_string());
        format!(
            "no daemon answers on {} (listen.admin_address in {file}): {reason}; is it running, with this configuration? If it has stopped, its log says why.",
            settings.listen.admin_address
        )
    })
}

async fn ask(settings: &Settings) -> Result<Value, String> {
    let address = settings.listen.admin_address;
    let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let request =
        http::Request::get("/status").header(http::header::HOST, address.to_string()).body(Empty::<Bytes>::new());
    let answer =
        sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
    serde_json::from_slice::<Value>(&body.to_bytes())
        .ok()
        .filter(|status| status["ready"].is_boolean())
        .ok_or_else(|| format!("what listens there is no bedrock-sidecar (its answer to /status: {status})"))
}
