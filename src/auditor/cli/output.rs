//! Records as lines: a table for people, JSON lines and CSV for machines.

use std::io::{self, Write};

use serde_json::Value;

use super::args::Format;

/// The columns of CSV: every attribute an item can have, the ones people look for first.
pub(crate) const COLUMNS: [&str; 35] = [
    "timestamp",
    "requestId",
    "operation",
    "modelId",
    "inferenceProfileUsed",
    "caller",
    "callerUid",
    "userArn",
    "accessKeyId",
    "identityVerified",
    "dataClassification",
    "sourceIP",
    "sourcePartition",
    "destinationPartition",
    "destinationRegion",
    "success",
    "statusCode",
    "outcome",
    "errorMessage",
    "attempts",
    "streaming",
    "requestSize",
    "responseSize",
    "latency",
    "firstByteLatency",
    "inputTokens",
    "outputTokens",
    "cacheReadTokens",
    "cacheWriteTokens",
    "upstreamRequestId",
    "hostId",
    "ttl",
    "chainId",
    "chainSeq",
    "chainHash",
];

/// Writes records in one of the formats.
pub(crate) struct Writer<'a> {
    format: Format,
    /// The last column of CSV, beside an item's attributes.
    column: Option<&'static str>,
    out: &'a mut (dyn Write + Send),
    begun: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(format: Format, out: &'a mut (dyn Write + Send)) -> io::Result<Writer<'a>> {
        Writer::start(format, None, out)
    }

    /// The same with one more column in CSV, behind the attributes.
    pub(crate) fn with_column(
        format: Format,
        column: &'static str,
        out: &'a mut (dyn Write + Send),
    ) -> io::Result<Writer<'a>> {
        Writer::start(format, Some(column), out)
    }

    fn start(format: Format, column: Option<&'static str>, out: &'a mut (dyn Write + Send)) -> io::Result<Writer<'a>> {
        match format {
            Format::Table => writeln!(
                out,
                "{:<24} {:>6} {:<19} {:<22} {:<44} {:<14} {:>9} {:>9} {:>8}  REQUEST",
                "TIME", "STATUS", "OUTCOME", "OPERATION", "MODEL", "CALLER", "IN", "OUT", "MS"
            )?,
            Format::Csv => {
                let names: Vec<&str> = COLUMNS.into_iter().chain(column).collect();
                writeln!(out, "{}", names.join(","))?;
            }
            Format::Jsonl => {}
        }
        Ok(Writer { format, column, out, begun: false })
    }

    /// Whether something was written.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    pub(crate) fn write(&mut self, item: &Value) -> io::Result<()> {
        self.begun = true;
        match self.format {
            Format::Jsonl => writeln!(self.out, "{item}"),
            Format::Csv => {
                let columns = COLUMNS.into_iter().chain(self.column);
                let cells: Vec<String> = columns.map(|column| quoted(&text(&item[column]))).collect();
                writeln!(self.out, "{}", cells.join(","))
            }
            Format::Table => {
                let cell = |name: &str| shown(&text(&item[name]));
                let or_dash =
                    |name: &str| Some(cell(name)).filter(|cell| !cell.is_empty()).unwrap_or_else(|| "-".into());
                writeln!(
                    self.out,
                    "{:<24} {:>6} {:<19} {:<22} {:<44} {:<14} {:>9} {:>9} {:>8}  {}",
                    cell("timestamp"),
                    cell("statusCode"),
                    cell("outcome"),
                    cell("operation"),
                    or_dash("modelId"),
                    or_dash("caller"),
                    or_dash("inputTokens"),
                    or_dash("outputTokens"),
                    cell("latency"),
                    cell("requestId"),
                )
            }
        }
    }

    /// A line below the record that was written last, for people.
    pub(crate) fn remark(&mut self, remark: &str) -> io::Result<()> {
        writeln!(self.out, "    {}", shown(remark))
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What clients chose must not move an admin's cursor.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

/// A cell that spreadsheets read as text, never as a formula.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if formula || text.contains([',', '"', '\n', '\r']) {
        let guard = if formula { "'" } else { "" };
        return format!("\"{guard}{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(format: Format, item: &Value) -> String {
        let mut out = Vec::new();
        let mut writer = Writer::new(format, &mut out).unwrap();
        writer.write(item).unwrap();
        writer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cells_cannot_break_out() {
        let item = json!({ "modelId": "=cmd|' /C calc'!A0", "errorMessage": "a,\"b\"\nc", "caller": "x\u{1b}[2J" });
        let csv = written(Format::Csv, &item);
        assert!(csv.contains("\"'=cmd|' /C calc'!A0\""), "{csv}");
        assert!(csv.contains("\"a,\"\"b\"\"\nc\""), "{csv}");
        assert!(!written(Format::Table, &item).contains('\u{1b}'));
    }

    #[test]
    fn csv_has_a_column_for_every_attribute() {
        let record = serde_json::to_value(crate::record::Record::default()).unwrap();
        for field in record.as_object().unwrap().keys().filter(|field| *field != "startedMs") {
            assert!(COLUMNS.contains(&field.as_str()), "{field}");
        }
    }
}
