//! What is added up of requests that have something in common.

use super::histogram::Histogram;

/// The sums that are plain numbers.
pub(super) const NUMBERS: usize = 9;

/// Counts, bytes and durations of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) requests: u64,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) cache_read_tokens: u64,
    pub(crate) cache_write_tokens: u64,
    /// Billionths of a US dollar.
    pub(crate) cost_nano_usd: u64,
    /// Requests that used tokens and have no cost.
    pub(crate) unpriced: u64,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// Of requests that were sent upstream, to the answer's end.
    pub(crate) latency: Histogram,
    /// To the first byte of the upstream's body.
    pub(crate) first_byte: Histogram,
}

impl Sums {
    pub(crate) fn merge(&mut self, other: &Sums) {
        self.add(other.numbers());
        self.latency.merge(&other.latency);
        self.first_byte.merge(&other.first_byte);
    }

    /// Adds numbers, in the order in which a row has them.
    pub(super) fn add(&mut self, numbers: [u64; NUMBERS]) {
        for (sum, more) in self.numbers_mut().into_iter().zip(numbers) {
            *sum = sum.saturating_add(more);
        }
    }

    pub(super) fn numbers(&self) -> [u64; NUMBERS] {
        [
            self.requests,
            self.input_tokens,
            self.output_tokens,
            self.cache_read_tokens,
            self.cache_write_tokens,
            self.cost_nano_usd,
            self.unpriced,
            self.request_bytes,
            self.response_bytes,
        ]
    }

    fn numbers_mut(&mut self) -> [&mut u64; NUMBERS] {
        [
            &mut self.requests,
            &mut self.input_tokens,
            &mut self.output_tokens,
            &mut self.cache_read_tokens,
            &mut self.cache_write_tokens,
            &mut self.cost_nano_usd,
            &mut self.unpriced,
            &mut self.request_bytes,
            &mut self.response_bytes,
        ]
    }
}
