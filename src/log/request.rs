//! The line of a request: the fields of its audit item, and how long it waited.

use std::sync::atomic::Ordering;

use super::queue::To;
use super::{FORMAT, LEVEL, QUEUE};
use crate::config::{LogFormat, LogLevel};
use crate::json::Object;
use crate::ledger::timestamp::timestamp;
use crate::record::Record;
use crate::record::members::{self, ROOM, members};
use crate::timings::Timings;

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
    let fields = String::from_utf8(members::json(record)).unwrap_or_default();
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
    let mut line = Object::with_capacity(ROOM);
    line.text("timestamp", &timestamp(record.started_ms));
    line.text("level", if is_failure { "WARN" } else { "INFO" });
    line.text("message", "request");
    line.text("sourcePartition", "govcloud");
    line.text_if("destinationPartition", record.destination_partition());
    line.text("hostId", host_id);
    members(&mut line, record);
    line.number("queuedMs", queued_ms);
    line.number("connectingMs", connecting_ms);
    let mut line = line.finish();
    line.push(b'\n');
    line
}

/// How long it waited for limits and for connections, in milliseconds.
fn waits(timings: &Timings) -> [u64; 2] {
    [timings.queued, timings.connecting].map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Serialize;

    use super::*;
    use crate::record::members::tests::records;

    /// What serde_json makes of this is the form of the line.
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

    #[test]
    fn a_line_is_what_serde_json_would_write() {
        let timings = Timings {
            queued: Duration::from_millis(7),
            connecting: Duration::from_micros(8_900),
            ..Timings::default()
        };
        for record in records() {
            let moment = jiff::Timestamp::from_millisecond(record.started_ms).unwrap();
            let line = Line {
                timestamp: moment.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
                level: if record.status_code >= 500 { "WARN" } else { "INFO" },
                message: "request",
                source_partition: "govcloud",
                destination_partition: record.destination_partition(),
                host_id: "a\"host\"",
                record: &record,
                queued_ms: 7,
                connecting_ms: 8,
            };
            let written = String::from_utf8(json_line(&record, &timings, "a\"host\"")).unwrap();
            assert_eq!(written, serde_json::to_string(&line).unwrap() + "\n");
        }
    }
}
