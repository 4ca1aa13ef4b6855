//! ConverseStreams whose events come as fast as they are read: what a megabyte costs, and whether memory grows with the size.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use hyper::body::Body;
use serde_json::json;

use crate::account::Account;
use crate::client::To;
use crate::{Error, eventstream};

/// What the upstream writes at a time, about as much as a TLS record takes.
const PIECE: usize = 16 * 1024;

/// How many streams, and of what size.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    to: To,
    /// Of events of one stream, rounded down to whole ones.
    #[arg(long)]
    bytes: usize,
    #[arg(long)]
    streams: u32,
    /// The processes whose use is told.
    #[arg(long)]
    process: Vec<u32>,
}

/// Reads the streams. Each must come whole.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let target = arguments.to.target()?;
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":[{{"text":"hello"}}]}}],"additionalModelRequestFields":{{"flood":{}}}}}"#,
        arguments.bytes
    );
    let request = target.request("converse-stream", &body);
    let expected = Flood::new(arguments.bytes)?.length()?;
    let mut connection = target.connect()?;
    let before = Account::of(&arguments.process)?;
    for _ in 0..arguments.streams {
        let mut came = 0;
        connection.exchange(&request, |bytes| {
            came += bytes.len();
            Ok(())
        })?;
        if came != expected {
            return Err(format!("{came} of {expected} bytes came").into());
        }
    }
    let after = Account::of(&arguments.process)?;
    println!(
        "{}",
        json!({
            "bytes": expected, "each": after.each_since(&before, f64::from(arguments.streams)),
            "resident_before_kib": before.resident, "resident_peak_kib": after.peak,
        })
    );
    Ok(())
}

/// A stream of so many events as have these bytes.
#[derive(Debug)]
pub(crate) struct Flood {
    /// Several events of the same length.
    piece: Bytes,
    event: usize,
    events: usize,
    /// Events that have been sent; none before the beginning.
    sent: Option<usize>,
    is_over: bool,
}

impl Flood {
    pub(crate) fn new(bytes: usize) -> Result<Flood, Error> {
        let event = eventstream::delta(eventstream::now())?;
        let mut piece = BytesMut::new();
        while piece.len() + event.len() <= PIECE {
            piece.extend_from_slice(&event);
        }
        let events = bytes / event.len();
        Ok(Flood { piece: piece.freeze(), event: event.len(), events, sent: None, is_over: false })
    }

    /// In bytes, from the beginning to the end.
    fn length(&self) -> Result<usize, Error> {
        Ok(eventstream::beginning()?.len() + self.events * self.event + eventstream::end(self.events)?.len())
    }
}

impl Body for Flood {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match self.sent {
            None => {
                self.sent = Some(0);
                eventstream::beginning()
            }
            Some(sent) if sent < self.events => {
                let now = (self.events - sent).min(self.piece.len() / self.event);
                self.sent = Some(sent + now);
                Ok(self.piece.slice(..now * self.event))
            }
            Some(_) if !self.is_over => {
                self.is_over = true;
                eventstream::end(self.events)
            }
            Some(_) => return Poll::Ready(None),
        };
        Poll::Ready(Some(frame.map(Frame::data)))
    }
}
