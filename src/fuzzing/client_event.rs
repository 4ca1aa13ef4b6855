//! A frame of a client's bidirectional stream.

use bytes::Bytes;

use crate::bidirectional::envelope::{self, Opened};
use crate::eventstream::{self, Frame};

/// A frame with these headers and this payload is read without a wrong word, and an envelope that was opened is sealed again
/// to one that says the same. The input: length of the headers in one byte, headers, payload. True if it was opened.
pub fn client_event(data: &[u8]) -> bool {
    // Bytes as they come, which may end anywhere.
    let _ = Frame::of(Bytes::copy_from_slice(data));
    let Some((&length, rest)) = data.split_first() else { return false };
    let Some((headers, payload)) = rest.split_at_checked(length.into()) else { return false };
    let written = eventstream::frame(headers, payload);
    let frame = Frame::of(written.clone()).expect("what was written is a frame");
    assert_eq!(frame.payload(), payload);
    match envelope::open(frame) {
        Err(refusal) => {
            assert!(refusal.text().len() < 200);
            false
        }
        Ok(Opened::Bare(event)) => {
            assert_eq!(event, written);
            true
        }
        Ok(Opened::Signed(signed)) => {
            let sealed = envelope::seal(signed.milliseconds, &signed.signature, signed.payload.clone());
            let Some(Ok(Opened::Signed(again))) = Frame::of(sealed.concat().into()).map(envelope::open) else {
                panic!("an envelope of ours is no envelope")
            };
            assert_eq!((again.milliseconds, &again.signature), (signed.milliseconds, &signed.signature));
            assert_eq!((again.payload, payload), (signed.payload.clone(), &signed.payload[..]));
            if let Ok(event) = envelope::event(signed.payload) {
                assert_eq!(event, payload);
            }
            true
        }
    }
}
