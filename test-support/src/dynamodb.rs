//! DynamoDB Local: one server for all tests of an executable, each of which makes tables under names of its own.

mod faults;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType,
};
use serde_json::Value;

pub use faults::{Fault, Proxy};

/// What tables are asked with; nothing may repeat it.
pub const SECRET_KEY: &str = "dynamodb-secret-CANARY";

/// The endpoint of the one DynamoDB Local of this process, which is started by the first that asks.
pub fn endpoint() -> String {
    format!("http://127.0.0.1:{}", port())
}

/// The environment in which the AWS SDKs of a child find the table at this endpoint, and nothing else.
pub fn environment(endpoint: &str) -> [(&'static str, String); 3] {
    [
        ("AWS_ENDPOINT_URL_DYNAMODB", endpoint.to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKIATEST".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
    ]
}

fn port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let setup = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/dynamodb-local");
        let output = Command::new(setup).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "DynamoDB Local cannot be had: see above");
        let home = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // The shell ends the server when the pipe to it closes, that is when this process ends, however it does.
        let script = format!(
            "cd '{home}'; java -Xmx512m -Djava.library.path=lib -cp 'lib/*' \
             com.amazonaws.services.dynamodbv2.local.main.ServerRunner -inMemory -port {port} -disableTelemetry \
             >server.log 2>&1 & child=$!; echo started; cat >/dev/null; kill $child"
        );
        #[expect(clippy::zombie_processes, reason = "it ends with this process, which reads its output to the end")]
        let mut shell =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        std::mem::forget(shell.stdin.take());
        for _ in 0..1800 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return port;
            }
            #[expect(clippy::disallowed_methods, reason = "no runtime runs yet")]
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("DynamoDB Local does not listen");
    })
}

/// A client of it.
pub fn local() -> Client {
    client(&endpoint())
}

/// A client of an endpoint on this host. It does not try again, so that tests see each failure.
pub fn client(endpoint: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("us-gov-west-1"))
        .credentials_provider(Credentials::new("AKIATEST", SECRET_KEY, None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

/// Creates a table keyed on `keys`, the first as HASH.
pub async fn create_table(name: &str, keys: &[&str]) -> Client {
    create(name, keys, None).await
}

/// Creates a table as packaging/aws does, with an index by time whose key is `hash`.
pub async fn create_indexed_table(name: &str, hash: &str) -> Client {
    create(name, &["requestId", "timestamp"], Some(hash)).await
}

async fn create(name: &str, keys: &[&str], hash: Option<&str>) -> Client {
    let client = tokio::task::spawn_blocking(local).await.unwrap();
    let mut create = client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    for key in keys.iter().copied().chain(hash) {
        let attribute = AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
        create = create.attribute_definitions(attribute.build().unwrap());
    }
    let schema = |keys: &[&str]| -> Vec<KeySchemaElement> {
        let element = |(key, kind): (&&str, KeyType)| {
            KeySchemaElement::builder().attribute_name(*key).key_type(kind).build().unwrap()
        };
        keys.iter().zip([KeyType::Hash, KeyType::Range]).map(element).collect()
    };
    create = create.set_key_schema(Some(schema(keys)));
    if let Some(hash) = hash {
        let index = GlobalSecondaryIndex::builder()
            .index_name("by-time")
            .set_key_schema(Some(schema(&[hash, "timestamp"])))
            .projection(Projection::builder().projection_type(ProjectionType::All).build());
        create = create.global_secondary_indexes(index.build().unwrap());
    }
    create.send().await.unwrap();
    client
}

/// Every item of a table, by its requestId; panics on two with one id.
pub async fn items(client: &Client, table: &str) -> BTreeMap<String, Value> {
    let mut items = BTreeMap::new();
    let mut from = None;
    loop {
        let page = client.scan().table_name(table).set_exclusive_start_key(from).send().await.unwrap();
        for item in page.items() {
            let item = json(item);
            let id = item["requestId"].as_str().unwrap().to_owned();
            assert!(items.insert(id, item).is_none(), "two items for one request");
        }
        from = page.last_evaluated_key().cloned();
        if from.is_none() {
            return items;
        }
    }
}

/// Numbers as they are written, so that a test sees what stands in the table.
fn json(item: &HashMap<String, AttributeValue>) -> Value {
    let field = |value: &AttributeValue| match value {
        AttributeValue::S(text) => Value::String(text.clone()),
        AttributeValue::N(number) => serde_json::from_str(number).unwrap(),
        AttributeValue::Bool(flag) => Value::Bool(*flag),
        other => panic!("no record has an attribute like {other:?}"),
    };
    Value::Object(item.iter().map(|(name, value)| (name.clone(), field(value))).collect())
}
