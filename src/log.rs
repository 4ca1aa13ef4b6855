//! What is written to standard error or the journal: events, and one line for each request.

use std::io::Write;
use std::sync::OnceLock;

use serde::Serialize;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogLevel};
use crate::record::Record;

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Starts logging; what was set first stays.
pub(crate) fn start(format: LogFormat, level: LogLevel) {
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // The levels are ours: libraries may show keys and texts at debug level.
    let ours = tracing_subscriber::filter::filter_fn(|metadata| metadata.target().starts_with("bedrock_sidecar"));
    let stderr = || tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let (format, layer) = match format {
        LogFormat::Json => (LogFormat::Json, stderr().json().flatten_event(true).with_target(false).boxed()),
        LogFormat::Text => (LogFormat::Text, stderr().with_ansi(false).with_target(false).boxed()),
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(layer) => (LogFormat::Journald, layer.boxed()),
            Err(_) => (LogFormat::Text, stderr().with_ansi(false).with_target(false).boxed()),
        },
    };
    let _ = FORMAT.set(format);
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter).with_filter(ours)).try_init();
}

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
}

/// One line with the fields of the audit item.
pub(crate) fn request(record: &Record, host_id: &str) {
    let level = if record.status_code >= 500 { tracing::Level::WARN } else { tracing::Level::INFO };
    match FORMAT.get() {
        None => {}
        Some(LogFormat::Json) => {
            if tracing::Level::INFO > LevelFilter::current() {
                return;
            }
            let line = Line {
                timestamp: timestamp(record.started_ms),
                level: if level == tracing::Level::WARN { "WARN" } else { "INFO" },
                message: "request",
                source_partition: "govcloud",
                destination_partition: record.destination_partition(),
                host_id,
                record,
            };
            if let Ok(mut text) = serde_json::to_vec(&line) {
                text.push(b'\n');
                // A log that cannot be written must not fail the request; the ledger has the record.
                let _ = std::io::stderr().lock().write_all(&text);
            }
        }
        Some(LogFormat::Text | LogFormat::Journald) => {
            let fields = serde_json::to_string(record).unwrap_or_default();
            tracing::info!(
                operation = %record.operation,
                model = %record.model_id,
                status = record.status_code,
                outcome = record.outcome.as_str(),
                latency_ms = record.latency,
                request_id = %record.request_id,
                record = %fields,
                "request"
            );
        }
    }
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn timestamp(unix_ms: i64) -> String {
    let moment = jiff::Timestamp::from_millisecond(unix_ms).unwrap_or_default();
    moment.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
