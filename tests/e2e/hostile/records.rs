//! Others' records: the dashboard shows a user what is theirs, whatever the question is made to look like.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::Value;
use test_support::users::{as_user, can_be_others, is_installed};
use test_support::*;

const TEST: &str = "no_question_shows_the_records_of_others";
const SPY: u32 = 61_021;

/// curl as another user: the status and the body.
fn spy(daemon: &Daemon, query: &str) -> (u16, String) {
    let url = format!("http://{}/v1/dashboard/requests?{query}", daemon.address());
    let output = as_user(SPY, "curl").args(["-sS", "--max-time", "20", "-w", "\n%{http_code}", &url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn no_question_shows_the_records_of_others() {
    if !can_be_others(TEST) {
        return;
    }
    if !is_installed("curl") {
        println!("NOT RUN: {TEST} (curl is not installed)");
        return;
    }
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    for _ in 0..5 {
        super::is_served(&daemon, "of root").await;
    }
    let all = daemon.get("/v1/dashboard/requests?limit=2&timeRange=all").await.json();
    assert_eq!(all["totalCount"], 5, "{all}");
    let stolen = all["nextToken"].as_str().unwrap().to_owned();
    let whose = all["requests"][0]["callerUid"].as_u64().unwrap();
    let token = |text: &str| format!("nextToken={}", URL_SAFE_NO_PAD.encode(text));
    let questions = [
        "timeRange=all".to_owned(),
        // A token of somebody else's question, and tokens that nobody was given.
        format!("timeRange=all&nextToken={stolen}"),
        token("9999999999999 9999999999"),
        token("0) OR 1=1 -- 1"),
        token("1 1) OR (1=1"),
        token("9999999999999 1 UNION SELECT item FROM records"),
        token("\u{0}"),
        token(&"9".repeat(10_000)),
        token("{\"requestId\":{\"S\":\"x\"}}"),
        // What a filter says is a value and never a part of the question.
        "modelId=%27%20OR%201%3D1%20--".to_owned(),
        "modelId=x%27)%20UNION%20SELECT%20item,hash,1,1%20FROM%20records%20--".to_owned(),
        "caller=%27%20OR%20%27%27%3D%27".to_owned(),
        "caller=%25".to_owned(),
        "caller=*".to_owned(),
        "caller=root".to_owned(),
        "limit=1000;DROP%20TABLE%20records".to_owned(),
        "limit=-1".to_owned(),
        "success=all%20OR%201".to_owned(),
        // There are no such filters.
        format!("callerUid={whose}"),
        format!("uid={whose}"),
        "scope=all".to_owned(),
        "source=ledger&source=dynamodb".to_owned(),
    ];
    for query in &questions {
        let (status, body) = spy(&daemon, query);
        assert!(matches!(status, 200 | 400 | 503), "{query}: {status} {body}");
        assert!(!body.contains("SQL") && !body.contains("sqlite"), "{query}: {body}");
        if status == 200 {
            let answer: Value = serde_json::from_str(&body).unwrap();
            for record in answer["requests"].as_array().unwrap() {
                assert_eq!(record["callerUid"], SPY, "{query}: {record}");
            }
            assert!(!body.contains("Converse"), "{query}: {body}");
        }
    }
    // A header claims nothing either.
    let mut claimed = as_user(SPY, "curl");
    let url = format!("http://{}/v1/dashboard/requests?timeRange=all", daemon.address());
    let headers = ["x-caller: root", "x-amzn-iam-user-arn: arn:aws-us-gov:iam::1:root", "authorization: Bearer root"];
    claimed.args(["-sS", &url]).args(headers.iter().flat_map(|header| ["-H", header]));
    let said = String::from_utf8_lossy(&claimed.output().unwrap().stdout).into_owned();
    assert!(said.contains("\"requests\":") && !said.contains("Converse"), "{said}");

    let again = daemon.get("/v1/dashboard/requests?timeRange=all&modelId=amazon.nova-lite-v1:0").await.json();
    assert_eq!(again["totalCount"], 5, "all of them are still there: {again}");
    assert_eq!(send(daemon.address(), request(Method::GET, "/health", "")).await.status, 200);
}
