//! Counters in Prometheus's text format, under the names of the contract. Label values are bounded: operations come from the
//! table, models from the catalogue.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::record::{Outcome, Record};
use crate::upstream::pool::PoolStatus;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Text(std::borrow::Cow<'static, str>);

impl EncodeLabelValue for Text {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&&*self.0, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: Text,
    model: Text,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: Text,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    region: Text,
    result: Text,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    model: Text,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HowLabel {
    how: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamConnectionLabels {
    region: Text,
    plane: &'static str,
    protocol: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    region: Text,
    plane: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

type Histograms = Family<OperationLabel, Histogram, fn() -> Histogram>;

/// All counters of the daemon.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Histograms,
    first_bytes: Histograms,
    attempts: Family<AttemptLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    bytes: Family<DirectionLabel, Counter>,
    resolutions: Family<HowLabel, Counter>,
    in_flight: Arc<AtomicI64>,
    in_flight_gauge: Gauge,
    buffered: Gauge,
    credential_age: Gauge<f64, AtomicU64>,
    credential_refreshes: Family<ResultLabel, Counter>,
    disbelieved_clocks: Counter,
    panics: Counter,
    limited: Family<LimitLabels, Counter>,
    connections: Family<ListenerLabel, Gauge>,
    upstream_connections: Family<UpstreamConnectionLabels, Gauge>,
    upstream_handshakes: Family<HandshakeLabels, Counter>,
    connections_full: Family<ListenerLabel, Counter>,
    connections_refused: Family<ReasonLabel, Counter>,
    connections_cut: Family<ReasonLabel, Counter>,
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

/// What others count, read when a scraper asks.
#[derive(Debug)]
pub(crate) struct Readings {
    pub credential: crate::credentials::Status,
    /// Region, plane and connections of each pool.
    pub pools: Vec<(String, &'static str, PoolStatus)>,
    pub disbelieved_clocks: u64,
    pub panics: u64,
    pub limits: crate::limits::Status,
    /// Bytes that the bodies of requests take in memory.
    pub buffered: usize,
    pub audit: crate::ledger::Status,
}

/// Counts one request while it is in flight.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<AtomicI64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// From 5 ms to 15 min: what inference takes.
fn seconds() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 900.0])
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let histograms = || Histograms::new_with_constructor(seconds as fn() -> Histogram);
        let mut metrics = Metrics {
            registry: Registry::with_prefix("bedrock_sidecar"),
            requests: Family::default(),
            durations: histograms(),
            first_bytes: histograms(),
            attempts: Family::default(),
            tokens: Family::default(),
            bytes: Family::default(),
            resolutions: Family::default(),
            in_flight: Arc::default(),
            in_flight_gauge: Gauge::default(),
            buffered: Gauge::default(),
            credential_age: Gauge::default(),
            credential_refreshes: Family::default(),
            disbelieved_clocks: Counter::default(),
            panics: Counter::default(),
            limited: Family::default(),
            connections: Family::default(),
            upstream_connections: Family::default(),
            upstream_handshakes: Family::default(),
            connections_full: Family::default(),
            connections_refused: Family::default(),
            connections_cut: Family::default(),
            audit_pending: Gauge::default(),
            audit_bytes: Gauge::default(),
            audit_max_bytes: Gauge::default(),
            audit_shipped: Counter::default(),
            audit_failures: Counter::default(),
            audit_unrecorded: Counter::default(),
            audit_refusals_coalesced: Counter::default(),
            audit_anchor_failures: Counter::default(),
            audit_anchor_last: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("requests", "Requests that were answered", metrics.requests.clone());
        registry.register(
            "request_duration_seconds",
            "From the request's head to the answer's end",
            metrics.durations.clone(),
        );
        registry.register(
            "first_byte_seconds",
            "From the request's head to the first byte of the answer's body",
            metrics.first_bytes.clone(),
        );
        registry.register("upstream_attempts", "Requests that were sent upstream", metrics.attempts.clone());
        registry.register("tokens", "Tokens that the upstream reported", metrics.tokens.clone());
        registry.register("bytes", "Bytes of request and answer bodies", metrics.bytes.clone());
        registry.register(
            "profile_resolutions",
            "How the identifier that was sent was found",
            metrics.resolutions.clone(),
        );
        registry.register("in_flight", "Requests in flight", metrics.in_flight_gauge.clone());
        registry.register(
            "buffered_bytes",
            "What the bodies of requests take in memory, of limits.max_buffered_bytes",
            metrics.buffered.clone(),
        );
        registry.register(
            "credential_age_seconds",
            "Since the source last confirmed the commercial credential",
            metrics.credential_age.clone(),
        );
        registry.register(
            "credential_refresh",
            "Reads of the credential's source",
            metrics.credential_refreshes.clone(),
        );
        registry.register(
            "disbelieved_clocks",
            "Answers whose time was more than a day away from this host's",
            metrics.disbelieved_clocks.clone(),
        );
        registry.register(
            "panics",
            "Errors in the daemon's own code that ended a request or task",
            metrics.panics.clone(),
        );
        registry.register("limited", "Requests that a limit has refused", metrics.limited.clone());
        registry.register("connections", "Connections of clients", metrics.connections.clone());
        registry.register(
            "upstream_connections",
            "Connections to the upstreams",
            metrics.upstream_connections.clone(),
        );
        registry.register(
            "upstream_handshakes",
            "Attempts to open a connection to an upstream, TLS included",
            metrics.upstream_handshakes.clone(),
        );
        registry.register(
            "connections_full",
            "How often a new connection had to wait because all were taken",
            metrics.connections_full.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections that were closed when they were accepted",
            metrics.connections_refused.clone(),
        );
        registry.register(
            "connections_cut",
            "Connections and streams that the daemon ended",
            metrics.connections_cut.clone(),
        );
        registry.register("audit_pending", "Records that DynamoDB has not confirmed", metrics.audit_pending.clone());
        registry.register(
            "audit_ledger_bytes",
            "Bytes of the records that are in no table",
            metrics.audit_bytes.clone(),
        );
        registry.register(
            "audit_ledger_max_bytes",
            "The most that audit_ledger_bytes may be: audit.max_ledger_bytes",
            metrics.audit_max_bytes.clone(),
        );
        registry.register("audit_shipped", "Records that DynamoDB has confirmed", metrics.audit_shipped.clone());
        registry.register(
            "audit_failures",
            "Failed attempts to write or to ship records",
            metrics.audit_failures.clone(),
        );
        registry.register(
            "audit_unrecorded",
            "Requests that were answered and could not be recorded",
            metrics.audit_unrecorded.clone(),
        );
        registry.register(
            "audit_refusals_coalesced",
            "Refused requests without a record of their own, which another record counts",
            metrics.audit_refusals_coalesced.clone(),
        );
        registry.register(
            "audit_anchor_failures",
            "Anchors of the hash chain that could not be written",
            metrics.audit_anchor_failures.clone(),
        );
        registry.register(
            "audit_anchor_last_timestamp_seconds",
            "When the last anchor was written, in seconds since 1970; 0 when none was",
            metrics.audit_anchor_last.clone(),
        );
        let fips = crate::crypto::is_fips();
        let info = Info::new([("version", env!("CARGO_PKG_VERSION").to_owned()), ("fips", fips.to_string())]);
        registry.register("build", "This program", info);
        metrics
    }

    pub(crate) fn enter(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// Waits until no request is in flight.
    pub(crate) async fn until_idle(&self) {
        while self.in_flight.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `listener` is "main" or "admin".
    pub(crate) fn connection_opened(&self, listener: &'static str) {
        self.connections.get_or_create(&ListenerLabel { listener }).inc();
    }

    pub(crate) fn connection_ended(&self, listener: &'static str) {
        self.connections.get_or_create(&ListenerLabel { listener }).dec();
    }

    /// How many connections there are, the admin's included.
    pub(crate) fn connections(&self) -> i64 {
        ["main", "admin"].map(|listener| self.connections.get_or_create(&ListenerLabel { listener }).get()).iter().sum()
    }

    pub(crate) fn connections_full(&self, listener: &'static str) {
        self.connections_full.get_or_create(&ListenerLabel { listener }).inc();
    }

    /// "user": its user has too many; "line": too many wait already; "gone": nobody is there any more; "unidentified": the
    /// kernel could not be asked.
    pub(crate) fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// "idle", "write_timeout", or "room": its place was needed.
    pub(crate) fn connection_cut(&self, reason: &'static str) {
        self.connections_cut.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn resolved(&self, how: &'static str) {
        self.resolutions.get_or_create(&HowLabel { how }).inc();
    }

    pub(crate) fn attempt(&self, region: &str, status: u16) {
        let result = match status {
            200..300 => "success",
            429 => "throttled",
            400..500 => "refused",
            _ => "failed",
        };
        let labels = AttemptLabels { region: Text(region.to_owned().into()), result: Text(result.into()) };
        self.attempts.get_or_create(&labels).inc();
    }

    /// `model` is the catalogue's name for the model; what no catalogue knows is "other", no model at all is "".
    pub(crate) fn ended(&self, record: &Record, model: Option<&str>, took: Duration) {
        let model = match (model, record.model_id.is_empty()) {
            (Some(model), _) => Text(model.to_owned().into()),
            (None, true) => Text("".into()),
            (None, false) => Text("other".into()),
        };
        let operation = Text(record.operation.clone());
        let by_operation = OperationLabel { operation: operation.clone() };
        self.durations.get_or_create(&by_operation).observe(took.as_secs_f64());
        if let Some(first) = record.first_byte_latency {
            self.first_bytes.get_or_create(&by_operation).observe(first as f64 / 1000.0);
        }
        for (direction, count) in [("input", record.usage.input_tokens), ("output", record.usage.output_tokens)] {
            if let Some(count) = count {
                let counter = self.tokens.get_or_create(&TokenLabels { model: model.clone(), direction });
                // The count is the upstream's, and a counter that is full stays so.
                counter.inc_by(count.min(u64::MAX - counter.get()));
            }
        }
        self.bytes.get_or_create(&DirectionLabel { direction: "request" }).inc_by(record.request_size);
        self.bytes.get_or_create(&DirectionLabel { direction: "response" }).inc_by(record.response_size);
        if record.outcome == Outcome::UpstreamBroke && record.attempts > 0 {
            let labels =
                AttemptLabels { region: Text(record.destination_region.clone().into()), result: Text("broke".into()) };
            self.attempts.get_or_create(&labels).inc();
        }
        self.requests.get_or_create(&RequestLabels { operation, model, status: record.status_code }).inc();
    }

    /// Several upstreams may be of one region.
    fn read_pools(&self, pools: &[(String, &'static str, PoolStatus)]) {
        let mut connections: HashMap<UpstreamConnectionLabels, i64> = HashMap::new();
        for (region, plane, status) in pools {
            let region = Text(region.clone().into());
            for (protocol, count) in [("http1", status.http1), ("http2", status.http2)] {
                let labels = UpstreamConnectionLabels { region: region.clone(), plane, protocol };
                *connections.entry(labels).or_default() += count;
            }
            for (result, count) in [("success", status.succeeded), ("failure", status.failed)] {
                let labels = HandshakeLabels { region: region.clone(), plane, result };
                self.upstream_handshakes.get_or_create(&labels).inc_by(count);
            }
        }
        // An upstream that a reload has removed is shown no longer.
        self.upstream_connections.clear();
        for (labels, count) in connections {
            self.upstream_connections.get_or_create(&labels).set(count);
        }
    }

    /// The page for a scraper.
    pub(crate) fn text(&self, readings: &Readings) -> String {
        let Readings { credential, pools, disbelieved_clocks, panics, limits, buffered, audit } = readings;
        self.read_pools(pools);
        self.buffered.set(i64::try_from(*buffered).unwrap_or(i64::MAX));
        catch_up(&self.disbelieved_clocks, *disbelieved_clocks);
        catch_up(&self.panics, *panics);
        self.in_flight_gauge.set(self.in_flight.load(Ordering::Relaxed));
        self.credential_age.set(credential.age.map_or(f64::NAN, |age| age.as_secs_f64()));
        for (result, total) in [("success", credential.successes), ("failure", credential.failures)] {
            catch_up(&self.credential_refreshes.get_or_create(&ResultLabel { result }), total);
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
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// A counter that is kept elsewhere only ever grows.
fn catch_up(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        let metrics = Metrics::new();
        let _in_flight = metrics.enter();
        metrics.attempt("us-east-1", 200);
        metrics.resolved("discovered");
        metrics.connection_opened("main");
        metrics.connections_full("admin");
        metrics.connection_refused("user");
        metrics.connection_cut("idle");
        let record = Record {
            operation: "Converse".into(),
            model_id: "secret-model".into(),
            status_code: 200,
            first_byte_latency: Some(3),
            usage: crate::record::Usage { input_tokens: Some(5), output_tokens: Some(7), ..Default::default() },
            ..Record::default()
        };
        metrics.ended(&record, None, Duration::from_millis(5));
        let status = crate::credentials::Status {
            available: true,
            description: None,
            age: Some(Duration::from_secs(1)),
            problem: None,
            successes: 2,
            failures: 1,
        };
        let limits = crate::limits::Status {
            scopes: Vec::new(),
            waiting: 0,
            fleet: None,
            limited: vec![crate::limits::Limited { limit: "requests_per_minute", scope: "host", count: 3 }],
        };
        let audit = crate::ledger::Status {
            pending: 4,
            bytes: 0,
            max_bytes: 8,
            open: 0,
            shipped_total: 5,
            failures_total: 6,
            unrecorded_total: 0,
            set_aside: 0,
            coalesced_total: 7,
            anchor_failures_total: 8,
            anchored_ms: 1500,
            last_error: None,
            ledger_writable: true,
            table_reachable: None,
        };
        let pool = |failed| PoolStatus { http1: 2, http2: 0, succeeded: 5, failed };
        let pools = vec![("us-east-1".to_owned(), "runtime", pool(1)), ("us-east-1".to_owned(), "runtime", pool(2))];
        let readings = Readings { credential: status, pools, disbelieved_clocks: 3, panics: 1, limits, buffered: 9, audit };
        let text = metrics.text(&readings);
        for line in [
            "bedrock_sidecar_requests_total{operation=\"Converse\",model=\"other\",status=\"200\"} 1",
            "bedrock_sidecar_request_duration_seconds_count{operation=\"Converse\"} 1",
            "bedrock_sidecar_first_byte_seconds_count{operation=\"Converse\"} 1",
            "bedrock_sidecar_upstream_attempts_total{region=\"us-east-1\",result=\"success\"} 1",
            "bedrock_sidecar_tokens_total{model=\"other\",direction=\"input\"} 5",
            "bedrock_sidecar_in_flight 1",
            "bedrock_sidecar_buffered_bytes 9",
            "bedrock_sidecar_bytes_total{direction=\"request\"} 0",
            "bedrock_sidecar_credential_age_seconds 1.0",
            "bedrock_sidecar_credential_refresh_total{result=\"success\"} 2",
            "bedrock_sidecar_disbelieved_clocks_total 3",
            "bedrock_sidecar_panics_total 1",
            "bedrock_sidecar_profile_resolutions_total{how=\"discovered\"} 1",
            "bedrock_sidecar_limited_total{limit=\"requests_per_minute\",scope=\"host\"} 3",
            "bedrock_sidecar_connections{listener=\"main\"} 1",
            "bedrock_sidecar_upstream_connections{region=\"us-east-1\",plane=\"runtime\",protocol=\"http1\"} 4",
            "bedrock_sidecar_upstream_handshakes_total{region=\"us-east-1\",plane=\"runtime\",result=\"failure\"} 3",
            "bedrock_sidecar_connections_full_total{listener=\"admin\"} 1",
            "bedrock_sidecar_connections_refused_total{reason=\"user\"} 1",
            "bedrock_sidecar_connections_cut_total{reason=\"idle\"} 1",
            "bedrock_sidecar_audit_pending 4",
            "bedrock_sidecar_audit_ledger_max_bytes 8",
            "bedrock_sidecar_audit_shipped_total 5",
            "bedrock_sidecar_audit_failures_total 6",
            "bedrock_sidecar_audit_refusals_coalesced_total 7",
            "bedrock_sidecar_audit_anchor_failures_total 8",
            "bedrock_sidecar_audit_anchor_last_timestamp_seconds 1.5",
            "bedrock_sidecar_build_info{version=",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("secret-model"));
    }
}
