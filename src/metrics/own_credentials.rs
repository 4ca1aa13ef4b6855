//! The credentials that upstreams have for themselves. The metrics without a region are of the top-level one.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::add;
use super::labels::{RegionLabel, RegionResultLabels, Text};
use crate::credentials::Reads;

type Seconds = Family<RegionLabel, Gauge<f64, AtomicU64>>;

/// One credential, in one of the regions that it serves.
#[derive(Debug)]
pub(crate) struct CredentialReading {
    pub region: String,
    /// Since the source last confirmed it; since the first read if it never has.
    pub age: Duration,
    pub expires_in: Option<Duration>,
    /// Since the last readings.
    pub reads: Reads,
}

#[derive(Debug)]
pub(super) struct OwnCredentials {
    ages: Seconds,
    expiries: Seconds,
    refreshes: Family<RegionResultLabels, Counter>,
}

impl OwnCredentials {
    pub(super) fn new(registry: &mut Registry) -> OwnCredentials {
        OwnCredentials {
            ages: add(
                registry,
                "upstream_credential_age_seconds",
                "Since the source of an upstream's own credential last confirmed it, in seconds; since the first read if it never has",
            ),
            expiries: add(
                registry,
                "upstream_credential_expires_seconds",
                "Until an upstream's own credential expires, in seconds; NaN while that is not known",
            ),
            refreshes: add(
                registry,
                "upstream_credential_refresh",
                "Reads of the source of an upstream's own credential",
            ),
        }
    }

    /// Those of upstreams that a reload has removed go. Of two credentials in one region the worse counts.
    pub(super) fn show(&self, readings: &[CredentialReading]) {
        self.ages.clear();
        self.expiries.clear();
        for CredentialReading { region, age, expires_in, reads } in readings {
            let of_region = RegionLabel { region: Text::of(region) };
            let worse = |family: &Seconds, value: f64, worst: fn(f64, f64) -> f64| {
                let shown = family.get(&of_region).map(|gauge| gauge.get());
                family.get_or_create(&of_region).set(shown.map_or(value, |shown| worst(shown, value)));
            };
            worse(&self.ages, age.as_secs_f64(), f64::max);
            // An end that is known comes before one that is not.
            worse(&self.expiries, expires_in.map_or(f64::NAN, |left| left.as_secs_f64()), f64::min);
            for (result, count) in [("success", reads.successes), ("failure", reads.failures)] {
                let labels = RegionResultLabels { region: Text::of(region), result };
                self.refreshes.get_or_create(&labels).inc_by(count);
            }
        }
    }
}
