//! Screens, as they come of given answers.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::cli::top::data::{By, Question, Window};
use crate::cli::top::keys::Key;

const SMALL: Terminal = Terminal { width: 80, colours: false };
const HOSTILE: &str = "m\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}中";

fn usage() -> Value {
    let of = |name: Value, requests: u64, errors: u64| {
        json!({
            "name": name, "requests": requests, "errors": errors, "inputTokens": requests * 1_000, "outputTokens": requests,
            "cacheReadTokens": 5, "cacheWriteTokens": 0, "costNanoUsd": requests * 10_000_000, "unpriced": errors,
            "latencyMs": { "p50": 820, "p95": 4_100, "p99": 9_000 }, "firstByteMs": { "p50": 210, "p95": 1_200, "p99": 2_000 },
        })
    };
    let mut others = of(Value::Null, 3, 0);
    others["others"] = json!(7);
    json!({
        "window": "1h", "by": "model", "counted": 1.0, "total": of(json!("total"), 12_345, 12),
        "groups": [of(json!("us.anthropic.claude-opus-4-1-20250805-v1:0"), 12_000, 12), of(json!("amazon.nova-lite-v1:0"), 342, 0), others],
        "errors": [{ "outcome": "upstream_error", "statusCode": 429, "requests": 9 },
                   { "outcome": "refused", "statusCode": 403, "requests": 3 }],
    })
}

fn requests() -> Value {
    let good = json!({
        "requestId": "01890a5d-ac96-774b-bcce-b302099a8057", "timestamp": "2026-11-30T01:59:58.123Z", "caller": "billing",
        "modelId": "us.anthropic.claude-opus-4-1-20250805-v1:0", "statusCode": 200, "outcome": "completed", "success": true,
        "latency": 4_199, "inputTokens": 1_204, "outputTokens": 356, "costNanoUsd": 4_200_000,
    });
    let bad = json!({
        "requestId": "01890a5d-ac96-774b-bcce-0000000000ab", "timestamp": "2026-11-29T23:59:58.123Z", "callerUid": 1_000,
        "statusCode": 429, "outcome": "refused", "success": false, "latency": 1, "repeated": 2, "errorMessage": "too many",
    });
    json!({ "requests": [good, bad], "totalCount": 2 })
}

fn status() -> Value {
    json!({
        "ready": true, "reasons": [], "version": "0.1.0", "upSeconds": 11_100,
        "credential": { "kind": "Bedrock API key", "confirmedSecondsAgo": 120, "expiresInSeconds": 7_200, "problem": null },
        "upstreams": [{
            "region": "us-east-1", "modelsListed": true, "models": 84, "modelsListedSecondsAgo": 720,
            "breakers": [{ "plane": "runtime", "state": "closed" }, { "plane": "control", "state": "closed" }],
        }],
        "audit": { "pending": 2, "bytes": 1_024, "maxBytes": 1_073_741_824, "tableReachable": true, "table": "t",
                   "lastShippedAt": "2026-11-30T02:00:38.000Z" },
        "connections": { "inFlight": 3 },
    })
}

fn view(usage: Result<Value, String>, requests: Result<Value, String>) -> View {
    let question = Question { window: Window::Hour, by: By::Model, only_errors: false };
    let mut view = View::new(question, Duration::from_secs(2));
    view.take(Ok(Answer {
        question,
        at: "2026-11-30T02:00:41Z".parse::<Timestamp>().unwrap(),
        status: status(),
        access: json!({ "scope": "all", "uid": 0, "hostId": "ip-10-0-0-1" }),
        usage,
        requests,
    }));
    view
}

fn shown(view: &View, terminal: Terminal, rows: usize) -> String {
    let lines = screen(view, &terminal, rows);
    assert_eq!(lines.len(), rows);
    for line in &lines {
        assert!(line.chars().count() <= terminal.width || terminal.colours, "{line:?}");
    }
    lines.join("\n")
}

#[test]
fn a_small_terminal_has_everything_on_one_screen() {
    let expected = "\
READY: requests go to us-east-1 with the Bedrock API key.           02:00:41 UTC
Daemon        version 0.1.0 · ip-10-0-0-1 · up 3 h 5 min · 3 requests in flight
Credential    Bedrock API key · read 2 min ago · expires in 2 h
Upstreams     us-east-1 · runtime closed · control closed · 84 models listed 12…
Ledger        2 to ship · last shipped 3 s ago · 1.0 KiB of 1.0 GiB (0 %)
Last 1 h      12,345 requests · 12 errors (0.1 %) · $123.45+ · 12 without a price
Latency       p50 820 ms · p95 4.1 s · p99 9.0 s · first byte 210 ms, p95 1.2 s
Tokens        in 12,345,000 · out 12,345 · cache read 5 · cache write 0
Errors        9 × 429 upstream_error · 3 × 403 refused
 MODEL                    REQUESTS ERRORS    P50    P95      IN     OUT     COST
 …claude-opus-4-1-202508…   12,000     12 820 ms  4.1 s   12.0M  12,000 $120.00+
 amazon.nova-lite-v1:0         342      0 820 ms  4.1 s 342,000     342    $3.42
 (7 others)                      3      0 820 ms  4.1 s   3,000       3  $0.0300
 ID     TIME     CALLER   MODEL        CODE OUTCOME       TOOK    IN/OUT    COST
>9a8057 01:59:58 billing  …claude-opu…  200 completed    4.1 s  1.2k/356 $0.0042
 0000ab 11-29    uid:1000 –             429 refused ×3    1 ms         –       –







q quit · 1-4 window · m c o u by · ↑↓ Enter open · e errors · p pause · ? help";
    let expected = expected.replace("12 without a price", "12 without a pri…");
    assert_eq!(shown(&view(Ok(usage()), Ok(requests())), SMALL, 24), expected);
}

#[test]
fn a_wide_terminal_has_more_columns() {
    let shown = shown(&view(Ok(usage()), Ok(requests())), Terminal { width: 150, ..SMALL }, 40);
    for line in [
        " MODEL                                                              REQUESTS ERRORS    P50    P95    P99  FIRST      IN     OUT         CACHE     COST",
        " us.anthropic.claude-opus-4-1-20250805-v1:0                           12,000     12 820 ms  4.1 s  9.0 s 210 ms   12.0M  12,000           5/0 $120.00+",
        " ID           TIME           CALLER           MODEL                                           CODE OUTCOME               TOOK          IN/OUT     COST",
        ">b302099a8057 01:59:58       billing          us.anthropic.claude-opus-4-1-20250805-v1:0       200 completed            4.1 s       1,204/356  $0.0042",
        " 0000000000ab 11-29 23:59:58 uid:1000         –                                                429 refused ×3            1 ms               –        –",
    ] {
        assert!(shown.lines().any(|one| one == line), "{line}\n{shown}");
    }
    assert!(shown.contains("\n\n MODEL") && shown.contains("\n\n ID"), "{shown}");
}

#[test]
fn colours_are_all_that_colours_add() {
    let view = view(Ok(usage()), Ok(requests()));
    let mut painted = screen(&view, &Terminal { colours: true, ..SMALL }, 24).join("\n");
    assert!(painted.contains("\u{1b}[7m>9a8057 ") && painted.contains("\u{1b}[1;31m12\u{1b}[0m"), "{painted:?}");
    for code in ["0", "1", "2", "7", "32", "33", "1;31"] {
        painted = painted.replace(&format!("\u{1b}[{code}m"), "");
    }
    assert_eq!(painted, shown(&view, SMALL, 24));
}

#[test]
fn no_text_of_others_reaches_the_terminal_raw() {
    let (mut usage, mut requests) = (usage(), requests());
    for key in ["requestId", "timestamp", "caller", "modelId", "outcome", "errorMessage", "tags"] {
        requests["requests"][0][key] = json!(HOSTILE);
    }
    usage["groups"][0]["name"] = json!(HOSTILE);
    usage["errors"][0]["outcome"] = json!(HOSTILE);
    let mut view = view(Ok(usage), Ok(requests));
    let answer = view.answer.as_mut().unwrap();
    answer.access["hostId"] = json!(HOSTILE);
    answer.access["scope"] = json!("own");
    answer.access["uid"] = json!(HOSTILE);
    answer.status["version"] = json!(HOSTILE);
    answer.status["upstreams"][0]["region"] = json!(HOSTILE);
    answer.status["reloadRefused"] = json!(HOSTILE);
    let mut screens = vec![shown(&view, SMALL, 24), shown(&view, Terminal { width: 200, ..SMALL }, 50)];
    screens.push(text(&view, &Terminal { width: 200, ..SMALL }).join("\n"));
    view.press(Key::Enter, &SMALL, 24);
    screens.push(shown(&view, SMALL, 24));
    assert!(
        screens[3].contains("modelId               m\\u{1b}]0;owned\\u{7}\\u{9b}2J\\u{202e}\\u{4e2d}"),
        "{}",
        screens[3]
    );
    view.take(Err(HOSTILE.to_owned()));
    view.press(Key::Escape, &SMALL, 24);
    screens.push(shown(&view, SMALL, 24));
    let refused = super::tests::view(Err(HOSTILE.to_owned()), Err(format!("{HOSTILE}!")));
    screens.push(shown(&refused, SMALL, 24));
    for screen in screens {
        let raw = screen.chars().find(|one| *one != '\n' && (one.is_control() || *one == '\u{202e}' || *one == '中'));
        assert_eq!(raw, None, "{screen:?}");
        assert!(screen.contains("m\\u{1b}]"), "{screen}");
    }
}

#[test]
fn what_cannot_be_shown_is_said() {
    let mut gone = view(Ok(usage()), Ok(requests()));
    gone.take(Err("no daemon answers on 127.0.0.1:8791: refused; is it running, with this configuration?".to_owned()));
    let screen = shown(&gone, SMALL, 24);
    let sentence = "\
NO ANSWER, asked again every 2 s: no daemon answers on        AS OF 02:00:41 UTC
127.0.0.1:8791: refused; is it running, with this configuration?
Daemon ";
    assert!(screen.starts_with(sentence), "{screen}");
    let mut never = View::new(gone.question, gone.every);
    assert!(shown(&never, SMALL, 24).starts_with("The daemon is being asked.\n\n"));
    never.take(Err("no daemon answers.".to_owned()));
    assert!(shown(&never, SMALL, 24).starts_with("NO ANSWER, asked again every 2 s: no daemon answers.\n\n"));

    let sentence = "records are shown to local users, and the kernel does not say whose this connection is.";
    let screen = shown(&view(Err(sentence.to_owned()), Err(sentence.to_owned())), SMALL, 24);
    let lines = "
Last 1 h      records are shown to local users, and the kernel does not say
              whose this connection is.\n\n";
    assert!(screen.contains(lines) && screen.matches("the kernel").count() == 1, "{screen}");
    let screen = shown(&view(Err("no figures.".to_owned()), Ok(requests())), SMALL, 24);
    assert!(screen.contains("\nLast 1 h      no figures.\n ID ") && !screen.contains("\n MODEL "), "{screen}");
    let screen = shown(&view(Ok(usage()), Err("no requests.".to_owned())), SMALL, 24);
    assert!(screen.contains("\nRequests      no requests.\n"), "{screen}");
}

#[test]
fn whose_requests_they_are_and_what_is_not_counted_yet_is_said() {
    let mut counting = usage();
    counting["counted"] = json!(0.999);
    let mut view = view(Ok(counting), Ok(requests()));
    view.answer.as_mut().unwrap().access = json!({ "scope": "own", "uid": 61_001 });
    let screen = shown(&view, SMALL, 24);
    let lines = "
Counting      history is being counted, 99 % so far; until then the figures are…
Last 1 h      12,345 requests of your own (uid 61001) · 12 errors (0.1 %) · ";
    assert!(screen.contains(lines), "{screen}");
}

#[test]
fn an_idle_daemon_shows_what_there_is() {
    let idle = json!({ "counted": 1.0, "groups": [], "errors": [], "total": {
        "requests": 0, "errors": 0, "inputTokens": 0, "outputTokens": 0, "cacheReadTokens": 0, "cacheWriteTokens": 0,
        "costNanoUsd": 0, "unpriced": 0, "latencyMs": null, "firstByteMs": null,
    } });
    let mut view = view(Ok(idle), Ok(json!({ "requests": [] })));
    view.question.only_errors = true;
    view.answer.as_mut().unwrap().question.only_errors = true;
    view.is_paused = true;
    let screen = shown(&view, SMALL, 24);
    assert!(
        screen.starts_with("READY: requests go to us-east-1 with the     ERRORS ONLY · PAUSED · 02:00:41 UTC\n"),
        "{screen}"
    );
    let lines = "
Last 1 h      0 requests · 0 errors · $0
Latency       nothing was measured
Tokens        in 0 · out 0 · cache read 0 · cache write 0
Errors        none
";
    assert!(screen.contains(lines), "{screen}");
    assert!(
        screen.contains("\n no requests in the last 1 h\n")
            && screen.contains("\n no request has failed in the last 1 h\n")
    );
}

#[test]
fn tables_keep_to_the_screen_and_the_cursor_stays_in_sight() {
    let (mut usage, mut requests) = (usage(), requests());
    usage["groups"] = (0..50).map(|at| json!({ "name": format!("group-{at}"), "requests": 1 })).collect();
    requests["requests"] = (0..50).map(|at| json!({ "requestId": format!("id-{at:03}"), "success": true })).collect();
    let mut view = view(Ok(usage), Ok(requests));
    for rows in [1, 5, 10, 24, 60] {
        shown(&view, SMALL, rows);
    }
    let screen = shown(&view, SMALL, 24);
    assert!(screen.contains("\n and 45 more, in a terminal with more rows\n"), "{screen}");
    assert!(screen.contains("\n>id-000 ") && screen.contains("\n id-005 ") && !screen.contains("id-006"), "{screen}");
    view.press(Key::PageDown, &SMALL, 24);
    let screen = shown(&view, SMALL, 24);
    assert!(screen.contains("\n id-005 ") && screen.contains("\n>id-010 "), "{screen}");
    let file = text(&view, &Terminal { width: 120, ..SMALL });
    assert!(file.iter().any(|line| line.starts_with(" group-49 ")), "{file:#?}");
    assert!(file.iter().any(|line| line.starts_with(" id-049 ")) && file.iter().all(|line| !line.starts_with('>')));
}

#[test]
fn help_and_records_take_the_whole_screen() {
    let mut view = view(Ok(usage()), Ok(requests()));
    view.press(Key::Letter('?'), &SMALL, 24);
    let screen = shown(&view, SMALL, 24);
    assert!(
        screen.starts_with("The dashboard of bedrock-sidecar. It changes nothing.\n\n1 2 3 4       the last 15 min,")
    );
    assert!(screen.ends_with("\nEsc back · ↑↓ scroll · p pause · q quit"), "{screen}");
    view.press(Key::Escape, &SMALL, 24);
    view.press(Key::Down, &SMALL, 24);
    view.press(Key::Enter, &SMALL, 24);
    let expected = "\
The record of a request

requestId             01890a5d-ac96-774b-bcce-0000000000ab
timestamp             2026-11-29T23:59:58.123Z
callerUid             1000
outcome               refused
statusCode            429
errorMessage          too many
latency               1 ms
repeated              2
success               false
";
    assert!(shown(&view, SMALL, 24).starts_with(expected));
    view.press(Key::Down, &SMALL, 8);
    let screen = shown(&view, SMALL, 8);
    let expected = "The record of a request, lines 2 to 6 of 9\n\ntimestamp ";
    assert!(
        screen.starts_with(expected)
            && screen.ends_with("errorMessage          too many\nEsc back · ↑↓ scroll · p pause · q quit"),
        "{screen}"
    );
}
