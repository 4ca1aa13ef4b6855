//! A client by hyper: what an ordinary client makes of an answer.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use simulator::{DEFAULT_BEARER_TOKEN, Simulator};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How a client reaches the simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Road {
    pub http2: bool,
    pub tls: bool,
}

pub(crate) const ROADS: [Road; 4] = [
    Road { http2: false, tls: false },
    Road { http2: false, tls: true },
    Road { http2: true, tls: false },
    Road { http2: true, tls: true },
];

/// A request of one of the simulator's operations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub path: &'static str,
    pub body: &'static str,
    pub stream: bool,
}

const CONVERSE_BODY: &str = r#"{"messages":[{"role":"user","content":[{"text":"one two three four five"}]}]}"#;
pub(crate) const CONVERSE: Call =
    Call { path: "/model/amazon.nova-lite-v1%3A0/converse", body: CONVERSE_BODY, stream: false };
pub(crate) const STREAM: Call =
    Call { path: "/model/amazon.nova-lite-v1%3A0/converse-stream", body: CONVERSE_BODY, stream: true };
pub(crate) const CHAT: Call = Call {
    path: "/openai/v1/chat/completions",
    body: r#"{"model":"openai.gpt-oss-20b-1:0","messages":[{"role":"user","content":"one two"}],"stream":true}"#,
    stream: true,
};

/// An answer with all that came of it.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: bool,
    /// Why the body broke off.
    pub broke: Option<String>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A bare connection.
pub(crate) async fn connect(simulator: &Simulator, road: Road) -> Result<Box<dyn Stream>, Failure> {
    let endpoint = if road.tls { simulator.tls_endpoint() } else { simulator.plain_endpoint() };
    let (_, authority) = endpoint.split_once("://").unwrap();
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    if !road.tls {
        return Ok(Box::new(stream));
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(simulator.ca_pem().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![if road.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Ok(Box::new(connector.connect(ServerName::try_from("localhost")?, stream).await?))
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// One connection, opened again when the server has closed it.
pub(crate) struct Client<'a> {
    simulator: &'a Simulator,
    road: Road,
    sender: Option<Sender>,
}

impl<'a> Client<'a> {
    pub(crate) fn new(simulator: &'a Simulator, road: Road) -> Client<'a> {
        Client { simulator, road, sender: None }
    }

    async fn sender(&mut self) -> Result<&mut Sender, Failure> {
        let usable = match &mut self.sender {
            // hyper notices a closed connection only when its task has run.
            Some(Sender::Http1(sender)) => {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                sender.ready().await.is_ok() && !sender.is_closed()
            }
            Some(Sender::Http2(sender)) => sender.ready().await.is_ok() && !sender.is_closed(),
            None => false,
        };
        if !usable {
            let io = TokioIo::new(connect(self.simulator, self.road).await?);
            self.sender = Some(if self.road.http2 {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            } else {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            });
        }
        self.sender.as_mut().ok_or_else(|| "no connection".into())
    }

    /// Sends the request; the answer's body is read by the caller.
    pub(crate) async fn begin(&mut self, call: Call) -> Result<Response<Incoming>, Failure> {
        match self.try_once(call).await {
            // Closed before anything was sent on it, or going away before the request came: not processed.
            Err(error)
                if error
                    .downcast_ref::<hyper::Error>()
                    .is_some_and(|error| error.is_canceled() || format!("{error:?}").contains("NO_ERROR, Remote")) =>
            {
                self.sender = None;
                self.try_once(call).await
            }
            result => result,
        }
    }

    async fn try_once(&mut self, call: Call) -> Result<Response<Incoming>, Failure> {
        let endpoint = if self.road.tls { self.simulator.tls_endpoint() } else { self.simulator.plain_endpoint() };
        let (scheme, authority) = endpoint.split_once("://").unwrap();
        let uri = if self.road.http2 { format!("{scheme}://{authority}{}", call.path) } else { call.path.to_owned() };
        let mut request = Request::post(uri)
            .header("authorization", format!("Bearer {DEFAULT_BEARER_TOKEN}"))
            .header("content-type", "application/json");
        if !self.road.http2 {
            request = request.header("host", authority);
        }
        let request = request.body(Full::new(Bytes::from_static(call.body.as_bytes())))?;
        Ok(match self.sender().await? {
            Sender::Http1(sender) => sender.send_request(request).await?,
            Sender::Http2(sender) => sender.send_request(request).await?,
        })
    }

    pub(crate) async fn send(&mut self, call: Call) -> Result<Answer, Failure> {
        let (parts, mut incoming) = self.begin(call).await?.into_parts();
        let mut answer = Answer {
            status: parts.status.as_u16(),
            headers: parts
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            ..Answer::default()
        };
        while let Some(frame) = incoming.frame().await {
            match frame {
                Err(error) => {
                    answer.broke = Some(error.to_string());
                    break;
                }
                Ok(frame) if frame.is_trailers() => answer.trailers = true,
                Ok(frame) => answer.body.extend_from_slice(&frame.into_data().unwrap_or_default()),
            }
        }
        Ok(answer)
    }
}
