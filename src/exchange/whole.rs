//! An upstream's answer, read whole by a front that gives it another shape. Its record tells what the client is given.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use super::{Answered, Exchange};
use crate::error::{Refusal, RefusalKind};
use crate::receive::budget::Held;
use crate::receive::gather::Gathered;
use crate::record::Outcome;
use crate::upstream::AnswerBody;
use crate::upstream::body::UpstreamBody;

/// A whole answer. Its request ends with [`Whole::given_as`].
#[derive(Debug)]
pub(crate) struct Whole {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    exchange: Box<Exchange>,
}

/// No whole answer could be had: the request is to be refused.
#[derive(Debug)]
pub(crate) struct NotWhole {
    pub exchange: Box<Exchange>,
    pub headers: HeaderMap,
    pub refusal: Refusal,
}

impl Whole {
    /// A part of the memory for bodies, for what is made of the answer.
    pub(crate) fn hold(&self) -> (Held, usize) {
        (self.exchange.hold(), self.exchange.road.settings.max_buffered_bytes)
    }

    /// The client is refused after all.
    pub(crate) fn not_given(self, refusal: Refusal) -> Box<NotWhole> {
        self.exchange.not_whole(self.headers, refusal)
    }

    /// The client is given `length` bytes, made of the answer.
    pub(crate) fn given_as(mut self, length: usize) {
        self.exchange.record.response_size = length as u64;
        if let Some(meter) = self.exchange.held_meter.take() {
            self.exchange.complete(meter);
        }
    }
}

impl Exchange {
    /// Reads an upstream's answer to its end; one of more than `most` bytes is left.
    pub(crate) async fn read_whole(
        mut self: Box<Self>,
        answered: Answered,
        most: usize,
    ) -> Result<Whole, Box<NotWhole>> {
        let (status, headers, meter, body) = self.answered(answered);
        // The exchange keeps the meter, so that the tokens of a client that leaves meanwhile count like any other's.
        self.held_meter = Some(meter);
        let read = match body {
            AnswerBody::Read(body) => {
                self.record.first_byte_latency = Some(self.elapsed());
                Ok(body)
            }
            AnswerBody::Passing(body) => self.collect(body, most).await,
        };
        match read {
            Ok(body) => Ok(Whole { status, headers, body, exchange: self }),
            Err(refusal) => Err(self.not_whole(headers, refusal)),
        }
    }

    fn not_whole(mut self: Box<Self>, headers: HeaderMap, refusal: Refusal) -> Box<NotWhole> {
        if let Some(meter) = self.held_meter.take() {
            self.metered(meter);
        }
        Box::new(NotWhole { exchange: self, headers, refusal })
    }

    /// The body's bytes, with their part of the memory for bodies.
    async fn collect(&mut self, mut body: UpstreamBody, most: usize) -> Result<Bytes, Refusal> {
        let announced = body.size_hint().lower();
        if announced > most as u64 {
            return Err(too_long(most));
        }
        let (held, budget) = (self.hold(), self.road.settings.max_buffered_bytes);
        let mut whole = Gathered::new(held, usize::try_from(announced).unwrap_or(0), most, budget).await?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                self.record.outcome = Outcome::UpstreamBroke;
                Refusal::new(RefusalKind::ServiceUnavailable, format!("{error}."))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if self.record.first_byte_latency.is_none() && !data.is_empty() {
                self.record.first_byte_latency = Some(self.elapsed());
            }
            if let Some(meter) = &mut self.held_meter {
                meter.feed(&data);
            }
            if whole.len() + data.len() > most {
                return Err(too_long(most));
            }
            whole.add(data).await?;
        }
        Ok(whole.into_bytes())
    }
}

fn too_long(most: usize) -> Refusal {
    let message = format!(
        "the model's answer is longer than {most} bytes, the most that this API gives; send the request to Bedrock's own path, /model/MODEL/invoke, whose answers have no limit here."
    );
    Refusal::new(RefusalKind::Validation, message)
}
