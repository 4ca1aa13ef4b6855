//! The line of a request: the fields of its audit item, and how long it waited.

use serde::Serialize;
use std::sync::atomic::Ordering;

use super::queue::To;
use super::{FORMAT, LEVEL, QUEUE};
use crate::config::{LogFormat, LogLevel};
use crate::record::Record;
use crate::timings::Timings;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    source_partition: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_partition: Option<&'static str>,
    host_id: &'a str,
    #[serde(flatten)]
    record: &'a Record,
    queued_ms: u64,
    connecting_ms: u64,
}

/// One line with the fields of the audit item.
pub(crate) fn request(record: &Record, timings: &Timings, host_id: &str) {
    let is_failure = record.status_code >= 500;
    let needed = if is_failure { LogLevel::Warn } else { LogLevel::Info };
    let format = FORMAT.load(Ordering::Relaxed);
    if format == super::NONE || LEVEL.load(Ordering::Relaxed) < needed as u8 {
        return;
    }
    if format == LogFormat::Json as u8 {
        QUEUE.push(To::Stderr, json_line(record, timings, host_id));
        return;
    }
    let [queued_ms, connecting_ms] = waits(timings);
    let fields = serde_json::to_string(record).unwrap_or_default();
    /// A macro, because an event's level is fixed where it is written.
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                $level,
                operation = %record.operation,
                model = %record.model_id,
                status = record.status_code,
                outcome = record.outcome.as_str(),
                latency_ms = record.latency,
                queued_ms,
                connecting_ms,
                request_id = %record.request_id,
                record = %fields,
                "request"
            )
        };
    }
    if is_failure {
        line!(tracing::Level::WARN);
    } else {
        line!(tracing::Level::INFO);
    }
}

/// The line in `format = "json"`, with its end.
pub(crate) fn json_line(record: &Record, timings: &Timings, host_id: &str) -> Vec<u8> {
    let is_failure = record.status_code >= 500;
    let [queued_ms, connecting_ms] = waits(timings);
    let line = Line {
        timestamp: timestamp(record.started_ms),
        level: if is_failure { "WARN" } else { "INFO" },
        message: "request",
        source_partition: "govcloud",
        destination_partition: record.destination_partition(),
        host_id,
        record,
        queued_ms,
        connecting_ms,
    };
    let mut text = Vec::with_capacity(1024);
    // A log that cannot be written must not fail the request; the ledger has the record.
    if serde_json::to_writer(&mut text, &line).is_ok() {
        text.push(b'\n');
    }
    text
}

/// How long it waited for limits and for connections, in milliseconds.
fn waits(timings: &Timings) -> [u64; 2] {
    [timings.queued, timings.connecting].map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// RFC 3339 in UTC with milliseconds.
fn timestamp(unix_ms: i64) -> String {
    let moment = jiff::Timestamp::from_millisecond(unix_ms).unwrap_or_default();
    moment.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
