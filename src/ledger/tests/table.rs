//! A DynamoDB table in memory that fails when it is told to, and remembers what it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use serde_json::{Value, json};

#[derive(Debug, Default)]
pub(super) struct TestTable(Mutex<State>);

#[derive(Debug, Default)]
pub(super) struct State {
    /// What it has, by request id.
    pub(super) items: BTreeMap<String, Value>,
    /// So many calls fail from now on, in turn in these ways: before they have an effect, after it, by half.
    pub(super) failing: u32,
    /// Items whose request size can be divided by this are refused for what they are.
    pub(super) poison: Option<u64>,
    /// The requests whose items were sent alone and refused.
    pub(super) refused: BTreeSet<String>,
    /// An item was replaced by another: both.
    pub(super) replaced: Vec<(Value, Value)>,
}

impl TestTable {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

/// The network between one process and the table.
#[derive(Debug, Clone)]
pub(super) struct Network {
    table: Arc<TestTable>,
    is_cut: Arc<AtomicBool>,
}

impl Network {
    pub(super) fn to(table: &Arc<TestTable>) -> Network {
        Network { table: table.clone(), is_cut: Arc::default() }
    }

    /// Nothing of that process arrives any more.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, SeqCst);
        // A call that is being answered has its effect before this returns.
        drop(self.table.state());
    }

    pub(super) fn client(&self) -> Client {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-gov-west-1"))
            .credentials_provider(Credentials::new("AKIA", "secret", None, None, "test"))
            .retry_config(RetryConfig::disabled())
            .http_client(self.clone())
            .build();
        Client::from_conf(config)
    }

    fn answer(&self, request: &HttpRequest) -> (u16, Value) {
        let mut state = self.table.state();
        if self.is_cut.load(SeqCst) {
            return failure("InternalServerError", "cut", 500);
        }
        let body: Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
        let operation = request.headers().get("x-amz-target").unwrap().rsplit_once('.').unwrap().1;
        match operation {
            "DescribeTable" => (200, described()),
            "BatchWriteItem" => state.write(&body),
            "PutItem" => state.put(&body),
            other => panic!("{other}"),
        }
    }
}

impl State {
    fn write(&mut self, body: &Value) -> (u16, Value) {
        let (table, requests) = body["RequestItems"].as_object().unwrap().iter().next().unwrap();
        let mut requests = requests.as_array().unwrap().clone();
        if requests.iter().any(|request| self.refuses(&request["PutRequest"]["Item"])) {
            if let [request] = &requests[..] {
                self.refused.insert(id_of(&request["PutRequest"]["Item"]));
            }
            return failure("ValidationException", "One of the values is of no use", 400);
        }
        let fault = self.fault();
        let left = if fault == Some(2) { requests.split_off(requests.len() / 2) } else { Vec::new() };
        if fault == Some(0) {
            return failure("InternalServerError", "before", 500);
        }
        for request in &requests {
            self.store(&request["PutRequest"]["Item"]);
        }
        match fault {
            Some(1) => failure("InternalServerError", "after", 500),
            Some(_) if !left.is_empty() => (200, json!({ "UnprocessedItems": { table: left } })),
            _ => (200, json!({ "UnprocessedItems": {} })),
        }
    }

    fn put(&mut self, body: &Value) -> (u16, Value) {
        let item = &body["Item"];
        if self.refuses(item) {
            self.refused.insert(id_of(item));
            return failure("ValidationException", "One of the values is of no use", 400);
        }
        let fault = self.fault();
        if fault == Some(0) {
            return failure("InternalServerError", "before", 500);
        }
        let is_there = self.items.contains_key(&id_of(item));
        if is_there && body["ConditionExpression"] == "attribute_not_exists(requestId)" {
            return failure("ConditionalCheckFailedException", "The conditional request failed", 400);
        }
        self.store(item);
        if fault == Some(1) { failure("InternalServerError", "after", 500) } else { (200, json!({})) }
    }

    fn fault(&mut self) -> Option<u32> {
        self.failing = self.failing.checked_sub(1)?;
        Some(self.failing % 3)
    }

    fn refuses(&self, item: &Value) -> bool {
        let size: u64 = item["requestSize"]["N"].as_str().unwrap().parse().unwrap();
        self.poison.is_some_and(|poison| size.is_multiple_of(poison))
    }

    fn store(&mut self, item: &Value) {
        let plain = |value: &Value| {
            let number = value.get("N").map(|number| serde_json::from_str(number.as_str().unwrap()).unwrap());
            number.or(value.get("S").cloned()).or(value.get("BOOL").cloned()).unwrap()
        };
        let item: Value = item
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let id = item["requestId"].as_str().unwrap().to_owned();
        if let Some(before) = self.items.insert(id, item.clone())
            && before != item
        {
            self.replaced.push((before, item));
        }
    }
}

fn id_of(item: &Value) -> String {
    item["requestId"]["S"].as_str().unwrap().to_owned()
}

fn failure(code: &str, message: &str, status: u16) -> (u16, Value) {
    (status, json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": message }))
}

fn described() -> Value {
    json!({ "Table": {
        "AttributeDefinitions": [{ "AttributeName": "requestId", "AttributeType": "S" }],
        "KeySchema": [{ "AttributeName": "requestId", "KeyType": "HASH" }],
    } })
}

impl HttpConnector for Network {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (status, body) = self.answer(&request);
        HttpConnectorFuture::ready(Ok(HttpResponse::new(status.try_into().unwrap(), body.to_string().into())))
    }
}

impl HttpClient for Network {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}
