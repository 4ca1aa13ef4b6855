//! The answer to `/status` as one screen: first a sentence that says whether requests are served, and if not, why and what
//! to do; then a paragraph for each part of the daemon.

use serde_json::Value;

use super::attention::{list, part, scope_name};
use super::parts::{credential, headline, joined, plain, upstream};
use crate::cli::terminal::{Terminal, Text, Tone};
use crate::cli::words::{bytes, count, dollars, of, time};

/// Where paragraphs begin, after their labels.
const INDENT: usize = 14;
/// Limits and errors that are shown; the JSON has them all.
const MOST_LIMITS: usize = 8;
const MOST_ERRORS: usize = 6;
/// What is nearly used up.
const HIGH: f64 = 0.9;

/// The whole screen.
pub(super) fn screen(status: &Value, terminal: &Terminal) -> String {
    let mut screen = String::new();
    for line in headline(status) {
        screen += &terminal.paragraph(&line, 0);
    }
    screen.push('\n');
    let parts = [
        ("Daemon", vec![daemon(status)]),
        ("Credential", vec![credential(&status["credential"])]),
        ("Upstreams", list(&status["upstreams"]).iter().map(upstream).collect()),
        ("Limits", limits(&status["limits"])),
        ("Records", vec![records(&status["audit"])]),
        ("Connections", vec![connections(status)]),
        ("Last errors", errors(list(&status["lastErrors"]))),
    ];
    for (label, paragraphs) in parts {
        let mut label = label;
        for paragraph in paragraphs {
            let mut text = vec![(Tone::Strong, format!("{label:<INDENT$}"))];
            text.extend(paragraph);
            screen += &terminal.paragraph(&text, INDENT);
            label = "";
        }
    }
    screen
}

/// A sentence in place of a screen.
pub(super) fn failure(sentence: &str) -> Text {
    vec![(Tone::Bad, sentence.to_owned())]
}

fn daemon(status: &Value) -> Text {
    let mut facts = vec![plain(format!("version {}", status["version"].as_str().unwrap_or("?")))];
    if let Some(seconds) = status["upSeconds"].as_u64() {
        facts.push(plain(format!("up {}", time(seconds))));
    }
    facts.push(plain(status["configuration"].as_str().unwrap_or("built-in defaults").to_owned()));
    if let Some(dropped) = status["log"]["dropped"].as_u64().filter(|dropped| *dropped > 0) {
        facts.push((Tone::Doubtful, format!("{} that nobody read", of(dropped, "log line", "log lines"))));
    }
    joined(facts)
}

/// The fullest first.
fn limits(limits: &Value) -> Vec<Text> {
    let mut scopes: Vec<(f64, Text)> = list(&limits["scopes"]).iter().filter_map(scope).collect();
    scopes.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let hidden = scopes.len().saturating_sub(MOST_LIMITS);
    let mut lines: Vec<Text> = scopes.into_iter().take(MOST_LIMITS).map(|(_, text)| text).collect();
    if lines.is_empty() {
        lines.push(vec![plain("none are configured".to_owned())]);
    }
    if hidden > 0 {
        lines.push(vec![(Tone::Faint, format!("and {hidden} more (--json)"))]);
    }
    let waiting = limits["waiting"].as_u64().filter(|waiting| *waiting > 0);
    lines.extend(waiting.map(|waiting| vec![(Tone::Doubtful, of(waiting, "request waits", "requests wait"))]));
    lines
}

/// How full it is, and what of its limits is used; none where nothing is limited.
fn scope(scope: &Value) -> Option<(f64, Text)> {
    let mut uses: Vec<(f64, String)> = Vec::new();
    let mut used = |key: &str, taken: &Value, most: &Value, show: fn(u64) -> String| {
        if let (Some(taken), Some(most)) = (taken.as_u64(), most.as_u64()) {
            let full = part(&taken.into(), &most.into());
            uses.push((full, format!("{key} {} of {} ({:.0} %)", show(taken), show(most), full * 100.0)));
        }
    };
    let number = |number: u64| count(i64::try_from(number).unwrap_or(i64::MAX));
    used("concurrent_requests", &scope["running"], &scope["concurrentRequests"], number);
    used("tokens_per_day", &scope["tokensToday"], &scope["tokensPerDay"], number);
    used("usd_per_day", &scope["nanoUsdToday"], &scope["nanoUsdPerDay"], dollars);
    used("usd_per_month", &scope["nanoUsdThisMonth"], &scope["nanoUsdPerMonth"], dollars);
    for (key, left, most) in [
        ("requests_per_minute", "requestsLeft", "requestsPerMinute"),
        ("tokens_per_minute", "tokensLeft", "tokensPerMinute"),
    ] {
        if let (Some(left), Some(most)) = (scope[left].as_i64(), scope[most].as_i64()) {
            let full = if left <= 0 { 1.0 } else { 0.0 };
            uses.push((full, format!("{key} {}, {} left now", count(most), count(left))));
        }
    }
    let fullest = uses.iter().map(|(full, _)| *full).fold(0.0, f64::max);
    if uses.is_empty() {
        return None;
    }
    let tone = |full| if full >= HIGH { Tone::Doubtful } else { Tone::Plain };
    let facts = std::iter::once((Tone::Strong, scope_name(scope)));
    let facts = facts.chain(uses.into_iter().map(|(full, text)| (tone(full), text)));
    Some((fullest, joined(facts.collect())))
}

fn records(audit: &Value) -> Text {
    let number = |key: &str| audit[key].as_u64().unwrap_or(0);
    let size = part(&audit["bytes"], &audit["maxBytes"]);
    let tone = if size >= HIGH { Tone::Bad } else { Tone::Plain };
    let mut facts = vec![(tone, format!("ledger {} of {}", bytes(number("bytes")), bytes(number("maxBytes"))))];
    if number("open") > 0 {
        facts.push(plain(of(number("open"), "open record", "open records")));
    }
    match audit["tableReachable"].as_bool() {
        Some(true) => facts.push((Tone::Good, "DynamoDB answers".to_owned())),
        Some(false) => facts.push((Tone::Bad, "DynamoDB does not answer".to_owned())),
        None if audit["table"].is_string() => facts.push(plain("DynamoDB was not asked yet".to_owned())),
        None => facts.push(plain("no table".to_owned())),
    }
    if audit["table"].is_string() {
        let backlog = number("pending");
        let is_stuck = backlog > 0 && audit["tableReachable"] == false;
        let tone = if is_stuck { Tone::Bad } else { Tone::Plain };
        facts.push((tone, format!("{} to ship", of(backlog, "record", "records"))));
        facts.push(plain(format!("{} shipped", of(number("shipped"), "record", "records"))));
    }
    for (key, one, many) in [
        ("setAside", "record set aside", "records set aside"),
        ("unrecorded", "request not recorded", "requests not recorded"),
    ] {
        if number(key) > 0 {
            facts.push((Tone::Bad, of(number(key), one, many)));
        }
    }
    joined(facts)
}

fn connections(status: &Value) -> Text {
    let connections = &status["connections"];
    let tone = |full| if full >= HIGH { Tone::Doubtful } else { Tone::Plain };
    let mut facts = Vec::new();
    if let (Some(clients), Some(most)) = (connections["clients"].as_i64(), connections["max"].as_i64()) {
        let full = part(&connections["clients"], &connections["max"]);
        facts.push((tone(full), format!("{} of {}", count(clients), count(most))));
    }
    if let Some(requests) = connections["inFlight"].as_u64() {
        facts.push(plain(format!("{} in flight", of(requests, "request", "requests"))));
    }
    let bodies = &status["bodies"];
    if let (Some(taken), Some(most)) = (bodies["bytes"].as_u64(), bodies["maxBytes"].as_u64()) {
        let full = part(&bodies["bytes"], &bodies["maxBytes"]);
        facts.push((tone(full), format!("bodies {} of {}", bytes(taken), bytes(most))));
    }
    joined(facts)
}

fn errors(errors: &[Value]) -> Vec<Text> {
    let text = |error: &Value, key: &str| error[key].as_str().unwrap_or_default().to_owned();
    let line = |error: &Value| {
        let times = error["count"].as_u64().unwrap_or(1);
        let status = error["status"].as_u64().filter(|status| *status > 0).map(|status| format!("{status} "));
        let what = format!("{}{}", status.unwrap_or_default(), text(error, "errorType"));
        let mut facts =
            vec![(Tone::Faint, text(error, "time")), (Tone::Doubtful, what), plain(text(error, "operation"))];
        let model = text(error, "model");
        if !model.is_empty() {
            facts.push(plain(model));
        }
        facts.push(plain(text(error, "region")));
        if times > 1 {
            facts.push(plain(format!("{} times", count(i64::try_from(times).unwrap_or(i64::MAX)))));
        }
        facts.push((Tone::Faint, text(error, "requestId")));
        joined(facts)
    };
    let mut lines: Vec<Text> = errors.iter().take(MOST_ERRORS).map(line).collect();
    if lines.is_empty() {
        lines.push(vec![plain("none since the start".to_owned())]);
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAIN: Terminal = Terminal { width: 80, colours: false };

    fn well() -> Value {
        json!({
            "ready": true, "reasons": [], "version": "0.1.0", "upSeconds": 11_100,
            "configuration": "/etc/bedrock-sidecar/config.toml",
            "credential": { "kind": "Bedrock API key", "confirmedSecondsAgo": 120, "expiresInSeconds": 7_200, "problem": null },
            "upstreams": [{
                "region": "us-east-1", "modelsListed": true, "models": 84, "modelsListedSecondsAgo": 720, "paused": false,
                "dataRetention": "none", "runtime": { "endpoint": "https://r" }, "control": { "endpoint": "https://c" },
                "breakers": [{ "plane": "runtime", "state": "closed" }, { "plane": "control", "state": "closed" }],
            }],
            "limits": { "waiting": 0, "scopes": [
                { "scope": "host", "name": "", "running": 3, "concurrentRequests": 100, "requestsPerMinute": 600,
                  "requestsLeft": 42, "tokensToday": 1_200, "tokensPerDay": 50_000 },
                { "scope": "caller", "name": "free", "running": 1, "tokensToday": 9 },
            ] },
            "audit": { "pending": 2, "open": 1, "bytes": 1_024, "maxBytes": 1_073_741_824, "shipped": 1_000, "setAside": 0,
                       "unrecorded": 0, "tableReachable": true, "table": "t" },
            "connections": { "clients": 12, "max": 1_024, "inFlight": 3 },
            "bodies": { "bytes": 0, "maxBytes": 268_435_456 },
            "lastErrors": [{ "time": "2026-11-28T20:00:00.000Z", "operation": "Converse", "model": "m", "region": "us-east-1",
                             "status": 429, "errorType": "ThrottlingException", "count": 12, "requestId": "id" }],
        })
    }

    #[test]
    fn a_host_on_which_all_works() {
        let expected = "\
READY: requests go to us-east-1 with the Bedrock API key.

Daemon        version 0.1.0 · up 3 h 5 min · /etc/bedrock-sidecar/config.toml
Credential    Bedrock API key · read 2 min ago · expires in 2 h
Upstreams     us-east-1 · runtime closed · control closed · 84 models listed 12
              min ago · data retention none · https://r
Limits        this host · concurrent_requests 3 of 100 (3 %) · tokens_per_day
              1,200 of 50,000 (2 %) · requests_per_minute 600, 42 left now
Records       ledger 1.0 KiB of 1.0 GiB · 1 open record · DynamoDB answers · 2
              records to ship · 1,000 records shipped
Connections   12 of 1,024 · 3 requests in flight · bodies 0 B of 256.0 MiB
Last errors   2026-11-28T20:00:00.000Z · 429 ThrottlingException · Converse · m
              · us-east-1 · 12 times · id
";
        assert_eq!(screen(&well(), &PLAIN), expected);
    }

    #[test]
    fn the_first_line_says_why_nothing_works_and_what_to_do() {
        let mut ill = well();
        ill["ready"] = json!(false);
        ill["reasons"] = json!(["no commercial credential: it is gone.", "requests cannot be recorded: no room."]);
        ill["credential"] = json!({ "kind": null, "problem": "it is gone" });
        let wide = Terminal { width: 300, ..PLAIN };
        let shown = screen(&ill, &wide);
        let mut lines = shown.lines();
        assert_eq!(
            lines.next(),
            Some(
                "NOT READY: no commercial credential: it is gone; `bedrock-sidecar check --online` tries each part and says what to do."
            )
        );
        assert_eq!(lines.next(), Some("Also: requests cannot be recorded: no room."));
        assert!(shown.contains("\nCredential    none · it is gone\n"), "{shown}");
    }

    #[test]
    fn what_needs_attention_stands_in_the_first_line() {
        let mut doubtful = well();
        doubtful["upstreams"][0]["breakers"][0] =
            json!({ "plane": "runtime", "state": "open", "reason": "connections failed", "probeInSeconds": 4 });
        let shown = screen(&doubtful, &Terminal { width: 200, colours: true });
        let first = shown.lines().next().unwrap();
        assert_eq!(
            first,
            "\u{1b}[33mREADY\u{1b}[0m, but us-east-1 is passed over for requests to models: connections failed (its breaker is open)."
        );
        assert!(shown.contains("\u{1b}[1;31mruntime open, tried again in 4 s\u{1b}[0m"), "{shown}");
    }

    #[test]
    fn it_stays_one_screen_however_much_there_is() {
        let mut much = well();
        let scope = much["limits"]["scopes"][0].clone();
        much["limits"]["scopes"] = (0..500).map(|_| scope.clone()).collect();
        let error = much["lastErrors"][0].clone();
        much["lastErrors"] = (0..500).map(|_| error.clone()).collect();
        let shown = screen(&much, &Terminal { width: 120, colours: false });
        assert!(shown.lines().count() <= 40, "{shown}");
        assert!(shown.contains("and 492 more (--json)"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 120), "{shown}");
    }

    #[test]
    fn an_older_daemon_is_shown_as_far_as_it_tells() {
        let shown = screen(&json!({ "ready": true, "version": "0.0.9" }), &PLAIN);
        assert!(shown.starts_with("READY: requests go to the upstream with the credential.\n"), "{shown}");
        assert!(shown.contains("Daemon        version 0.0.9 · built-in defaults\n"), "{shown}");
    }
}
