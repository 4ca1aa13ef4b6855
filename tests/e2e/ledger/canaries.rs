//! Nothing of prompts, answers or keys is kept.

use std::collections::BTreeMap;
use std::path::Path;

use http::Method;
use serde_json::json;
use simulator::{Effect, Ending, Fault};
use test_support::*;

use super::{DENIED, Scene, shipped};

/// Every file below a directory that holds the text.
fn files_with(directory: &Path, canary: &str, looked_at: &mut usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, canary, looked_at));
        } else {
            // The database deletes files at any time.
            let bytes = match std::fs::read(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                bytes => bytes.unwrap(),
            };
            *looked_at += 1;
            if bytes.windows(canary.len()).any(|window| window == canary.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_prompt_answer_or_key_stands_in_any_file_item_log_or_metric() {
    let bedrock = bedrock().await;
    let scene = Scene::new("e2e-canaries").await;
    let daemon = scene.setup(&bedrock, "", "[models]\ndeny = [\"cohere.*\"]\n[log]\nlevel = \"debug\"\n").ready().await;
    let prompt = converse("PROMPTCANARY says hello");
    let with_keys = |path: &str| {
        let mut request = request(Method::POST, path, prompt.clone());
        let headers = request.headers_mut();
        headers.insert("authorization", "Bearer CLIENTKEYCANARY".parse().unwrap());
        headers.insert("x-amz-security-token", "TOKENCANARY".parse().unwrap());
        headers.insert("cookie", "COOKIECANARY=1".parse().unwrap());
        headers.insert("x-amzn-bedrock-trace", "HEADERCANARY".parse().unwrap());
        request
    };
    let mut statuses = Vec::new();
    for effect in [
        None,
        Some(Effect::Error {
            status: 400,
            error_type: "ValidationException".into(),
            message: "the input ERRORCANARY is malformed".into(),
            capital: false,
            headers: BTreeMap::new(),
        }),
        Some(Effect::StreamException {
            after_events: 2,
            exception: "validationException".into(),
            message: "the input ERRORCANARY is malformed".into(),
        }),
        Some(Effect::Cut { after_bytes: Some(20), after_events: None, how: Ending::Rst }),
    ] {
        for path in [converse_path(ON_DEMAND), stream_path(PROFILE_ONLY), converse_path(DENIED)] {
            if let Some(effect) = &effect {
                bedrock.inject(Fault::once(effect.clone()));
            }
            let mut client = Http1::to(daemon.address()).await;
            match client.start(with_keys(&path)).await {
                Ok(response) => {
                    statuses.push(response.status().as_u16());
                    if let Ok(answer) = Answer::of(response).await
                        && effect.is_none()
                        && answer.status == 200
                        && !path.contains("stream")
                    {
                        assert!(answer.text().contains("echo: PROMPTCANARY"), "{answer:?}");
                    }
                }
                Err(_) => statuses.push(0),
            }
            bedrock.clear_faults();
        }
    }
    daemon.post("/v1/bedrock/invoke-model", json!({ "modelId": ON_DEMAND, "body": prompt }).to_string()).await;
    daemon.post(&converse_path(ON_DEMAND), "{\"PROMPTCANARY\": not json").await;
    daemon.get("/no/path?X-Amz-Signature=SIGNATURECANARY&prompt=PROMPTCANARY").await;
    shipped(&daemon).await;
    let items = scene.items().await;
    assert!(items.len() >= statuses.len() + 3, "{} items for {statuses:?}", items.len());
    let items = serde_json::to_string(&items).unwrap();
    let pages = format!("{}{}", daemon.metrics().await, daemon.admin_get("/status").await.text());
    daemon.all_records(statuses.len() + 3).await;
    let log = daemon.log_text();
    let mut looked_at = 0;
    for canary in [
        "PROMPTCANARY",
        "echo: ",
        "CLIENTKEYCANARY",
        "TOKENCANARY",
        "COOKIECANARY",
        "HEADERCANARY",
        "ERRORCANARY",
        "SIGNATURECANARY",
        test_support::dynamodb::SECRET_KEY,
        simulator::DEFAULT_BEARER_TOKEN,
    ] {
        assert!(!items.contains(canary), "{canary} stands in an item: {items}");
        assert!(!pages.contains(canary), "{canary} stands in /metrics or /status");
        assert!(!log.contains(canary), "{canary} stands in the log: {log}");
        let files = files_with(scene.state.path(), canary, &mut looked_at);
        assert!(files.is_empty(), "{canary} stands in {files:?}");
    }
    assert!(looked_at >= 20, "journal and database were looked at");
    // The search finds what is there.
    assert!(!files_with(scene.state.path(), ON_DEMAND, &mut looked_at).is_empty());
}
