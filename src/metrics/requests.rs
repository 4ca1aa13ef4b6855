//! What each request leaves behind when it ends: counts, times, tokens and money.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::labels::{
    AttemptLabels, CallerLabel, CallerTokenLabels, DirectionLabel, HowLabel, ModelLabel, OTHER, OperationLabel,
    RequestLabels, Text, TokenLabels,
};
use super::{Metrics, add, add_as};
use crate::record::Record;
use crate::timings::Timings;
use crate::upstream::attempts::Results;

type Histograms = Family<OperationLabel, Histogram, fn() -> Histogram>;
type Dollars = Counter<f64, AtomicU64>;

#[derive(Debug)]
pub(super) struct Requests {
    ended: Family<RequestLabels, Counter>,
    durations: Histograms,
    first_bytes: Histograms,
    queued: Histogram,
    connecting: Histogram,
    attempts: Family<AttemptLabels, Counter>,
    resolutions: Family<HowLabel, Counter>,
    bytes: Family<DirectionLabel, Counter>,
    tokens: Family<TokenLabels, Counter>,
    cost: Family<ModelLabel, Dollars>,
    caller_tokens: Family<CallerTokenLabels, Counter>,
    caller_cost: Family<CallerLabel, Dollars>,
}

/// From 5 ms to 15 min: what inference takes.
fn inference() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 900.0])
}

/// From 1 ms to 1 min: what a request waits for before it is sent.
fn waiting() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

impl Requests {
    pub(super) fn new(registry: &mut Registry) -> Requests {
        let by_operation = || Histograms::new_with_constructor(inference as fn() -> Histogram);
        Requests {
            ended: add(registry, "requests", "Requests that were answered"),
            durations: add_as(
                registry,
                "request_duration_seconds",
                "From the request's head to the answer's end, in seconds",
                by_operation(),
            ),
            first_bytes: add_as(
                registry,
                "first_byte_seconds",
                "From the request's head to the first byte of the answer's body, in seconds",
                by_operation(),
            ),
            queued: add_as(
                registry,
                "queued_seconds",
                "What requests waited for limits and for memory for their bodies, in seconds",
                waiting(),
            ),
            connecting: add_as(
                registry,
                "connecting_seconds",
                "What requests waited for connections to upstreams, in seconds",
                waiting(),
            ),
            attempts: add(registry, "upstream_attempts", "Requests that were sent upstream, or were to be sent there"),
            resolutions: add(registry, "profile_resolutions", "How the identifier that was sent was found"),
            bytes: add(registry, "bytes", "Bytes of request and answer bodies"),
            tokens: add(registry, "tokens", "Tokens that the upstream reported"),
            cost: add(registry, "cost_usd", "What the reported tokens cost by the configured prices, in US dollars"),
            caller_tokens: add(registry, "caller_tokens", "Tokens that the upstream reported, by caller"),
            caller_cost: add(
                registry,
                "caller_cost_usd",
                "What the reported tokens cost by the configured prices, by caller, in US dollars",
            ),
        }
    }
}

impl Metrics {
    pub(crate) fn resolved(&self, how: &'static str) {
        self.requests.resolutions.get_or_create(&HowLabel { how }).inc();
    }

    /// What has come of attempts at an upstream.
    pub(crate) fn attempted(&self, region: &str, results: &Results) {
        for (came, count) in results.counts() {
            let labels = AttemptLabels { region: Text::of(region), result: came.as_str() };
            self.requests.attempts.get_or_create(&labels).inc_by(count.into());
        }
    }

    /// `model` is the catalogue's name for the model; what no catalogue knows is "other", no model at all is "".
    pub(crate) fn ended(&self, record: &Record, model: Option<&str>, timings: &Timings) {
        let model = match (model, record.model_id.is_empty()) {
            (Some(model), _) => Text::of(model),
            (None, true) => Text::fixed(""),
            (None, false) => Text::fixed(OTHER),
        };
        let requests = &self.requests;
        requests.timed(record, timings);
        requests.used(record, &model);
        requests.bytes.get_or_create(&DirectionLabel { direction: "request" }).inc_by(record.request_size);
        requests.bytes.get_or_create(&DirectionLabel { direction: "response" }).inc_by(record.response_size);
        let operation = Text::from(record.operation.clone());
        requests.ended.get_or_create(&RequestLabels { operation, model, status: record.status_code }).inc();
    }
}

impl Requests {
    fn timed(&self, record: &Record, timings: &Timings) {
        let by_operation = OperationLabel { operation: Text::from(record.operation.clone()) };
        self.durations.get_or_create(&by_operation).observe(timings.whole.as_secs_f64());
        if let Some(first) = record.first_byte_latency {
            self.first_bytes.get_or_create(&by_operation).observe(first as f64 / 1000.0);
        }
        let was_sent = record.attempts > 0;
        if was_sent || !timings.queued.is_zero() {
            self.queued.observe(timings.queued.as_secs_f64());
        }
        if was_sent || !timings.connecting.is_zero() {
            self.connecting.observe(timings.connecting.as_secs_f64());
        }
    }

    fn used(&self, record: &Record, model: &Text) {
        // A caller without an entry has no name; how many of those there are, nobody decides.
        let caller = record.caller.as_deref().map_or(Text::fixed(OTHER), Text::of);
        let usage = &record.usage;
        for (direction, count) in [
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cache_read", usage.cache_read_tokens),
            ("cache_write", usage.cache_write_tokens),
        ] {
            let Some(count) = count else { continue };
            count_up(&self.tokens.get_or_create(&TokenLabels { model: model.clone(), direction }), count);
            let labels = CallerTokenLabels { caller: caller.clone(), direction };
            count_up(&self.caller_tokens.get_or_create(&labels), count);
        }
        if let Some(nano_usd) = record.cost_nano_usd {
            let dollars = nano_usd as f64 / 1e9;
            self.cost.get_or_create(&ModelLabel { model: model.clone() }).inc_by(dollars);
            self.caller_cost.get_or_create(&CallerLabel { caller }).inc_by(dollars);
        }
    }
}

/// The count is the upstream's, and a counter that is full stays so.
fn count_up(counter: &Counter, count: u64) {
    counter.inc_by(count.min(u64::MAX - counter.get()));
}
