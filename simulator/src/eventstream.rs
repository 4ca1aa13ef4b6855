//! The `application/vnd.amazon.eventstream` framing: an encoder, and a decoder for tests.
//!
//! Written here and not taken from an AWS crate, so that the daemon's parser is checked against an independent writer.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

const STRING_HEADER: u8 = 7;

/// Frames one message: total length, header length, CRC of those two, headers, payload, CRC of everything before it.
#[expect(clippy::cast_possible_truncation, reason = "messages of a simulator are far below the format's limits")]
pub fn encode(headers: &[(&str, &str)], payload: &[u8]) -> Bytes {
    let header_length: usize = headers.iter().map(|(name, value)| 1 + name.len() + 1 + 2 + value.len()).sum();
    let total = 12 + header_length + payload.len() + 4;
    let mut frame = BytesMut::with_capacity(total);
    frame.put_u32(total as u32);
    frame.put_u32(header_length as u32);
    frame.put_u32(crc32fast::hash(&frame[..8]));
    for (name, value) in headers {
        frame.put_u8(name.len() as u8);
        frame.put_slice(name.as_bytes());
        frame.put_u8(STRING_HEADER);
        frame.put_u16(value.len() as u16);
        frame.put_slice(value.as_bytes());
    }
    frame.put_slice(payload);
    frame.put_u32(crc32fast::hash(&frame));
    frame.freeze()
}

/// An ordinary event, with the three headers every Bedrock stream carries.
pub fn event(event_type: &str, payload: &Value) -> Bytes {
    let headers = [(":event-type", event_type), (":content-type", "application/json"), (":message-type", "event")];
    encode(&headers, payload.to_string().as_bytes())
}

/// A failure told inside a stream: an exception frame, after which the service ends the stream.
pub fn exception(exception_type: &str, message: &str) -> Bytes {
    let headers =
        [(":exception-type", exception_type), (":content-type", "application/json"), (":message-type", "exception")];
    encode(&headers, serde_json::json!({ "message": message }).to_string().as_bytes())
}

/// The same frame with a message CRC that does not match.
pub fn spoil(frame: &Bytes) -> Bytes {
    let mut spoilt = frame.to_vec();
    if let Some(last) = spoilt.last_mut() {
        *last ^= 0xff;
    }
    spoilt.into()
}

/// A decoded message: its string headers and its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Headers in wire order.
    pub headers: Vec<(String, String)>,
    /// The payload's bytes.
    pub payload: Bytes,
}

impl Message {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Decodes a whole stream, checking both CRCs of each message. Says what is wrong, or how many bytes were left over.
pub fn decode_all(mut bytes: &[u8]) -> Result<Vec<Message>, String> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        if bytes.len() < 16 {
            return Err(format!("{} bytes left over", bytes.len()));
        }
        let total = read_u32(bytes, 0) as usize;
        let header_length = read_u32(bytes, 4) as usize;
        if read_u32(bytes, 8) != crc32fast::hash(&bytes[..8]) {
            return Err("prelude CRC does not match".to_owned());
        }
        if total > bytes.len() || total < 16 + header_length {
            return Err(format!("a message of {total} bytes where {} are left", bytes.len()));
        }
        if read_u32(bytes, total - 4) != crc32fast::hash(&bytes[..total - 4]) {
            return Err("message CRC does not match".to_owned());
        }
        let headers = decode_headers(&bytes[12..12 + header_length])?;
        let payload = Bytes::copy_from_slice(&bytes[12 + header_length..total - 4]);
        messages.push(Message { headers, payload });
        bytes = &bytes[total..];
    }
    Ok(messages)
}

fn decode_headers(mut bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
    let mut headers = Vec::new();
    while let Some((&name_length, rest)) = bytes.split_first() {
        let name_length = name_length as usize;
        if rest.len() < name_length + 3 || rest[name_length] != STRING_HEADER {
            return Err("a header that is not a string".to_owned());
        }
        let name = String::from_utf8_lossy(&rest[..name_length]).into_owned();
        let value_length = u16::from_be_bytes([rest[name_length + 1], rest[name_length + 2]]) as usize;
        let rest = &rest[name_length + 3..];
        if rest.len() < value_length {
            return Err("a header value is cut short".to_owned());
        }
        headers.push((name, String::from_utf8_lossy(&rest[..value_length]).into_owned()));
        bytes = &rest[value_length..];
    }
    Ok(headers)
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest message, byte for byte as AWS's own test vectors have it (`empty_message`).
    #[test]
    fn the_empty_message_is_the_published_vector() {
        assert_eq!(encode(&[], b"")[..], [0, 0, 0, 0x10, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff]);
    }

    #[test]
    fn an_event_is_read_back_as_it_was_written() -> Result<(), String> {
        let payload = serde_json::json!({"role": "assistant"});
        let messages = decode_all(&event("messageStart", &payload))?;
        assert_eq!(messages[0].header(":event-type"), Some("messageStart"));
        assert_eq!(messages[0].payload, payload.to_string().as_bytes());
        Ok(())
    }

    #[test]
    fn a_spoilt_frame_is_noticed() {
        assert!(decode_all(&spoil(&exception("throttlingException", "slow down"))).is_err());
    }
}
