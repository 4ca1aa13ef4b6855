//! The client's half: envelopes, each with a signature that covers the one before it. Strict, and written for itself.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::auth::{Seed, format_time};
use crate::reply::AwsError;
use crate::sigv4::{Scope, hex, hmac, sha256_hex, signing_key};

const BYTE_ARRAY: u8 = 6;
const STRING: u8 = 7;
const TIMESTAMP: u8 = 8;
/// Bedrock's limit of an event's bytes is 1,000,000, which are a third longer in base64.
const LONGEST: usize = 1_500_000;

/// What came.
#[derive(Debug)]
pub(super) enum Heard {
    /// The JSON in a chunk's bytes.
    Chunk(Bytes),
    /// The signed empty frame.
    Final,
    /// The end of the body.
    End,
    /// The client reset the stream.
    Gone,
}

/// One half of one stream.
pub(super) struct Frames {
    body: Incoming,
    seed: Seed,
    /// The last signature, in hexadecimal digits.
    prior: String,
    came: BytesMut,
    /// Bytes of body so far.
    pub(super) bytes: usize,
}

/// A frame's headers, and its payload.
type Message = (Vec<(String, u8, Bytes)>, Bytes);

impl Frames {
    pub(super) fn new(body: Incoming, seed: Seed) -> Frames {
        let prior = seed.signature.clone();
        Frames { body, seed, prior, came: BytesMut::new(), bytes: 0 }
    }

    pub(super) async fn next(&mut self, now: i64) -> Result<Heard, AwsError> {
        loop {
            if self.came.len() >= 12 {
                let total = prelude(&self.came)?;
                if self.came.len() >= total {
                    let frame = self.came.split_to(total).freeze();
                    return self.heard(frame, now);
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.bytes += data.len();
                        self.came.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) => return Ok(Heard::Gone),
                None if self.came.is_empty() => return Ok(Heard::End),
                None => return Err(AwsError::validation("The stream ended within a frame.")),
            }
        }
    }

    fn heard(&mut self, frame: Bytes, now: i64) -> Result<Heard, AwsError> {
        let (headers, payload) = message(&frame)?;
        let [date, signature] = ordered(headers)?;
        let milliseconds = date.as_ref().get_i64();
        if (milliseconds / 1000 - now).abs() > 300 {
            return Err(refused("The date of an event is more than 5 minutes off."));
        }
        let time = format_time(milliseconds.div_euclid(1000));
        let scope = Scope { date: time.get(..8).unwrap_or_default().to_owned(), ..self.seed.scope.clone() };
        let mut signed_header = vec![5];
        signed_header.extend_from_slice(b":date");
        signed_header.push(TIMESTAMP);
        signed_header.extend_from_slice(&date);
        let to_sign = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{}\n{}\n{}\n{}",
            scope.text(),
            self.prior,
            sha256_hex(&signed_header),
            sha256_hex(&payload)
        );
        let expected = hmac(&signing_key(&scope, &self.seed.secret), to_sign.as_bytes());
        if expected != signature {
            return Err(refused("The signature of an event does not match the one calculated."));
        }
        self.prior = hex(&expected);
        if payload.is_empty() { Ok(Heard::Final) } else { chunk(&payload).map(Heard::Chunk) }
    }
}

fn refused(message: &str) -> AwsError {
    AwsError::new(403, "InvalidSignatureException", message)
}

/// The length of the frame that begins here.
fn prelude(bytes: &[u8]) -> Result<usize, AwsError> {
    let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let total = number(0) as usize;
    if number(8) != crc32fast::hash(&bytes[..8]) || total < 16 + number(4) as usize || total > LONGEST {
        return Err(AwsError::validation("The body is no event stream."));
    }
    Ok(total)
}

fn message(frame: &Bytes) -> Result<Message, AwsError> {
    let malformed = || AwsError::validation("A frame is malformed.");
    if frame.len() < 16 || prelude(frame)? != frame.len() {
        return Err(malformed());
    }
    let end = frame.len() - 4;
    if frame.slice(end..).get_u32() != crc32fast::hash(&frame[..end]) {
        return Err(AwsError::validation("The checksum of a frame does not match."));
    }
    let headers_end = 12 + frame.slice(4..8).get_u32() as usize;
    let (mut rest, mut headers) = (frame.slice(12..headers_end), Vec::new());
    while !rest.is_empty() {
        let length = usize::from(rest.get_u8());
        if rest.len() < length + 1 {
            return Err(malformed());
        }
        let name = String::from_utf8_lossy(&rest.split_to(length)).into_owned();
        let kind = rest.get_u8();
        let length = match kind {
            TIMESTAMP => 8,
            BYTE_ARRAY | STRING if rest.len() >= 2 => usize::from(rest.get_u16()),
            _ => return Err(malformed()),
        };
        if rest.len() < length {
            return Err(malformed());
        }
        headers.push((name, kind, rest.split_to(length)));
    }
    Ok((headers, frame.slice(headers_end..end)))
}

/// The date and the signature of an envelope, which has nothing else.
fn ordered(headers: Vec<(String, u8, Bytes)>) -> Result<[Bytes; 2], AwsError> {
    let unsigned = || refused("An event carries no signature, or more than a date and a signature.");
    let find = |name: &str, kind: u8| {
        headers.iter().find(|(known, of, _)| known == name && *of == kind).map(|(_, _, value)| value.clone())
    };
    match (headers.len(), find(":date", TIMESTAMP), find(":chunk-signature", BYTE_ARRAY)) {
        (2, Some(date), Some(signature)) => Ok([date, signature]),
        _ => Err(unsigned()),
    }
}

/// The JSON in the bytes of an event.
fn chunk(payload: &Bytes) -> Result<Bytes, AwsError> {
    use base64::Engine;
    let (headers, payload) = message(payload)?;
    for (name, expected) in
        [(":message-type", "event"), (":event-type", "chunk"), (":content-type", "application/json")]
    {
        if !headers.iter().any(|(known, kind, value)| known == name && *kind == STRING && value == expected) {
            return Err(AwsError::validation(format!("An event has no header {name} with the value {expected}.")));
        }
    }
    let value: serde_json::Value =
        serde_json::from_slice(&payload).map_err(|_| AwsError::validation("An event is not JSON."))?;
    let bytes = value["bytes"].as_str().and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    bytes.map(Bytes::from).ok_or_else(|| AwsError::validation("An event has no bytes in base64."))
}
