//! A proxy of hyper, tokio and rustls that does nothing but put a key in the place of the client's: what the daemon costs
//! beyond it is the daemon's own. Each client has a connection to the upstream, and both are on one thread.

use std::convert::Infallible;
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_rustls::TlsConnector;

use crate::{Error, tls};

/// Where the proxy listens, and what it needs for the upstream.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    port: u16,
    /// The upstream's port on localhost.
    #[arg(long)]
    upstream: u16,
    /// The authority of its certificate.
    #[arg(long)]
    ca: PathBuf,
    /// The bearer key that it gets.
    #[arg(long)]
    key: String,
    #[arg(long)]
    threads: NonZeroUsize,
}

/// The one upstream.
struct Upstream {
    port: u16,
    tls: TlsConnector,
    authorization: HeaderValue,
}

type Sender = SendRequest<Full<Bytes>>;

/// Serves until it is killed.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let upstream = Arc::new(Upstream {
        port: arguments.upstream,
        tls: tls::client(&arguments.ca)?.into(),
        authorization: HeaderValue::try_from(format!("Bearer {}", arguments.key))?,
    });
    let listener = TcpListener::bind(("127.0.0.1", arguments.port))?;
    let mut threads = Vec::new();
    for _ in 0..arguments.threads.get() {
        let (give, given) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let upstream = Arc::clone(&upstream);
        std::thread::spawn(move || runtime.block_on(serve_all(given, upstream)));
        threads.push(give);
    }
    for give in threads.iter().cycle() {
        give.send(listener.accept()?.0)?;
    }
    Ok(())
}

async fn serve_all(mut given: UnboundedReceiver<std::net::TcpStream>, upstream: Arc<Upstream>) {
    while let Some(client) = given.recv().await {
        let upstream = Arc::clone(&upstream);
        // Clients leave as they like; what they miss, they tell.
        tokio::spawn(async move { serve(client, upstream).await.ok() });
    }
}

async fn serve(client: std::net::TcpStream, upstream: Arc<Upstream>) -> Result<(), Error> {
    client.set_nonblocking(true)?;
    let client = TcpStream::from_std(client)?;
    client.set_nodelay(true)?;
    let connection = Arc::new(Mutex::new(None));
    let service = service_fn(move |request| {
        let (upstream, connection) = (Arc::clone(&upstream), Arc::clone(&connection));
        async move { Ok::<_, Infallible>(answer(request, &upstream, &connection).await) }
    });
    Ok(Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(client), service).await?)
}

async fn answer(
    request: Request<Incoming>,
    upstream: &Upstream,
    connection: &Mutex<Option<Sender>>,
) -> Response<Either<Incoming, Empty<Bytes>>> {
    match forward(request, upstream, connection).await {
        Ok(response) => response.map(Either::Left),
        Err(_) => {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    }
}

async fn forward(
    request: Request<Incoming>,
    upstream: &Upstream,
    connection: &Mutex<Option<Sender>>,
) -> Result<Response<Incoming>, Error> {
    let (mut head, body) = request.into_parts();
    let body = Full::new(body.collect().await?.to_bytes());
    head.headers.insert(AUTHORIZATION, upstream.authorization.clone());
    head.headers.remove("x-amz-date");
    // Requests of a client come one after the other.
    let kept = connection.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut sender = match kept {
        Some(sender) => sender,
        None => upstream.connect().await?,
    };
    sender.ready().await?;
    let response = sender.send_request(Request::from_parts(head, body)).await?;
    *connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    Ok(response)
}

impl Upstream {
    async fn connect(&self) -> Result<Sender, Error> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its end is told to whoever sends next.
        tokio::spawn(async move { connection.await.ok() });
        Ok(sender)
    }
}
