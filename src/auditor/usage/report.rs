//! What was added up as JSON, or its groups as lines for spreadsheets and programs.

use serde_json::{Map, Value, json};

use super::add_up::{Total, Usage};
use super::question::Question;
use crate::auditor::Format;
use crate::auditor::cli::output::quoted;
use crate::ledger::rollups::Progress;
use crate::ledger::rollups::read::Selection;
use crate::ledger::timestamp::timestamp;

const PERCENTILES: [(&str, u64); 3] = [("p50", 50), ("p95", 95), ("p99", 99)];

/// What was added up for a question.
#[derive(Debug)]
pub(crate) struct Report {
    pub(super) question: Question,
    pub(super) selection: Selection,
    pub(super) usage: Usage,
    pub(super) progress: Progress,
    pub(super) now_ms: i64,
}

impl Report {
    /// All of it.
    pub(crate) fn json(&self) -> Value {
        let Report { question, selection, usage, progress, now_ms } = self;
        let starts = (selection.from..).step_by(usize::try_from(selection.resolution.step).unwrap_or(usize::MAX));
        let series: Vec<Value> = starts.zip(&usage.series).map(|(start, total)| interval(start, total)).collect();
        let errors: Vec<Value> = usage
            .errors
            .iter()
            .map(|((outcome, status), requests)| {
                json!({ "outcome": outcome, "statusCode": status, "requests": requests })
            })
            .collect();
        json!({
            "window": question.window_name(),
            "by": question.by_name(),
            "from": timestamp(selection.from.saturating_mul(1000)),
            "to": timestamp(*now_ms),
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

    /// The groups alone, a line each.
    pub(crate) fn written(&self, format: Format) -> String {
        match format {
            Format::Csv => table(&self.usage),
            _ => groups(&self.usage).iter().map(|group| format!("{group}\n")).collect(),
        }
    }
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
    let names = numbers(&Total::default()).map(|(name, _)| name.to_owned()).into_iter();
    let percentiles =
        ["latencyMs", "firstByteMs"].iter().flat_map(|of| PERCENTILES.map(|(name, _)| format!("{of}_{name}")));
    let mut text = line(["name".to_owned()].into_iter().chain(names).chain(percentiles).chain(["others".to_owned()]));
    let mut add = |name: &str, total: &Total, others: String| {
        let numbers = numbers(total).map(|(_, number)| number.to_string()).into_iter();
        let percentiles = [&total.sums.latency, &total.sums.first_byte].into_iter().flat_map(|of| {
            PERCENTILES.map(|(_, percent)| of.percentile(percent).map(|found| found.to_string()).unwrap_or_default())
        });
        text.push_str(&line([name.to_owned()].into_iter().chain(numbers).chain(percentiles).chain([others])));
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

fn line(cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.map(|cell| quoted(&cell)).collect();
    format!("{}\n", cells.join(","))
}
