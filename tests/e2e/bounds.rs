//! No request takes more memory, time or log than it may: bodies, names in them, and those who are refused.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use test_support::users::{can_be_others, own_uid, this_test_as};
use test_support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const MB: usize = 1_000_000;

/// The sentence of an AWS-shaped refusal in raw bytes.
fn sentence(answer: &str) -> String {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str::<serde_json::Value>(body).unwrap()["message"].as_str().unwrap().to_owned()
}

/// What a head begins with that announces a body.
fn head(path: &str, length: usize, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n"
    )
}

#[tokio::test]
async fn a_model_that_a_body_names_is_checked_before_it_is_logged() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    for (path, key) in [("/openai/v1/chat/completions", "model"), ("/async-invoke", "modelId")] {
        for name in ["x".repeat(4 * MB), "a.b\nforged line".to_owned(), "\u{1b}[2J".to_owned(), String::new()] {
            let answer = daemon.post(path, json!({ key: name, "messages": [] }).to_string()).await;
            assert!(answer.body.len() < 1000, "{} bytes of answer", answer.body.len());
            refused(&answer, 400, "ValidationException");
            let record = daemon.record_of(&answer).await;
            assert!(record.get("modelId").is_none_or(|model| model == ""), "{record}");
        }
    }
    let profile = json!({ "inferenceProfileName": "x", "modelSource": { "copyFrom": "x\n".repeat(MB) } });
    let answer = daemon.post("/inference-profiles", profile.to_string()).await;
    assert!(matches!(answer.status, 400 | 403) && answer.body.len() < 1000, "{}", answer.status);
    daemon.record_of(&answer).await;
    assert!(daemon.log_text().len() < 50_000, "{} bytes of log", daemon.log_text().len());
    assert_eq!(received(&bedrock, "ChatCompletions").len(), 0);
}

/// Heads alone are sent: an answer comes although the bodies never do.
#[tokio::test]
async fn what_the_head_tells_is_decided_before_the_body_comes() {
    let bedrock = bedrock().await;
    let callers = format!(
        "[[callers]]\nname = \"limited\"\nusers = [\"{}\"]\nmodels = [\"amazon.*\"]\ndeny_operations = [\"ChatCompletions\"]\n\
         requests_per_minute = 1\nrequest_burst = 1\n",
        own_uid()
    );
    let daemon = Setup::plain(&bedrock).with(&callers).ready().await;
    let claude = converse_path("anthropic.claude-3-haiku-20240307-v1:0");
    let refusals = async || {
        for (path, why) in [("/openai/v1/chat/completions", "deny_operations"), (claude.as_str(), "does not list it")] {
            for more in ["", "Expect: 100-continue\r\n"] {
                let began = Instant::now();
                let answer = raw::exchange(daemon.address(), head(path, 20 * MB, more)).await.unwrap();
                assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
                assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
                assert!(sentence(&answer).contains(why), "{answer}");
                assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
            }
        }
    };
    refusals().await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = raw::exchange(daemon.address(), head(&converse_path(ON_DEMAND), 20 * MB, "")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after"), "{answer}");
    let record = daemon.record("the 429", |record| record["statusCode"] == 429).await;
    assert_eq!(
        (&record["caller"], &record["modelId"], &record["requestSize"]),
        (&json!("limited"), &json!(ON_DEMAND), &json!(0))
    );
    let record = daemon.record("a 403", |record| record["operation"] == "ChatCompletions").await;
    assert_eq!((&record["caller"], &record["outcome"]), (&json!("limited"), &json!("refused")));

    // A small body is read, so the connection stays, and the record knows the model.
    let mut connection = Http1::to(daemon.address()).await;
    for _ in 0..3 {
        let body = json!({ "model": "openai.gpt-oss-20b-1:0", "messages": [] }).to_string();
        let answer = connection.send(request(Method::POST, "/openai/v1/chat/completions", body.clone())).await;
        refused(&answer, 403, "AccessDeniedException");
        let record = daemon.record_of(&answer).await;
        assert_eq!(record["modelId"], "openai.gpt-oss-20b-1:0");
        assert_eq!(record["requestSize"], body.len());
    }
    // A large one passes by, and its client reads the answer.
    let answer = daemon.post("/openai/v1/chat/completions", vec![b'x'; 20 * MB]).await;
    refused(&answer, 403, "AccessDeniedException");
    assert_eq!(daemon.record_of(&answer).await["requestSize"], 20 * MB);
}

#[tokio::test]
async fn bodies_of_refused_callers_take_no_memory() {
    let bedrock = bedrock().await;
    let callers = format!("[[callers]]\nname = \"denied\"\nusers = [\"{}\"]\noperations = [\"Converse\"]\n", own_uid());
    let daemon = Setup::plain(&bedrock).with(&callers).ready().await;
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("x")).await.status, 200);
    let before = daemon.memory().0;
    let mut attack = JoinSet::new();
    for _ in 0..20 {
        let body = json!({ "model": "openai.gpt-oss-20b-1:0", "messages": ["x".repeat(20 * MB)] }).to_string();
        attack.spawn(send(daemon.address(), request(Method::POST, "/openai/v1/chat/completions", body)));
    }
    while let Some(answer) = attack.join_next().await {
        refused(&answer.unwrap(), 403, "AccessDeniedException");
    }
    let grown = daemon.memory().1.saturating_sub(before);
    println!("20 refused bodies of 20 MB: {grown} KiB more");
    assert!(grown < 60_000, "{grown} KiB more");
}

/// Streams that never end hold what the budget gives them and no more; others are told to come back.
#[tokio::test]
async fn bodies_in_memory_have_a_budget() {
    let bedrock = bedrock().await;
    let limits = "[limits]\nmax_body_bytes = 10000000\nmax_buffered_bytes = 40000000";
    let daemon = Setup::plain(&bedrock).with(limits).ready().await;
    let path = converse_path(ON_DEMAND);
    let before = daemon.memory().0;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        stream.write_all(head(&path, 10 * MB, "").as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; 10 * MB - 1]).await.unwrap();
        held.push(stream);
    }
    let buffered = || async {
        let page = daemon.metrics().await;
        metric(&page, "bedrock_sidecar_buffered_bytes")
    };
    until_async("two bodies", || async { (buffered().await == Some(20e6)).then_some(()) }).await;
    // Half of the budget is this user's, and it is taken.
    let mut more = JoinSet::new();
    for announced in [true, false].repeat(10) {
        let (address, path) = (daemon.address(), path.clone());
        more.spawn(async move {
            let bytes = if announced {
                head(&path, 10 * MB, "").into_bytes()
            } else {
                let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
                format!("{head}{:x}\r\n{}", 9 * MB, "x".repeat(MB)).into_bytes()
            };
            raw::exchange(address, bytes).await
        });
    }
    let mut answered = 0;
    while let Some(answer) = more.join_next().await {
        // Who is still sending may see a reset and not the answer.
        let Ok(answer) = answer.unwrap() else { continue };
        if answer.is_empty() {
            continue;
        }
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
        assert!(sentence(&answer).contains("limits.max_buffered_bytes"), "{answer}");
        answered += 1;
    }
    assert!(answered >= 10, "{answered}");
    let record = daemon.record("a 503", |record| record["statusCode"] == 503).await;
    assert_eq!((&record["outcome"], &record["operation"]), (&json!("refused"), &json!("Converse")));
    let grown = daemon.memory().1.saturating_sub(before);
    println!("a budget of 40 MB, half of it for one user: {grown} KiB more");
    assert!(grown < 90_000, "{grown} KiB more");
    // They leave, and all is given back.
    drop(held);
    until_async("the budget", || async { (buffered().await == Some(0.0)).then_some(()) }).await;
    assert_eq!(daemon.post(&path, padded(&converse("x"), 9 * MB)).await.status, 200);
    until_async("the budget", || async { (buffered().await == Some(0.0)).then_some(()) }).await;
}

/// A body that is only announced takes no more than a little from others.
#[tokio::test]
async fn announced_bodies_take_no_memory_of_others() {
    let bedrock = bedrock().await;
    let limits = "[limits]\nmax_body_bytes = 10000000\nmax_buffered_bytes = 40000000";
    let daemon = Setup::plain(&bedrock).with(limits).ready().await;
    let path = converse_path(ON_DEMAND);
    let mut announced = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        stream.write_all(head(&path, 10 * MB, "").as_bytes()).await.unwrap();
        announced.push(stream);
    }
    until_async("all heads", || async {
        let taken = metric(&daemon.metrics().await, "bedrock_sidecar_buffered_bytes");
        (taken == Some(8.0 * 1_048_576.0)).then_some(())
    })
    .await;
    assert_eq!(daemon.post(&path, padded(&converse("x"), 9 * MB)).await.status, 200);
}

/// Another user's bodies take another user's half.
#[tokio::test]
async fn another_user_is_served_while_one_fills_the_budget() {
    const TEST: &str = "bounds::another_user_is_served_while_one_fills_the_budget";
    if let Ok(address) = std::env::var("BOUNDS_ADDRESS") {
        let body = padded(&converse("x"), 9 * MB);
        let began = Instant::now();
        let answer = post(address.parse().unwrap(), &converse_path(ON_DEMAND), body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        return;
    }
    if !can_be_others(TEST) {
        return;
    }
    let bedrock = bedrock().await;
    let limits = "[limits]\nmax_body_bytes = 10000000\nmax_buffered_bytes = 40000000";
    let daemon = Setup::plain(&bedrock).with(limits).ready().await;
    let path = converse_path(ON_DEMAND);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        stream.write_all(head(&path, 10 * MB, "").as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; 10 * MB - 1]).await.unwrap();
        held.push(stream);
    }
    until_async("a full half", || async {
        let page = daemon.metrics().await;
        (metric(&page, "bedrock_sidecar_buffered_bytes") == Some(20e6)).then_some(())
    })
    .await;
    let mut other = this_test_as(41_001, TEST);
    other.env("BOUNDS_ADDRESS", daemon.address().to_string());
    let output = tokio::task::spawn_blocking(move || other.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let record = daemon.record("the other user", |record| record["callerUid"] == 41_001).await;
    assert_eq!(record["statusCode"], 200);
}

#[tokio::test]
async fn a_body_that_trickles_is_cut() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
    stream.write_all(head(&converse_path(ON_DEMAND), 5 * MB, "").as_bytes()).await.unwrap();
    let began = Instant::now();
    let (read, mut write) = stream.into_split();
    let trickle = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut answer = String::new();
    let mut read = read;
    let _ = within("the 408", tokio::io::AsyncReadExt::read_to_string(&mut read, &mut answer)).await;
    trickle.abort();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("1024 bytes a second"), "{answer}");
    assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
    let record = daemon.record("the 408", |record| record["statusCode"] == 408).await;
    assert_eq!((&record["outcome"], &record["modelId"]), (&json!("refused"), &json!(ON_DEMAND)));
}

#[tokio::test]
async fn questions_about_records_pass_policy_and_limits() {
    let bedrock = bedrock().await;
    const DASHBOARD: &str = "/v1/dashboard/requests";
    let caller = format!("[[callers]]\nname = \"x\"\nusers = [\"{}\"]\n", own_uid());
    let denied = Setup::plain(&bedrock).with(&format!("{caller}operations = [\"Converse\"]")).ready().await;
    let answer = denied.get(DASHBOARD).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    let record = denied.record("the question", |record| record["operation"] == "DashboardRequests").await;
    assert_eq!((&record["outcome"], &record["caller"]), (&json!("refused"), &json!("x")));
    assert_eq!(denied.admin_get(DASHBOARD).await.status, 200, "an admin asks the admin address");

    let limited =
        Setup::plain(&bedrock).with(&format!("{caller}requests_per_minute = 1\nrequest_burst = 2")).ready().await;
    for status in [200, 200, 429, 429] {
        assert_eq!(limited.get(DASHBOARD).await.status, status);
    }
}
