//! A body that comes in frames, made one piece of memory, of which every byte is charged to the budget before it is there.

use bytes::Bytes;

use super::budget::Held;
use crate::error::Refusal;

/// How much is set aside for a body before it has come. What is only announced takes nothing from others.
const MAX_RESERVED: usize = 1024 * 1024;
/// By how much a body of unknown length grows, at least.
const STEP: usize = 8 * 1024;

/// A body, as far as it has come.
#[derive(Debug)]
pub(crate) struct Gathered {
    held: Held,
    budget: usize,
    /// It gets no longer than this.
    most: usize,
    /// A body of one frame stays as it came.
    first: Bytes,
    /// All of it, from the second frame on.
    whole: Vec<u8>,
}

impl Gathered {
    /// For a body of `announced` bytes, or of up to `limit` where that is 0, from a budget of `budget` bytes.
    ///
    /// # Errors
    /// 503 if there is no room.
    pub(crate) async fn new(
        mut held: Held,
        announced: usize,
        limit: usize,
        budget: usize,
    ) -> Result<Gathered, Refusal> {
        held.grow_to(announced.min(MAX_RESERVED), budget).await?;
        let most = if announced > 0 { announced.min(limit) } else { limit };
        Ok(Gathered { held, budget, most, first: Bytes::new(), whole: Vec::new() })
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.whole.len()
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// As those of [`Gathered::new`].
    pub(crate) async fn add(&mut self, frame: Bytes) -> Result<(), Refusal> {
        let length = self.len() + frame.len();
        if self.len() == 0 {
            self.held.grow_to(length, self.budget).await?;
            self.first = frame;
            return Ok(());
        }
        if length > self.held.bytes() {
            let more = (length / 2).max(STEP);
            self.held.grow_to(length.saturating_add(more).min(self.most).max(length), self.budget).await?;
        }
        if length > self.whole.capacity() {
            // A vector that grows by itself would take up to twice what was charged.
            self.whole.reserve_exact(self.held.bytes().saturating_sub(self.whole.len()));
        }
        self.whole.extend_from_slice(&std::mem::take(&mut self.first));
        self.whole.extend_from_slice(&frame);
        Ok(())
    }

    /// The body. Its part of the budget goes with it.
    pub(crate) fn into_bytes(self) -> Bytes {
        if self.whole.is_empty() { self.held.keep(self.first) } else { self.held.keep(self.whole) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::budget::Budget;
    use super::*;
    use crate::caller::User;

    const MB: usize = 1 << 20;

    #[tokio::test]
    async fn no_body_takes_more_memory_than_is_charged() {
        for (announced, length) in
            [(0, 1), (0, 5 * MB + 1), (0, 20 * MB), (10, 10), (3 * MB, 3 * MB), (20 * MB, 20 * MB), (9 * MB, MB)]
        {
            for size in [1_000, 16 * 1024, 400_000] {
                let budget = Arc::new(Budget::default());
                let held = budget.hold(User::Local(1));
                let mut body = Gathered::new(held, announced, 20 * MB, 100 * MB).await.unwrap();
                assert_eq!(budget.taken(), announced.min(MAX_RESERVED));
                while body.len() < length {
                    let frame = Bytes::from(vec![b'x'; size.min(length - body.len())]);
                    body.add(frame).await.unwrap();
                    let what = format!("{announced} announced, {} there, in frames of {size}", body.len());
                    assert!(body.whole.capacity() <= budget.taken(), "{what}: {}", body.whole.capacity());
                    let most = (body.len() * 3 / 2).max(body.len() + STEP).max(announced.min(MAX_RESERVED));
                    assert!(budget.taken() <= most, "{what}: {} charged", budget.taken());
                }
                let bytes = body.into_bytes();
                assert!(bytes.len() == length && bytes.iter().all(|byte| *byte == b'x'));
                assert!(budget.taken() >= length);
                drop(bytes);
                assert_eq!(budget.taken(), 0);
            }
        }
    }

    #[tokio::test]
    async fn a_body_without_a_byte_takes_nothing() {
        let budget = Arc::new(Budget::default());
        let body = Gathered::new(budget.hold(User::Local(1)), 0, MB, MB).await.unwrap();
        assert!(body.into_bytes().is_empty() && budget.taken() == 0);
    }
}
