//! DynamoDB away, and a ledger that is full.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use http::Method;
use serde_json::json;
use test_support::dynamodb::{Fault, Proxy};
use test_support::*;

use super::{Scene, id_of, ledger, says, shipped, stopped};

#[tokio::test(flavor = "multi_thread")]
async fn with_dynamodb_away_requests_are_served_and_the_backlog_arrives_when_it_is_back() {
    let bedrock = bedrock().await;
    let proxy = Proxy::start().await;
    let scene = Scene::new("e2e-away").await.through(&proxy);
    proxy.set(Fault::Gone);
    let daemon = scene.setup(&bedrock, "", "").ready().await;
    let mut client = Http1::to(daemon.address()).await;
    let mut answers = BTreeMap::new();
    for number in 0..300 {
        let body = padded(&converse("hello"), 200 + number);
        let answer = client.send(request(Method::POST, &converse_path(ON_DEMAND), body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answers.insert(id_of(&answer), 200 + number);
    }
    until_async("an attempt to fail", || async {
        let ledger = ledger(&daemon).await;
        (ledger["tableReachable"] == false && ledger["pending"].as_u64() > Some(300)).then_some(())
    })
    .await;
    assert!(ledger(&daemon).await["lastError"].is_string(), "what does not work is said");
    assert_eq!(
        daemon.admin_get("/ready").await.status,
        200,
        "a table that is away does not keep requests from being served"
    );
    assert!(metric(&daemon.metrics().await, "bedrock_sidecar_audit_failures_total").unwrap() >= 1.0);
    assert!(proxy.faults.load(Ordering::SeqCst) >= 1);
    assert!(scene.items().await.is_empty());
    // A restart amid the outage loses nothing either.
    stopped(daemon).await;
    let daemon = scene.setup(&bedrock, "", "").ready().await;
    assert!(ledger(&daemon).await["pending"].as_u64() > Some(300));
    proxy.set(Fault::None);
    shipped(&daemon).await;
    let items = scene.items().await;
    assert_eq!(items.len(), 300);
    for (id, length) in answers {
        says(&items[&id], json!({ "requestSize": length, "outcome": "completed", "statusCode": 200 }));
    }
    let page = daemon.metrics().await;
    assert_eq!(metric(&page, "bedrock_sidecar_audit_shipped_total"), Some(scene.all_items().await.len() as f64));
    let status = ledger(&daemon).await;
    says(&status, json!({ "lastError": null, "tableReachable": true, "setAside": 0, "unrecorded": 0, "bytes": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_ledger_denies_or_allows_as_on_failure_says_and_recovers() {
    let bedrock = bedrock().await;
    for (policy, table) in [("deny", "e2e-full-deny"), ("allow", "e2e-full-allow")] {
        let proxy = Proxy::start().await;
        let scene = Scene::new(table).await.through(&proxy);
        proxy.set(Fault::Gone);
        let audit = format!("max_ledger_bytes = 4000\non_failure = \"{policy}\"");
        let daemon = scene.setup(&bedrock, &audit, "").ready().await;
        let path = converse_path(ON_DEMAND);
        let ask = || daemon.post(&path, converse("hello"));
        let mut recorded = BTreeSet::new();
        while ledger(&daemon).await["bytes"].as_u64().unwrap() < 4000 {
            let answer = ask().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            recorded.insert(id_of(&answer));
            assert!(recorded.len() < 20, "the bound is not kept");
        }
        bedrock.clear();
        let answer = ask().await;
        if policy == "deny" {
            let sentence = refused(&answer, 503, "ServiceUnavailableException");
            for word in ["cannot be recorded", "audit.max_ledger_bytes is 4000", table] {
                assert!(sentence.contains(word), "{sentence}");
            }
            assert!(answer.header("retry-after").is_some());
            assert!(received(&bedrock, "Converse").is_empty(), "what is refused is not sent");
            let ready = daemon.admin_get("/ready").await;
            assert_eq!(ready.status, 503);
            assert!(ready.text().contains("max_ledger_bytes"), "{ready:?}");
        } else {
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(received(&bedrock, "Converse").len(), 1);
        }
        let page = daemon.metrics().await;
        let unrecorded = metric(&page, "bedrock_sidecar_audit_unrecorded_total").unwrap();
        // A refusal that cannot be recorded either is counted, not forgotten.
        assert_eq!(unrecorded, 1.0, "{policy}");
        until("it to be said loudly", || daemon.log_text().contains("max_ledger_bytes").then_some(())).await;

        proxy.set(Fault::None);
        shipped(&daemon).await;
        let items = scene.items().await;
        assert_eq!(items.keys().cloned().collect::<BTreeSet<_>>(), recorded, "the oldest are not dropped");
        daemon.until_ready().await;
        let answer = ask().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        shipped(&daemon).await;
        assert!(scene.items().await.contains_key(&id_of(&answer)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_table_a_full_ledger_goes_on_serving_unless_it_shall_deny() {
    let bedrock = bedrock().await;
    for (line, serves) in [("", true), ("on_full = \"deny\"", false)] {
        let state = tempfile::tempdir().unwrap();
        let audit = format!(
            "[audit]\ntable = \"\"\nstate_dir = \"{}\"\nmax_ledger_bytes = 20000\n{line}\n",
            state.path().display()
        );
        let daemon = Setup::plain(&bedrock).with(&audit).ready().await;
        let mut statuses = BTreeSet::new();
        daemon.has_said_all().await;
        assert_eq!(daemon.log_text().contains("its oldest records are deleted"), serves, "it is said at the start");
        for _ in 0..100 {
            statuses.insert(daemon.post(&converse_path(ON_DEMAND), converse("hello")).await.status);
        }
        let expected: &[u16] = if serves { &[200] } else { &[200, 503] };
        assert!(statuses.iter().eq(expected), "{line}: {statuses:?}");
        let page = daemon.metrics().await;
        assert_eq!(metric(&page, "bedrock_sidecar_audit_ledger_max_bytes"), Some(20_000.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refused_requests_keeps_nobody_from_being_served() {
    let bedrock = bedrock().await;
    let state = tempfile::tempdir().unwrap();
    let audit = format!(
        "[audit]\ntable = \"\"\non_full = \"deny\"\nstate_dir = \"{}\"\nmax_ledger_bytes = 100000\n",
        state.path().display()
    );
    let daemon = Setup::plain(&bedrock).with(&audit).ready().await;
    for _ in 0..500 {
        refused(&daemon.get("/no/such/operation").await, 404, "UnknownOperationException");
    }
    let page = daemon.metrics().await;
    assert_eq!(metric(&page, "bedrock_sidecar_audit_refusals_coalesced_total"), Some(469.0));
    assert_eq!(metric(&page, "bedrock_sidecar_audit_unrecorded_total"), Some(0.0));
    assert!(metric(&page, "bedrock_sidecar_audit_ledger_bytes").unwrap() < 50_000.0);
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // It is said once, when the minute is over.
    let flood =
        |line: &serde_json::Value| line["message"].as_str().unwrap_or_default().contains("many requests are refused");
    let said = || daemon.lines().into_iter().filter(flood).collect::<Vec<_>>();
    let minute = tokio::time::timeout(2 * DEADLINE, async {
        while said().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    minute.await.expect("a warning");
    assert_eq!((said().len(), &said()[0]["refusals"], &said()[0]["level"]), (1, &json!(469), &json!("WARN")));
    stopped(daemon).await;
}
