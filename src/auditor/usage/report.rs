//! What was added up as JSON, or its groups as lines for spreadsheets and programs.

use serde_json::{Map, Value, json};

use super::Document;
use super::add_up::{Total, Usage};
use super::question::{Format, Question};
use crate::auditor::csv;
use crate::ledger::rollups::Progress;
use crate::ledger::rollups::read::Selection;
use crate::ledger::timestamp::timestamp;

const PERCENTILES: [(&str, u64); 3] = [("p50", 50), ("p95", 95), ("p99", 99)];

pub(super) fn document(
    question: &Question,
    selection: &Selection,
    usage: &Usage,
    progress: Progress,
    now_ms: i64,
) -> Document {
    match question.format {
        Format::Json => Document {
            content_type: "application/json",
            text: whole(question, selection, usage, progress, now_ms).to_string(),
        },
        Format::JsonLines => Document {
            content_type: "application/jsonl; charset=utf-8",
            text: groups(usage).iter().map(|group| format!("{group}\n")).collect(),
        },
        Format::Csv => Document { content_type: "text/csv; charset=utf-8; header=present", text: table(usage) },
    }
}

fn whole(question: &Question, selection: &Selection, usage: &Usage, progress: Progress, now_ms: i64) -> Value {
    let starts = (selection.from..).step_by(usize::try_from(selection.resolution.step).unwrap_or(usize::MAX));
    let series: Vec<Value> = starts.zip(&usage.series).map(|(start, total)| interval(start, total)).collect();
    let errors: Vec<Value> = usage
        .errors
        .iter()
        .map(|((outcome, status), requests)| json!({ "outcome": outcome, "statusCode": status, "requests": requests }))
        .collect();
    json!({
        "window": question.window_name(),
        "by": question.by_name(),
        "from": timestamp(selection.from.saturating_mul(1000)),
        "to": timestamp(now_ms),
        "stepSeconds": selection.resolution.step,
        "counted": f64::from(progress.thousandths) / 1000.0,
        "filters": {
            "modelId": question.model_id,
            "caller": question.caller,
            "operation": question.operation,
            "region": question.region,
        },
        "total": sums(&usage.total),
        "series": series,
        "groups": groups(usage),
        "errors": errors,
    })
}

fn interval(start: i64, total: &Total) -> Value {
    let sums = &total.sums;
    json!({
        "start": timestamp(start.saturating_mul(1000)),
        "requests": sums.requests,
        "errors": total.errors,
        "inputTokens": sums.input_tokens,
        "outputTokens": sums.output_tokens,
        "costNanoUsd": sums.cost_nano_usd,
        "latencyMs": percentiles(&|percent| sums.latency.percentile(percent)),
    })
}

/// Each group with its name, and the others as one without.
fn groups(usage: &Usage) -> Vec<Value> {
    let named = usage.groups.iter().map(|(name, total)| {
        let mut group = sums(total);
        group.insert("name".to_owned(), name.as_str().into());
        Value::Object(group)
    });
    let (count, total) = &usage.others;
    let others = (*count > 0).then(|| {
        let mut group = sums(total);
        group.insert("name".to_owned(), Value::Null);
        group.insert("others".to_owned(), (*count).into());
        Value::Object(group)
    });
    named.chain(others).collect()
}

fn sums(total: &Total) -> Map<String, Value> {
    let numbers = numbers(total).map(|(name, number)| (name.to_owned(), number.into()));
    let mut sums = Map::from_iter(numbers);
    let Total { sums: all, .. } = total;
    sums.insert("latencyMs".to_owned(), percentiles(&|percent| all.latency.percentile(percent)));
    sums.insert("firstByteMs".to_owned(), percentiles(&|percent| all.first_byte.percentile(percent)));
    sums
}

fn numbers(total: &Total) -> [(&'static str, u64); 10] {
    let Total { sums, errors } = total;
    [
        ("requests", sums.requests),
        ("errors", *errors),
        ("inputTokens", sums.input_tokens),
        ("outputTokens", sums.output_tokens),
        ("cacheReadTokens", sums.cache_read_tokens),
        ("cacheWriteTokens", sums.cache_write_tokens),
        ("costNanoUsd", sums.cost_nano_usd),
        ("unpriced", sums.unpriced),
        ("requestBytes", sums.request_bytes),
        ("responseBytes", sums.response_bytes),
    ]
}

/// Null when nothing was measured.
fn percentiles(of: &dyn Fn(u64) -> Option<u64>) -> Value {
    let found = PERCENTILES.map(|(name, percent)| Some((name.to_owned(), of(percent)?.into())));
    found.into_iter().collect::<Option<Map<_, _>>>().map_or(Value::Null, Value::Object)
}

/// A line of column names, and one for each group. The others have no name, and their number in the last column.
fn table(usage: &Usage) -> String {
    let durations = PERCENTILES.iter().map(|(name, _)| format!("latencyMs_{name}"));
    let first_bytes = PERCENTILES.iter().map(|(name, _)| format!("firstByteMs_{name}"));
    let names = numbers(&Total::default()).map(|(name, _)| name.to_owned()).into_iter();
    let head = std::iter::once("name".to_owned()).chain(names).chain(durations).chain(first_bytes);
    let mut text = csv::line(head.chain(["others".to_owned()]));
    let mut add = |name: &str, total: &Total, others: String| {
        let numbers = numbers(total).map(|(_, number)| number.to_string()).into_iter();
        let of = |histogram: Option<u64>| histogram.map(|found| found.to_string()).unwrap_or_default();
        let durations = PERCENTILES.map(|(_, percent)| of(total.sums.latency.percentile(percent)));
        let first_bytes = PERCENTILES.map(|(_, percent)| of(total.sums.first_byte.percentile(percent)));
        let cells = std::iter::once(name.to_owned()).chain(numbers).chain(durations).chain(first_bytes);
        text.push_str(&csv::line(cells.chain([others])));
    };
    for (name, total) in &usage.groups {
        add(name, total, String::new());
    }
    let (count, total) = &usage.others;
    if *count > 0 {
        add("", total, count.to_string());
    }
    text
}
