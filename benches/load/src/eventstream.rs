//! The `application/vnd.amazon.eventstream` framing. Each paced event carries the time at which it was due, so that its
//! reader knows how late it is.

use bytes::{BufMut, Bytes, BytesMut};
use rustix::time::{ClockId, clock_gettime};

use crate::Error;

const STRING_HEADER: u8 = 7;
/// Stands before the time in an event's text.
const MARK: &str = "due@";
/// So many digits the time is written with.
const DIGITS: usize = 19;

/// Nanoseconds of the clock that is the same for all processes of a host, and that nobody sets.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)).unwrap_or_default()
}

/// The event of one delta, with the time at which it was due.
pub(crate) fn delta(due: u64) -> Result<Bytes, Error> {
    let payload = format!(
        r#"{{"contentBlockIndex":0,"delta":{{"text":"a few words, {MARK}{due:0DIGITS$}"}},"p":"abcdefghijklmnop"}}"#,
    );
    event("contentBlockDelta", payload.as_bytes())
}

/// What comes before the deltas.
pub(crate) fn beginning() -> Result<Bytes, Error> {
    event("messageStart", br#"{"role":"assistant"}"#)
}

/// What comes after them.
pub(crate) fn end(events: usize) -> Result<Bytes, Error> {
    let mut frames = BytesMut::new();
    frames.extend_from_slice(&event("contentBlockStop", br#"{"contentBlockIndex":0}"#)?);
    frames.extend_from_slice(&event("messageStop", br#"{"stopReason":"end_turn"}"#)?);
    let usage = format!(
        r#"{{"metrics":{{"latencyMs":1000}},"usage":{{"inputTokens":20,"outputTokens":{events},"totalTokens":{}}}}}"#,
        events + 20
    );
    frames.extend_from_slice(&event("metadata", usage.as_bytes())?);
    Ok(frames.freeze())
}

fn event(name: &str, payload: &[u8]) -> Result<Bytes, Error> {
    let headers = [(":event-type", name), (":content-type", "application/json"), (":message-type", "event")];
    let length: usize = headers.iter().map(|(name, value)| 1 + name.len() + 1 + 2 + value.len()).sum();
    let mut frame = BytesMut::with_capacity(16 + length + payload.len());
    frame.put_u32(u32::try_from(16 + length + payload.len())?);
    frame.put_u32(u32::try_from(length)?);
    frame.put_u32(crc32fast::hash(&frame));
    for (name, value) in headers {
        frame.put_u8(u8::try_from(name.len())?);
        frame.put_slice(name.as_bytes());
        frame.put_u8(STRING_HEADER);
        frame.put_u16(u16::try_from(value.len())?);
        frame.put_slice(value.as_bytes());
    }
    frame.put_slice(payload);
    frame.put_u32(crc32fast::hash(&frame));
    Ok(frame.freeze())
}

/// Takes a stream apart as it comes.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    rest: Vec<u8>,
    /// Deltas so far.
    pub(crate) deltas: usize,
    /// Whether the usage has come, which is last.
    pub(crate) is_whole: bool,
}

impl Reader {
    /// Calls `each` with the time at which every delta was due.
    pub(crate) fn read(&mut self, bytes: &[u8], mut each: impl FnMut(u64)) -> Result<(), Error> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(length) = self.rest.get(at..at + 4) {
            let length = u32::from_be_bytes(length.try_into()?) as usize;
            let Some(frame) = self.rest.get(at..at + length).filter(|frame| frame.len() >= 16) else { break };
            if let Some(mark) = frame.windows(MARK.len()).position(|text| text == MARK.as_bytes()) {
                let digits = frame[mark + MARK.len()..].get(..DIGITS).ok_or("an event without its time")?;
                each(std::str::from_utf8(digits)?.parse()?);
                self.deltas += 1;
            } else {
                self.is_whole = frame.windows(8).any(|name| name == b"metadata");
            }
            at += length;
        }
        self.rest.drain(..at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_however_it_is_cut() {
        let mut whole = beginning().unwrap().to_vec();
        let due = [now(), now() + 50_000_000];
        whole.extend_from_slice(&delta(due[0]).unwrap());
        whole.extend_from_slice(&delta(due[1]).unwrap());
        whole.extend_from_slice(&end(2).unwrap());
        for size in [1, 7, 100, whole.len()] {
            let mut reader = Reader::default();
            let mut times = Vec::new();
            for piece in whole.chunks(size) {
                assert!(!reader.is_whole);
                reader.read(piece, |time| times.push(time)).unwrap();
            }
            assert!(reader.is_whole && reader.deltas == 2 && reader.rest.is_empty());
            assert_eq!(times, due);
        }
    }
}
