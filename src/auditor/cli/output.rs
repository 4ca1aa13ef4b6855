//! Records as lines: a table for people, JSON lines and CSV for machines.

use std::io::{self, Write};

use serde_json::Value;

use super::args::Format;
use super::closing::Closing;

/// Every attribute that an item can have, the ones people look for first: the columns of CSV. JSON lines have those
/// that are there.
pub(crate) const ATTRIBUTES: [&str; 51] = [
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
    "tags",
    "sourceIP",
    "sourcePartition",
    "destinationPartition",
    "destinationRegion",
    "endpoint",
    "success",
    "statusCode",
    "outcome",
    "ended",
    "errorMessage",
    "repeated",
    "lastTimestamp",
    "attempts",
    "streaming",
    "stored",
    "requestSize",
    "responseSize",
    "latency",
    "firstByteLatency",
    "inputTokens",
    "outputTokens",
    "cacheReadTokens",
    "cacheWriteTokens",
    "cacheWrite1hTokens",
    "serviceTier",
    "costNanoUsd",
    "upstreamRequestId",
    "hostId",
    "afterUncleanStop",
    "timeShard",
    "ttl",
    "chainId",
    "chainSeq",
    "chainHash",
    "formerChain",
    "formerChainId",
    "formerChainSeq",
    "formerChainHash",
    "formerChainTtl",
];

/// The first cell of an export's last row.
const CSV_CLOSING: &str = "#export";

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
                let names: Vec<&str> = ATTRIBUTES.into_iter().chain(column).collect();
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
                let columns = ATTRIBUTES.into_iter().chain(self.column);
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
                    outcome(item),
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

    /// Ends an export with a line that says what it holds; a row of as many cells as the others in CSV, none in a table.
    pub(crate) fn close(&mut self, closing: &Closing) -> io::Result<()> {
        match self.format {
            Format::Jsonl => writeln!(self.out, "{}", closing.to_json()),
            Format::Csv => {
                let empty = ",".repeat(ATTRIBUTES.len().saturating_sub(2));
                writeln!(self.out, "{CSV_CLOSING},{}{empty}", quoted(&closing.to_json().to_string()))
            }
            Format::Table => Ok(()),
        }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }
}

/// Records as the text that [`Writer`] makes of them.
///
/// # Errors
/// None is known: memory takes every byte.
pub(crate) fn written(format: Format, items: &[Value]) -> io::Result<String> {
    let mut out = Vec::new();
    let mut writer = Writer::new(format, &mut out)?;
    items.iter().try_for_each(|item| writer.write(item))?;
    writer.finish()?;
    String::from_utf8(out).map_err(io::Error::other)
}

/// How it ended; of a record that stands for several refusals also how many they are.
fn outcome(item: &Value) -> String {
    let outcome = shown(&text(&item["outcome"]));
    match item["repeated"].as_u64() {
        Some(more) => format!("{outcome} x{}", more.saturating_add(1)),
        None => outcome,
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
pub(crate) fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    // Where a semicolon divides cells, it does not divide one in quotes.
    if formula || text.contains([',', ';', '\t', '"', '\n', '\r']) {
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
        let tags = written(Format::Csv, &json!({ "tags": r#"{"x-a":"1,2"}"# }));
        assert!(tags.contains(r#""{""x-a"":""1,2""}""#), "{tags}");
        let csv = written(Format::Csv, &item);
        assert!(csv.contains("\"'=cmd|' /C calc'!A0\""), "{csv}");
        assert!(csv.contains("\"a,\"\"b\"\"\nc\""), "{csv}");
        assert!(!written(Format::Table, &item).contains('\u{1b}'));
    }

    #[test]
    fn json_lines_and_csv_have_every_attribute() {
        let mut item = crate::ledger::item::tests::full_item();
        item["chainHash"] = "h".into();
        let line: Value = serde_json::from_str(&written(Format::Jsonl, &item)).unwrap();
        assert_eq!(line, item);

        item["requestId"] = "r".into();
        item["tags"] = "t".into();
        let fields = item.as_object().unwrap();
        let mut listed = ATTRIBUTES.to_vec();
        listed.sort_unstable();
        let mut there: Vec<&str> = fields.keys().map(String::as_str).collect();
        there.sort_unstable();
        assert_eq!(listed, there, "the list (left) and the item (right) name different attributes");

        let csv = written(Format::Csv, &item);
        let (names, cells) = csv.split_once('\n').unwrap();
        let names: Vec<&str> = names.split(',').collect();
        let cells: Vec<&str> = cells.trim_end().split(',').collect();
        assert_eq!(names.len(), cells.len());
        for (name, cell) in names.into_iter().zip(cells) {
            assert_eq!(cell, text(&fields[name]), "{name}");
            assert_ne!(cell, "", "{name}");
        }
    }
}
