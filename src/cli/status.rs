//! `bedrock-sidecar status`: what the running daemon says of itself, asked on its admin address.

use std::io::{self, Write};
use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

use super::failed;
use crate::settings::Settings;

pub(super) fn status(settings: Settings, out: &mut dyn Write) -> io::Result<ExitCode> {
    let asked =
        super::runtime().map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(ask(&settings)));
    match asked {
        Ok((ready, text)) => {
            writeln!(out, "{text}")?;
            Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

async fn ask(settings: &Settings) -> Result<(bool, String), String> {
    let address = settings.listen.admin_address;
    let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let request =
        http::Request::get("/status").header(http::header::HOST, address.to_string()).body(Empty::<Bytes>::new());
    let answer =
        sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(|error| error.to_string())?;
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    let status: serde_json::Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let text = serde_json::to_string_pretty(&status).map_err(|error| error.to_string())?;
    Ok((status["ready"] == true, text))
}
