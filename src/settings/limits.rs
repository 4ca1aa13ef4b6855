//! How much may be called: the meaning of `[limits]`, of the same keys per caller and model, of prices and `[fleet]`.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::callers::Callers;
use super::model_price::ModelPrice;
use super::{Audit, any_region, names, patterns};
use crate::config::limits as written;
use crate::config::rate_keys::rate_keys;
use crate::config::{ConfigError, FilePath, Glob, OnUnavailable, Source};
use crate::model::identifier::GEOGRAPHIES;

/// Everything that the limits need. Reloading hands over a new one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// Of all requests on this host.
    pub host: Rates,
    /// Of all requests whose model fits a pattern. Several may fit; each must admit.
    pub models: Vec<(Glob, Rates)>,
    /// Of each configured caller, by its name.
    pub callers: Arc<HashMap<Box<str>, Rates>>,
    /// Requests that may wait at once, over all callers.
    pub max_waiting: usize,
    /// Of the price file; without one, nothing costs anything.
    pub prices: Arc<Prices>,
    /// Of all hosts together.
    pub fleet: Option<Fleet>,
}

macro_rules! meant_rates {
    ([$($(#[$doc:meta])* $key:ident: $written:ty => $meant:ty;)*]) => {
        /// The limits of one scope; none is no limit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Rates {
            $($(#[$doc])* pub $key: Option<$meant>,)*
        }

        impl From<written::Rates> for Rates {
            fn from(rates: written::Rates) -> Rates {
                Rates { $($key: rates.$key.map(Meaning::meaning),)* }
            }
        }
    };
}

rate_keys! { meant_rates! {} }

/// `[fleet]`: limits that all hosts keep together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The DynamoDB table, which holds nothing else.
    pub table: String,
    /// The table's region.
    pub region: String,
    /// Requests of all hosts, in any sixty seconds.
    pub requests_per_minute: Option<u64>,
    /// Tokens of all hosts, in any sixty seconds.
    pub tokens_per_minute: Option<u64>,
    /// Of the two: the table keeps those of the highest revision that a host has had.
    pub revision: u64,
    /// What this host does once its lease has run out and the table cannot be reached.
    pub on_unavailable: OnUnavailable,
}

/// What tokens cost, by pattern on models. The first that fits holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prices(Vec<(Glob, Arc<ModelPrice>)>);

/// Pico-dollars for one token: a dollar for a million tokens is a million pico-dollars for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Price {
    /// Read by the model.
    pub input: u64,
    /// Written by the model.
    pub output: u64,
    /// Read from the prompt cache.
    pub cache_read: u64,
    /// Written to the prompt cache.
    pub cache_write: u64,
    /// Written to the prompt cache, to be kept for an hour.
    pub cache_write_1h: u64,
}

impl Price {
    /// The higher of the two prices for each kind of token.
    pub(crate) fn or_higher(self, other: Price) -> Price {
        Price {
            input: self.input.max(other.input),
            output: self.output.max(other.output),
            cache_read: self.cache_read.max(other.cache_read),
            cache_write: self.cache_write.max(other.cache_write),
            cache_write_1h: self.cache_write_1h.max(other.cache_write_1h),
        }
    }
}

impl Prices {
    /// In order: the first pattern that fits holds.
    pub fn new(prices: Vec<(Glob, impl Into<ModelPrice>)>) -> Prices {
        Prices(prices.into_iter().map(|(glob, price)| (glob, Arc::new(price.into()))).collect())
    }

    /// The patterns, in order.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &Glob> {
        self.0.iter().map(|(pattern, _)| pattern)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The price of a model; none when no pattern fits.
    pub(crate) fn of(&self, fits: impl Fn(&Glob) -> bool) -> Option<Arc<ModelPrice>> {
        self.0.iter().find(|(glob, _)| fits(glob)).map(|(_, price)| price.clone())
    }

    /// The highest price of each kind of token, over all patterns.
    pub(crate) fn highest(&self) -> Option<Arc<ModelPrice>> {
        self.0.iter().map(|(_, price)| price.clone()).reduce(|one, other| Arc::new(one.or_higher(&other)))
    }

    /// Whether a model that fits the pattern may have a price. One for a model holds for its profiles and ARNs too.
    fn may_fit(&self, pattern: &str) -> bool {
        let prefixed = |price: &Glob| {
            GEOGRAPHIES.iter().any(|geography| patterns::overlap(pattern, &format!("{geography}.{price}")))
        };
        let fits = |price: &Glob| patterns::overlap(pattern, &price.to_string()) || prefixed(price);
        patterns::overlap(pattern, "arn:*") || self.0.iter().any(|(price, _)| fits(price))
    }

    /// Of the admin's file, if one is named.
    pub(super) fn of_file(file: Option<&Spanned<FilePath>>, source: &Source) -> Result<Option<Prices>, ConfigError> {
        file.map(|file| Prices::read(file, source)).transpose()
    }

    /// Reads the admin's file. An error names its place in that file.
    fn read(file: &Spanned<FilePath>, source: &Source) -> Result<Prices, ConfigError> {
        let path = &file.get_ref().0;
        let read = Source::read_or(path, |error| {
            source.error(file.span(), format!("the price file {} cannot be read: {error}.", path.display()))
        })?;
        let parsed: written::PriceFile = read.parse()?;
        for (index, row) in parsed.prices.iter().enumerate() {
            let pattern = row.model.get_ref();
            patterns::check_model(&pattern.to_string()).map_err(|why| read.error(row.model.span(), why))?;
            if parsed.prices[..index].iter().any(|earlier| earlier.model.get_ref() == pattern) {
                let sentence = format!("{pattern:?} has a price already, and the first that fits holds; remove one.");
                return Err(read.error(row.model.span(), sentence));
            }
        }
        let price = |row: &written::Price| (row.model.get_ref().clone(), ModelPrice::new(row));
        Ok(Prices::new(parsed.prices.iter().map(price).collect()))
    }
}

/// What the bodies of all requests may take together.
pub(super) fn max_buffered_bytes(limits: &written::Limits, source: &Source) -> Result<usize, ConfigError> {
    // A user alone has half of it, which must have room for one body.
    let least = limits.max_body_bytes.get().saturating_mul(2);
    match &limits.max_buffered_bytes {
        None => Ok(least.max(256 * 1024 * 1024)),
        Some(bytes) if bytes.get_ref().get() < least => Err(source.error(
            bytes.span(),
            format!("max_buffered_bytes must be twice max_body_bytes or more (here {least}): one user's bodies may take half of what others leave."),
        )),
        Some(bytes) => Ok(bytes.get_ref().get()),
    }
}

impl Limits {
    pub(super) fn new(
        mut limits: written::Limits,
        callers: &Callers,
        fleet: Option<Spanned<written::Fleet>>,
        prices: Option<Prices>,
        audit: &Audit,
        source: &Source,
    ) -> Result<Limits, ConfigError> {
        let host = limits.rates();
        let mut models = Vec::new();
        for (pattern, written) in limits.models {
            if pattern.get_ref().trim().is_empty() {
                return Err(source.error(pattern.span(), "an empty pattern matches no model; write for example \"*\"."));
            }
            patterns::check_model(pattern.get_ref()).map_err(|why| source.error(pattern.span(), why))?;
            let rates = Rates::new(written, Budgets { prices: prices.as_ref(), of: Some(pattern.get_ref()) }, source)?;
            if rates.max_wait.is_some() {
                return Err(source.error(
                    pattern.span(),
                    "max_wait belongs to [limits] or to one of [[callers]]; a model has none of its own.",
                ));
            }
            models.push((Glob::new(pattern.get_ref()), rates));
        }
        let of_callers = callers.entries.iter().map(|entry| (entry.name.as_str().into(), entry.limits));
        Ok(Limits {
            host: Rates::new(host, Budgets { prices: prices.as_ref(), of: None }, source)?,
            models,
            callers: Arc::new(of_callers.collect()),
            max_waiting: limits.max_waiting.get(),
            prices: Arc::new(prices.unwrap_or_default()),
            fleet: fleet.map(|fleet| Fleet::new(fleet, audit, source)).transpose()?,
        })
    }
}

/// What amounts of dollars are kept by.
#[derive(Clone, Copy)]
pub(super) struct Budgets<'a> {
    /// None without a price file.
    pub prices: Option<&'a Prices>,
    /// The pattern on models that the amounts are for; none for all models.
    pub of: Option<&'a str>,
}

impl Budgets<'_> {
    /// Why no request could ever count; none where one can.
    fn lack(self) -> Option<String> {
        match (self.prices, self.of) {
            (None, _) => Some("needs prices: name a prices_file in [limits].".to_owned()),
            (Some(prices), _) if prices.is_empty() => {
                Some("needs prices, and the prices_file has no [[prices]] in it.".to_owned())
            }
            (Some(prices), Some(of)) if !prices.may_fit(of) => {
                Some(format!("counts nothing: no [[prices]] in the prices_file fits a model of \"{of}\"."))
            }
            _ => None,
        }
    }
}

impl Rates {
    pub(super) fn new(rates: written::Rates, budgets: Budgets<'_>, source: &Source) -> Result<Rates, ConfigError> {
        if let Some(burst) = &rates.request_burst
            && rates.requests_per_minute.is_none()
        {
            return Err(source.error(burst.span(), "request_burst needs requests_per_minute beside it."));
        }
        for (key, usd) in [("usd_per_day", &rates.usd_per_day), ("usd_per_month", &rates.usd_per_month)] {
            let Some(usd) = usd else { continue };
            if let Some(lack) = budgets.lack() {
                return Err(source.error(usd.span(), format!("{key} {lack}")));
            }
            if usd.get_ref().0 == 0 {
                return Err(source.error(usd.span(), format!("{key} = 0 would refuse everything; leave it out.")));
            }
        }
        Ok(rates.into())
    }
}

impl Fleet {
    fn new(fleet: Spanned<written::Fleet>, audit: &Audit, source: &Source) -> Result<Fleet, ConfigError> {
        let span = fleet.span();
        let fleet = fleet.into_inner();
        if fleet.table.get_ref().trim().is_empty() {
            return Err(source.error(fleet.table.span(), "the fleet's table has no name."));
        }
        if fleet.requests_per_minute.is_none() && fleet.tokens_per_minute.is_none() {
            return Err(source.error(
                span,
                "[fleet] limits nothing; give it requests_per_minute or tokens_per_minute, or remove it.",
            ));
        }
        let region = any_region(&fleet.region, source)?;
        let table = names::table(&fleet.table, &region, source)?;
        if audit.table.as_ref() == Some(&table) && audit.region == region {
            return Err(source.error(
                fleet.table.span(),
                "the fleet's table is the table of the records too; it needs one that holds nothing else.",
            ));
        }
        Ok(Fleet {
            region,
            table,
            requests_per_minute: fleet.requests_per_minute.map(Meaning::meaning),
            tokens_per_minute: fleet.tokens_per_minute.map(Meaning::meaning),
            revision: fleet.revision.into(),
            on_unavailable: fleet.on_unavailable,
        })
    }
}

/// What a written value means, once its place in the file is no longer needed.
trait Meaning<T> {
    fn meaning(self) -> T;
}

impl Meaning<u64> for NonZeroU32 {
    fn meaning(self) -> u64 {
        self.get().into()
    }
}

impl Meaning<u64> for NonZeroU64 {
    fn meaning(self) -> u64 {
        self.get()
    }
}

impl Meaning<u64> for written::Usd {
    fn meaning(self) -> u64 {
        self.0
    }
}

impl Meaning<Duration> for written::Wait {
    fn meaning(self) -> Duration {
        self.0
    }
}

impl<T, W: Meaning<T>> Meaning<T> for Spanned<W> {
    fn meaning(self) -> T {
        self.into_inner().meaning()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(text: &str) -> Result<Limits, String> {
        let source = Source::new(Path::new("config.toml"), text.to_owned());
        let mut config: crate::config::Config = source.parse().map_err(|error| error.to_string())?;
        let read = |config: &crate::config::Config| Prices::of_file(config.limits.prices_file.as_ref(), &source);
        let prices = read(&config).map_err(|error| error.to_string())?;
        let audit = crate::settings::audit(std::mem::take(&mut config.audit), &mut Vec::new(), &source)
            .map_err(|error| error.to_string())?;
        Limits::new(config.limits, &Callers::default(), config.fleet, prices, &audit, &source)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_contract_s_example_is_understood() {
        let limits = settings(
            r#"
            [limits]
            requests_per_minute = 600
            request_burst = 50
            concurrent_requests = 100
            tokens_per_minute = 400000
            tokens_per_day = 50000000
            max_body_bytes = 25000000
            max_wait = "0s"
            [limits.models."anthropic.*"]
            requests_per_minute = 60
            [fleet]
            table = "bedrock-sidecar-fleet"
            region = "us-gov-west-1"
            tokens_per_minute = 2000000
            requests_per_minute = 3000
            on_unavailable = "deny"
            "#,
        )
        .unwrap();
        assert_eq!(limits.host.request_burst, Some(50));
        assert_eq!(limits.models[0].1.requests_per_minute, Some(60));
        assert_eq!(limits.fleet.unwrap().on_unavailable, OnUnavailable::Deny);
        assert_eq!(settings("").unwrap().host, Rates::default());
    }

    #[test]
    fn what_cannot_work_is_refused_at_its_place() {
        for (text, error) in [
            ("[limits]\nrequest_burst = 5", "config.toml:2:17: request_burst needs requests_per_minute beside it."),
            (
                "[limits]\nusd_per_day = 5",
                "config.toml:2:15: usd_per_day needs prices: name a prices_file in [limits].",
            ),
            (
                "[limits]\nprices_file = \"/nonexistent/prices\"",
                "config.toml:2:15: the price file /nonexistent/prices cannot be read: No such file or directory (os error 2).",
            ),
            (
                "[limits.models.\"a*\"]\nmax_wait = \"1s\"",
                "config.toml:1:16: max_wait belongs to [limits] or to one of [[callers]]; a model has none of its own.",
            ),
            (
                "[fleet]\ntable = \"t\"",
                "config.toml:1:1: [fleet] limits nothing; give it requests_per_minute or tokens_per_minute, or remove it.",
            ),
            ("[fleet]\ntable = \"\"\nrequests_per_minute = 1", "config.toml:2:9: the fleet's table has no name."),
        ] {
            assert_eq!(settings(text).unwrap_err(), error, "{text}");
        }
        for text in ["[limits]\nrequests_per_minute = 0", "[limits]\nnothing = 1", "[limits.models.x]\nfoo = 1"] {
            assert!(settings(text).unwrap_err().starts_with("config.toml:2:"), "{text}");
        }
    }

    #[test]
    fn prices_come_from_the_admin_s_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prices.toml");
        let config = format!("[limits]\nprices_file = \"{}\"\nusd_per_day = 12.5", path.display());
        std::fs::write(&path, "[[prices]]\nmodel = \"a.*\"\ninput = 3\noutput = 15.5\ncache_read = 0.0375\n").unwrap();
        let limits = settings(&config).unwrap();
        assert_eq!(limits.host.usd_per_day, Some(12_500_000_000));
        let price = limits.prices.of(|glob| glob.matches("a.b")).unwrap().of("default");
        let expected =
            Price { input: 3_000_000, output: 15_500_000, cache_read: 37_500, cache_write: 0, cache_write_1h: 0 };
        assert_eq!(price, expected);
        for (more, hour) in [("", 3_750_000), ("cache_write_1h = 6\n", 6_000_000)] {
            let text = format!("[[prices]]\nmodel = \"a.*\"\ninput = 3\noutput = 15\ncache_write = 3.75\n{more}");
            std::fs::write(&path, text).unwrap();
            let price = settings(&config).unwrap().prices.of(|glob| glob.matches("a.b")).unwrap().of("default");
            assert_eq!((price.cache_write, price.cache_write_1h), (3_750_000, hour));
        }
        assert_eq!(limits.prices.of(|glob| glob.matches("b.a")), None);

        let tiered = "[[prices]]\nmodel = \"a.*\"\ninput = 4\noutput = 20\ncache_read = 1\ncache_write = 5\ncache_write_1h = 8\n\
                      tiers.flex = { input = 2, output = 10, cache_write = 2.5 }\n";
        std::fs::write(&path, tiered).unwrap();
        let price = settings(&config).unwrap().prices.of(|glob| glob.matches("a.b")).unwrap();
        let flex = price.of("flex");
        assert_eq!((flex.input, flex.output, flex.cache_write), (2_000_000, 10_000_000, 2_500_000));
        assert_eq!((flex.cache_read, flex.cache_write_1h), (1_000_000, 8_000_000), "left out: as the plain price");
        assert_eq!(price.of("priority"), price.of("default"));
        for (name, place) in [("Flex", "7:7"), ("", "7:7")] {
            std::fs::write(&path, tiered.replace("tiers.flex", &format!("tiers.\"{name}\""))).unwrap();
            let error = settings(&config).unwrap_err();
            assert!(error.contains(":7:") && error.contains("is no name of a service tier"), "{place}: {error}");
        }

        std::fs::write(&path, "[[prices]]\nmodel = \"a.*\"\ninput = -3\noutput = 1\n").unwrap();
        let error = settings(&config).unwrap_err();
        assert_eq!(
            error,
            format!("{}:3:9: -3 is not an amount of US dollars; write a number from 0 to 1000000000", path.display())
        );
    }
}
