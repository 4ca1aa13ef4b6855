//! `[limits]`, its tables per model, `[fleet]` and the price file, as they are written.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use toml::Spanned;

use super::rate_keys::{rate_keys, table_with_rates, written_table};
use super::{FilePath, Span};

table_with_rates! {
    /// `[limits]`: the limits of this host, and how requests wait for them.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Limits {
        ..rates,
        /// The largest body that is taken from a client, in bytes.
        pub max_body_bytes: NonZeroUsize = NonZeroUsize::MIN.saturating_add(24_999_999),
        /// What the bodies of all requests may take in memory, in bytes, and one user's half of it. 256 MiB if left out,
        /// or twice `max_body_bytes` if that is more.
        pub max_buffered_bytes: Option<Spanned<NonZeroUsize>> = None,
        /// Requests that may wait at once, over all callers.
        pub max_waiting: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023),
        /// A TOML file of `[[prices]]`, which the admin keeps.
        pub prices_file: Option<Spanned<FilePath>> = None,
        /// By pattern on model identifiers.
        pub models: BTreeMap<Spanned<String>, Rates> = BTreeMap::new(),
    }
}

macro_rules! written_rates {
    ([$($(#[$doc:meta])* $key:ident: $written:ty => $meant:ty;)*]) => {
        /// The limits that a host, a caller or a group of models may have. What is left out is not limited.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Rates {
            $($(#[$doc])* pub $key: Option<$written>,)*
        }
    };
}

rate_keys! { written_rates! {} }

/// `[fleet]`: limits that all hosts keep together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fleet {
    /// The DynamoDB table, which holds nothing else.
    pub table: Spanned<String>,
    /// The table's region.
    #[serde(default = "govcloud")]
    pub region: Spanned<String>,
    /// Requests of all hosts together, in any sixty seconds.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens of all hosts together, in any sixty seconds.
    pub tokens_per_minute: Option<NonZeroU64>,
    /// Of the two limits: the table keeps those of the highest revision.
    #[serde(default)]
    pub revision: u32,
    /// What a host does when the table cannot be reached.
    #[serde(default)]
    pub on_unavailable: OnUnavailable,
}

/// What a host does once its lease has run out and the table cannot be reached.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnavailable {
    /// It serves the limit divided by the number of hosts last seen.
    #[default]
    LocalShare,
    /// It refuses with 503.
    Deny,
}

/// The price file: the first `[[prices]]` whose pattern fits a model holds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PriceFile {
    /// In the order of the file.
    pub prices: Vec<Price>,
}

/// USD per million tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    /// Fits the models that this price is of.
    pub model: Spanned<super::Glob>,
    /// Read by the model.
    pub input: Usd,
    /// Written by the model.
    pub output: Usd,
    /// Read from the prompt cache.
    #[serde(default)]
    pub cache_read: Usd,
    /// Written to the prompt cache.
    #[serde(default)]
    pub cache_write: Usd,
    /// The same, to be kept for an hour; as `cache_write` if left out.
    pub cache_write_1h: Option<Usd>,
    /// The prices of service tiers that have their own.
    #[serde(default)]
    pub tiers: BTreeMap<TierName, TierPrice>,
}

/// USD per million tokens in one tier; what is left out costs as it does in no tier.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TierPrice {
    pub input: Usd,
    pub output: Usd,
    pub cache_read: Option<Usd>,
    pub cache_write: Option<Usd>,
    pub cache_write_1h: Option<Usd>,
}

/// The name of a service tier.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TierName(pub String);

/// An amount of US dollars, kept in nano-dollars; at most 9 decimals mean something, and at most a billion dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usd(pub u64);

/// A time to wait for, `0s` included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wait(pub Duration);

fn govcloud() -> Spanned<String> {
    Spanned::new(0..0, "us-gov-west-1".to_owned())
}

impl<'de> Deserialize<'de> for TierName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TierName, D::Error> {
        let text = String::deserialize(deserializer)?;
        if crate::service_tier::name(&text).is_some() {
            return Ok(TierName(text));
        }
        Err(D::Error::custom(format!("\"{text}\" is no name of a service tier; write one such as flex or priority")))
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Usd, D::Error> {
        struct Amount;
        impl Visitor<'_> for Amount {
            type Value = Usd;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of US dollars such as 12.5")
            }
            fn visit_f64<E: Error>(self, usd: f64) -> Result<Usd, E> {
                if (0.0..=1e9).contains(&usd) {
                    return Ok(Usd(nano_dollars(usd)));
                }
                Err(E::custom(format!("{usd} is not an amount of US dollars; write a number from 0 to 1000000000")))
            }
            fn visit_i64<E: Error>(self, usd: i64) -> Result<Usd, E> {
                self.visit_f64(usd as f64)
            }
            fn visit_u64<E: Error>(self, usd: u64) -> Result<Usd, E> {
                self.visit_f64(usd as f64)
            }
        }
        deserializer.deserialize_any(Amount)
    }
}

/// Of an amount from 0 to 1e9, whose nano-dollars an integer holds: exact to the one that the nearest double stands for.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked, and there is no other way"
)]
fn nano_dollars(usd: f64) -> u64 {
    (usd * 1e9).round() as u64
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wait, D::Error> {
        // Zero is what `Span` refuses, and here it is the default.
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Wait;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"0s\" or \"5s\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Wait, E> {
                if let Some(unit) = text.strip_prefix('0').map(|rest| rest.trim_start_matches('0'))
                    && matches!(unit, "ms" | "s" | "m" | "h" | "d")
                {
                    return Ok(Wait(Duration::ZERO));
                }
                let deserializer = serde::de::value::StrDeserializer::<E>::new(text);
                let Span(wait) = Span::deserialize(deserializer)?;
                if wait > Duration::from_secs(3600) {
                    return Err(E::custom("a request cannot wait longer than an hour; clients give up long before"));
                }
                Ok(Wait(wait))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Of<T> {
        it: T,
    }

    #[test]
    fn no_wait_is_a_wait() {
        for (text, millis) in [("0s", 0), ("0ms", 0), ("00m", 0), ("250ms", 250), ("2s", 2_000), ("1h", 3_600_000)] {
            let Of { it: Wait(wait) } = toml::from_str(&format!("it = \"{text}\"")).unwrap();
            assert_eq!(wait, Duration::from_millis(millis), "{text}");
        }
        for wrong in ["0", "", "s", "-1s", "2h", "0x"] {
            assert!(toml::from_str::<Of<Wait>>(&format!("it = \"{wrong}\"")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn dollars_are_kept_to_the_nano_dollar() {
        for (text, nano) in [("3", 3_000_000_000), ("0.035", 35_000_000), ("1e-9", 1), ("0", 0)] {
            let Of { it: Usd(usd) } = toml::from_str(&format!("it = {text}")).unwrap();
            assert_eq!(usd, nano, "{text}");
        }
        for wrong in ["-1", "nan", "inf", "2e9", "\"3\""] {
            assert!(toml::from_str::<Of<Usd>>(&format!("it = {wrong}")).is_err(), "{wrong}");
        }
    }
}
