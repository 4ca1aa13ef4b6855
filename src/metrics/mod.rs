//! Counters in OpenMetrics text, under the names of the contract. docs/metrics.md lists them, with the same words.

mod connections;
mod labels;
mod own_credentials;
mod readings;
mod requests;
mod series;
mod standing;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use connections::Connections;
pub(crate) use own_credentials::CredentialReading;
use own_credentials::OwnCredentials;
use readings::Shown;
pub(crate) use readings::{Bodies, BreakerReading, Otlp, PoolReading, Readings};
use requests::Requests;
use standing::Standing;

/// All counters of the daemon.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Requests,
    connections: Connections,
    shown: Shown,
    standing: Standing,
    own_credentials: OwnCredentials,
    in_flight: Arc<AtomicI64>,
    in_flight_gauge: Gauge,
}

/// Counts one request while it is in flight.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<AtomicI64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::with_prefix("bedrock_sidecar");
        let fips = crate::crypto::is_fips();
        let info = Info::new([("version", env!("CARGO_PKG_VERSION").to_owned()), ("fips", fips.to_string())]);
        registry.register("build", "This program", info);
        Metrics {
            requests: Requests::new(&mut registry),
            connections: Connections::new(&mut registry),
            shown: Shown::new(&mut registry),
            standing: Standing::new(&mut registry),
            own_credentials: OwnCredentials::new(&mut registry),
            in_flight: Arc::default(),
            in_flight_gauge: add(&mut registry, "in_flight", "Requests in flight"),
            registry,
        }
    }

    pub(crate) fn enter(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Waits until no request is in flight.
    pub(crate) async fn until_idle(&self) {
        while self.in_flight.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The page for a scraper.
    pub(crate) fn text(&self, readings: &Readings) -> String {
        self.shown.show(readings);
        self.standing.show(readings);
        self.own_credentials.show(&readings.own_credentials);
        self.in_flight_gauge.set(self.in_flight.load(Ordering::Relaxed));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

/// A metric that the page shows. The name of a counter gets `_total`.
fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    add_as(registry, name, help, M::default())
}

/// The same for one that is not made by default.
fn add_as<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Reads;
    use crate::model::How;
    use crate::operation::Plane;
    use crate::record::{Record, Usage};
    use crate::timings::Timings;
    use crate::upstream::attempts::{Came, Results};
    use crate::upstream::breaker::Position;
    use crate::upstream::pool::PoolStatus;

    #[test]
    fn names_are_those_of_the_contract() {
        let metrics = Metrics::new();
        let _in_flight = metrics.enter();
        let mut results = Results::default();
        results.add(Came::Success, 1);
        results.add(Came::Abandoned, 2);
        metrics.attempted("us-east-1", &results);
        metrics.resolved(How::Discovered);
        metrics.connection_opened("main");
        metrics.connections_full("admin");
        metrics.connection_refused("user");
        metrics.connection_cut("idle");
        let record = Record {
            operation: "Converse".into(),
            model_id: "secret-model".into(),
            status_code: 200,
            first_byte_latency: Some(3),
            usage: Usage {
                input_tokens: Some(5),
                output_tokens: Some(7),
                cache_read_tokens: Some(11),
                cache_write_tokens: Some(13),
                ..Usage::default()
            },
            cost_nano_usd: Some(1_500_000_000),
            attempts: 1,
            ..Record::default()
        };
        let [whole, queued, connecting] = [5000, 20, 3].map(Duration::from_millis);
        metrics.ended(&record, None, &Timings { whole, queued, connecting });
        let known = Record { caller: Some("billing".to_owned()), ..record };
        metrics.ended(&known, Some("amazon.nova-lite-v1:0"), &Timings::default());
        let refused = Record { attempts: 0, cost_nano_usd: None, usage: Usage::default(), ..known };
        metrics.ended(&refused, None, &Timings::default());
        metrics.requests_full();
        let status = crate::credentials::Status {
            available: true,
            description: None,
            age: Some(Duration::from_secs(1)),
            unconfirmed_for: Duration::from_secs(1),
            expires_in: Some(Duration::from_secs(90)),
            certificate_ends_in: Some(Duration::from_secs(86_400)),
            problem: None,
        };
        let limits = crate::limits::Status {
            scopes: vec![crate::limits::ScopeStatus {
                scope: "host",
                name: String::new(),
                running: 0,
                concurrent_requests: None,
                requests_per_minute: None,
                requests_left: None,
                tokens_per_minute: None,
                tokens_left: None,
                tokens_today: 5,
                tokens_per_day: Some(20),
                nano_usd_today: 0,
                nano_usd_per_day: None,
                nano_usd_this_month: 0,
                nano_usd_per_month: None,
                budget_used: None,
            }],
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
            shipped_ms: 0,
            newest_seq: 0,
            last_error: None,
            ledger_writable: true,
            table_reachable: None,
        };
        let bodies = Bodies { taken: 9, most: 10, refused: 11 };
        let reading = |position| BreakerReading { region: "us-east-1".into(), plane: Plane::Runtime, position };
        let breakers = [Position::Closed, Position::Open, Position::HalfOpen].map(reading).into();
        let pool = |failed| PoolReading {
            region: "us-east-1".to_owned(),
            plane: Plane::Runtime,
            status: PoolStatus { http1: 2, http2: 0, succeeded: 5, failed },
        };
        let own = |expires_in: Option<u64>, age| CredentialReading {
            region: "us-west-2".to_owned(),
            age: Duration::from_secs(age),
            expires_in: expires_in.map(Duration::from_secs),
            reads: Reads { successes: 1, failures: 0 },
        };
        let readings = Readings {
            ready: true,
            tasks: 15,
            credential: status,
            credential_reads: Reads { successes: 2, failures: 1 },
            own_credentials: vec![own(Some(600), 1), own(None, 2), own(Some(60), 3)],
            pools: vec![pool(1), pool(2)],
            listings: vec![("us-east-1".to_owned(), Duration::from_secs(12))],
            breakers,
            disbelieved_clocks: 3,
            panics: 1,
            limits,
            bodies,
            audit,
            log_dropped: 12,
            otlp: Otlp { spans_dropped: 13, export_failures: 14 },
        };
        let text = metrics.text(&readings);
        for line in [
            "bedrock_sidecar_upstream_connections{region=\"us-east-1\",plane=\"runtime\",protocol=\"http1\"} 4",
            "bedrock_sidecar_upstream_handshakes_total{region=\"us-east-1\",plane=\"runtime\",result=\"failure\"} 3",
            "bedrock_sidecar_requests_total{operation=\"Converse\",model=\"other\",status=\"200\"} 2",
            "bedrock_sidecar_request_duration_seconds_count{operation=\"Converse\"} 3",
            "bedrock_sidecar_first_byte_seconds_count{operation=\"Converse\"} 3",
            "bedrock_sidecar_ready 1",
            "bedrock_sidecar_tasks 15",
            "bedrock_sidecar_limit_used_ratio{limit=\"tokens_per_day\",scope=\"host\",name=\"\"} 0.25",
            "bedrock_sidecar_queued_seconds_count 2",
            "bedrock_sidecar_queued_seconds_sum 0.02",
            "bedrock_sidecar_connecting_seconds_count 2",
            "bedrock_sidecar_connecting_seconds_sum 0.003",
            "bedrock_sidecar_upstream_attempts_total{region=\"us-east-1\",result=\"success\"} 1",
            "bedrock_sidecar_upstream_attempts_total{region=\"us-east-1\",result=\"abandoned\"} 2",
            "bedrock_sidecar_upstream_breaker_state{region=\"us-east-1\",plane=\"runtime\"} 2",
            "bedrock_sidecar_tokens_total{model=\"other\",direction=\"input\"} 5",
            "bedrock_sidecar_tokens_total{model=\"amazon.nova-lite-v1:0\",direction=\"cache_read\"} 11",
            "bedrock_sidecar_tokens_total{model=\"amazon.nova-lite-v1:0\",direction=\"cache_write\"} 13",
            "bedrock_sidecar_cost_usd_total{model=\"other\"} 1.5",
            "bedrock_sidecar_caller_tokens_total{caller=\"other\",direction=\"output\"} 7",
            "bedrock_sidecar_caller_tokens_total{caller=\"billing\",direction=\"cache_read\"} 11",
            "bedrock_sidecar_caller_cost_usd_total{caller=\"billing\"} 1.5",
            "bedrock_sidecar_in_flight 1",
            "bedrock_sidecar_buffered_bytes 9",
            "bedrock_sidecar_buffered_max_bytes 10",
            "bedrock_sidecar_buffer_full_total 11",
            "bedrock_sidecar_log_lines_dropped_total 12",
            "bedrock_sidecar_otlp_spans_dropped_total 13",
            "bedrock_sidecar_otlp_export_failures_total 14",
            "bedrock_sidecar_requests_full_total 1",
            "bedrock_sidecar_bytes_total{direction=\"request\"} 0",
            "bedrock_sidecar_credential_age_seconds 1.0",
            "bedrock_sidecar_credential_expires_seconds 90.0",
            "bedrock_sidecar_credential_certificate_expires_seconds 86400.0",
            "bedrock_sidecar_upstream_credential_age_seconds{region=\"us-west-2\"} 3.0",
            "bedrock_sidecar_upstream_credential_expires_seconds{region=\"us-west-2\"} 60.0",
            "bedrock_sidecar_upstream_credential_refresh_total{region=\"us-west-2\",result=\"success\"} 3",
            "bedrock_sidecar_models_listing_age_seconds{region=\"us-east-1\"} 12.0",
            "bedrock_sidecar_credential_refresh_total{result=\"success\"} 2",
            "bedrock_sidecar_disbelieved_clocks_total 3",
            "bedrock_sidecar_panics_total 1",
            "bedrock_sidecar_profile_resolutions_total{how=\"discovered\"} 1",
            "bedrock_sidecar_limited_total{limit=\"requests_per_minute\",scope=\"host\"} 3",
            "bedrock_sidecar_connections{listener=\"main\"} 1",
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
