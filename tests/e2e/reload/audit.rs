//! `[audit]` follows a reload, as far as it can.

use test_support::*;

use super::ask;

#[tokio::test]
async fn the_bound_of_the_ledger_follows_at_once_and_durability_at_the_next_restart() {
    let bedrock = bedrock().await;
    let (wide, narrow) = ("max_ledger_bytes = 4000000", "max_ledger_bytes = 4000\ndurability = \"disk\"");
    let daemon =
        Setup::plain(&bedrock).with(&format!("[audit]\ntable = \"\"\non_full = \"deny\"\n{wide}")).ready().await;
    let bound = async || metric(&daemon.metrics().await, "bedrock_sidecar_audit_ledger_max_bytes");
    assert_eq!(bound().await, Some(4_000_000.0));

    daemon.reload(wide, narrow).await;
    assert_eq!(bound().await, Some(4_000.0));
    let later = "audit.state_dir, audit.durability, audit.table and audit.region change at the next restart";
    assert_eq!(daemon.says(later).await["level"], "WARN");
    let full = until_async("a ledger that is full", || async {
        let answer = send(daemon.address(), ask("until it is full")).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    let sentence = refused(&full, 503, "ServiceUnavailableException");
    assert!(sentence.contains("audit.max_ledger_bytes is 4000"), "{sentence}");

    daemon.reload(narrow, wide).await;
    let answer = send(daemon.address(), ask("there is room again")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
}
