//! What a request costs, in tokens and in money.

use super::estimate::Estimate;
use crate::record::Usage;
use crate::settings::limits::Price;

/// What a request takes from each scope that applies to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) tokens: u64,
    pub(super) nano_usd: u64,
}

/// What a request may cost at most, by its estimate.
pub(super) fn estimated(estimate: Estimate, price: Option<Price>) -> Cost {
    let Estimate { input, output } = estimate;
    let nano_usd = price.map_or(0, |price| nano_usd(&[(input, price.input), (output, price.output)]));
    Cost { tokens: estimate.tokens(), nano_usd }
}

/// What was used, as limits count it: input, written cache and output. Tokens that were read from the cache are not
/// counted against token limits, as AWS does not count them against its quotas. What the upstream did not report stays
/// at its estimate.
pub(super) fn actual(usage: &Usage, estimate: Estimate, price: Option<Price>) -> Cost {
    let input = usage.input_tokens.unwrap_or(estimate.input);
    let output = usage.output_tokens.unwrap_or(estimate.output);
    let (read, write) = (usage.cache_read_tokens.unwrap_or(0), usage.cache_write_tokens.unwrap_or(0));
    let nano_usd = price.map_or(0, |price| {
        let hour = usage.cache_write_1h_tokens.unwrap_or(0).min(write);
        nano_usd(&[
            (input, price.input),
            (output, price.output),
            (read, price.cache_read),
            (write - hour, price.cache_write),
            (hour, price.cache_write_1h),
        ])
    });
    Cost { tokens: input.saturating_add(output).saturating_add(write), nano_usd }
}

/// Nano-dollars of what was reported; none without a price, or when neither input nor output is known.
pub(super) fn reported(usage: &Usage, price: Option<Price>) -> Option<u64> {
    let price = price?;
    if usage.input_tokens.is_none() && usage.output_tokens.is_none() {
        return None;
    }
    Some(actual(usage, Estimate::NONE, Some(price)).nano_usd)
}

/// The sum of tokens times pico-dollars, rounded up to a nano-dollar.
fn nano_usd(parts: &[(u64, u64)]) -> u64 {
    let pico =
        parts.iter().fold(0u128, |sum, (tokens, price)| sum.saturating_add(u128::from(*tokens) * u128::from(*price)));
    u64::try_from(pico.div_ceil(1_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn cost_is_exact_and_unknown_usage_has_none() {
        let price = Price {
            input: 3_000_000,
            output: 15_000_000,
            cache_read: 300_000,
            cache_write: 3_750_000,
            cache_write_1h: 6_000_000,
        };
        let usage = Usage {
            input_tokens: Some(1_000),
            output_tokens: Some(100),
            cache_read_tokens: Some(10),
            cache_write_tokens: Some(1),
            cache_write_1h_tokens: None,
        };
        // 0.003 + 0.0015 + 0.000003 + 0.00000375 dollars
        assert_eq!(reported(&usage, Some(price)), Some(4_506_750));
        assert_eq!(reported(&usage, None), None);
        assert_eq!(reported(&Usage::default(), Some(price)), None);
        // A thousand tokens written: 400 for an hour at 6 dollars a million, the others at 3.75.
        let kept = |hour| Usage { cache_write_tokens: Some(1_000), cache_write_1h_tokens: Some(hour), ..usage };
        assert_eq!(reported(&kept(400), Some(price)), Some(4_503_000 + 2_400_000 + 2_250_000));
        assert_eq!(reported(&kept(4_000), Some(price)), Some(4_503_000 + 6_000_000), "no more than were written");
        assert_eq!(actual(&usage, Estimate::NONE, Some(price)).tokens, 1_101);
        let broken = Usage { input_tokens: Some(7), ..Usage::default() };
        assert_eq!(actual(&broken, Estimate { input: 5, output: 50 }, None).tokens, 57);
        let all = Usage {
            input_tokens: Some(u64::MAX),
            output_tokens: Some(u64::MAX),
            cache_read_tokens: Some(u64::MAX),
            cache_write_tokens: Some(u64::MAX),
            cache_write_1h_tokens: Some(1),
        };
        let most = u64::MAX;
        let price = Price { input: most, output: most, cache_read: most, cache_write: most, cache_write_1h: most };
        assert_eq!(actual(&all, Estimate::NONE, Some(price)), Cost { tokens: u64::MAX, nano_usd: u64::MAX });
    }
}
