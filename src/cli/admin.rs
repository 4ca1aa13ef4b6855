//! Questions to the running daemon, on its admin address.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::settings::Settings;

/// The daemon answers from memory or from its own disk.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The page grows with callers and models that have limits.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// A connection to the daemon.
#[derive(Debug)]
pub(super) struct Admin {
    address: SocketAddr,
    sender: SendRequest<Empty<Bytes>>,
}

/// Connects and asks.
///
/// # Errors
/// A sentence: why there is no answer within 10 s, and what to do.
pub(super) async fn asked<T>(
    settings: &Settings,
    ask: impl AsyncFnOnce(&mut Admin) -> Result<T, String>,
) -> Result<T, String> {
    let address = settings.listen.admin_address;
    let questions = async {
        let mut admin = Admin::to(address).await?;
        ask(&mut admin).await
    };
    let waited = tokio::time::timeout(TIMEOUT, questions).await;
    let answer = waited.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
    answer.map_err(|reason| {
        let file =
            settings.path.as_ref().map_or("the built-in defaults".to_owned(), |path| path.display().to_string());
        format!(
            "no daemon answers on {address} (listen.admin_address in {file}): {reason}; is it running, with this configuration? If it has stopped, its log says why.",
        )
    })
}

impl Admin {
    async fn to(address: SocketAddr) -> Result<Admin, String> {
        let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Admin { address, sender })
    }

    /// The answer to `/status`.
    ///
    /// # Errors
    /// Why there is none, or that something else than the daemon has answered.
    pub(super) async fn status(&mut self) -> Result<Value, String> {
        let (status, answer) = self.get("/status").await?;
        answer
            .filter(|answer| answer["ready"].is_boolean())
            .ok_or_else(|| format!("what listens there is no bedrock-sidecar (its answer to /status: {status})"))
    }

    /// The status of an answer, and the answer if it is JSON.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn get(&mut self, path: &str) -> Result<(StatusCode, Option<Value>), String> {
        let request = http::Request::get(path)
            .header(http::header::HOST, self.address.to_string())
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        self.sender.ready().await.map_err(|error| error.to_string())?;
        let answer = self.sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        Ok((status, serde_json::from_slice(&body.to_bytes()).ok()))
    }
}
