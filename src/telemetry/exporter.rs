//! The task that turns notes into spans and metrics and sends them: one export at a time. What a collector does not take
//! is sent again after a pause, and what comes meanwhile is kept up to a bound.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use opentelemetry_sdk::Resource;
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::instruments::Instruments;
use super::lane::Lane;
use super::post::{Answer, Collector, Signal};
use super::resource::SCOPE;
use super::{Ended, Tally, span};
use crate::jitter;

/// Spans are sent after so long, or once there are [`BATCH`] of them.
const COLLECT: Duration = Duration::from_secs(1);
const BATCH: usize = 512;
/// Spans that are kept for a collector that does not take them, those under way included. A span takes about 3 KiB.
const MOST: usize = 4096;

#[derive(Debug)]
pub(super) struct Exporter {
    collector: Arc<Collector>,
    resource: Resource,
    notes: mpsc::Receiver<Ended>,
    instruments: Instruments,
    /// The latest page of metrics.
    page: watch::Receiver<Bytes>,
    page_is_due: bool,
    spans: Vec<Span>,
    /// Spans that the collector has not taken yet.
    again: Option<Parcel>,
    /// One export at most.
    sending: JoinSet<(Parcel, Answer)>,
    /// In `again` and `sending`.
    spans_away: usize,
    traces: Lane,
    metrics: Lane,
    tally: Arc<Tally>,
    /// What had been lost when the log last told of a failure.
    lost_before: u64,
}

/// An export.
#[derive(Debug)]
struct Parcel {
    signal: Signal,
    body: Bytes,
    spans: usize,
}

impl Exporter {
    pub(super) fn new(
        collector: Collector,
        resource: Resource,
        notes: mpsc::Receiver<Ended>,
        tally: Arc<Tally>,
    ) -> Exporter {
        let (instruments, page) = Instruments::new(resource.clone(), collector.interval);
        Exporter {
            collector: Arc::new(collector),
            resource,
            notes,
            instruments,
            page,
            page_is_due: false,
            spans: Vec::new(),
            again: None,
            sending: JoinSet::new(),
            spans_away: 0,
            traces: Lane::new(),
            metrics: Lane::new(),
            lost_before: tally.dropped(),
            tally,
        }
    }

    /// Works until it is told by when all has to be over.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<Instant>) {
        let mut tick = interval(COLLECT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut is_time = false;
            tokio::select! {
                by = &mut stop => return self.finish(by.unwrap_or_else(|_| Instant::now())).await,
                Some(note) = self.notes.recv() => self.take(&note),
                Some(Ok((parcel, answer))) = self.sending.join_next() => self.settle(parcel, answer),
                Ok(()) = self.page.changed() => self.page_is_due = self.collector.sends(Signal::Metrics),
                _ = tick.tick() => is_time = true,
            }
            if self.sending.is_empty() {
                self.send_next(is_time);
            }
        }
    }

    fn take(&mut self, note: &Ended) {
        self.instruments.record(note);
        if !note.is_sampled() || !self.collector.sends(Signal::Traces) {
            return;
        }
        if self.spans.len() + self.spans_away < MOST {
            self.spans.push(span::of(note));
        } else {
            self.tally.lose(1);
        }
    }

    /// Begins the next export, if there is one whose time has come.
    fn send_next(&mut self, is_time: bool) {
        let now = Instant::now();
        if self.page_is_due && self.metrics.is_open(now) {
            self.send_page();
        } else if self.traces.is_open(now)
            && (self.again.is_some() || self.spans.len() >= BATCH || (is_time && !self.spans.is_empty()))
        {
            self.send_spans();
        }
    }

    fn send_page(&mut self) {
        self.page_is_due = false;
        let body = self.page.borrow_and_update().clone();
        self.send(Parcel { signal: Signal::Metrics, body, spans: 0 });
    }

    fn send_spans(&mut self) {
        let parcel = self.again.take().unwrap_or_else(|| {
            let spans: Vec<Span> = self.spans.drain(..self.spans.len().min(BATCH)).collect();
            self.spans_away = spans.len();
            Parcel { signal: Signal::Traces, spans: spans.len(), body: encoded(&self.resource, spans) }
        });
        self.send(parcel);
    }

    fn send(&mut self, parcel: Parcel) {
        let collector = Arc::clone(&self.collector);
        self.sending.spawn(async move {
            let answer = collector.post(parcel.signal, parcel.body.clone()).await;
            (parcel, answer)
        });
    }

    /// What follows from the collector's answer.
    fn settle(&mut self, parcel: Parcel, answer: Answer) {
        let Parcel { signal, spans, .. } = parcel;
        let (reason, asked) = match answer {
            Answer::Taken { rejected } => {
                self.tally.lose(rejected.min(spans as u64));
                self.spans_away -= spans;
                if self.lane(signal).is_well_again() {
                    let endpoint = self.collector.endpoint();
                    tracing::info!(%endpoint, %signal, "the collector of telemetry takes it again");
                }
                return;
            }
            Answer::Later { after, reason } => {
                match signal {
                    Signal::Traces => self.again = Some(parcel),
                    Signal::Metrics => self.page_is_due = true,
                }
                (reason, after)
            }
            Answer::Refused { reason } => {
                self.tally.lose(spans as u64);
                self.spans_away -= spans;
                (reason, None)
            }
        };
        self.tally.fail();
        if self.lane(signal).fails(Instant::now(), asked, jitter::fraction()) {
            let (endpoint, dropped) = (self.collector.endpoint(), self.tally.dropped());
            let (kept_spans, lost_spans) = (self.spans.len() + self.spans_away, dropped - self.lost_before);
            tracing::warn!(%endpoint, %signal, %reason, kept_spans, lost_spans, "the collector does not take telemetry");
            self.lost_before = dropped;
        }
    }

    fn lane(&mut self, signal: Signal) -> &mut Lane {
        match signal {
            Signal::Traces => &mut self.traces,
            Signal::Metrics => &mut self.metrics,
        }
    }

    /// Sends what there is, until the time is over; what is left then is lost.
    async fn finish(mut self, by: Instant) {
        self.notes.close();
        while let Ok(note) = self.notes.try_recv() {
            self.take(&note);
        }
        let before = self.tally.dropped();
        let _ = timeout_at(by, self.send_the_rest()).await;
        self.tally.lose((self.spans.len() + self.spans_away) as u64);
        let lost_spans = self.tally.dropped() - before;
        if lost_spans > 0 {
            let endpoint = self.collector.endpoint();
            tracing::warn!(%endpoint, lost_spans, "the last spans were not sent: the collector did not take them");
        }
    }

    /// Spans come first: a collector that does not take metrics must not keep them.
    async fn send_the_rest(&mut self) {
        let _ = spawn_blocking(self.instruments.end()).await;
        let is_sending_spans = self.spans_away > 0 && self.again.is_none();
        if !is_sending_spans {
            // The last page has all that is in the one under way.
            self.sending.shutdown().await;
        }
        self.sent().await;
        while self.again.is_some() || !self.spans.is_empty() {
            self.send_spans();
            self.sent().await;
            if self.again.is_some() {
                break;
            }
        }
        let has_page = !self.page.borrow().is_empty();
        if has_page && self.collector.sends(Signal::Metrics) {
            self.send_page();
            self.sent().await;
        }
    }

    /// Waits for the export under way.
    async fn sent(&mut self) {
        if let Some(Ok((parcel, answer))) = self.sending.join_next().await {
            self.settle(parcel, answer);
        }
    }
}

fn encoded(resource: &Resource, spans: Vec<Span>) -> Bytes {
    let scope = InstrumentationScope {
        name: SCOPE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = ScopeSpans { scope: Some(scope), spans, schema_url: String::new() };
    let resource_spans =
        ResourceSpans { resource: Some(resource.into()), scope_spans: vec![scope_spans], schema_url: String::new() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;

    use super::*;
    use crate::record::Record;
    use crate::settings::Telemetry;
    use crate::telemetry::ended::tests::ended;

    fn exporter() -> Exporter {
        exporter_to(1)
    }

    fn exporter_to(port: u16) -> Exporter {
        let settings = Telemetry {
            endpoint: crate::config::Endpoint { tls: false, host: "127.0.0.1".into(), port },
            ca: None,
            signals: vec![Signal::Traces],
            metrics_interval: Duration::from_secs(3600),
        };
        let (_, notes) = mpsc::channel(1);
        Exporter::new(Collector::new(&settings).unwrap(), Resource::builder_empty().build(), notes, Arc::default())
    }

    /// The spans under way, and those that are to be sent again, are among those that there is room for.
    #[tokio::test]
    async fn what_a_collector_does_not_take_is_kept_up_to_a_bound() {
        let mut exporter = exporter();
        let note = ended(&Record::default(), None);
        for _ in 0..MOST + 10 {
            exporter.take(&note);
        }
        assert_eq!((exporter.spans.len(), exporter.tally.dropped()), (MOST, 10));
        exporter.send_next(false);
        exporter.take(&note);
        exporter.sent().await;
        assert!(exporter.again.is_some(), "nobody listens there");
        exporter.take(&note);
        assert_eq!((exporter.spans.len(), exporter.tally.dropped()), (MOST - BATCH, 12));
        let again = exporter.again.take().unwrap();
        exporter.settle(again, Answer::Refused { reason: "no".into() });
        assert_eq!((exporter.tally.dropped(), exporter.tally.failures()), (12 + BATCH as u64, 2));
        exporter.take(&note);
        assert_eq!(exporter.spans.len(), MOST - BATCH + 1, "there is room again");
    }

    #[tokio::test]
    async fn the_end_keeps_to_its_time_and_counts_what_is_left() {
        let mut exporter = exporter();
        let tally = Arc::clone(&exporter.tally);
        for _ in 0..3 {
            exporter.take(&ended(&Record::default(), None));
        }
        exporter.finish(Instant::now()).await;
        assert_eq!(tally.dropped(), 3);
    }

    /// What a collector finds wrong with one export is no reason to keep the others.
    #[tokio::test]
    async fn the_end_goes_on_after_an_export_that_is_refused() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut exporter = exporter_to(listener.local_addr().unwrap().port());
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                request.into_body().collect().await?;
                let mut answer = http::Response::new(http_body_util::Full::<Bytes>::default());
                *answer.status_mut() = if is_first { http::StatusCode::BAD_REQUEST } else { http::StatusCode::OK };
                Ok::<_, hyper::Error>(answer)
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service.clone()));
            }
        });
        let tally = Arc::clone(&exporter.tally);
        for _ in 0..=BATCH {
            exporter.take(&ended(&Record::default(), None));
        }
        exporter.finish(Instant::now() + Duration::from_secs(600)).await;
        assert_eq!((served.load(Ordering::Relaxed), tally.dropped(), tally.failures()), (2, BATCH as u64, 1));
    }
}
