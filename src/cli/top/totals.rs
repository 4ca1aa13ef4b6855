//! The paragraphs above the tables: how the daemon is, and the figures of all requests together.

use jiff::Timestamp;
use serde_json::Value;

use super::data::Answer;
use super::figures::{cost_of_group, milliseconds, whole};
use crate::cli::status::parts::{credential, joined, plain, upstream};
use crate::cli::status::{list, part};
use crate::cli::terminal::{Text, Tone};
use crate::cli::words::{bytes, of, time};

/// Upstreams and kinds of errors that are shown.
const MOST_UPSTREAMS: usize = 3;
const MOST_ERRORS: usize = 12;
/// Of the ledger.
const NEARLY_FULL: f64 = 0.9;

/// A label and what stands behind it.
pub(super) type Fact = (String, Text);

/// How the daemon is.
pub(super) fn health(answer: &Answer) -> Vec<Fact> {
    let Answer { status, access, at, .. } = answer;
    let mut facts = vec![
        ("Daemon".to_owned(), daemon(status, access)),
        ("Credential".to_owned(), credential(&status["credential"])),
    ];
    let upstreams = list(&status["upstreams"]);
    let mut label = "Upstreams".to_owned();
    for one in upstreams.iter().take(MOST_UPSTREAMS) {
        facts.push((std::mem::take(&mut label), upstream(one)));
    }
    if upstreams.len() > MOST_UPSTREAMS {
        let more = format!("and {} more (bedrock-sidecar status)", upstreams.len() - MOST_UPSTREAMS);
        facts.push((label, vec![(Tone::Faint, more)]));
    }
    facts.push(("Ledger".to_owned(), ledger(&status["audit"], *at)));
    facts
}

/// The figures of all requests of the window.
pub(super) fn totals(usage: &Value, answer: &Answer) -> Vec<Fact> {
    let total = &usage["total"];
    let mut facts = vec![
        (format!("Last {}", answer.question.window.words()), requests(total, &answer.access)),
        ("Latency".to_owned(), latency(total)),
        ("Tokens".to_owned(), tokens(total)),
        ("Errors".to_owned(), errors(list(&usage["errors"]))),
    ];
    if let Some(counted) = usage["counted"].as_f64().filter(|counted| *counted < 1.0) {
        // Rounded down: what is not wholly counted is not 100 %.
        let sentence = format!(
            "history is being counted, {:.0} % so far; until then the figures are too low",
            (counted * 100.0).floor()
        );
        facts.insert(0, ("Counting".to_owned(), vec![(Tone::Doubtful, sentence)]));
    }
    facts
}

fn daemon(status: &Value, access: &Value) -> Text {
    let mut facts = vec![plain(format!("version {}", status["version"].as_str().unwrap_or("?")))];
    if let Some(host) = access["hostId"].as_str() {
        facts.push(plain(host.to_owned()));
    }
    if let Some(seconds) = status["upSeconds"].as_u64() {
        facts.push(plain(format!("up {}", time(seconds))));
    }
    if let Some(requests) = status["connections"]["inFlight"].as_u64() {
        facts.push(plain(format!("{} in flight", of(requests, "request", "requests"))));
    }
    joined(facts)
}

/// What lies in it, and since when nothing else was sent.
fn ledger(audit: &Value, now: Timestamp) -> Text {
    let number = |key: &str| audit[key].as_u64().unwrap_or(0);
    let is_refused = audit["tableReachable"] == false;
    let tone = |is_bad| if is_bad { Tone::Bad } else { Tone::Plain };
    let mut facts = Vec::new();
    if audit["table"].is_string() {
        let waiting = number("pending");
        let backlog = format!("{} to ship", whole(&waiting.into()));
        facts.push((tone(waiting > 0 && is_refused), backlog));
        let shipped = audit["lastShippedAt"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        if let Some(shipped) = shipped {
            let ago = u64::try_from(now.duration_since(shipped).as_secs()).unwrap_or(0);
            facts.push(plain(format!("last shipped {} ago", time(ago))));
        }
        if is_refused {
            facts.push((Tone::Bad, "DynamoDB does not answer".to_owned()));
        }
    } else {
        facts.push(plain("no table".to_owned()));
    }
    let full = part(&audit["bytes"], &audit["maxBytes"]);
    let size = format!("{} of {} ({:.0} %)", bytes(number("bytes")), bytes(number("maxBytes")), full * 100.0);
    facts.push((tone(full >= NEARLY_FULL), size));
    joined(facts)
}

fn requests(total: &Value, access: &Value) -> Text {
    let number = |key: &str| total[key].as_u64().unwrap_or(0);
    let mut requests = of(number("requests"), "request", "requests");
    if access["scope"] == "own" {
        requests = format!("{requests} of your own (uid {})", whole(&access["uid"]).replace(',', ""));
    }
    let mut facts = vec![(Tone::Strong, requests)];
    let share = 100.0 * part(&total["errors"], &total["requests"]);
    let errors = of(number("errors"), "error", "errors");
    facts.push(match number("errors") {
        0 => plain(errors),
        _ => (Tone::Bad, format!("{errors} ({share:.1} %)")),
    });
    facts.push(plain(cost_of_group(total)));
    if number("unpriced") > 0 && number("costNanoUsd") > 0 {
        facts.push((Tone::Faint, format!("{} without a price", whole(&total["unpriced"]))));
    }
    joined(facts)
}

fn latency(total: &Value) -> Text {
    let latency = &total["latencyMs"];
    let first = &total["firstByteMs"];
    if latency.is_null() {
        return vec![(Tone::Faint, "nothing was measured".to_owned())];
    }
    let mut facts: Vec<_> =
        ["p50", "p95", "p99"].iter().map(|name| plain(format!("{name} {}", milliseconds(&latency[name])))).collect();
    facts.push(plain(format!("first byte {}, p95 {}", milliseconds(&first["p50"]), milliseconds(&first["p95"]))));
    joined(facts)
}

fn tokens(total: &Value) -> Text {
    let names = [
        ("in", "inputTokens"),
        ("out", "outputTokens"),
        ("cache read", "cacheReadTokens"),
        ("cache write", "cacheWriteTokens"),
    ];
    joined(names.iter().map(|(name, key)| plain(format!("{name} {}", whole(&total[key])))).collect())
}

fn errors(errors: &[Value]) -> Text {
    let kind = |error: &Value| {
        let outcome = error["outcome"].as_str().unwrap_or("?");
        (Tone::Doubtful, format!("{} × {} {outcome}", whole(&error["requests"]), error["statusCode"]))
    };
    if errors.is_empty() {
        return vec![plain("none".to_owned())];
    }
    joined(errors.iter().take(MOST_ERRORS).map(kind).collect())
}
