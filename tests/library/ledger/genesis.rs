//! How a chain begins: what it says of the chain before it, and what `audit verify` makes of a ledger that was removed.

use std::path::Path;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::record::Record;
use bedrock_sidecar::settings;
use serde_json::Value;

use super::child;
use super::kit::{self, delete, in_table, record, serve};
use test_support::dynamodb::{self, Proxy, create_table};
use test_support::{eventually, until_async};

/// What the daemon's own records have in common.
fn own() -> Record {
    Record { destination_region: "us-east-1".into(), source_ip: "bedrock-sidecar".into(), ..Record::default() }
}

/// A ledger that says how its chain begins, serves requests, and ends.
async fn served(settings: &settings::Audit, client: Client, requests: u64) {
    let audit = Ledger::start_with(settings, Some(client)).await.unwrap();
    audit.begin_chain(&own());
    let directory = settings.state_dir.clone().unwrap();
    // The table has answered.
    eventually("the beginning is told", || !directory.join("genesis.json").exists()).await;
    for number in 0..requests {
        serve(&audit, &record(number)).await;
    }
    audit.stop(kit::far()).await;
}

fn starts(directory: &Path) -> Vec<Value> {
    kit::items(directory).into_iter().filter(|item| item["operation"] == "LedgerStart").collect()
}

fn says(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["formerChain"].as_str().unwrap()).collect()
}

fn remove(directory: &Path) {
    std::fs::remove_dir_all(directory).unwrap();
    std::fs::create_dir(directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_ledger_says_that_it_is_the_first_and_verifies_clean() {
    create_table("genesis-first", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = in_table(directory.path(), "genesis-first");
    served(&settings, dynamodb::local(), 5).await;
    let items = kit::items(directory.path());
    assert_eq!(items[0]["operation"], "LedgerStart", "it is the first record: {items:#?}");
    assert_eq!(says(&starts(directory.path())), ["searching", "none"]);
    for command in ["verify", "verify --source dynamodb"] {
        let (whole, report) = child::audit(directory.path(), Some("genesis-first"), command);
        assert!(whole && report.contains("is the first of its host"), "{report}");
    }
    // A second start of the same ledger has nothing to say.
    served(&settings, dynamodb::local(), 1).await;
    assert_eq!(starts(directory.path()).len(), 2);
    // They are no requests.
    let (_, listed) = child::audit(directory.path(), None, "list --partition commercial --format jsonl");
    assert_eq!(listed.lines().count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_removed_is_named_by_the_one_in_its_place() {
    let client = create_table("genesis-removed", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = in_table(directory.path(), "genesis-removed");
    served(&settings, dynamodb::local(), 10).await;
    let former = kit::items(directory.path());
    let last = former.last().unwrap().clone();
    remove(directory.path());
    served(&settings, dynamodb::local(), 3).await;

    let told = starts(directory.path());
    assert_eq!(says(&told), ["searching", "found"]);
    let named = |name: &str| &told[1][name];
    assert_eq!((named("formerChainId"), named("formerChainSeq")), (&last["chainId"], &last["chainSeq"]));
    assert_eq!(named("formerChainTtl"), &last["ttl"]);
    let verify = |words: &str| child::audit(directory.path(), Some("genesis-removed"), words);
    let (whole, report) = verify("verify --source dynamodb");
    assert!(whole && report.contains("continues after record 12 of chain"), "{report}");
    let (whole, report) = verify("verify");
    assert!(whole && report.contains("which is not here"), "{report}");

    // The end of the former chain goes from the table.
    let of_table = |item: &Value| AttributeValue::S(item["requestId"].as_str().unwrap().to_owned());
    let items = client.scan().table_name("genesis-removed").send().await.unwrap().items.unwrap();
    let last_item = items.iter().find(|item| item["requestId"] == of_table(&last)).unwrap().clone();
    delete(&client, "genesis-removed", &last).await;
    let (whole, report) = verify("verify --source dynamodb");
    assert!(!whole && report.contains("MISSING   record 12 "), "{report}");

    // It comes back, and another record behind it.
    let mut beyond = last_item.clone();
    beyond.insert("requestId".into(), AttributeValue::S("forged".into()));
    beyond.insert("chainSeq".into(), AttributeValue::N("13".into()));
    for item in [last_item, beyond] {
        client.put_item().table_name("genesis-removed").set_item(Some(item)).send().await.unwrap();
    }
    let (whole, report) = verify("verify --source dynamodb");
    assert!(!whole && report.contains("which goes on to record 13"), "{report}");

    // All of it goes.
    let page = client.scan().table_name("genesis-removed").send().await.unwrap();
    for item in page
        .items
        .unwrap()
        .iter()
        .filter(|item| item["chainId"] == AttributeValue::S(last["chainId"].as_str().unwrap().into()))
    {
        let request = client.delete_item().table_name("genesis-removed").key("requestId", item["requestId"].clone());
        request.key("timestamp", item["timestamp"].clone()).send().await.unwrap();
    }
    let (whole, report) = verify("verify --source dynamodb");
    assert!(!whole && report.contains("MISSING   record 12 "), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_removed_behind_the_table_s_back_is_a_gap() {
    create_table("genesis-gap", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = in_table(directory.path(), "genesis-gap");
    served(&settings, dynamodb::local(), 4).await;
    remove(directory.path());
    // The new ledger is begun without the table, which is named again afterwards.
    served(&kit::settings(directory.path()), dynamodb::local(), 4).await;
    assert_eq!(says(&starts(directory.path())), ["no_table"]);
    served(&settings, dynamodb::local(), 4).await;
    let (whole, report) = child::audit(directory.path(), Some("genesis-gap"), "verify --source dynamodb");
    assert!(!whole && report.contains("GAP       chain "), "{report}");
    assert!(report.contains("no chain says that it comes after it"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_an_older_version_is_no_finding() {
    create_table("genesis-older", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = in_table(directory.path(), "genesis-older");
    for _ in 0..2 {
        let audit = Ledger::start_with(&settings, Some(dynamodb::local())).await.unwrap();
        serve(&audit, &record(1)).await;
        audit.stop(kit::far()).await;
        drop(audit);
        let (whole, report) = child::audit(directory.path(), Some("genesis-older"), "verify --source dynamodb");
        assert!(whole && report.contains("begun by an older version"), "{report}");
        remove(directory.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_do_not_wait_for_a_table_that_does_not_answer_and_it_is_asked_until_it_does() {
    create_table("genesis-late", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = in_table(directory.path(), "genesis-late");
    served(&settings, dynamodb::local(), 4).await;
    remove(directory.path());
    let proxy = Proxy::start().await;
    proxy.set(dynamodb::Fault::Gone);
    let start = async || {
        let audit = Ledger::start_with(&settings, Some(proxy.client())).await.unwrap();
        audit.begin_chain(&own());
        audit
    };
    let audit = start().await;
    serve(&audit, &record(1)).await;
    audit.flush().await;
    assert_eq!(says(&starts(directory.path())), ["searching"]);
    audit.stop(tokio::time::Instant::now()).await;
    drop(audit);
    let (_, report) = child::audit(directory.path(), None, "verify");
    assert!(report.contains("is not proven: the table could not be searched"), "{report}");

    // Another process goes on asking.
    let audit = start().await;
    proxy.set(dynamodb::Fault::None);
    until_async("the former chain is named", || async {
        audit.flush().await;
        (says(&starts(directory.path())) == ["searching", "found"]).then_some(())
    })
    .await;
    audit.stop(kit::far()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_in_no_order_is_no_gap_in_a_ledger_that_was_removed() {
    let client = create_table("genesis-expired", &["requestId", "timestamp"]).await;
    for (retention, is_whole) in [(60, true), (30 * 86_400, false)] {
        let directory = tempfile::tempdir().unwrap();
        let settings = in_table(directory.path(), "genesis-expired");
        let former = settings::Audit { retention: Duration::from_secs(retention), ..settings.clone() };
        served(&former, dynamodb::local(), 5).await;
        let items = kit::items(directory.path());
        remove(directory.path());
        served(&settings, dynamodb::local(), 1).await;
        delete(&client, "genesis-expired", &items[4]).await;
        let (whole, report) = child::audit(directory.path(), Some("genesis-expired"), "verify --source dynamodb");
        assert_eq!(whole, is_whole, "{report}");
        let expected = if is_whole { "note: 1 records of chain" } else { "MISSING   record 5 " };
        assert!(report.contains(expected), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_a_window_is_not_missing() {
    create_table("genesis-window", &["requestId", "timestamp"]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = in_table(directory.path(), "genesis-window");
    let audit = Ledger::start_with(&settings, Some(dynamodb::local())).await.unwrap();
    audit.begin_chain(&own());
    eventually("the beginning is told", || !directory.path().join("genesis.json").exists()).await;
    let older = |number| Record { started_ms: record(number).started_ms - 7_200_000, ..record(number) };
    // One of them lies between newer ones, and the chain ends with one.
    for record in [older(1), record(2), older(3)] {
        serve(&audit, &record).await;
    }
    audit.stop(kit::far()).await;
    drop(audit);
    remove(directory.path());
    served(&settings, dynamodb::local(), 1).await;
    let verify = |words: &str| child::audit(directory.path(), Some("genesis-window"), words);
    for command in ["verify --source dynamodb --time-range 1h", "verify --source dynamodb"] {
        let (whole, report) = verify(command);
        assert!(whole && report.contains("continues after record 5 of chain"), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_chain_that_the_ledger_knows_is_said_to_expire_too() {
    let directory = tempfile::tempdir().unwrap();
    let settings = kit::settings(directory.path());
    let start = async || {
        let audit = Ledger::start_with(&settings, None).await.unwrap();
        audit.begin_chain(&own());
        serve(&audit, &record(1)).await;
        audit.stop(kit::far()).await;
    };
    start().await;
    std::fs::write(directory.path().join("running"), "another boot\n").unwrap();
    start().await;
    let told = starts(directory.path());
    assert_eq!(says(&told), ["no_table", "found"]);
    let (expiry, own_expiry) = (told[1]["formerChainTtl"].as_i64().unwrap(), told[1]["ttl"].as_i64().unwrap());
    assert!((own_expiry - 60..=own_expiry + 60).contains(&expiry), "{expiry} {own_expiry}");
}
