//! The page and its files as a browser gets them, who may see what, and what comes by itself.

use http::Method;
use serde_json::{Value, json};
use test_support::users::{as_user, can_be_others};
use test_support::*;

const ANOTHER: u32 = 61_011;
/// Of Debian and of RHEL, the user and the group of that name. Whoever runs in a group may not be its member.
const DAEMON: u32 = 1;

/// What `curl` gets as another user: the status, and the body.
async fn asked_as(uid: u32, url: String) -> (u16, String) {
    let mut curl = as_user(uid, "curl");
    curl.args(["-sS", "--max-time", "10", "-w", "\n%{http_code}", &url]);
    let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// One request for it, of the admin address.
async fn admin(daemon: &Daemon, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut connection = Http1::to(daemon.admin).await;
    let mut asked = request(Method::GET, path, "");
    for (name, value) in headers {
        asked.headers_mut().insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    connection.send(asked).await
}

#[tokio::test]
async fn the_page_and_its_files_come_from_the_program_and_run_nothing_else() {
    let daemon = Setup::alone().start().await;
    let page = daemon.admin_get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let text = page.text();
    let named: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|mark| text.split(mark).skip(1).map(|rest| rest.split('"').next().unwrap()))
        .filter(|name| name.starts_with('/'))
        .collect();
    assert!(named.len() >= 2, "{text}");
    for path in ["/"].into_iter().chain(named) {
        let file = daemon.admin_get(path).await;
        assert_eq!(file.status, 200, "{path}");
        assert_ne!(file.header("content-type"), Some("application/json"), "{path}");
        let policy = file.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-cache"),
        ] {
            assert_eq!(file.header(name), Some(value), "{path}");
        }
        assert_eq!(file.header("set-cookie"), None);
        let tag = file.header("etag").unwrap().to_owned();
        let again = admin(&daemon, path, &[("if-none-match", &tag)]).await;
        assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(&*tag)), "{path}");
        let other = admin(&daemon, path, &[("if-none-match", "\"another\"")]).await;
        assert_eq!((other.status, other.body), (200, file.body), "{path}");
    }
    for path in ["/assets/", "/assets/../page.html", "/assets/page.html", "/v1/dashboard/", "/v1/dashboard/other"] {
        let answer = daemon.admin_get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}

/// A page of another site, and a name that another DNS server answers, get nothing of it. Nothing behind it changes anything.
#[tokio::test]
async fn other_sites_and_other_methods_are_refused() {
    let daemon = Setup::alone().start().await;
    for path in ["/", "/assets/page.js", "/v1/dashboard/access", "/v1/dashboard/requests", "/v1/dashboard/events"] {
        for header in [("origin", "http://evil.example"), ("sec-fetch-site", "cross-site"), ("host", "evil.example")] {
            let answer = admin(&daemon, path, &[header]).await;
            assert_eq!(answer.status, 403, "{path} with {header:?}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answer = Http1::to(daemon.admin).await.send(request(method.clone(), path, "")).await;
            assert_eq!(answer.status, 404, "{method} {path}");
        }
        if path != "/v1/dashboard/events" {
            let own = admin(&daemon, path, &[("sec-fetch-site", "same-origin")]).await;
            assert_eq!(own.status, 200, "{path}");
        }
    }
}

/// A link in a message opens the page. Nothing else of it can be asked for from there.
#[tokio::test]
async fn the_page_can_be_reached_by_a_link() {
    let daemon = Setup::alone().start().await;
    let visit = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    assert_eq!(admin(&daemon, "/?window=24h", &visit).await.status, 200);
    for path in ["/assets/page.js", "/v1/dashboard/access", "/v1/dashboard/requests", "/status", "/metrics"] {
        assert_eq!(admin(&daemon, path, &visit).await.status, 403, "{path}");
    }
    let site = ("sec-fetch-site", "cross-site");
    for others in [
        vec![site, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        vec![site, ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
        vec![site, ("sec-fetch-mode", "navigate")],
        vec![("host", "evil.example"), visit[1], visit[2]],
        vec![("origin", "http://evil.example"), visit[0], visit[1], visit[2]],
    ] {
        assert_eq!(admin(&daemon, "/", &others).await.status, 403, "{others:?}");
    }
}

#[tokio::test]
async fn members_of_the_groups_see_all_and_others_their_own() {
    if !can_be_others("members_of_the_groups_see_all_and_others_their_own") {
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[admin]\ngroups = [\"no-such-group\", \"daemon\"]").ready().await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    let record = daemon.record_of(&answer).await;
    let access = daemon.admin_get("/v1/dashboard/access").await.json();
    assert_eq!(
        (&access["scope"], &access["uid"], &access["groups"]),
        (&json!("all"), &json!(0), &json!(["no-such-group", "daemon"]))
    );
    let url = |path: &str| format!("http://{}{path}", daemon.admin);
    let (status, access) = asked_as(ANOTHER, url("/v1/dashboard/access")).await;
    let access: Value = serde_json::from_str(&access).unwrap();
    assert_eq!((status, &access["scope"], &access["uid"]), (200, &json!("own"), &json!(ANOTHER)));
    for format in ["json", "csv", "jsonl"] {
        let path = format!("/v1/dashboard/requests?format={format}");
        let id = record["requestId"].as_str().unwrap();
        assert!(daemon.admin_get(&path).await.text().contains(id), "{format}");
        let (status, text) = asked_as(ANOTHER, url(&path)).await;
        assert!(status == 200 && !text.contains(id), "{format}: {text}");
    }
    // Groups count as the host's files have them, not as a process has them.
    for (uid, gid, scope) in [(DAEMON, ANOTHER, "all"), (ANOTHER, 0, "own")] {
        let mut curl = std::process::Command::new("setpriv");
        curl.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups", "curl", "-sS"]);
        curl.args(["--max-time", "10", &url("/v1/dashboard/access")]);
        let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
        let access: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(access["scope"], scope, "{uid}");
    }
}

/// Whose failures they are, and what other callers have used, is nobody else's business.
#[tokio::test]
async fn the_status_of_another_user_is_of_no_other_caller() {
    if !can_be_others("the_status_of_another_user_is_of_no_other_caller") {
        return;
    }
    let bedrock = bedrock().await;
    let callers: String = [("mine", 0), ("theirs", ANOTHER)]
        .map(|(name, uid)| format!("[[callers]]\nname = \"{name}\"\nusers = [\"{uid}\"]\nrequests_per_minute = 60\n"))
        .concat();
    let daemon = Setup::plain(&bedrock).with(&callers).ready().await;
    let answer = daemon.post(&converse_path("no.such-model"), converse("hello")).await;
    daemon.record_of(&answer).await;
    let names = |status: &Value| -> Vec<String> {
        let scopes = status["limits"]["scopes"].as_array().unwrap().iter();
        scopes.filter(|of| of["scope"] == "caller").map(|of| of["name"].as_str().unwrap().to_owned()).collect()
    };
    let status = daemon.admin_get("/status").await.json();
    assert_eq!((names(&status), status["lastErrors"].as_array().unwrap().len()), (vec!["mine".to_owned()], 1));
    let (code, text) = asked_as(ANOTHER, format!("http://{}/status", daemon.admin)).await;
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, names(&status), &status["lastErrors"]), (200, Vec::new(), &json!([])), "{text}");
    assert_eq!(status["ready"], true);
    let (code, text) = asked_as(ANOTHER, format!("http://{}/v1/dashboard/models", daemon.admin)).await;
    assert!(code == 403 && text.contains("/v1/bedrock/models"), "{text}");
}

#[tokio::test]
async fn records_can_be_kept_as_a_file() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    let record = daemon.record_of(&answer).await;
    daemon.post("/model/-cmd.x/converse", converse("hello")).await;
    let csv = daemon.admin_get("/v1/dashboard/requests?format=csv&timeRange=1h").await;
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(csv.header("content-disposition"), Some("attachment; filename=\"requests.csv\""));
    let text = csv.text();
    assert_eq!((text.lines().count(), csv.header("x-total-count")), (3, Some("2")), "{text}");
    assert!(text.starts_with("timestamp,requestId,operation,modelId,"), "{text}");
    assert!(text.contains("\"'-cmd.x\""), "no formula: {text}");
    let lines = daemon.admin_get("/v1/dashboard/requests?format=jsonl&success=true").await;
    assert_eq!(lines.header("content-type"), Some("application/jsonl"));
    let item: Value = serde_json::from_str(lines.text().trim_end()).unwrap();
    assert_eq!(item["requestId"], record["requestId"]);
    for query in ["format=xml", "format=csv&format=csv", "format="] {
        let answer = daemon.admin_get(&format!("/v1/dashboard/requests?{query}")).await;
        assert!(refused(&answer, 400, "ValidationException").contains("json, csv or jsonl"), "{query}");
    }
}

#[tokio::test]
async fn models_are_listed_as_the_legacy_api_lists_them() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let shown = daemon.admin_get("/v1/dashboard/models").await.json();
    let listed = daemon.get("/v1/bedrock/models").await.json();
    assert!(shown["models"].as_array().unwrap().len() > 3);
    assert_eq!(shown["models"], listed["models"]);
}

/// What came of a stream of events: their names and data.
async fn events(stream: &mut Reader, until: impl Fn(&[(String, Value)]) -> bool) -> Vec<(String, Value)> {
    let mut read = 0;
    loop {
        let text = String::from_utf8_lossy(&stream.bytes).into_owned();
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        let found: Vec<(String, Value)> = whole
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("event: ")?.split_once("\ndata: "))
            .map(|(name, data)| (name.to_owned(), serde_json::from_str(data).unwrap()))
            .collect();
        if until(&found) {
            return found;
        }
        read += 1;
        assert!(read < 1000, "{text}");
        stream.until(stream.bytes.len() + 1).await.unwrap();
    }
}

#[tokio::test]
async fn new_records_come_by_themselves_and_the_stream_ends_with_the_daemon() {
    let bedrock = bedrock().await;
    let mut daemon = Setup::plain(&bedrock).ready().await;
    let before = daemon.post(&converse_path(ON_DEMAND), converse("before")).await;
    daemon.record_of(&before).await;
    // It is in the index by then.
    assert_eq!(daemon.admin_get("/v1/dashboard/requests").await.json()["totalCount"], 1);
    let mut connection = Http1::to(daemon.admin).await;
    let asked = request(Method::GET, "/v1/dashboard/events?operation=Converse&outcome=completed", "");
    let response = connection.start(asked).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let mut stream = Reader::new(response);
    let status = events(&mut stream, |found| !found.is_empty()).await;
    assert_eq!((status[0].0.as_str(), &status[0].1["ready"]), ("status", &json!(true)));
    daemon.post(&converse_path("no.such-model"), converse("refused")).await;
    daemon.post(&stream_path(ON_DEMAND), converse("another operation")).await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    let record = daemon.record_of(&answer).await;
    let found = events(&mut stream, |found| found.iter().any(|(name, _)| name == "request")).await;
    let requests: Vec<&Value> = found.iter().filter(|(name, _)| name == "request").map(|(_, data)| data).collect();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(request["requestId"], record["requestId"]);
    assert_eq!(request["chainHash"].as_str().unwrap().len(), 64);
    daemon.signal("TERM");
    stream.end().await.unwrap();
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_user_may_follow_in_a_few_windows() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut connection = Http1::to(daemon.admin).await;
        let response = connection.start(request(Method::GET, "/v1/dashboard/events", "")).await.unwrap();
        assert_eq!(response.status(), 200);
        open.push((connection, response));
    }
    refused(&daemon.admin_get("/v1/dashboard/events").await, 429, "ThrottlingException");
    drop(open);
    until_async("one of them to be free again", || async {
        let mut connection = Http1::to(daemon.admin).await;
        let response = connection.start(request(Method::GET, "/v1/dashboard/events", "")).await.unwrap();
        (response.status() == 200).then_some(())
    })
    .await;
    assert_eq!(daemon.admin_get("/v1/dashboard/events?color=red").await.status, 400);
}
