//! One request as a client makes it: nothing that happens to it ends the test; all of it is noted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use test_support::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::book::{Answer, End, Saw};

/// Longer than the daemon may take for anything here: 10 s for each of two upstreams, and what a change of processes takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer bodies are not kept.
const LONG: usize = 64 * 1024;

/// Where a client connects.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// HTTP/1.1, or HTTP/2 with prior knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// How a client takes its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    Reads,
    /// So long between two reads.
    Slowly(Duration),
    /// Takes nothing for so long, and then the rest.
    Stalls(Duration),
    /// Leaves after so long, whatever has come.
    LeavesAfter(Duration),
    /// Leaves when so many bytes have come.
    LeavesAt(u64),
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Line {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Line {
    pub(crate) async fn to(door: &Door, protocol: Protocol) -> Result<Line, String> {
        let line = async {
            match door {
                Door::Tcp(address) => Line::on(TcpStream::connect(address).await?, protocol).await,
                Door::Unix(path) => Line::on(UnixStream::connect(path).await?, protocol).await,
            }
        };
        let connected = tokio::time::timeout(PATIENCE, line).await;
        connected.map_err(|_| "no connection".to_owned())?.map_err(|error| error.to_string())
    }

    async fn on<T>(stream: T, protocol: Protocol) -> Result<Line, Box<dyn std::error::Error + Send + Sync>>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        Ok(match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Line::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(io).await?;
                tokio::spawn(connection);
                Line::Http2(sender)
            }
        })
    }

    /// Another handle of an HTTP/2 connection.
    pub(crate) fn share(&self) -> Option<Line> {
        match self {
            Line::Http1(_) => None,
            Line::Http2(sender) => Some(Line::Http2(sender.clone())),
        }
    }

    /// Whether another request can be sent on it.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Line::Http1(sender) => !sender.is_closed(),
            Line::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn start(&mut self, mut request: Request) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Line::Http1(sender) => {
                request.headers_mut().insert("host", "localhost".parse().unwrap());
                sender.ready().await?;
                sender.send_request(request).await
            }
            Line::Http2(sender) => {
                let path = request.uri().path_and_query().unwrap().to_string();
                *request.uri_mut() = format!("http://localhost{path}").parse().unwrap();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Sends a request and takes the answer in this manner.
    pub(crate) async fn ask(&mut self, request: Request, manner: Manner) -> Saw {
        let leaves = match manner {
            Manner::LeavesAfter(time) => time,
            _ => Duration::from_secs(3600),
        };
        let leaving = tokio::time::sleep(leaves);
        tokio::pin!(leaving);
        let response = tokio::select! {
            response = tokio::time::timeout(PATIENCE, self.start(request)) => response,
            () = &mut leaving => return Saw::Left,
        };
        let response = match response {
            Err(_) => return Saw::Hung("no head"),
            Ok(Err(error)) => return Saw::Nothing(described(&error)),
            Ok(Ok(response)) => response,
        };
        let (head, mut body) = response.into_parts();
        let header = |name: &str| Some(head.headers.get(name)?.to_str().unwrap().to_owned());
        let count = |name: &str| header(name)?.parse().ok();
        let tokens = count("x-amzn-bedrock-input-token-count").zip(count("x-amzn-bedrock-output-token-count"));
        let mut answer = Answer {
            status: head.status.as_u16(),
            id: header("x-bedrock-sidecar-request-id"),
            upstream_id: header("x-amzn-requestid"),
            region: header("x-bedrock-sidecar-region"),
            error_type: header("x-amzn-errortype"),
            content_type: header("content-type"),
            tokens,
            bytes: 0,
            crc32: 0,
            body: None,
            end: End::Whole,
        };
        let (mut crc, mut kept) = (crc32fast::Hasher::new(), Some(BytesMut::new()));
        if let Manner::Stalls(time) = manner {
            tokio::time::sleep(time).await;
        }
        loop {
            let frame = tokio::select! {
                frame = tokio::time::timeout(PATIENCE, body.frame()) => frame,
                () = &mut leaving => {
                    answer.end = End::Left;
                    break;
                }
            };
            match frame {
                Err(_) => return Saw::Hung("no end of the body"),
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    answer.end = End::Cut(described(&error));
                    break;
                }
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    answer.bytes += data.len() as u64;
                    crc.update(&data);
                    kept = kept.filter(|kept| kept.len() + data.len() <= LONG);
                    if let Some(kept) = &mut kept {
                        kept.extend_from_slice(&data);
                    }
                }
            }
            match manner {
                Manner::Slowly(pause) => tokio::time::sleep(pause).await,
                Manner::LeavesAt(bytes) if answer.bytes >= bytes => {
                    answer.end = End::Left;
                    break;
                }
                _ => {}
            }
        }
        answer.crc32 = crc.finalize();
        answer.body = kept.map(BytesMut::freeze);
        Saw::Answer(answer)
    }
}

fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
