//! A client of HTTP/1.1 on one kept connection, plain or over TLS, as cheap as it can be.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::{Error, tls};

/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const MODEL: &str = "anthropic.claude-3-haiku-20240307-v1%3A0";

/// Whom the load goes to.
#[derive(Debug, clap::Args)]
pub(crate) struct To {
    /// Address and port.
    to: SocketAddr,
    /// The authority to trust: the target speaks TLS.
    #[arg(long)]
    ca: Option<PathBuf>,
}

/// The same, ready to be connected to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl To {
    pub(crate) fn target(&self) -> Result<Target, Error> {
        let tls = self.ca.as_deref().map(tls::client).transpose()?;
        Ok(Target { address: self.to, tls })
    }
}

trait Wire: Read + Write + Debug + Send {}
impl<T: Read + Write + Debug + Send> Wire for T {}

/// A connection, with what has been read and not yet used.
#[derive(Debug)]
pub(crate) struct Connection {
    wire: BufReader<Box<dyn Wire>>,
    line: Vec<u8>,
}

/// How an answer's body ends.
enum Framing {
    Length(usize),
    Chunked,
}

impl Target {
    pub(crate) fn connect(&self) -> Result<Connection, Error> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let wire: Box<dyn Wire> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let connection = ClientConnection::new(Arc::clone(config), "localhost".try_into()?)?;
                Box::new(StreamOwned::new(connection, stream))
            }
        };
        Ok(Connection { wire: BufReader::with_capacity(16 * 1024, wire), line: Vec::new() })
    }

    /// The bytes of a POST with the headers that an SDK sends.
    pub(crate) fn request(&self, operation: &str, body: &str) -> Vec<u8> {
        self.request_of(MODEL, operation, body)
    }

    /// The same for another model.
    pub(crate) fn request_of(&self, model: &str, operation: &str, body: &str) -> Vec<u8> {
        format!(
            "POST /model/{model}/{operation} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             accept: application/json\r\ncontent-length: {}\r\nuser-agent: aws-sdk-rust/1.3.8 os/linux lang/rust/1.95.0\r\n\
             amz-sdk-request: attempt=1; max=3\r\namz-sdk-invocation-id: 8ba9f5a8-2e3c-4f58-a4d6-5f1d0b9c7d11\r\n\
             x-amz-date: 20260101T000000Z\r\nauthorization: AWS4-HMAC-SHA256 \
             Credential=AKIAGOVCLOUDEXAMPLE/20260101/us-gov-west-1/bedrock/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n\r\n{body}",
            self.address,
            body.len(),
        )
        .into_bytes()
    }
}

impl Connection {
    /// Sends a request and hands the body of its answer, which must be a good one, to `each` as it comes.
    pub(crate) fn exchange(
        &mut self,
        request: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.wire.get_mut().write_all(request)?;
        self.wire.get_mut().flush()?;
        match self.head()? {
            Framing::Length(length) => self.pass(length, &mut each),
            Framing::Chunked => loop {
                let size = usize::from_str_radix(self.line()?.split(';').next().unwrap_or_default().trim(), 16)?;
                self.pass(size, &mut each)?;
                if !self.line()?.is_empty() {
                    return Err("a chunk that does not end, or a trailer".into());
                }
                if size == 0 {
                    return Ok(());
                }
            },
        }
    }

    fn head(&mut self) -> Result<Framing, Error> {
        let status = self.line()?;
        if !status.starts_with("HTTP/1.1 200") {
            return Err(format!("not 200: {status}").into());
        }
        let mut framing = None;
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                return if line.is_empty() { framing.ok_or_else(|| "no length".into()) } else { Err(line.into()) };
            };
            if name.eq_ignore_ascii_case("content-length") {
                framing = Some(Framing::Length(value.trim().parse()?));
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Some(Framing::Chunked);
            }
        }
    }

    fn line(&mut self) -> Result<&str, Error> {
        self.line.clear();
        if self.wire.read_until(b'\n', &mut self.line)? == 0 {
            return Err("the connection was closed".into());
        }
        Ok(std::str::from_utf8(&self.line)?.trim_end())
    }

    fn pass(&mut self, mut left: usize, each: &mut impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        while left > 0 {
            let ready = self.wire.fill_buf()?;
            let taken = ready.len().min(left);
            if taken == 0 {
                return Err("the answer was cut off".into());
            }
            each(&ready[..taken])?;
            self.wire.consume(taken);
            left -= taken;
        }
        Ok(())
    }
}
