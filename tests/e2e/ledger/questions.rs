//! What the dashboard and the commands say is what the raw items say. What needs root, `setpriv` and curl prints NOT RUN
//! without them.

use std::collections::BTreeMap;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use simulator::{Effect, Fault};
use test_support::users::{as_user, is_installed, own_uid};
use test_support::*;

use super::{DENIED, Scene, shipped, text};

/// A local user that owns nothing.
const ANY_UID: u32 = 61_234;

/// Asks the dashboard at an address, all pages of it.
async fn dashboard(address: std::net::SocketAddr, filters: &str, limit: usize) -> (usize, Vec<Value>) {
    let (mut token, mut found, mut total) = (String::new(), Vec::new(), None);
    loop {
        let answer = get(address, &format!("/v1/dashboard/requests?limit={limit}&{filters}{token}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let page = answer.json();
        total.get_or_insert(usize::try_from(page["totalCount"].as_u64().unwrap()).unwrap());
        let requests = page["requests"].as_array().unwrap();
        assert!(requests.len() <= limit);
        found.extend(requests.iter().cloned());
        match page["nextToken"].as_str() {
            Some(next) => token = format!("&nextToken={next}"),
            None => return (total.unwrap(), found),
        }
    }
}

fn jsonl(output: &Output) -> BTreeMap<String, Value> {
    assert!(output.status.success(), "{}", text(output));
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        // An export's closing line is no record.
        .filter(|item| item.get("export").is_none())
        .map(|item| (item["requestId"].as_str().unwrap().to_owned(), item))
        .collect()
}

/// curl as another user.
fn as_other(url: &str, body: Option<&str>) -> Value {
    let mut command = as_user(ANY_UID, "curl");
    command.args(["-sS", "--max-time", "40", url]);
    if let Some(body) = body {
        command.args(["-H", "content-type: application/json", "-d", body]);
    }
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("not JSON: {}", text(&output)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_commands_say_what_the_raw_items_say() {
    let bedrock = bedrock().await;
    let scene = Scene::new("e2e-questions").await;
    let more = format!(
        "[models]\ndeny = [\"cohere.*\"]\n[[callers]]\nname = \"here\"\nusers = [\"{}\"]\n[[callers]]\nname = \"there\"\nusers = [\"{ANY_UID}\"]\n",
        own_uid()
    );
    let setup = scene.setup(&bedrock, "", &more);
    let config_for_commands = scene.setup(&bedrock, "", &more);
    let daemon = setup.ready().await;
    for number in 0..40 {
        let model = [ON_DEMAND, PROFILE_ONLY, DENIED][number % 3];
        if number % 10 == 9 {
            bedrock.inject(Fault::once(Effect::InternalServerError).on("Converse"));
        }
        daemon.post(&converse_path(model), converse("hello")).await;
        bedrock.clear_faults();
    }
    let other = own_uid() == 0 && is_installed("setpriv") && is_installed("curl");
    if other {
        let url = format!("http://{}{}", daemon.address(), converse_path(ON_DEMAND));
        tokio::task::spawn_blocking(move || {
            for _ in 0..3 {
                assert!(as_other(&url, Some(&converse("from elsewhere")))["output"].is_object());
            }
        })
        .await
        .unwrap();
    } else {
        println!("NOT RUN: what another user sees (needs root, setpriv and curl)");
    }
    shipped(&daemon).await;
    let items = scene.items().await;
    assert_eq!(items.len(), if other { 43 } else { 40 });

    // The admin address answers without leaving a record, so all can be compared.
    type Fits = Box<dyn Fn(&Value) -> bool>;
    let on_demand = ON_DEMAND.to_owned();
    let one = items.keys().next().unwrap().clone();
    let questions: Vec<(String, Fits)> = vec![
        ("timeRange=1h".into(), Box::new(|_| true)),
        ("timeRange=24h&success=true".into(), Box::new(|item| item["success"] == true)),
        ("timeRange=7d&success=false".into(), Box::new(|item| item["success"] == false)),
        ("partition=commercial&timeRange=30d".into(), Box::new(|_| true)),
        ("partition=govcloud".into(), Box::new(|_| false)),
        (format!("modelId={}", encoded(ON_DEMAND)), Box::new(move |item| item["modelId"] == on_demand.as_str())),
        ("caller=here&success=false".into(), Box::new(|item| item["caller"] == "here" && item["success"] == false)),
        ("caller=there".into(), Box::new(|item| item["caller"] == "there")),
        ("operation=Converse&timeRange=15m".into(), Box::new(|_| true)),
        ("operation=ConverseStream".into(), Box::new(|_| false)),
        ("region=us-east-1&outcome=refused".into(), Box::new(|item| item["outcome"] == "refused")),
        ("region=us-west-2".into(), Box::new(|_| false)),
        ("outcome=upstream_error".into(), Box::new(|item| item["outcome"] == "upstream_error")),
        ("statusCode=403".into(), Box::new(|item| item["statusCode"] == 403)),
        ("statusCode=40".into(), Box::new(|_| false)),
        (format!("callerUid={}", own_uid()), Box::new(|item| item["callerUid"] == own_uid())),
        (format!("requestId={one}&timeRange=1h"), Box::new(move |item| item["requestId"] == one.as_str())),
    ];
    for (filters, fits) in &questions {
        let wanted: BTreeMap<&String, &Value> = items.iter().filter(|(_, item)| fits(item)).collect();
        for source in ["ledger", "dynamodb"] {
            let (total, found) = dashboard(daemon.admin, &format!("{filters}&source={source}"), 7).await;
            let count = found.len();
            let times: Vec<&str> = found.iter().map(|item| item["timestamp"].as_str().unwrap()).collect();
            if source == "ledger" {
                assert_eq!(total, wanted.len(), "{filters}");
                assert!(times.is_sorted_by(|a, b| a >= b), "newest first");
            }
            let found: BTreeMap<&String, &Value> = found
                .iter()
                .map(|item| (items.get_key_value(item["requestId"].as_str().unwrap()).unwrap().0, item))
                .collect();
            assert_eq!(found.len(), count, "{filters}, {source}: a record on two pages");
            assert_eq!(found, wanted, "{filters}, {source}");
        }
    }
    // The main address says the same of these, and keeps a record of each question.
    let model = format!("modelId={}", encoded(PROFILE_ONLY));
    let profiles = items.values().filter(|item| item["modelId"] == PROFILE_ONLY).count();
    if own_uid() == 0 {
        let (total, found) = dashboard(daemon.address(), &model, 1000).await;
        assert_eq!((total, found.len()), (profiles, profiles));
        let (total, _) = dashboard(daemon.address(), "", 1000).await;
        assert_eq!(total, items.len(), "the question before this one is no request to a model");
        daemon.record("the question", |record| record["operation"] == "DashboardRequests").await;
    }
    assert_eq!(get(daemon.admin, "/v1/dashboard/requests?color=red").await.status, 400);

    if other {
        let (main, admin) = (daemon.address(), daemon.admin);
        tokio::task::spawn_blocking(move || {
            for address in [admin, main] {
                for source in ["ledger", "dynamodb"] {
                    let url = format!(
                        "http://{address}/v1/dashboard/requests?modelId={}&source={source}",
                        encoded(ON_DEMAND)
                    );
                    let page = as_other(&url, None);
                    let requests = page["requests"].as_array().unwrap_or_else(|| panic!("{page}"));
                    assert_eq!((requests.len(), &page["totalCount"]), (3, &json!(3)), "{source}: {page:#}");
                    assert!(requests.iter().all(|item| item["callerUid"] == ANY_UID && item["caller"] == "there"));
                    // Asking for another's by name shows nothing of them.
                    let page = as_other(&format!("{url}&caller=here"), None);
                    assert_eq!(page["requests"], json!([]), "{page:#}");
                }
            }
        })
        .await
        .unwrap();
    }
    shipped(&daemon).await;
    let items = scene.all_items().await;
    let list = config_for_commands.command(&["audit", "list", "--limit", "1000", "--format", "jsonl"]).await;
    assert_eq!(jsonl(&list), items);
    let words = ["audit", "list", "--limit", "1000", "--format", "jsonl", "--source", "dynamodb"];
    assert_eq!(jsonl(&config_for_commands.command(&words).await), items);
    let failed = config_for_commands
        .command(&["audit", "list", "--limit", "1000", "--format", "jsonl", "--success", "false"])
        .await;
    let wanted: BTreeMap<_, _> = items.clone().into_iter().filter(|(_, item)| item["success"] == false).collect();
    assert_eq!(jsonl(&failed), wanted);
    let export = config_for_commands.command(&["audit", "export"]).await;
    assert_eq!(jsonl(&export), items);
    let file = config_for_commands.path().join("export.jsonl");
    std::fs::write(&file, &export.stdout).unwrap();
    let verdict = config_for_commands.command(&["audit", "verify", "--source", "export", file.to_str().unwrap()]).await;
    assert!(verdict.status.success(), "{}", text(&verdict));
    let csv = config_for_commands.command(&["audit", "export", "--format", "csv"]).await;
    let csv = String::from_utf8(csv.stdout).unwrap();
    assert_eq!(csv.lines().count(), items.len() + 2, "a header, and the row that closes it");
    assert!(items.keys().all(|id| csv.contains(id.as_str())));
}
