//! Guardrails and other resources of the GovCloud account: replaced by what `[guardrails]` says, or refused.

use http::Method;
use simulator::Simulator;
use test_support::*;

const GOV: &str = "arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:guardrail/gov1";
const COMMERCIAL: &str = "arn:aws:bedrock:us-east-1:210987654321:guardrail/com1";

/// One request for each place in which a guardrail stands.
fn requests(guardrail: &str) -> Vec<Request> {
    let converse = format!(
        r#"{{"guardrailConfig":{{"guardrailIdentifier":"{guardrail}","guardrailVersion":"1"}},"messages":[{{"role":"user","content":[{{"text":"is {GOV} known?"}}]}}]}}"#
    );
    let chat = format!(
        r#"{{"amazon-bedrock-guardrailConfig":{{"guardrailIdentifier":"{guardrail}"}},"model":"{ON_DEMAND}","messages":[{{"role":"user","content":"hello"}}]}}"#
    );
    let apply = format!("/guardrail/{}/version/1/apply", encoded(guardrail));
    let mut invoke = request(Method::POST, &format!("/model/{ON_DEMAND}/invoke"), test_support::converse("hello"));
    invoke.headers_mut().insert("x-amzn-bedrock-guardrailidentifier", guardrail.parse().unwrap());
    invoke.headers_mut().insert("x-amzn-bedrock-guardrailversion", "1".parse().unwrap());
    vec![
        request(Method::POST, &converse_path(ON_DEMAND), converse.clone()),
        request(Method::POST, &stream_path(ON_DEMAND), converse),
        request(Method::POST, "/openai/v1/chat/completions", chat),
        request(Method::POST, &apply, r#"{"source":"INPUT","content":[{"text":{"text":"hello"}}]}"#),
        invoke,
    ]
}

/// The answers' statuses, and what arrived upstream: path, guardrail header and body of each.
async fn sent(bedrock: &Simulator, daemon: &Daemon, guardrail: &str) -> Vec<(u16, Vec<String>)> {
    let mut all = Vec::new();
    for asked in requests(guardrail) {
        bedrock.clear();
        let answer = send(daemon.address(), asked).await;
        let record = daemon.record_of(&answer).await;
        let arrived: Vec<String> = bedrock
            .requests()
            .iter()
            .map(|sent| {
                assert_eq!(sent.leaks, Vec::<String>::new());
                let header = sent.header("x-amzn-bedrock-guardrailidentifier").unwrap_or("none");
                format!("{} {header} {}", sent.path, String::from_utf8_lossy(&sent.body))
            })
            .collect();
        let outcome = if answer.status == 200 { "completed" } else { "refused" };
        assert_eq!(
            (record["outcome"].as_str(), record["statusCode"].as_u64()),
            (Some(outcome), Some(answer.status.into()))
        );
        assert_eq!(record["attempts"], arrived.len());
        all.push((answer.status, arrived));
    }
    all
}

#[tokio::test]
async fn a_guardrail_of_govcloud_is_refused_wherever_it_stands() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    for (status, arrived) in sent(&bedrock, &daemon, GOV).await {
        assert_eq!((status, arrived), (400, vec![]));
    }
    let refusal = message(&send(daemon.address(), requests(GOV).remove(0)).await);
    assert!(refusal.contains(GOV) && refusal.contains("[guardrails]"), "{refusal}");
}

/// A reader upstream that does not mind case would take it for the guardrail.
#[tokio::test]
async fn a_guardrails_key_in_another_case_is_refused_and_a_headers_name_has_no_case() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[guardrails]\n\"gov2\" = \"com2\"").ready().await;
    bedrock.clear();
    for body in [
        r#"{"GuardrailConfig":{"guardrailIdentifier":"gov2","guardrailVersion":"1"},"messages":[]}"#,
        r#"{"guardrailConfig":{"GuardrailIdentifier":"gov2","guardrailVersion":"1"},"messages":[]}"#,
        r#"{"guardrailconfig":{},"messages":[]}"#,
    ] {
        let answer = daemon.post(&converse_path(ON_DEMAND), body).await;
        let sentence = refused(&answer, 400, "ValidationException");
        assert!(sentence.contains("in case alone"), "{sentence}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((record["outcome"].as_str(), record["attempts"].as_u64()), (Some("refused"), Some(0)), "{record}");
    }
    assert!(bedrock.requests().is_empty());
    let body = converse("hello");
    let extra = "X-AMZN-Bedrock-GUARDRAILIdentifier: gov2\r\nx-amzn-bedrock-guardrailversion: 1\r\n";
    let head = format!(
        "POST /model/{ON_DEMAND}/invoke HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{extra}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw::exchange(daemon.address(), head.as_bytes()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let sent = received(&bedrock, "InvokeModel").pop().unwrap();
    assert_eq!(sent.header("x-amzn-bedrock-guardrailidentifier"), Some("com2"));
    let record = daemon.record("the invocation", |record| record["operation"] == "InvokeModel").await;
    assert_eq!(record["outcome"], "completed");
}

/// What the daemon cannot read, somebody upstream may.
#[tokio::test]
async fn a_body_that_hides_its_names_is_refused() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    let unreadable = format!(r#"{{"\ud800":1,"guardrailConfig":{{"guardrailIdentifier":"{GOV}"}},"messages":[]}}"#);
    let mut encoded = requests("com1").remove(0);
    encoded.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    for asked in [request(Method::POST, &converse_path(ON_DEMAND), unreadable), encoded] {
        let answer = send(daemon.address(), asked).await;
        refused(&answer, 400, "ValidationException");
        let record = daemon.record_of(&answer).await;
        assert_eq!((record["outcome"].as_str(), record["attempts"].as_u64()), (Some("refused"), Some(0)), "{record}");
    }
    assert!(received(&bedrock, "Converse").is_empty());
}

#[tokio::test]
async fn a_guardrail_that_the_configuration_maps_is_replaced_wherever_it_stands() {
    let bedrock = bedrock().await;
    let map = format!("[guardrails]\n\"{GOV}\" = \"{COMMERCIAL}\"\n\"gov2\" = \"com2\"");
    let daemon = Setup::tls(&bedrock).with(&map).ready().await;
    for (asked, commercial) in [(GOV, COMMERCIAL), ("gov2", "com2"), (COMMERCIAL, COMMERCIAL), ("com2", "com2")] {
        let through = sent(&bedrock, &daemon, asked).await;
        assert!(through.iter().all(|(status, arrived)| *status == 200 && arrived.len() == 1), "{through:?}");
        // What the same app would have sent with commercial names, to the byte.
        assert_eq!(through, sent(&bedrock, &daemon, commercial).await, "{asked}");
        let all = format!("{through:?}");
        assert!(!all.contains("gov2"), "{all}");
        assert_eq!(
            all.matches(COMMERCIAL.rsplit('/').next().unwrap()).count(),
            if commercial == COMMERCIAL { 5 } else { 0 }
        );
    }
}

#[tokio::test]
async fn other_resources_of_govcloud_are_refused_and_prompts_are_not_read() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    bedrock.clear();
    let job = format!("/async-invoke/{}", encoded("arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:async-invoke/x"));
    let output = format!(
        r#"{{"modelId":"{ON_DEMAND}","modelInput":{{}},"outputDataConfig":{{"s3OutputDataConfig":{{"s3Uri":"s3://b","kmsKeyId":"arn:aws-us-gov:kms:us-gov-west-1:1:key/k"}}}}}}"#
    );
    let project = r#"{"projectIdentifier":"arn:aws-us-gov:bedrock:us-gov-west-1:1:project/p","prompt":"hello"}"#;
    for asked in [
        request(Method::GET, &job, ""),
        request(Method::POST, "/async-invoke", output),
        request(Method::POST, &format!("/model/{ON_DEMAND}/invoke"), project),
    ] {
        let answer = send(daemon.address(), asked).await;
        assert!(refused(&answer, 400, "ValidationException").contains("GovCloud account"), "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");
    }
    assert_eq!(bedrock.requests().len(), 0);
    let prompt = format!("what is {GOV}, and arn:aws-us-gov:kms:us-gov-west-1:1:key/k?");
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse(&prompt)).await.status, 200);
}

#[tokio::test]
async fn a_guardrail_of_govcloud_as_a_target_is_a_mistake_in_the_configuration() {
    let output = Setup::alone().with(&format!("[guardrails]\n\"gov1\" = \"{GOV}\"")).command(&["check"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("no guardrail of the commercial account"), "{said}");
}
