//! How many hosts want how much: enough to know the level of a whole fleet without a list of its hosts.

use std::collections::BTreeMap;

/// Numbers of hosts by the size of their wishes. A bucket's bounds are at most a quarter apart; wishes below 8 have one each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Curve(BTreeMap<u16, i64>);

/// The share that nobody exceeds where not everybody can have what they want: `rest / among`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) rest: u64,
    pub(super) among: u64,
}

impl Curve {
    /// Of these wishes.
    pub fn of(wishes: impl Iterator<Item = u64>) -> Curve {
        let mut curve = Curve::default();
        wishes.for_each(|wish| curve.add(bucket(wish), 1));
        curve
    }

    /// Hosts in each bucket that is not empty.
    pub fn buckets(&self) -> impl Iterator<Item = (u16, i64)> + '_ {
        self.0.iter().map(|(bucket, hosts)| (*bucket, *hosts))
    }

    /// So many hosts more, or fewer, in a bucket.
    pub fn add(&mut self, bucket: u16, hosts: i64) {
        let sum = self.0.get(&bucket).map_or(hosts, |before| before.saturating_add(hosts));
        if sum == 0 {
            self.0.remove(&bucket);
        } else {
            self.0.insert(bucket, sum);
        }
    }

    /// Adds all of another, or takes it away (`sign` -1).
    pub(super) fn add_all(&mut self, other: &Curve, sign: i64) {
        other.buckets().for_each(|(bucket, hosts)| self.add(bucket, hosts.saturating_mul(sign)));
    }

    /// The number of hosts.
    pub(super) fn hosts(&self) -> u64 {
        self.0.values().fold(0, |sum, hosts| sum.saturating_add(u64::try_from(*hosts).unwrap_or(0)))
    }

    /// The first differences to another, at most so many of them.
    pub(super) fn differences(&self, other: &Curve, most: usize) -> Curve {
        let mut all = other.clone();
        all.add_all(self, -1);
        Curve(all.0.into_iter().take(most).collect())
    }

    /// The level at which all wishes, cut at it, add up to `usable`; none if everybody can have what they want. `wanted` is
    /// the exact sum of all wishes, and `others` the number of hosts that the curve does not know.
    pub(super) fn level(&self, usable: u64, wanted: u64, others: u64) -> Option<Level> {
        let known = self.buckets().filter_map(|(bucket, hosts)| Some((middle(bucket), u64::try_from(hosts).ok()?)));
        let mut wishes: Vec<_> = known.collect();
        let sum =
            wishes.iter().fold(0u128, |sum, (wish, hosts)| sum.saturating_add(u128::from(*wish) * u128::from(*hosts)));
        let rest = u64::try_from(u128::from(wanted).saturating_sub(sum)).unwrap_or(u64::MAX);
        if let Some(each) = rest.checked_div(others) {
            wishes.push((each, others));
        } else if let Some(factor) = (u128::from(wanted) << 32).checked_div(sum) {
            // What the buckets blur, the exact sum corrects.
            let factor = factor.clamp(3 << 30, 5 << 30);
            for (wish, _) in &mut wishes {
                *wish = u64::try_from((u128::from(*wish) * factor) >> 32).unwrap_or(u64::MAX);
            }
        }
        level(wishes, usable)
    }
}

/// The level of wishes, each with the number of hosts that have it.
pub(super) fn level(mut wishes: Vec<(u64, u64)>, usable: u64) -> Option<Level> {
    wishes.sort_unstable();
    let (mut rest, mut among) = (usable, wishes.iter().fold(0u64, |sum, (_, hosts)| sum.saturating_add(*hosts)));
    for (wish, hosts) in wishes {
        if u128::from(wish) * u128::from(among) > u128::from(rest) {
            return Some(Level { rest, among });
        }
        rest -= wish * hosts;
        among = among.saturating_sub(hosts);
    }
    None
}

/// 0 to 7 for themselves; then four for each doubling.
fn bucket(wish: u64) -> u16 {
    let exponent = wish.checked_ilog2().unwrap_or(0);
    if exponent < 3 {
        return u16::try_from(wish).unwrap_or(0);
    }
    let quarter = (wish >> (exponent - 2)) & 3;
    u16::try_from(u64::from(exponent) * 4 + quarter).unwrap_or(0) - 4
}

/// A wish in the middle of a bucket.
fn middle(bucket: u16) -> u64 {
    if bucket < 8 {
        return bucket.into();
    }
    let (exponent, quarter) = ((u32::from(bucket) + 4) / 4, u64::from(bucket % 4));
    if exponent > 63 {
        return u64::MAX;
    }
    let quarters = 1u64 << (exponent - 2);
    (4 + quarter) * quarters + (quarters - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_near_its_wishes() {
        let mut last = 0;
        for wish in (0..200_000).chain([1 << 40, (1 << 41) - 1, u64::MAX / 2, u64::MAX]) {
            let bucket = bucket(wish);
            assert!(bucket == last || bucket == last + 1 || wish >= 200_000, "{wish}: {bucket} after {last}");
            last = bucket;
            assert!(middle(bucket).abs_diff(wish) <= wish / 8, "{wish}: {}", middle(bucket));
        }
    }

    #[test]
    fn the_level_is_near_the_exact_one() {
        let mut seed = 7u64;
        for round in 0..200u64 {
            let wishes: Vec<u64> = (0..500)
                .map(|_| {
                    seed = super::super::target::mix(seed);
                    seed % (1 << (1 + (seed >> 32) % 16))
                })
                .collect();
            let wanted: u64 = wishes.iter().sum();
            let usable = wanted / 100 * (round % 100);
            let curve = Curve::of(wishes.iter().copied());
            assert_eq!(curve.hosts(), 500);
            let found = curve.level(usable, wanted, 0);
            let Some(Level { rest, among }) = found else { panic!("{usable} of {wanted}") };
            let given: u64 = wishes.iter().map(|wish| (*wish).min(rest / among)).sum();
            assert!(given.abs_diff(usable) <= usable / 40 + 500, "{given} of {usable}");
        }
        assert_eq!(Curve::of([5, 5].into_iter()).level(10, 10, 0), None);
    }

    #[test]
    fn differences_lead_from_one_to_the_other_in_steps() {
        let (from, to) = (Curve::of([1, 2, 3, 900].into_iter()), Curve::of([2, 2, 50, 70, 90].into_iter()));
        let mut at = from;
        for _ in 0..3 {
            let step = at.differences(&to, 3);
            at.add_all(&step, 1);
        }
        assert_eq!(at, to);
    }

    #[test]
    fn no_numbers_make_anything_overflow() {
        let mut curve = Curve::of([0, 1, u64::MAX].into_iter());
        curve.add(250, i64::MAX);
        curve.add(250, i64::MAX);
        curve.add(3, i64::MIN);
        curve.add(u16::MAX, 5);
        curve.add_all(&curve.clone(), i64::MIN);
        curve.add_all(&curve.clone(), i64::MAX);
        for usable in [0, 1, u64::MAX] {
            for wanted in [0, 1, u64::MAX] {
                for others in [0, 1, u64::MAX] {
                    let _ = curve.level(usable, wanted, others);
                }
            }
        }
    }
}
