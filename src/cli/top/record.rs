//! One request, opened: its whole record.

use serde_json::Value;

use super::figures;
use crate::cli::fitting::{clipped, safe, wrapped};
use crate::cli::terminal::{Terminal, Text, Tone};

/// Where values begin.
const INDENT: usize = 22;
/// Rows beside those of the attributes.
const FRAME: usize = 3;

/// What is looked for first. The rest follows by name.
const FIRST: [&str; 18] = [
    "requestId",
    "timestamp",
    "operation",
    "modelId",
    "caller",
    "callerUid",
    "outcome",
    "statusCode",
    "errorMessage",
    "latency",
    "firstByteLatency",
    "inputTokens",
    "outputTokens",
    "cacheReadTokens",
    "cacheWriteTokens",
    "costNanoUsd",
    "destinationRegion",
    "attempts",
];

/// Rows for attributes in a terminal with so many.
pub(super) fn room(rows: usize) -> usize {
    rows.saturating_sub(FRAME).max(1)
}

/// All attributes.
pub(super) fn lines(item: &Value, terminal: &Terminal) -> Vec<Text> {
    let Some(attributes) = item.as_object() else { return Vec::new() };
    let first = FIRST.iter().filter_map(|name| attributes.get_key_value(*name));
    let others = attributes.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    first.chain(others).flat_map(|(name, value)| attribute(name, value, terminal)).collect()
}

fn attribute(name: &str, value: &Value, terminal: &Terminal) -> Vec<Text> {
    let mut label = clipped(&safe(name), INDENT - 1);
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let shown = safe(&format!("{text}{}", unit(name, value)));
    let tone = match (name, value.as_str()) {
        ("errorMessage", _) => Tone::Bad,
        ("outcome", Some(outcome)) if outcome != "completed" => Tone::Bad,
        _ => Tone::Plain,
    };
    let mut lines = Vec::new();
    for line in wrapped(&shown, terminal.width.saturating_sub(INDENT)) {
        lines.push(vec![(Tone::Strong, format!("{label:<INDENT$}")), (tone, line)]);
        label.clear();
    }
    lines
}

/// What a number counts, where its name does not say it.
fn unit(name: &str, value: &Value) -> String {
    match name {
        "latency" | "firstByteLatency" => " ms".to_owned(),
        "requestSize" | "responseSize" => " bytes".to_owned(),
        "costNanoUsd" => format!(" ({})", figures::cost(value)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_shown_whole_and_harmless() {
        let terminal = Terminal { width: 60, colours: false };
        let item = json!({
            "chainHash": "0123456789abcdef".repeat(4), "attempts": 1, "requestId": "id", "modelId": "m\u{1b}[2J\u{202e}中",
            "errorMessage": "it has failed,\nand this is why: see the log of the other side", "latency": 12, "streaming": false,
            "costNanoUsd": 4_200_000, "\u{7}": "bell",
        });
        let shown: Vec<String> = lines(&item, &terminal).iter().map(|line| terminal.line(line)).collect();
        assert_eq!(
            shown,
            [
                "requestId             id",
                "modelId               m\\u{1b}[2J\\u{202e}\\u{4e2d}",
                "errorMessage          it has failed, and this is why: see",
                "                      the log of the other side",
                "latency               12 ms",
                "costNanoUsd           4200000 ($0.0042)",
                "attempts              1",
                "\\u{7}                 bell",
                "chainHash             0123456789abcdef0123456789abcdef012345",
                "                      6789abcdef0123456789abcdef",
                "streaming             false",
            ]
        );
    }
}
