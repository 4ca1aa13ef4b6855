//! Budgets in US dollars.

use serde_json::json;
use test_support::*;

use super::{bounded, host, limited, throttled};

#[tokio::test]
async fn budgets_warn_once_and_then_refuse() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    let prices = setup.path().join("prices.toml");
    std::fs::write(&prices, "[[prices]]\nmodel = \"amazon.*\"\ninput = 1000.0\noutput = 1000.0\n").unwrap();
    let daemon = setup
        .with(&format!("[limits]\nprices_file = \"{}\"\nusd_per_day = 1.00\nusd_per_month = 50", prices.display()))
        .ready()
        .await;
    let path = converse_path(ON_DEMAND);
    let warnings = || {
        let lines = daemon.lines();
        lines.into_iter().filter(|line| line["level"] == "WARN" && line["budget_usd"].is_string()).collect::<Vec<_>>()
    };
    // 2 tokens in, 100 out: 10.2 cents each.
    for number in 1..=9 {
        assert_eq!(daemon.post(&path, bounded("events 100", 100)).await.status, 200);
        let spent = host(&daemon).await["nanoUsdToday"].as_u64().unwrap();
        assert_eq!(spent, number * 102_000_000);
        if number == 7 {
            assert_eq!(warnings().len(), 0);
        }
    }
    let (sentence, _) = throttled(&daemon.post(&path, bounded("events 100", 100)).await);
    assert!(sentence.contains("this host has used up usd_per_day = 1.00;"), "{sentence}");
    assert_eq!(limited(&daemon, "usd_per_day", "host").await, 1.0);
    until("the warning", || Some(()).filter(|()| !warnings().is_empty())).await;
    let warning = warnings();
    assert_eq!(warning.len(), 1, "{warning:?}");
    assert_eq!((&warning[0]["limit"], &warning[0]["spent_usd"]), (&json!("usd_per_day"), &json!("0.816")));
    // A model without a price spends nothing, and passes.
    let free = converse_path("anthropic.claude-3-haiku-20240307-v1:0");
    assert_eq!(daemon.post(&free, bounded("events 100", 100)).await.status, 200);
    // More money by reload.
    daemon.reload("usd_per_day = 1.00", "usd_per_day = 2.00").await;
    assert_eq!(daemon.post(&path, bounded("events 100", 100)).await.status, 200);
    assert_eq!(host(&daemon).await["nanoUsdToday"], 1_020_000_000u64);
}
