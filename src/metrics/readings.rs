//! What others count, read when a scraper asks.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::add;
use super::labels::{
    HandshakeLabels, LimitLabels, PlaneLabels, RegionLabel, ResultLabel, Text, UpstreamConnectionLabels,
};
use super::own_credentials::CredentialReading;
use crate::operation::Plane;
use crate::upstream::breaker::Position;
use crate::upstream::pool::PoolStatus;

/// The numbers of the moment.
#[derive(Debug)]
pub(crate) struct Readings {
    /// A request could be served now.
    pub ready: bool,
    /// On all threads but that of the admin address.
    pub tasks: usize,
    pub credential: crate::credentials::Status,
    /// Of all sources, since the last readings.
    pub credential_reads: crate::credentials::Reads,
    pub own_credentials: Vec<CredentialReading>,
    /// Each upstream's region, and since when its models have not been listed.
    pub listings: Vec<(String, Duration)>,
    pub breakers: Vec<BreakerReading>,
    pub pools: Vec<PoolReading>,
    /// Since the last readings.
    pub disbelieved_clocks: u64,
    pub panics: u64,
    pub limits: crate::limits::Status,
    pub bodies: Bodies,
    pub audit: crate::ledger::Status,
    /// Lines that the log could not take.
    pub log_dropped: u64,
    pub otlp: Otlp,
}

/// Where one breaker stands.
#[derive(Debug)]
pub(crate) struct BreakerReading {
    pub region: String,
    pub plane: Plane,
    pub position: Position,
}

/// The connections to one plane of an upstream.
#[derive(Debug)]
pub(crate) struct PoolReading {
    pub region: String,
    pub plane: Plane,
    pub status: PoolStatus,
}

/// The memory for bodies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bodies {
    /// Bytes that are taken.
    pub taken: usize,
    /// Bytes that there are.
    pub most: usize,
    /// Bodies that found no room.
    pub refused: u64,
}

/// What a collector of OpenTelemetry did not take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Otlp {
    pub spans_dropped: u64,
    pub export_failures: u64,
}

/// Where the readings are shown.
#[derive(Debug)]
pub(super) struct Shown {
    buffered: Gauge,
    buffered_max: Gauge,
    buffer_full: Counter,
    credential_age: Gauge<f64, AtomicU64>,
    credential_expires: Gauge<f64, AtomicU64>,
    certificate_expires: Gauge<f64, AtomicU64>,
    listing_ages: Family<RegionLabel, Gauge<f64, AtomicU64>>,
    credential_refreshes: Family<ResultLabel, Counter>,
    breakers: Family<PlaneLabels, Gauge>,
    upstream_connections: Family<UpstreamConnectionLabels, Gauge>,
    upstream_handshakes: Family<HandshakeLabels, Counter>,
    disbelieved_clocks: Counter,
    panics: Counter,
    limited: Family<LimitLabels, Counter>,
    log_dropped: Counter,
    otlp_spans_dropped: Counter,
    otlp_export_failures: Counter,
    audit_pending: Gauge,
    audit_bytes: Gauge,
    audit_max_bytes: Gauge,
    audit_shipped: Counter,
    audit_failures: Counter,
    audit_unrecorded: Counter,
    audit_refusals_coalesced: Counter,
    audit_anchor_failures: Counter,
    audit_anchor_last: Gauge<f64, AtomicU64>,
}

impl Shown {
    pub(super) fn new(registry: &mut Registry) -> Shown {
        Shown {
            buffered: add(
                registry,
                "buffered_bytes",
                "What the bodies of requests take in memory, of limits.max_buffered_bytes, in bytes",
            ),
            buffered_max: add(
                registry,
                "buffered_max_bytes",
                "The most that buffered_bytes may be: limits.max_buffered_bytes, in bytes",
            ),
            buffer_full: add(
                registry,
                "buffer_full",
                "Bodies that were refused because there was no room in limits.max_buffered_bytes",
            ),
            credential_age: add(
                registry,
                "credential_age_seconds",
                "Since the source last confirmed the commercial credential, in seconds; since the first read if it never has",
            ),
            credential_expires: add(
                registry,
                "credential_expires_seconds",
                "Until the commercial credential expires, in seconds; NaN while that is not known",
            ),
            certificate_expires: add(
                registry,
                "credential_certificate_expires_seconds",
                "Until this host's certificate for IAM Roles Anywhere expires, the first of several, in seconds; NaN without one",
            ),
            listing_ages: add(
                registry,
                "models_listing_age_seconds",
                "Since the models of an upstream were listed, in seconds; since the first try if they never were",
            ),
            credential_refreshes: add(
                registry,
                "credential_refresh",
                "Reads of the credential's source; of all sources, if upstreams have their own",
            ),
            breakers: add(
                registry,
                "upstream_breaker_state",
                "0 closed, 1 half-open, 2 open: requests go to other upstreams first",
            ),
            upstream_connections: add(registry, "upstream_connections", "Connections to the upstreams"),
            upstream_handshakes: add(
                registry,
                "upstream_handshakes",
                "Attempts to open a connection to an upstream, TLS included",
            ),
            disbelieved_clocks: add(
                registry,
                "disbelieved_clocks",
                "Answers whose time was more than a day away from this host's",
            ),
            panics: add(registry, "panics", "Errors in the daemon's own code that ended a request or task"),
            limited: add(registry, "limited", "Requests that a limit has refused"),
            log_dropped: add(
                registry,
                "log_lines_dropped",
                "Lines of the log that were lost because nobody read it, or it could not be written",
            ),
            otlp_spans_dropped: add(
                registry,
                "otlp_spans_dropped",
                "Spans that were lost because the collector of [telemetry] did not take them",
            ),
            otlp_export_failures: add(
                registry,
                "otlp_export_failures",
                "Exports that the collector of [telemetry] did not take",
            ),
            audit_pending: add(registry, "audit_pending", "Records that DynamoDB has not confirmed"),
            audit_bytes: add(
                registry,
                "audit_ledger_bytes",
                "What the records that are in no table take on the disk, in bytes",
            ),
            audit_max_bytes: add(
                registry,
                "audit_ledger_max_bytes",
                "The most that audit_ledger_bytes may be: audit.max_ledger_bytes, in bytes",
            ),
            audit_shipped: add(registry, "audit_shipped", "Records that DynamoDB has confirmed"),
            audit_failures: add(registry, "audit_failures", "Failed attempts to write or to ship records"),
            audit_unrecorded: add(
                registry,
                "audit_unrecorded",
                "Requests that were answered and could not be recorded",
            ),
            audit_refusals_coalesced: add(
                registry,
                "audit_refusals_coalesced",
                "Refused requests without a record of their own, which another record counts",
            ),
            audit_anchor_failures: add(
                registry,
                "audit_anchor_failures",
                "Anchors of the hash chain that could not be written",
            ),
            audit_anchor_last: add(
                registry,
                "audit_anchor_last_timestamp_seconds",
                "When the last anchor was written, in seconds since 1970; 0 when none was",
            ),
        }
    }

    pub(super) fn show(&self, readings: &Readings) {
        let Readings { credential, listings, disbelieved_clocks, panics, limits, bodies, audit, log_dropped, .. } =
            readings;
        let bytes = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.buffered.set(bytes(bodies.taken));
        self.buffered_max.set(bytes(bodies.most));
        catch_up(&self.buffer_full, bodies.refused);
        self.set_breakers(&readings.breakers);
        self.set_pools(&readings.pools);
        self.disbelieved_clocks.inc_by(*disbelieved_clocks);
        catch_up(&self.panics, *panics);
        catch_up(&self.log_dropped, *log_dropped);
        catch_up(&self.otlp_spans_dropped, readings.otlp.spans_dropped);
        catch_up(&self.otlp_export_failures, readings.otlp.export_failures);
        self.credential_age.set(credential.unconfirmed_for.as_secs_f64());
        self.credential_expires.set(credential.expires_in.map_or(f64::NAN, |left| left.as_secs_f64()));
        self.certificate_expires.set(credential.certificate_ends_in.map_or(f64::NAN, |left| left.as_secs_f64()));
        // Those of upstreams that a reload has removed go.
        self.listing_ages.clear();
        for (region, age) in listings {
            let labels = RegionLabel { region: Text::of(region) };
            self.listing_ages.get_or_create(&labels).set(age.as_secs_f64());
        }
        let reads = readings.credential_reads;
        for (result, count) in [("success", reads.successes), ("failure", reads.failures)] {
            self.credential_refreshes.get_or_create(&ResultLabel { result }).inc_by(count);
        }
        for limited in &limits.limited {
            let labels = LimitLabels { limit: limited.limit, scope: limited.scope };
            catch_up(&self.limited.get_or_create(&labels), limited.count);
        }
        self.audit_pending.set(audit.pending.cast_signed());
        self.audit_bytes.set(audit.bytes.cast_signed());
        self.audit_max_bytes.set(audit.max_bytes.cast_signed());
        catch_up(&self.audit_shipped, audit.shipped_total);
        catch_up(&self.audit_failures, audit.failures_total);
        catch_up(&self.audit_unrecorded, audit.unrecorded_total);
        catch_up(&self.audit_refusals_coalesced, audit.coalesced_total);
        catch_up(&self.audit_anchor_failures, audit.anchor_failures_total);
        self.audit_anchor_last.set(audit.anchored_ms as f64 / 1000.0);
    }
}

impl Shown {
    /// Those of upstreams that a reload has removed go. Of two upstreams of one region the worse counts.
    fn set_breakers(&self, breakers: &[BreakerReading]) {
        self.breakers.clear();
        for BreakerReading { region, plane, position } in breakers {
            let labels = PlaneLabels { region: Text::of(region), plane: plane.name() };
            let gauge = self.breakers.get_or_create(&labels);
            gauge.set(gauge.get().max(position.number()));
        }
    }
}

impl Shown {
    /// Several upstreams may be of one region: their connections are added up.
    fn set_pools(&self, pools: &[PoolReading]) {
        let mut connections: HashMap<UpstreamConnectionLabels, i64> = HashMap::new();
        for PoolReading { region, plane, status } in pools {
            let (region, plane) = (Text::of(region), plane.name());
            for (protocol, count) in [("http1", status.http1), ("http2", status.http2)] {
                let labels = UpstreamConnectionLabels { region: region.clone(), plane, protocol };
                *connections.entry(labels).or_default() += count;
            }
            for (result, count) in [("success", status.succeeded), ("failure", status.failed)] {
                let labels = HandshakeLabels { region: region.clone(), plane, result };
                self.upstream_handshakes.get_or_create(&labels).inc_by(count);
            }
        }
        // Those of upstreams that a reload has removed go.
        self.upstream_connections.clear();
        for (labels, count) in connections {
            self.upstream_connections.get_or_create(&labels).set(count);
        }
    }
}

/// A counter that is kept elsewhere only ever grows.
fn catch_up(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_is_kept_elsewhere_follows_it_and_never_falls() {
        let counter = Counter::default();
        for (total, shown) in [(5, 5), (5, 5), (7, 7), (6, 7), (8, 8)] {
            catch_up(&counter, total);
            assert_eq!(counter.get(), shown, "{total}");
        }
    }
}
