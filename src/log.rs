//! What is written to standard error or the journal: events, and one line for each request.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::OnceLock;

use serde::Serialize;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogFormat, LogLevel};
use crate::record::Record;

/// So many bytes of one field are shown in a text line.
const MOST_OF_A_FIELD: usize = 16 * 1024;

static FORMAT: OnceLock<LogFormat> = OnceLock::new();
/// What is logged, exchangeable while the daemon runs.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Starts logging; what was set first stays.
pub(crate) fn start(format: LogFormat, level: LogLevel) {
    let (filter, handle) = reload::Layer::new(filter(level));
    let _ = LEVEL.set(handle);
    // The levels are ours: libraries may show keys and texts at debug level.
    let ours = tracing_subscriber::filter::filter_fn(|metadata| metadata.target().starts_with("bedrock_sidecar"));
    let stderr = || tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let text = || stderr().with_ansi(false).with_target(false).fmt_fields(plain_fields()).boxed();
    let (format, layer) = match format {
        LogFormat::Json => (LogFormat::Json, stderr().json().flatten_event(true).with_target(false).boxed()),
        LogFormat::Text => (LogFormat::Text, text()),
        LogFormat::Journald => match tracing_journald::layer() {
            Ok(layer) => (LogFormat::Journald, layer.boxed()),
            Err(_) => (LogFormat::Text, text()),
        },
    };
    let _ = FORMAT.set(format);
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter).with_filter(ours)).try_init();
}

/// Logs this level and above from now on.
pub(crate) fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        let _ = handle.reload(filter(level));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    }
}

/// The fields of a text line. Some hold what clients or upstreams chose: that must neither begin a line of its own nor
/// move a terminal's cursor, nor fill the disk.
fn plain_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    format::debug_fn(|writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        if field.name() != "message" {
            write!(writer, "{field}=")?;
        }
        let mut plain = Plain { writer, left: MOST_OF_A_FIELD };
        match write!(plain, "{value:?}") {
            Err(_) if plain.left == 0 => plain.writer.write_str("…"),
            written => written,
        }
    })
    .delimited(" ")
}

/// Writes at most so many bytes, and control characters by their escapes.
struct Plain<'a, 'w> {
    writer: &'a mut Writer<'w>,
    left: usize,
}

impl fmt::Write for Plain<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let cut = text.len() > self.left;
        let shown = if cut { &text[..text.floor_char_boundary(self.left)] } else { text };
        for piece in shown.split_inclusive(char::is_control) {
            match piece.char_indices().next_back().filter(|(_, last)| last.is_control()) {
                Some((at, control)) => write!(self.writer, "{}{}", &piece[..at], control.escape_default())?,
                None => self.writer.write_str(piece)?,
            }
        }
        if cut {
            // The formatter is told to stop.
            self.left = 0;
            return Err(fmt::Error);
        }
        self.left -= text.len();
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What an event looks like in `format = "text"`.
    fn line(event: impl FnOnce()) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || to.clone())
            .with_ansi(false)
            .with_target(false)
            .fmt_fields(plain_fields());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), event);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_value_begins_a_line_or_obeys_a_terminal() {
        let evil = "a.b\n2026-01-01T00:00:00Z  INFO request \u{1b}[2Jé";
        let text = line(|| tracing::warn!(model = %evil, said = evil, count = 3, "a {evil} b"));
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let tail = r#"WARN a a.b\n2026-01-01T00:00:00Z  INFO request \u{1b}[2Jé b model=a.b\n2026-01-01T00:00:00Z  INFO request \u{1b}[2Jé said="a.b\n2026-01-01T00:00:00Z  INFO request \u{1b}[2Jé" count=3"#;
        assert_eq!(text.trim_end().split_once("  ").unwrap().1.trim_start(), tail, "{text}");
    }

    #[test]
    fn a_value_is_bounded() {
        let long = "é".repeat(1_000_000);
        let text = line(|| tracing::info!(model = %long, after = 1, "request"));
        assert!(text.len() < MOST_OF_A_FIELD + 200, "{}", text.len());
        assert!(text.ends_with("… after=1\n"), "{}", &text[text.len() - 40..]);
    }
}
