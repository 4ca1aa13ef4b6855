//! What one model's tokens cost, in each service tier.

use std::collections::BTreeMap;

use super::limits::Price;
use crate::config::limits as written;
use crate::service_tier::AskedTier;

/// The plain price of a model, and those of the tiers that have one of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelPrice {
    plain: Price,
    tiers: BTreeMap<String, Price>,
}

impl From<Price> for ModelPrice {
    fn from(plain: Price) -> ModelPrice {
        ModelPrice { plain, tiers: BTreeMap::new() }
    }
}

impl ModelPrice {
    pub(super) fn new(price: &written::Price) -> ModelPrice {
        // Nano-dollars for a million tokens are a thousandth of pico-dollars for one.
        let of = |usd: written::Usd| usd.0 / 1_000;
        let plain = Price {
            input: of(price.input),
            output: of(price.output),
            cache_read: of(price.cache_read),
            cache_write: of(price.cache_write),
            cache_write_1h: of(price.cache_write_1h.unwrap_or(price.cache_write)),
        };
        let tier = |tier: &written::TierPrice| Price {
            input: of(tier.input),
            output: of(tier.output),
            cache_read: tier.cache_read.map_or(plain.cache_read, of),
            cache_write: tier.cache_write.map_or(plain.cache_write, of),
            cache_write_1h: tier.cache_write_1h.map_or(plain.cache_write_1h, of),
        };
        let tiers = price.tiers.iter().map(|(name, price)| (name.0.clone(), tier(price))).collect();
        ModelPrice { plain, tiers }
    }

    /// What is paid in a tier; a tier without a price of its own costs the plain one.
    pub(crate) fn of(&self, tier: &str) -> Price {
        self.tiers.get(tier).copied().unwrap_or(self.plain)
    }

    /// What a request may cost that asks for this tier. Bedrock serves what is above a reservation, and what it cannot
    /// serve with priority, as if nothing had been asked for.
    pub(crate) fn at_most(&self, asked: AskedTier<'_>) -> Price {
        match asked {
            AskedTier::Unsaid => self.of("default"),
            AskedTier::Named("auto") | AskedTier::Unclear => {
                self.tiers.values().copied().fold(self.plain, Price::or_higher)
            }
            AskedTier::Named(tier @ ("default" | "flex")) => self.of(tier),
            AskedTier::Named(tier) => self.of(tier).or_higher(self.of("default")),
        }
    }

    /// What a request costs whose answer reports no tier; none if nobody can tell.
    pub(crate) fn unreported(&self, asked: AskedTier<'_>) -> Option<Price> {
        let most = self.at_most(asked);
        (most == self.of(asked.name().unwrap_or("default"))).then_some(most)
    }

    /// The higher of the two prices for each kind of token, in each tier.
    pub(crate) fn or_higher(&self, other: &ModelPrice) -> ModelPrice {
        let names = self.tiers.keys().chain(other.tiers.keys());
        let tiers = names.map(|name| (name.clone(), self.of(name).or_higher(other.of(name)))).collect();
        ModelPrice { plain: self.plain.or_higher(other.plain), tiers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(input: u64, output: u64) -> Price {
        Price { input, output, ..Price::default() }
    }

    fn priced(plain: Price, tiers: &[(&str, Price)]) -> ModelPrice {
        ModelPrice { plain, tiers: tiers.iter().map(|(name, price)| ((*name).to_owned(), *price)).collect() }
    }

    #[test]
    fn what_may_be_charged_is_reserved() {
        use AskedTier::{Named, Unclear, Unsaid};
        let model = priced(price(4, 4), &[("flex", price(2, 2)), ("priority", price(7, 7)), ("reserved", price(1, 9))]);
        for (asked, most, unreported) in [
            (Unsaid, price(4, 4), Some(price(4, 4))),
            (Named("default"), price(4, 4), Some(price(4, 4))),
            (Named("unheard-of"), price(4, 4), Some(price(4, 4))),
            (Named("flex"), price(2, 2), Some(price(2, 2))),
            (Named("priority"), price(7, 7), Some(price(7, 7))),
            (Named("reserved"), price(4, 9), None),
            (Named("auto"), price(7, 9), None),
            (Unclear, price(7, 9), None),
        ] {
            assert_eq!((model.at_most(asked), model.unreported(asked)), (most, unreported), "{asked:?}");
        }
        let plain = ModelPrice::from(price(4, 4));
        for asked in [Unsaid, Named("flex"), Named("auto"), Unclear] {
            assert_eq!((plain.at_most(asked), plain.unreported(asked)), (price(4, 4), Some(price(4, 4))), "{asked:?}");
        }
    }

    #[test]
    fn of_two_models_the_dearer_counts_in_each_tier() {
        let one = priced(price(4, 4), &[("flex", price(2, 2))]);
        let other = priced(price(3, 5), &[("priority", price(6, 6))]);
        let both = one.or_higher(&other);
        assert_eq!(both, other.or_higher(&one));
        for (tier, expected) in [("default", price(4, 5)), ("flex", price(3, 5)), ("priority", price(6, 6))] {
            assert_eq!(both.of(tier), expected, "{tier}");
        }
    }
}
