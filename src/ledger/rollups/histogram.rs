//! Durations in bins that grow with them, so that a percentile of any number of them is known within 3.2 %.

/// Up to here, in milliseconds, each duration has a bin of its own.
const EXACT: u64 = 32;
/// From there on, each doubling has so many bins of one width, which is 2 to this power.
const BINS_PER_DOUBLING: u64 = 16;
const BINS_SHIFT: u32 = BINS_PER_DOUBLING.ilog2();
/// What takes longer, which is 4.6 hours, counts as so long.
const LONGEST: u64 = (1 << 24) - 1;
const BINS: u16 = 336;

/// How many durations are in each bin that has any, the shortest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Histogram(Vec<(u16, u64)>);

impl Histogram {
    /// Counts a duration, in milliseconds.
    pub(crate) fn record(&mut self, milliseconds: u64) {
        self.add(bin_of(milliseconds), 1);
    }

    /// Counts what another one has counted.
    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (bin, count) in &other.0 {
            self.add(*bin, *count);
        }
    }

    fn add(&mut self, bin: u16, count: u64) {
        match self.0.binary_search_by_key(&bin, |(bin, _)| *bin) {
            Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(count),
            Err(at) => self.0.insert(at, (bin, count)),
        }
    }

    /// The duration that so many of a hundred do not exceed, in milliseconds; none when nothing was counted.
    pub(crate) fn percentile(&self, percent: u64) -> Option<u64> {
        let all = self.0.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        let rank = all.saturating_mul(percent).div_ceil(100).max(1);
        let mut passed = 0_u64;
        let found = self.0.iter().find(|(_, count)| {
            passed = passed.saturating_add(*count);
            passed >= rank
        });
        found.map(|(bin, _)| middle(*bin))
    }

    /// As a row keeps it: of each bin its distance from the one before and its count, in the fewest bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 * self.0.len());
        let mut next = 0;
        for (bin, count) in &self.0 {
            write_number(&mut bytes, u64::from(bin - next));
            write_number(&mut bytes, *count);
            next = *bin;
        }
        bytes
    }

    /// Reads what [`Histogram::to_bytes`] wrote; as much of it as can be read.
    pub(super) fn merge_bytes(&mut self, mut bytes: &[u8]) {
        let mut bin = 0_u64;
        while let (Some(gap), Some(count)) = (read_number(&mut bytes), read_number(&mut bytes)) {
            bin = bin.saturating_add(gap);
            match u16::try_from(bin) {
                Ok(bin) if bin < BINS => self.add(bin, count),
                _ => return,
            }
        }
    }
}

fn bin_of(milliseconds: u64) -> u16 {
    let milliseconds = milliseconds.min(LONGEST);
    let bin = if milliseconds < EXACT {
        milliseconds
    } else {
        let doubling = milliseconds.ilog2();
        let within = (milliseconds >> (doubling - BINS_SHIFT)) % BINS_PER_DOUBLING;
        EXACT + u64::from(doubling - EXACT.ilog2()) * BINS_PER_DOUBLING + within
    };
    u16::try_from(bin).unwrap_or(BINS - 1)
}

/// What the durations in a bin are taken for.
fn middle(bin: u16) -> u64 {
    let bin = u64::from(bin);
    if bin < EXACT {
        return bin;
    }
    let (doubling, within) = ((bin - EXACT) / BINS_PER_DOUBLING, (bin - EXACT) % BINS_PER_DOUBLING);
    let width = (EXACT / BINS_PER_DOUBLING) << doubling;
    (BINS_PER_DOUBLING + within) * width + (width - 1) / 2
}

/// Seven bits a byte, the lowest first; the high bit says that more follow.
fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::Random;

    /// By the definition of docs/dashboard.md: of the sorted durations, the one whose rank is the percentage, rounded up.
    fn exact(sorted: &[u64], percent: usize) -> u64 {
        sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
    }

    #[test]
    fn a_percentile_is_within_the_error_that_is_promised() {
        let mut random = Random(5);
        for round in 0..400 {
            let (count, doublings) = (1 + random.below(3_000), 1 + random.below(24));
            let mut histogram = Histogram::default();
            let mut durations: Vec<u64> = (0..count)
                .map(|_| {
                    let bound = 1_u64 << (1 + random.below(doublings));
                    random.below(bound)
                })
                .collect();
            durations.iter().for_each(|one| histogram.record(*one));
            durations.sort_unstable();
            for percent in [1, 50, 95, 99, 100] {
                let (expected, found) = (exact(&durations, percent), histogram.percentile(percent as u64).unwrap());
                assert!(
                    expected.abs_diff(found) * 1000 <= expected * 32,
                    "round {round}: p{percent} is {expected}, not {found}"
                );
            }
        }
    }

    #[test]
    fn bins_follow_each_other_without_gaps_and_hold_their_middle() {
        let mut before = 0;
        for milliseconds in 0..200_000 {
            let bin = bin_of(milliseconds);
            assert!(bin == before || bin == before + 1, "{milliseconds} ms");
            before = bin;
        }
        for bin in 0..BINS {
            assert_eq!(bin_of(middle(bin)), bin);
        }
        assert_eq!((bin_of(LONGEST), bin_of(u64::MAX)), (BINS - 1, BINS - 1));
    }

    #[test]
    fn what_is_kept_is_what_is_read_and_damage_is_survived() {
        let mut random = Random(6);
        for _ in 0..300 {
            let mut histogram = Histogram::default();
            for _ in 0..random.below(200) {
                histogram.add(bin_of(random.below(1 << 22)), 1 + random.below(1 << 40));
            }
            let mut bytes = histogram.to_bytes();
            let mut read = Histogram::default();
            read.merge_bytes(&bytes);
            assert_eq!(read, histogram);
            read.merge(&histogram);
            assert_eq!(read.percentile(50), histogram.percentile(50), "twice the same");
            for _ in 0..20 {
                let Some(at) = usize::try_from(random.below(bytes.len() as u64 + 1)).ok() else { continue };
                bytes.truncate(at);
                bytes.extend([u8::try_from(random.below(256)).unwrap(); 3]);
                Histogram::default().merge_bytes(&bytes);
            }
        }
        assert_eq!(Histogram::default().percentile(50), None);
    }
}
