//! What each request leaves behind when it ends: counts, times, tokens and money.

use std::borrow::Cow;
use std::sync::atomic::AtomicU64;
use std::sync::{OnceLock, PoisonError, RwLock};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::labels::{
    AttemptLabels, CallerLabel, CallerTokenLabels, DirectionLabel, HowLabel, ModelLabel, OTHER, OperationLabel,
    RequestLabels, Text, TokenLabels,
};
use super::series::Series;
use super::{Metrics, add, add_as};
use crate::model::How;
use crate::record::Record;
use crate::timings::Timings;
use crate::upstream::attempts::{Came, Results};

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
    kept: Kept,
}

/// Members of the families above, so that a request need not look for them by labels.
#[derive(Debug, Default)]
struct Kept {
    operations: Series<OfOperation>,
    models: Series<OfModel>,
    callers: Series<OfCaller>,
    regions: Series<OfRegion>,
    bytes: [OnceLock<Counter>; 2],
}

/// Each exists, and is shown, from its first count on.
#[derive(Debug)]
struct OfOperation {
    duration: Histogram,
    first_byte: OnceLock<Histogram>,
}

#[derive(Debug)]
struct OfModel {
    model: Text,
    used: Used,
    /// By operation and status.
    ended: RwLock<Vec<(Cow<'static, str>, u16, Counter)>>,
}

#[derive(Debug)]
struct OfCaller {
    caller: Text,
    used: Used,
}

/// Tokens by direction, and money.
#[derive(Debug, Default)]
struct Used {
    tokens: [OnceLock<Counter>; DIRECTIONS.len()],
    cost: OnceLock<Dollars>,
}

#[derive(Debug)]
struct OfRegion {
    region: Text,
    /// By what came of them.
    attempts: [OnceLock<Counter>; Came::ALL.len()],
}

const DIRECTIONS: [&str; 4] = ["input", "output", "cache_read", "cache_write"];
const BODIES: [&str; 2] = ["request", "response"];

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
            kept: Kept::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn resolved(&self, how: How) {
        self.requests.resolutions.get_or_create(&HowLabel { how: how.as_str() }).inc();
    }

    /// What has come of attempts at an upstream.
    pub(crate) fn attempted(&self, region: &str, results: &Results) {
        if results.counts().next().is_none() {
            return;
        }
        let of_region =
            self.requests.kept.regions.of(region, |region| OfRegion { region, attempts: Default::default() });
        for (came, count) in results.counts() {
            let create = || {
                let labels = AttemptLabels { region: of_region.region.clone(), result: came.as_str() };
                self.requests.attempts.get_or_create_owned(&labels)
            };
            of_region.attempts[came as usize].get_or_init(create).inc_by(count.into());
        }
    }

    /// `model` is the catalogue's name for the model; what no catalogue knows is "other", no model at all is "".
    pub(crate) fn ended(&self, record: &Record, model: Option<&str>, timings: &Timings) {
        let model = match (model, record.model_id.is_empty()) {
            (Some(model), _) => model,
            (None, true) => "",
            (None, false) => OTHER,
        };
        let requests = &self.requests;
        requests.timed(record, timings);
        let model =
            requests.kept.models.of(model, |model| OfModel { model, used: Used::default(), ended: RwLock::default() });
        requests.used(record, &model);
        requests.passed([record.request_size, record.response_size]);
        requests.ended(&model, record);
    }
}

impl Requests {
    fn timed(&self, record: &Record, timings: &Timings) {
        let labels = || OperationLabel { operation: Text::from(record.operation.clone()) };
        let of_operation = self.kept.operations.of(&record.operation, |_| OfOperation {
            duration: self.durations.get_or_create_owned(&labels()),
            first_byte: OnceLock::new(),
        });
        of_operation.duration.observe(timings.whole.as_secs_f64());
        if let Some(first) = record.first_byte_latency {
            let first_byte = of_operation.first_byte.get_or_init(|| self.first_bytes.get_or_create_owned(&labels()));
            first_byte.observe(first as f64 / 1000.0);
        }
        let was_sent = record.attempts > 0;
        if was_sent || !timings.queued.is_zero() {
            self.queued.observe(timings.queued.as_secs_f64());
        }
        if was_sent || !timings.connecting.is_zero() {
            self.connecting.observe(timings.connecting.as_secs_f64());
        }
    }

    fn used(&self, record: &Record, model: &OfModel) {
        // A caller without an entry has no name; how many of those there are, nobody decides.
        let caller = record.caller.as_deref().unwrap_or(OTHER);
        let caller = self.kept.callers.of(caller, |caller| OfCaller { caller, used: Used::default() });
        let usage = &record.usage;
        let counts = [usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens];
        for (at, (count, direction)) in counts.into_iter().zip(DIRECTIONS).enumerate() {
            let Some(count) = count else { continue };
            let of_model = || TokenLabels { model: model.model.clone(), direction };
            let of_caller = || CallerTokenLabels { caller: caller.caller.clone(), direction };
            count_up(model.used.tokens[at].get_or_init(|| self.tokens.get_or_create_owned(&of_model())), count);
            count_up(
                caller.used.tokens[at].get_or_init(|| self.caller_tokens.get_or_create_owned(&of_caller())),
                count,
            );
        }
        if let Some(nano_usd) = record.cost_nano_usd {
            let dollars = nano_usd as f64 / 1e9;
            let of_model = || ModelLabel { model: model.model.clone() };
            let of_caller = || CallerLabel { caller: caller.caller.clone() };
            model.used.cost.get_or_init(|| self.cost.get_or_create_owned(&of_model())).inc_by(dollars);
            caller.used.cost.get_or_init(|| self.caller_cost.get_or_create_owned(&of_caller())).inc_by(dollars);
        }
    }

    fn passed(&self, sizes: [u64; 2]) {
        for ((counter, direction), size) in self.kept.bytes.iter().zip(BODIES).zip(sizes) {
            counter.get_or_init(|| self.bytes.get_or_create_owned(&DirectionLabel { direction })).inc_by(size);
        }
    }

    fn ended(&self, of_model: &OfModel, record: &Record) {
        let (operation, status) = (&record.operation, record.status_code);
        let is_it =
            |(known, answered, _): &&(Cow<'static, str>, u16, Counter)| *answered == status && known == operation;
        if let Some((.., counter)) = of_model.ended.read().unwrap_or_else(PoisonError::into_inner).iter().find(is_it) {
            counter.inc();
            return;
        }
        let labels = RequestLabels { operation: Text::from(operation.clone()), model: of_model.model.clone(), status };
        let counter = self.ended.get_or_create_owned(&labels);
        counter.inc();
        let mut ended = of_model.ended.write().unwrap_or_else(PoisonError::into_inner);
        if !ended.iter().any(|one| is_it(&one)) {
            ended.push((operation.clone(), status, counter));
        }
    }
}

/// The count is the upstream's, and a counter that is full stays so.
fn count_up(counter: &Counter, count: u64) {
    counter.inc_by(count.min(u64::MAX - counter.get()));
}
