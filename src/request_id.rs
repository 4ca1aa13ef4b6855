//! The ids of requests: UUIDs of version 7 (RFC 9562), which sort by time. To make one takes no lock, and once in 64 times a
//! draw from the generator of random numbers.

use std::cell::RefCell;

use jiff::Timestamp;
use uuid::{Builder, Uuid};

/// Random bytes of an id, and of so many ids at once.
const OF_ONE: usize = 8;
const AT_ONCE: usize = 64 * OF_ONE;

/// What a thread has drawn; the last `left` bytes are in no id yet.
struct Drawn {
    bytes: [u8; AT_ONCE],
    left: usize,
}

thread_local! {
    static DRAWN: RefCell<Drawn> = const { RefCell::new(Drawn { bytes: [0; AT_ONCE], left: 0 }) };
}

/// A new id. Behind the milliseconds it has 12 more bits of the time (RFC 9562, 6.2, method 3), so that those of the same
/// millisecond sort too, and then 62 random bits.
pub(crate) fn new(now: Timestamp) -> Uuid {
    let Some(random) = DRAWN.with_borrow_mut(Drawn::next) else { return Uuid::now_v7() };
    let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
    let fraction = u64::from(now.subsec_nanosecond().rem_euclid(1_000_000).unsigned_abs()) * 4096 / 1_000_000;
    let [.., high, low] = fraction.to_be_bytes();
    let [a, b, c, d, e, f, g, h] = random;
    Builder::from_unix_timestamp_millis(millis, &[high, low, a, b, c, d, e, f, g, h]).into_uuid()
}

/// An id as records and headers have it: 36 lower-case characters.
pub(crate) fn text(id: Uuid) -> String {
    id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned()
}

impl Drawn {
    /// Bytes that nobody has had; none if the generator fails.
    fn next(&mut self) -> Option<[u8; OF_ONE]> {
        if self.left == 0 {
            aws_lc_rs::rand::fill(&mut self.bytes).ok()?;
            self.left = AT_ONCE;
        }
        let next = self.bytes[AT_ONCE - self.left..].first_chunk().copied();
        self.left -= OF_ONE;
        next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_are_the_same_whichever_thread_makes_them() {
        let moment = Timestamp::now();
        let make = move || (0..10_000).map(|_| new(moment)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let ids: Vec<Uuid> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        // All random bits differ, and not only by what a counter would add: each is set in about half of the ids.
        let random = |id: &Uuid| u64::from_be_bytes(*id.as_bytes().last_chunk().unwrap()) & (u64::MAX >> 2);
        assert_eq!(ids.iter().map(random).collect::<HashSet<_>>().len(), 40_000);
        for bit in 0..62 {
            let set = ids.iter().filter(|id| random(id) >> bit & 1 == 1).count();
            assert!(set.abs_diff(20_000) < 1_000, "bit {bit} is set in {set} of 40,000");
        }
    }

    #[test]
    fn they_are_of_version_7_and_sort_by_time() {
        let begin = 1_780_000_000_123_000_000_i128;
        let moments = (0..4096).map(|step| Timestamp::from_nanosecond(begin + step * 1_000).unwrap());
        let ids: Vec<(Timestamp, Uuid)> = moments.map(|moment| (moment, new(moment))).collect();
        for (moment, id) in &ids {
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            let millis = i64::try_from(seconds).unwrap() * 1000 + i64::from(nanos / 1_000_000);
            assert_eq!(millis, moment.as_millisecond());
        }
        assert!(ids.is_sorted_by(|one, next| one.1 < next.1));
    }

    #[test]
    fn the_text_is_the_usual_one() {
        let id = new(Timestamp::now());
        assert_eq!(text(id), id.to_string());
    }
}
