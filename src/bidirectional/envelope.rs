//! The envelope of a signed event: a frame whose payload is the event's own frame, and whose headers are a date and a
//! signature.

use bytes::Bytes;

use crate::error::{Refusal, RefusalKind};
use crate::eventstream::{self, BYTES, Frame, Header, TIMESTAMP, push_header};
use crate::sigv4::events::date_header;

const DATE: &[u8] = b":date";
const SIGNATURE: &[u8] = b":chunk-signature";

/// What a client has sent in one frame.
#[derive(Debug)]
pub(crate) enum Opened {
    /// A signed event, or the signed end of the stream if the payload is empty.
    Signed(Signed),
    /// An event as it is.
    Bare(Bytes),
}

#[derive(Debug)]
pub(crate) struct Signed {
    pub milliseconds: i64,
    pub signature: Vec<u8>,
    pub payload: Bytes,
}

/// Opens a frame.
///
/// # Errors
/// 400 for a frame that is neither an envelope nor an event.
pub(crate) fn open(frame: Frame) -> Result<Opened, Refusal> {
    let headers = frame.headers().ok_or_else(|| malformed("has headers that cannot be read"))?;
    if !headers.iter().any(|header| [DATE, SIGNATURE].contains(&header.name)) {
        if headers.is_empty() {
            return Err(malformed("has no headers, so it is neither an event nor signed"));
        }
        return Ok(Opened::Bare(frame.into_bytes()));
    }
    let (mut date, mut signature) = (None, None);
    for Header { name, kind, value } in headers {
        let is_new = match (name, kind) {
            (DATE, TIMESTAMP) => date.replace(value).is_none(),
            (SIGNATURE, BYTES) => signature.replace(value.to_vec()).is_none(),
            // A signature covers no other header.
            _ => false,
        };
        if !is_new {
            return Err(malformed("has other headers than one :date and one :chunk-signature"));
        }
    }
    let date: Option<[u8; 8]> = date.and_then(|date| date.try_into().ok());
    let (Some(date), Some(signature)) = (date, signature) else {
        return Err(malformed("lacks one of :date and :chunk-signature"));
    };
    Ok(Opened::Signed(Signed { milliseconds: i64::from_be_bytes(date), signature, payload: frame.payload() }))
}

/// The event that an envelope holds.
///
/// # Errors
/// 400 if it holds none.
pub(crate) fn event(payload: Bytes) -> Result<Bytes, Refusal> {
    Frame::of(payload).map(Frame::into_bytes).ok_or_else(|| malformed("holds no event, or more than one"))
}

/// Puts an event, or nothing at the stream's end, into an envelope, of which these are the parts in their order. The event is
/// not copied: its part of the memory for bodies goes with it.
pub(crate) fn seal(milliseconds: i64, signature: &[u8], payload: Bytes) -> [Bytes; 3] {
    let mut headers = date_header(milliseconds);
    push_header(&mut headers, ":chunk-signature", BYTES, signature);
    let [before, after] = eventstream::around(&headers, &payload);
    [before, payload, after]
}

fn malformed(what: &str) -> Refusal {
    Refusal::new(RefusalKind::Validation, format!("a frame of the client's stream {what}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventstream::STRING;

    fn frame(headers: &[(&str, u8, &[u8])], payload: &[u8]) -> Frame {
        let mut encoded = Vec::new();
        for (name, kind, value) in headers {
            push_header(&mut encoded, name, *kind, value);
        }
        Frame::of(eventstream::frame(&encoded, payload)).unwrap()
    }

    fn sealed(payload: &Bytes) -> Frame {
        let parts = seal(7, &[1; 32], payload.clone());
        assert!(payload.is_empty() || parts[1].as_ptr() == payload.as_ptr(), "the same memory");
        Frame::of(parts.concat().into()).unwrap()
    }

    #[test]
    fn what_was_sealed_is_opened() {
        let inner = frame(&[(":event-type", STRING, b"chunk")], b"{}").into_bytes();
        let Ok(Opened::Signed(signed)) = open(sealed(&inner)) else { panic!() };
        assert_eq!((signed.milliseconds, signed.signature, &signed.payload), (7, vec![1; 32], &inner));
        assert_eq!(event(signed.payload).unwrap(), inner);
        let Ok(Opened::Signed(end)) = open(sealed(&Bytes::new())) else { panic!() };
        assert!(end.payload.is_empty());
        assert!(matches!(open(Frame::of(inner.clone()).unwrap()), Ok(Opened::Bare(bare)) if bare == inner));
    }

    #[test]
    fn an_envelope_has_its_two_headers_and_no_others() {
        let date: (&str, u8, &[u8]) = (":date", TIMESTAMP, &[0; 8]);
        let signature: (&str, u8, &[u8]) = (":chunk-signature", BYTES, &[1; 32]);
        assert!(open(frame(&[signature, date], b"")).is_ok(), "in either order");
        for headers in [
            &[][..],
            &[date],
            &[signature],
            &[date, date, signature],
            &[date, signature, signature],
            &[date, signature, (":event-type", STRING, b"chunk")],
            &[(":date", STRING, b"now"), signature],
            &[date, (":chunk-signature", STRING, b"00")],
        ] {
            assert!(open(frame(headers, b"")).is_err(), "{headers:?}");
        }
    }

    #[test]
    fn an_envelope_holds_one_event() {
        let inner = frame(&[(":event-type", STRING, b"chunk")], b"{}").into_bytes();
        for payload in [&b"x"[..], &inner[..inner.len() - 1], &[&inner[..], &inner[..]].concat()] {
            assert!(event(Bytes::copy_from_slice(payload)).is_err());
        }
    }
}
