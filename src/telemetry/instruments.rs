//! The metrics that GenAI's conventions define for clients: tokens, durations, and times to the first chunk.

use std::time::Duration;

use bytes::Bytes;
use opentelemetry::metrics::{Histogram, MeterProvider};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use prost::Message;
use tokio::sync::watch;

use super::Ended;
use super::resource::SCOPE;
use super::span::PROVIDER;

/// The bounds that the conventions ask for.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
const SECONDS: [f64; 14] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

#[derive(Debug)]
pub(super) struct Instruments {
    provider: SdkMeterProvider,
    tokens: Histogram<u64>,
    durations: Histogram<f64>,
    first_chunks: Histogram<f64>,
}

/// Where the page of all metrics is left, encoded. Values add up from the start, so only the latest page counts.
#[derive(Debug)]
struct Latest(watch::Sender<Bytes>);

impl PushMetricExporter for Latest {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.0.send_replace(ExportMetricsServiceRequest::from(metrics).encode_to_vec().into());
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

impl Instruments {
    /// A page comes out of the receiver whenever `interval` has passed.
    pub(super) fn new(resource: Resource, interval: Duration) -> (Instruments, watch::Receiver<Bytes>) {
        let (page, latest) = watch::channel(Bytes::new());
        let reader = PeriodicReader::builder(Latest(page)).with_interval(interval).build();
        let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build();
        let scope = InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
        let meter = provider.meter_with_scope(scope);
        let instruments = Instruments {
            tokens: meter
                .u64_histogram("gen_ai.client.token.usage")
                .with_unit("{token}")
                .with_description("Number of input and output tokens used.")
                .with_boundaries(TOKENS.to_vec())
                .build(),
            durations: meter
                .f64_histogram("gen_ai.client.operation.duration")
                .with_unit("s")
                .with_description("GenAI operation duration.")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            first_chunks: meter
                .f64_histogram("gen_ai.client.operation.time_to_first_chunk")
                .with_unit("s")
                .with_description("Time from the request to the first chunk of a streamed answer.")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            provider,
        };
        (instruments, latest)
    }

    /// Counts a request. The conventions have metrics of those that run a model.
    pub(super) fn record(&self, ended: &Ended) {
        let Some(operation) = ended.gen_ai_operation() else { return };
        let model = ended.known_model.clone().unwrap_or_else(|| "other".to_owned());
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("gen_ai.provider.name", PROVIDER),
            KeyValue::new("gen_ai.request.model", model),
        ];
        if let Some(server) = &ended.server {
            attributes.push(KeyValue::new("server.address", server.host.clone()));
            attributes.push(KeyValue::new("server.port", i64::from(server.port)));
        }
        for (kind, count) in [("input", ended.input_tokens()), ("output", ended.usage.output_tokens)] {
            if let Some(count) = count {
                attributes.push(KeyValue::new("gen_ai.token.type", kind));
                self.tokens.record(count, &attributes);
                attributes.pop();
            }
        }
        if let Some(first_byte) = ended.first_byte.filter(|_| ended.streaming) {
            self.first_chunks.record(first_byte.as_secs_f64(), &attributes);
        }
        attributes.extend(ended.error_type().map(|kind| KeyValue::new("error.type", kind)));
        self.durations.record(ended.timings.whole.as_secs_f64(), &attributes);
    }

    /// What ends the counting, and makes a last page; it waits for a thread.
    pub(super) fn end(&self) -> impl FnOnce() + Send + 'static {
        let provider = self.provider.clone();
        move || {
            let _ = provider.shutdown();
        }
    }
}
