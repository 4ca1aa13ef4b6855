//! What a request costs, in tokens and in money.

use super::estimate::Estimate;
use super::model_pattern::fits;
use crate::record::Usage;
use crate::settings::limits::{Price, Prices};

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
        nano_usd(&[(input, price.input), (output, price.output), (read, price.cache_read), (write, price.cache_write)])
    });
    Cost { tokens: input.saturating_add(output).saturating_add(write), nano_usd }
}

/// Nano-dollars; none when no price fits, or when neither input nor output is known.
pub(super) fn cost(prices: &Prices, model: &str, usage: &Usage) -> Option<u64> {
    let price = prices.of(|glob| fits(glob, model))?;
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
    use crate::config::Glob;

    #[test]
    fn cost_is_exact_and_unknown_usage_has_none() {
        let price = Price { input: 3_000_000, output: 15_000_000, cache_read: 300_000, cache_write: 3_750_000 };
        let prices = Prices::new(vec![(Glob::new("anthropic.*"), price)]);
        let usage = Usage {
            input_tokens: Some(1_000),
            output_tokens: Some(100),
            cache_read_tokens: Some(10),
            cache_write_tokens: Some(1),
        };
        // 0.003 + 0.0015 + 0.000003 + 0.00000375 dollars
        assert_eq!(cost(&prices, "us.anthropic.claude", &usage), Some(4_506_750));
        assert_eq!(cost(&prices, "meta.llama", &usage), None);
        assert_eq!(cost(&prices, "anthropic.claude", &Usage::default()), None);
        assert_eq!(actual(&usage, Estimate::NONE, Some(price)).tokens, 1_101);
        let broken = Usage { input_tokens: Some(7), ..Usage::default() };
        assert_eq!(actual(&broken, Estimate { input: 5, output: 50 }, None).tokens, 57);
        let all = Usage {
            input_tokens: Some(u64::MAX),
            output_tokens: Some(u64::MAX),
            cache_read_tokens: Some(u64::MAX),
            cache_write_tokens: Some(u64::MAX),
        };
        let price = Price { input: u64::MAX, output: u64::MAX, cache_read: u64::MAX, cache_write: u64::MAX };
        assert_eq!(actual(&all, Estimate::NONE, Some(price)), Cost { tokens: u64::MAX, nano_usd: u64::MAX });
    }
}
