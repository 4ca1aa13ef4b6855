//! The dashboard's figures are those of the raw records, in every window, by everything that requests are told apart by, with
//! every filter, and for whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use simulator::{Effect, Fault, ThrottleText};
use test_support::users::{as_user, can_be_others, own_uid};
use test_support::*;

const ALICE: u32 = 61_031;
const BOB: u32 = 61_032;
const DENIED: &str = "cohere.command-r-v1:0";
/// Beyond so many refusals of a minute, records stand for several.
const REFUSALS: usize = 45;

/// Every record that the dashboard counts.
async fn items(daemon: &Daemon) -> Vec<Value> {
    let answer = daemon.admin_get("/v1/dashboard/requests?limit=1000&timeRange=24h").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["requests"].as_array().unwrap().clone()
}

async fn usage(daemon: &Daemon, query: &str) -> Value {
    let answer = daemon.admin_get(&format!("/v1/dashboard/usage?{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let usage = answer.json();
    assert_eq!(usage["counted"], 1.0, "{usage:#}");
    usage
}

/// The nearest rank; null of nothing.
fn percentiles(mut durations: Vec<u64>) -> Value {
    durations.sort_unstable();
    let at = |percent: usize| durations[(durations.len() * percent).div_ceil(100).max(1) - 1];
    if durations.is_empty() { Value::Null } else { json!({ "p50": at(50), "p95": at(95), "p99": at(99) }) }
}

/// What docs/dashboard.md says of these records.
fn expected(items: &[&Value]) -> Value {
    let number = |item: &Value, name: &str| item[name].as_u64().unwrap_or(0);
    let requests = |item: &Value| 1 + number(item, "repeated");
    let sum = |name: &str| items.iter().map(|item| number(item, name)).sum::<u64>();
    let tokens = ["inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens"];
    let is_unpriced =
        |item: &&&Value| item["costNanoUsd"].is_null() && tokens.iter().any(|name| number(item, name) > 0);
    let timed = items.iter().filter(|item| number(item, "attempts") > 0 && item["outcome"] != "interrupted");
    json!({
        "requests": items.iter().map(|item| requests(item)).sum::<u64>(),
        "errors": items.iter().filter(|item| item["success"] == false).map(|item| requests(item)).sum::<u64>(),
        "inputTokens": sum("inputTokens"),
        "outputTokens": sum("outputTokens"),
        "cacheReadTokens": sum("cacheReadTokens"),
        "cacheWriteTokens": sum("cacheWriteTokens"),
        "costNanoUsd": sum("costNanoUsd"),
        "unpriced": items.iter().filter(is_unpriced).count(),
        "requestBytes": sum("requestSize"),
        "responseBytes": sum("responseSize"),
        "latencyMs": percentiles(timed.map(|item| number(item, "latency")).collect()),
        "firstByteMs": percentiles(items.iter().filter_map(|item| item["firstByteLatency"].as_u64()).collect()),
    })
}

/// Whether sums are those of these records: percentiles within 5 %, everything else exactly.
#[track_caller]
fn agrees(shown: &Value, items: &[&Value], what: &str) {
    for (name, expected) in expected(items).as_object().unwrap() {
        let found = shown.get(name);
        // Of an interval, not everything is shown.
        let Some(found) = found else {
            assert!(shown.get("start").is_some(), "{what}: no {name} in {shown:#}");
            continue;
        };
        let Some(expected) = expected.as_object() else {
            assert_eq!(found, expected, "{what}: {name} in {shown:#}");
            continue;
        };
        for (percentile, expected) in expected {
            let (expected, found) = (expected.as_u64().unwrap(), found[percentile].as_u64().unwrap());
            assert!(
                expected.abs_diff(found) * 20 <= expected,
                "{what}: {name} {percentile} is {expected}, not {found}"
            );
        }
    }
}

/// The name of a record's group.
fn name(item: &Value, by: &str) -> String {
    let or_none = |name: &str| item[name].as_str().unwrap_or("(none)").to_owned();
    match by {
        "model" => or_none("modelId"),
        "operation" => or_none("operation"),
        "upstream" => or_none("destinationRegion"),
        _ => match (item["caller"].as_str(), item["callerUid"].as_u64()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(uid)) => format!("uid:{uid}"),
            (None, None) => "unknown".to_owned(),
        },
    }
}

/// Everything that an answer says, held against the records.
async fn all_agrees(daemon: &Daemon, items: &[Value], filters: &str, fits: impl Fn(&Value) -> bool) {
    let items: Vec<&Value> = items.iter().filter(|item| fits(item)).collect();
    for window in ["15m", "1h", "24h", "7d"] {
        for by in ["model", "caller", "operation", "upstream"] {
            let what = format!("window={window}&by={by}{filters}");
            let usage = usage(daemon, &what).await;
            agrees(&usage["total"], &items, &what);
            let mut groups: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
            for item in &items {
                groups.entry(name(item, by)).or_default().push(item);
            }
            let shown = usage["groups"].as_array().unwrap();
            let names: BTreeSet<&str> = shown.iter().map(|group| group["name"].as_str().unwrap()).collect();
            assert_eq!((shown.len(), names), (groups.len(), groups.keys().map(String::as_str).collect()), "{what}");
            for group in shown {
                agrees(group, &groups[group["name"].as_str().unwrap()], &what);
            }
            let sizes: Vec<u64> = shown.iter().map(|group| group["requests"].as_u64().unwrap()).collect();
            assert!(sizes.is_sorted_by(|one, other| one >= other), "{what}: {sizes:?}");
            if by == "model" {
                series_agrees(&usage, &items, &what);
                errors_agree(&usage, &items, &what);
            }
        }
    }
}

#[track_caller]
fn series_agrees(usage: &Value, items: &[&Value], what: &str) {
    let step = usage["stepSeconds"].as_i64().unwrap();
    let moment = |text: &Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let series = usage["series"].as_array().unwrap();
    let window = match usage["window"].as_str().unwrap() {
        "15m" => 15 * 60,
        "1h" => 3_600,
        "24h" => 86_400,
        _ => 7 * 86_400,
    };
    assert!((window / step..=window / step + 1).contains(&i64::try_from(series.len()).unwrap()), "{what}");
    assert_eq!((usage["from"].clone(), 0), (series[0]["start"].clone(), moment(&usage["from"]).as_second() % step));
    for (at, interval) in series.iter().enumerate() {
        let start = moment(&interval["start"]).as_second();
        assert_eq!(start, moment(&usage["from"]).as_second() + i64::try_from(at).unwrap() * step, "{what}");
        let within = |item: &&&Value| (start..start + step).contains(&moment(&item["timestamp"]).as_second());
        let within: Vec<&Value> = items.iter().filter(within).copied().collect();
        agrees(interval, &within, what);
    }
}

#[track_caller]
fn errors_agree(usage: &Value, items: &[&Value], what: &str) {
    let mut expected: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for item in items.iter().filter(|item| item["success"] == false) {
        let kind = (item["outcome"].as_str().unwrap().to_owned(), item["statusCode"].as_u64().unwrap());
        *expected.entry(kind).or_default() += 1 + item["repeated"].as_u64().unwrap_or(0);
    }
    let shown = usage["errors"].as_array().unwrap().iter().map(|error| {
        let kind = (error["outcome"].as_str().unwrap().to_owned(), error["statusCode"].as_u64().unwrap());
        (kind, error["requests"].as_u64().unwrap())
    });
    assert_eq!(shown.collect::<BTreeMap<_, _>>(), expected, "{what}");
}

fn setup(bedrock: &simulator::Simulator, state: &Path) -> Setup {
    let setup = Setup::plain(bedrock);
    let prices = state.join("prices.toml");
    std::fs::write(&prices, format!("[[prices]]\nmodel = \"{ON_DEMAND}\"\ninput = 3.0\noutput = 7.0\n")).unwrap();
    let state = state.join("state");
    std::fs::create_dir_all(&state).unwrap();
    setup.with(&format!(
        "[audit]\nstate_dir = \"{}\"\n[audit.anchor]\nto = \"log\"\n[limits]\nprices_file = \"{}\"\n[models]\ndeny = [\"cohere.*\"]\n",
        state.display(),
        prices.display()
    ))
}

#[tokio::test]
async fn every_figure_is_that_of_the_records_also_after_a_restart() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = setup(&bedrock, directory.path()).ready().await;
    assert_eq!(usage(&daemon, "").await["total"]["requests"], 0);
    for ms in [0, 30, 90, 250] {
        bedrock.inject(Fault::once(Effect::SlowFirstByte { ms }));
        daemon.post(&converse_path(ON_DEMAND), converse("how long does this take")).await;
        daemon.post(&stream_path(ON_DEMAND), converse("and this")).await;
    }
    daemon.post(&converse_path(PROFILE_ONLY), converse("without a price")).await;
    for effect in [Effect::Throttle { text: ThrottleText::Requests }, Effect::InternalServerError, Effect::ModelError] {
        bedrock.inject(Fault::once(effect));
        daemon.post(&converse_path(ON_DEMAND), converse("fails")).await;
    }
    daemon.get("/foundation-models").await;
    daemon.get("/no/such/operation").await;
    for _ in 0..REFUSALS {
        assert_eq!(daemon.post(&converse_path(DENIED), converse("no")).await.status, 403);
    }
    let before = items(&daemon).await;
    let of = |fits: &dyn Fn(&Value) -> bool| before.iter().filter(|item| fits(item)).count();
    assert!(of(&|item| item["costNanoUsd"].as_u64() > Some(0)) >= 8, "{before:#?}");
    assert!(of(&|item| item["inputTokens"].as_u64() > Some(0) && item["costNanoUsd"].is_null()) >= 1);
    all_agrees(&daemon, &before, "", |_| true).await;
    all_agrees(&daemon, &before, &format!("&modelId={ON_DEMAND}"), |item| item["modelId"] == ON_DEMAND).await;
    all_agrees(&daemon, &before, "&operation=ConverseStream", |item| item["operation"] == "ConverseStream").await;
    all_agrees(&daemon, &before, "&region=us-east-1&modelId=(none)", |item| item["modelId"].is_null()).await;
    let mine = format!("&caller=uid%3A{}&operation=Converse&modelId={DENIED}", own_uid());
    all_agrees(&daemon, &before, &mine, |item| item["modelId"] == DENIED).await;
    all_agrees(&daemon, &before, "&caller=nobody", |_| false).await;
    let status = daemon.admin_get("/status").await.json();
    let newest = before.iter().filter_map(|item| item["chainSeq"].as_u64()).max().unwrap();
    assert_eq!(status["audit"]["newestSeq"], newest);
    assert_eq!(status["audit"]["lastShippedAt"], Value::Null, "there is no table");

    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
    let daemon = setup(&bedrock, directory.path()).ready().await;
    let after = items(&daemon).await;
    let repeated = after.iter().filter_map(|item| item["repeated"].as_u64()).sum::<u64>();
    assert!(repeated > 0 && after.len() > before.len(), "{after:#?}");
    all_agrees(&daemon, &after, "", |_| true).await;
    assert_eq!(usage(&daemon, &format!("modelId={DENIED}")).await["total"]["requests"], REFUSALS);
    until_async("an anchor", || async {
        daemon.admin_get("/status").await.json()["audit"]["lastAnchorAt"].is_string().then_some(())
    })
    .await;

    // They may be deleted at any time.
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(directory.path().join(format!("state/rollups.db{suffix}")));
    }
    all_agrees(&daemon, &items(&daemon).await, "", |_| true).await;
}

#[tokio::test]
async fn groups_can_be_kept_as_a_file() {
    let bedrock = bedrock().await;
    let names: Vec<String> = (0..55).map(|number| format!("alias-{number}")).collect();
    let aliases: String = names.iter().map(|name| format!("{name} = \"{ON_DEMAND}\"\n")).collect();
    let daemon = Setup::plain(&bedrock).with(&format!("[models.aliases]\n{aliases}")).ready().await;
    daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    daemon.post("/model/-cmd.x/converse", converse("hello")).await;
    for name in names {
        let answer = daemon.post(&converse_path(&name), converse("hello")).await;
        assert_eq!(daemon.record_of(&answer).await["modelId"], name);
    }
    let shown = usage(&daemon, "by=model").await;
    let groups = shown["groups"].as_array().unwrap();
    assert_eq!((groups.len(), &groups[50]["name"], &groups[50]["others"]), (51, &Value::Null, &json!(7)));
    assert_eq!(groups.iter().map(|group| group["requests"].as_u64().unwrap()).sum::<u64>(), 57);

    let lines = daemon.admin_get("/v1/dashboard/usage?format=jsonl").await;
    assert_eq!(lines.header("content-type"), Some("application/jsonl"));
    let read: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read.len(), 51);

    let csv = daemon.admin_get("/v1/dashboard/usage?format=csv&modelId=-cmd.x").await;
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(csv.header("content-disposition"), Some("attachment; filename=\"usage.csv\""));
    let text = csv.text();
    let [head, line] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert!(head.starts_with("name,requests,errors,inputTokens,"), "{head}");
    assert!(line.starts_with("\"'-cmd.x\",1,1,0,"), "no formula: {line}");
    assert_eq!(head.split(',').count(), line.split(',').count());
    for (query, says) in [("window=2h", "window"), ("by=x", "by"), ("format=xml", "format"), ("color=red", "color")] {
        let answer = daemon.admin_get(&format!("/v1/dashboard/usage?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(message(&answer).contains(says), "{query}: {answer:?}");
    }
}

/// curl as another user: the status and the body.
async fn curl_as(uid: u32, url: String, body: Option<String>) -> (u16, Value) {
    let mut curl = as_user(uid, "curl");
    curl.args(["-sS", "--max-time", "10", "-w", "\n%{http_code}", &url]);
    if let Some(body) = body {
        curl.args(["-H", "content-type: application/json", "-d", &body]);
    }
    let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn a_user_sees_the_figures_of_his_own_requests_only() {
    if !can_be_others("a_user_sees_the_figures_of_his_own_requests_only") {
        return;
    }
    let bedrock = bedrock().await;
    let daemon =
        Setup::plain(&bedrock).with(&format!("[[callers]]\nname = \"alice\"\nusers = [\"{ALICE}\"]\n")).ready().await;
    daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    let ask = format!("http://{}{}", daemon.address(), converse_path(ON_DEMAND));
    for (uid, count) in [(ALICE, 2), (BOB, 3)] {
        for _ in 0..count {
            assert_eq!(curl_as(uid, ask.clone(), Some(converse("hello"))).await.0, 200);
        }
    }
    let items = items(&daemon).await;
    assert_eq!(items.len(), 6);
    all_agrees(&daemon, &items, "", |_| true).await;
    all_agrees(&daemon, &items, "&caller=alice", |item| item["caller"] == "alice").await;
    all_agrees(&daemon, &items, &format!("&caller=uid:{BOB}"), |item| item["callerUid"] == BOB).await;
    let url = |path: &str| format!("http://{}/v1/dashboard/{path}", daemon.admin);
    for (uid, group) in [(ALICE, "alice".to_owned()), (BOB, format!("uid:{BOB}"))] {
        let own: Vec<&Value> = items.iter().filter(|item| item["callerUid"] == uid).collect();
        for window in ["15m", "7d"] {
            let (status, shown) = curl_as(uid, url(&format!("usage?by=caller&window={window}")), None).await;
            assert_eq!(status, 200, "{shown}");
            agrees(&shown["total"], &own, &group);
            let names: Vec<&Value> = shown["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
            assert_eq!(names, [&json!(group)]);
        }
        let (status, shown) = curl_as(uid, url("usage?caller=uid:0"), None).await;
        assert_eq!((status, &shown["total"]["requests"]), (200, &json!(0)), "{shown}");
        let (status, refusal) = curl_as(uid, url("chain"), None).await;
        assert_eq!(status, 403);
        assert!(refusal["message"].as_str().unwrap().contains("admin.groups"), "{refusal}");
    }
}

#[tokio::test]
async fn the_newest_records_are_checked_and_a_change_is_named() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let daemon = setup(&bedrock, directory.path()).ready().await;
    for _ in 0..5 {
        daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    }
    let newest = items(&daemon).await[0]["chainSeq"].as_u64().unwrap();
    let chain = daemon.admin_get("/v1/dashboard/chain").await.json();
    let whole = json!({ "checked": newest, "fromSeq": 1, "toSeq": newest, "intact": true, "problem": null });
    assert_eq!(chain, whole);

    let db = rusqlite::Connection::open(directory.path().join("state/ledger.db")).unwrap();
    db.busy_timeout(DEADLINE).unwrap();
    let forge = "UPDATE records SET item = replace(item, '\"success\":true', '\"success\":false') WHERE seq = ?1";
    assert_eq!(db.execute(forge, [i64::try_from(newest - 1).unwrap()]).unwrap(), 1);
    let chain = daemon.admin_get("/v1/dashboard/chain").await.json();
    assert_eq!((&chain["intact"], &chain["checked"]), (&json!(false), &json!(newest)));
    let problem = chain["problem"].as_str().unwrap();
    assert!(problem.starts_with(&format!("CHANGED   record {}", newest - 1)), "{problem}");
    assert_eq!(db.execute("DELETE FROM records WHERE seq = ?1", [i64::try_from(newest).unwrap()]).unwrap(), 1);
    let chain = daemon.admin_get("/v1/dashboard/chain").await.json();
    assert_eq!(chain["intact"], false, "the chain's own end is known");
}
