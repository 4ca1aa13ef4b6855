//! `[limits]`, its tables per model, `[fleet]` and the price file, as they are written.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use toml::Spanned;

use super::{FilePath, Span};

/// `[limits]`: the limits of this host, and how requests wait for them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    // The keys of `Rates`, one by one: `flatten` would cost an error its line and column.
    pub requests_per_minute: Option<NonZeroU32>,
    pub request_burst: Option<Spanned<NonZeroU32>>,
    pub concurrent_requests: Option<NonZeroU32>,
    pub tokens_per_minute: Option<NonZeroU64>,
    pub tokens_per_day: Option<NonZeroU64>,
    pub usd_per_day: Option<Spanned<Usd>>,
    pub usd_per_month: Option<Spanned<Usd>>,
    pub max_wait: Option<Wait>,

    pub max_body_bytes: NonZeroUsize,
    /// Requests that may wait at once, over all callers.
    pub max_waiting: NonZeroUsize,
    /// A TOML file of `[[prices]]`, which the admin keeps.
    pub prices_file: Option<Spanned<FilePath>>,
    /// By pattern on model identifiers.
    pub models: BTreeMap<Spanned<String>, Rates>,
}

/// The limits that a host, a caller or a model may have. What is left out is not limited.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    pub requests_per_minute: Option<NonZeroU32>,
    pub request_burst: Option<Spanned<NonZeroU32>>,
    pub concurrent_requests: Option<NonZeroU32>,
    pub tokens_per_minute: Option<NonZeroU64>,
    pub tokens_per_day: Option<NonZeroU64>,
    pub usd_per_day: Option<Spanned<Usd>>,
    pub usd_per_month: Option<Spanned<Usd>>,
    pub max_wait: Option<Wait>,
}

/// `[fleet]`: limits that all hosts keep together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    pub table: Spanned<String>,
    #[serde(default = "govcloud")]
    pub region: Spanned<String>,
    pub requests_per_minute: Option<NonZeroU32>,
    pub tokens_per_minute: Option<NonZeroU64>,
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
pub struct PriceFile {
    pub prices: Vec<Price>,
}

/// USD per million tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub model: super::Glob,
    pub input: Usd,
    pub output: Usd,
    #[serde(default)]
    pub cache_read: Usd,
    #[serde(default)]
    pub cache_write: Usd,
}

/// An amount of US dollars, kept in nano-dollars; at most 9 decimals mean something, and at most a billion dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usd(pub u64);

/// A time to wait for, `0s` included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wait(pub Duration);

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            requests_per_minute: None,
            request_burst: None,
            concurrent_requests: None,
            tokens_per_minute: None,
            tokens_per_day: None,
            usd_per_day: None,
            usd_per_month: None,
            max_wait: None,
            max_body_bytes: NonZeroUsize::MIN.saturating_add(24_999_999),
            max_waiting: NonZeroUsize::MIN.saturating_add(1023),
            prices_file: None,
            models: BTreeMap::new(),
        }
    }
}

fn govcloud() -> Spanned<String> {
    Spanned::new(0..0, "us-gov-west-1".to_owned())
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
                    // In range, so the cast is exact to the nano-dollar that the nearest double stands for.
                    return Ok(Usd((usd * 1e9).round() as u64));
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
