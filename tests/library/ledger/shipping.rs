//! From the ledger into DynamoDB, through whatever DynamoDB does meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, CreateGlobalSecondaryIndexAction, DeleteGlobalSecondaryIndexAction,
    GlobalSecondaryIndexUpdate, IndexStatus, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType,
};
use bedrock_sidecar::config::OnFailure;
use bedrock_sidecar::ledger::Ledger;
use bedrock_sidecar::record::Record;
use bedrock_sidecar::settings;

use test_support::dynamodb::{self, Fault, Proxy, create_table};
use test_support::{eventually, until_async};

use super::child;
use super::kit::{self, record, serve};

const KEYS: [&str; 2] = ["requestId", "timestamp"];

struct Scene {
    directory: tempfile::TempDir,
    settings: settings::Audit,
    proxy: Proxy,
}

impl Scene {
    async fn new(table: &str) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let settings = kit::in_table(directory.path(), table);
        Scene { directory, settings, proxy: Proxy::start().await }
    }

    async fn start(&self) -> Arc<Ledger> {
        Ledger::start_with(&self.settings, Some(self.proxy.client())).await.unwrap()
    }

    /// The table holds what the ledger holds, attribute by attribute, and nothing else.
    async fn assert_shipped(&self, table: &str, count: usize) {
        let shipped = dynamodb::items(&dynamodb::local(), table).await;
        let stored = kit::items(self.directory.path());
        assert_eq!((shipped.len(), stored.len()), (count, count));
        for item in stored {
            let mut there = shipped[item["requestId"].as_str().unwrap()].clone();
            assert_eq!(there.as_object_mut().unwrap().remove("chainHash").unwrap().as_str().unwrap().len(), 64);
            assert_eq!(there, item);
        }
    }
}

async fn serve_all(audit: &Ledger, numbers: std::ops::Range<u64>) {
    for number in numbers {
        serve(audit, &record(number)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_shapes_of_table_hold_every_item_and_nothing_is_sent_twice_after_a_restart() {
    for (table, keys) in [("both-keys", &KEYS[..]), ("hash-only", &KEYS[..1])] {
        create_table(table, keys).await;
        let scene = Scene::new(table).await;
        let audit = scene.start().await;
        serve_all(&audit, 0..120).await;
        eventually("all is shipped", || audit.status().shipped_total == 120).await;
        audit.stop(kit::far()).await;
        let status = audit.status();
        assert_eq!((status.pending, status.bytes, status.failures_total), (0, 0, 0), "{status:?}");
        assert_eq!(status.table_reachable, Some(true));
        drop(audit);
        scene.assert_shipped(table, 120).await;

        let batches = scene.proxy.batches.load(Ordering::SeqCst);
        let audit = scene.start().await;
        serve_all(&audit, 120..121).await;
        audit.stop(kit::far()).await;
        drop(audit);
        assert_eq!(scene.proxy.batches.load(Ordering::SeqCst), batches + 1);
        scene.assert_shipped(table, 121).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_delays_and_none_loses() {
    let faults = [Fault::Gone, Fault::Throttled, Fault::ServerError, Fault::Half, Fault::Expired, Fault::Denied];
    for outage in faults.map(|fault| tokio::spawn(outage(fault))) {
        outage.await.unwrap();
    }
}

async fn outage(fault: Fault) {
    let table = format!("fault-{fault:?}");
    create_table(&table, &KEYS).await;
    let scene = Scene::new(&table).await;
    scene.proxy.set(fault);
    let audit = scene.start().await;
    serve_all(&audit, 0..200).await;
    eventually("the fault is met", || scene.proxy.faults.load(Ordering::SeqCst) >= 5).await;
    eventually("the fault is told", || audit.status().last_error.is_some_and(|sentence| sentence.contains(&table)))
        .await;
    let status = audit.status();
    assert!(status.failures_total > 0);
    if fault != Fault::Half {
        assert_eq!(status.pending, 200, "{fault:?}");
    }
    // Half-way through the outage the daemon is restarted.
    drop(audit);
    let audit = scene.start().await;
    serve_all(&audit, 200..260).await;
    scene.proxy.set(Fault::None);
    eventually("the backlog is gone", || audit.status().pending == 0).await;
    assert_eq!(audit.status().last_error, None, "{fault:?}");
    audit.stop(kit::far()).await;
    drop(audit);
    scene.assert_shipped(&table, 260).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_missing_is_named_and_filled_when_it_appears() {
    let scene = Scene::new("late-table").await;
    let audit = scene.start().await;
    serve_all(&audit, 0..30).await;
    eventually("the table is missed", || audit.status().table_reachable == Some(false)).await;
    let sentence = audit.status().last_error.unwrap();
    assert!(sentence.contains("the table late-table does not exist"), "{sentence}");
    create_table("late-table", &KEYS).await;
    eventually("the backlog is gone", || audit.status().pending == 0).await;
    scene.assert_shipped("late-table", 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_table_never_takes_is_set_aside_and_the_rest_arrives() {
    create_table("poison", &KEYS).await;
    let scene = Scene::new("poison").await;
    scene.proxy.set(Fault::Gone);
    let audit = scene.start().await;
    serve_all(&audit, 0..20).await;
    // An empty key is no key to DynamoDB.
    serve(&audit, &Record { request_id: String::new(), ..record(20) }).await;
    serve_all(&audit, 21..60).await;
    scene.proxy.set(Fault::None);
    eventually("the backlog is gone", || audit.status().pending == 0).await;
    let status = audit.status();
    assert_eq!((status.set_aside, status.shipped_total), (1, 59), "{status:?}");
    assert_eq!(dynamodb::items(&dynamodb::local(), "poison").await.len(), 59);
    drop(audit);
    let audit = scene.start().await;
    assert_eq!((audit.status().set_aside, audit.status().pending), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_hold_records_stops_shipping_until_it_is_gone() {
    let client = create_table("wrong-index", &KEYS).await;
    add_index(&client, "wrong-index", "modelId", ScalarAttributeType::N).await;
    let scene = Scene::new("wrong-index").await;
    let audit = scene.start().await;
    serve_all(&audit, 0..30).await;
    eventually("the index is blamed", || {
        audit.status().last_error.is_some_and(|sentence| sentence.contains("an index of the table wrong-index"))
    })
    .await;
    assert_eq!((audit.status().set_aside, audit.status().pending), (0, 30));
    assert_eq!(audit.status().table_reachable, Some(false));
    let delete = DeleteGlobalSecondaryIndexAction::builder().index_name("by-modelId").build().unwrap();
    let update = GlobalSecondaryIndexUpdate::builder().delete(delete).build();
    client.update_table().table_name("wrong-index").global_secondary_index_updates(update).send().await.unwrap();
    eventually("the backlog is gone", || audit.status().pending == 0).await;
    assert_eq!(audit.status().set_aside, 0);
    scene.assert_shipped("wrong-index", 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_by_model_takes_records_without_a_model() {
    let client = create_table("by-model", &KEYS).await;
    add_index(&client, "by-model", "modelId", ScalarAttributeType::S).await;
    let scene = Scene::new("by-model").await;
    let audit = scene.start().await;
    serve_all(&audit, 0..5).await;
    serve(&audit, &Record { model_id: String::new(), ..record(5) }).await;
    eventually("the backlog is gone", || audit.status().pending == 0).await;
    assert_eq!(audit.status().set_aside, 0);
    scene.assert_shipped("by-model", 6).await;
}

async fn add_index(client: &Client, table: &str, key: &str, kind: ScalarAttributeType) {
    let attribute = AttributeDefinition::builder().attribute_name(key).attribute_type(kind).build().unwrap();
    let create = CreateGlobalSecondaryIndexAction::builder()
        .index_name(format!("by-{key}"))
        .key_schema(KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash).build().unwrap())
        .projection(Projection::builder().projection_type(ProjectionType::All).build())
        .build()
        .unwrap();
    let update = GlobalSecondaryIndexUpdate::builder().create(create).build();
    client
        .update_table()
        .table_name(table)
        .attribute_definitions(attribute)
        .global_secondary_index_updates(update)
        .send()
        .await
        .unwrap();
    until_async("the index to be there", || async {
        let described = client.describe_table().table_name(table).send().await.ok()?;
        let index = described.table()?.global_secondary_indexes().first()?;
        (index.index_status() == Some(&IndexStatus::Active)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_set_aside_while_it_is_not_known_who_is_at_fault() {
    create_table("confused", &KEYS).await;
    let scene = Scene::new("confused").await;
    scene.proxy.set(Fault::Confused);
    let audit = scene.start().await;
    serve_all(&audit, 0..3).await;
    eventually("the table was described", || scene.proxy.faults.load(Ordering::SeqCst) >= 8).await;
    assert_eq!(audit.status().set_aside, 0);
    scene.proxy.set(Fault::None);
    eventually("the backlog is gone", || audit.status().pending == 0).await;
    scene.assert_shipped("confused", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_aside_outlives_pruning_by_size_is_listed_and_sent_again_when_asked() {
    create_table("set-aside", &KEYS).await;
    let mut scene = Scene::new("set-aside").await;
    scene.proxy.set(Fault::TooLarge);
    let audit = scene.start().await;
    serve_all(&audit, 0..3).await;
    eventually("they are set aside", || audit.status().set_aside == 3).await;
    assert_eq!(audit.status().pending, 0);
    scene.proxy.set(Fault::None);
    serve_all(&audit, 3..40).await;
    audit.stop(kit::far()).await;
    drop(audit);

    // The start prunes. The table refuses them still.
    scene.settings.max_ledger_bytes = 2_000;
    scene.proxy.set(Fault::TooLarge);
    let sent = scene.proxy.faults.load(Ordering::SeqCst);
    let audit = scene.start().await;
    audit.flush().await;
    assert_eq!(kit::items(scene.directory.path()).len(), 40);
    let audit_command = |words: &str| child::audit(scene.directory.path(), None, words).1;
    let listed = audit_command("list --set-aside --format jsonl");
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(listed.lines().all(|line| line.contains("\"setAside\":\"") && line.contains("Item size has exceeded")));
    assert!(audit_command("list --set-aside").contains("Item size has exceeded"));
    let csv = audit_command("list --set-aside --format csv");
    assert!(csv.lines().next().unwrap().ends_with(",setAside") && csv.contains("Item size has exceeded"), "{csv}");

    // Together, and then each alone.
    eventually("the start's attempt has failed", || scene.proxy.faults.load(Ordering::SeqCst) >= sent + 4).await;
    eventually("they are set aside again", || audit.status().set_aside == 3).await;
    scene.proxy.set(Fault::None);
    assert!(audit_command("retry").starts_with("3 records"));
    eventually("the table takes them", || audit.status().set_aside == 0).await;
    scene.assert_shipped("set-aside", 40).await;
    assert_eq!(audit_command("retry"), "no record is set aside\n");
    drop(audit);
    // Nothing keeps them now.
    let audit = scene.start().await;
    audit.flush().await;
    assert!(kit::items(scene.directory.path()).len() < 4);
    assert!(child::audit(scene.directory.path(), None, "verify").0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_other_keys_costs_no_record() {
    create_table("other-keys", &["id"]).await;
    let scene = Scene::new("other-keys").await;
    let audit = scene.start().await;
    serve_all(&audit, 0..30).await;
    eventually("the table is refused", || audit.status().last_error.is_some()).await;
    let sentence = audit.status().last_error.unwrap();
    assert!(sentence.contains("keyed on id (HASH), and has to be keyed on requestId"), "{sentence}");
    assert_eq!((audit.status().set_aside, audit.status().pending), (0, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_fill_one_table() {
    create_table("two-hosts", &KEYS).await;
    let (one, two) = (Scene::new("two-hosts").await, Scene::new("two-hosts").await);
    let (first, second) = (one.start().await, two.start().await);
    for number in 0..150 {
        serve(&first, &record(number)).await;
        serve(&second, &record(number)).await;
    }
    first.stop(kit::far()).await;
    second.stop(kit::far()).await;
    let shipped = dynamodb::items(&dynamodb::local(), "two-hosts").await;
    assert_eq!(shipped.len(), 300);
    for scene in [&one, &two] {
        for item in kit::items(scene.directory.path()) {
            assert_eq!(shipped[item["requestId"].as_str().unwrap()]["chainId"], item["chainId"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_bound_the_ledger_refuses_and_takes_records_again_when_the_table_is_back() {
    create_table("bound", &KEYS).await;
    let mut scene = Scene::new("bound").await;
    scene.settings.max_ledger_bytes = 100_000;
    scene.proxy.set(Fault::Throttled);
    let audit = scene.start().await;
    let mut served = 0;
    let refusal = loop {
        let record = record(served);
        match audit.open(&record).await {
            Ok(opened) => audit.close(opened, &kit::completed(&record)),
            Err(refusal) => break refusal,
        }
        served += 1;
        assert!(served < 1000);
    };
    assert_eq!(refusal.kind.status(), 503);
    assert!(refusal.message.contains("audit.max_ledger_bytes is 100000"), "{}", refusal.message);
    assert!(!audit.status().ledger_writable);
    scene.proxy.set(Fault::None);
    eventually("the ledger takes records again", || audit.status().ledger_writable).await;
    serve(&audit, &record(served)).await;
    eventually("the backlog is gone", || audit.status().pending == 0).await;
    scene.assert_shipped("bound", usize::try_from(served).unwrap() + 1).await;

    // Where the admin wants requests served anyway, they are, and each is counted.
    let allow = settings::Audit { on_failure: OnFailure::Allow, ..scene.settings.clone() };
    audit.apply(&allow);
    scene.proxy.set(Fault::Gone);
    serve_all(&audit, 0..served + 40).await;
    let status = audit.status();
    assert!(status.unrecorded_total >= 40, "{status:?}");
    scene.proxy.set(Fault::None);
    eventually("the backlog is gone", || audit.status().pending == 0).await;
    let all = served + 1 + served + 40 - audit.status().unrecorded_total;
    assert_eq!(dynamodb::items(&dynamodb::local(), "bound").await.len() as u64, all);
}
