//! `bedrock-sidecar status`: what the running daemon says of itself, asked on its admin address. A terminal gets one
//! screen, whatever else reads it gets the JSON.

mod attention;
mod screen;
mod terminal;
mod words;

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

pub(super) fn status(settings: &Settings, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let asked = super::runtime().map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            let waited = tokio::time::timeout(TIMEOUT, ask(settings)).await;
            waited.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
        })
    });
    match asked {
        Ok(status) => {
            match Terminal::of_stdout().filter(|_| !json) {
                Some(terminal) => write!(out, "{}", screen::screen(&status, &terminal))?,
                None => writeln!(out, "{status:#}")?,
            }
            Ok(if status["ready"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(reason) => {
            let file =
                settings.path.as_ref().map_or("the built-in defaults".to_owned(), |path| path.display().to_string());
            Ok(failed(&format!(
                "no daemon answers on {} (listen.admin_address in {file}): {reason}; is it running, with this configuration? If it has stopped, its log says why.",
                settings.listen.admin_address
            )))
        }
    }
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
