//! DynamoDB Local, and a proxy before it that fails the way DynamoDB does.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

/// The port of the one DynamoDB Local of this test run.
pub fn port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let setup = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dynamodb-local");
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

/// A client for an endpoint on this host.
pub fn client(port: u16) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .region(Region::new("us-gov-west-1"))
        .credentials_provider(Credentials::new("AKIATEST", "secret", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

/// Creates a table keyed on `keys`, the first as HASH.
pub async fn create_table(name: &str, keys: &[&str]) -> Client {
    let client = client(tokio::task::spawn_blocking(port).await.unwrap());
    let mut create = client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    for (key, kind) in keys.iter().zip([KeyType::Hash, KeyType::Range]) {
        let attribute = AttributeDefinition::builder().attribute_name(*key).attribute_type(ScalarAttributeType::S);
        create = create
            .attribute_definitions(attribute.build().unwrap())
            .key_schema(KeySchemaElement::builder().attribute_name(*key).key_type(kind).build().unwrap());
    }
    create.send().await.unwrap();
    client
}

/// Every item of a table, by requestId and then attempt; panics on two with one id.
pub async fn items(client: &Client, table: &str) -> std::collections::BTreeMap<String, Value> {
    let mut items = std::collections::BTreeMap::new();
    let mut from = None;
    loop {
        let page = client.scan().table_name(table).set_exclusive_start_key(from).send().await.unwrap();
        for item in page.items() {
            let item = bedrock_sidecar::ledger::dynamo::item_to_json(item.clone());
            let id = item["requestId"].as_str().unwrap().to_owned();
            assert!(items.insert(id, item).is_none(), "two items for one request");
        }
        from = page.last_evaluated_key().cloned();
        if from.is_none() {
            return items;
        }
    }
}

/// How the proxy answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Connections break.
    Gone,
    Throttled,
    ServerError,
    /// Of every batch, the second half stays unprocessed.
    Half,
    Expired,
    Denied,
}

#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    fault: Arc<Mutex<Fault>>,
    /// Batches that were asked for, and those of them that failed by a fault.
    pub batches: Arc<AtomicU64>,
    pub faults: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn start() -> Proxy {
        let upstream = tokio::task::spawn_blocking(port).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy =
            Proxy { port, fault: Arc::new(Mutex::new(Fault::None)), batches: Arc::default(), faults: Arc::default() };
        let (fault, batches, faults) = (proxy.fault.clone(), proxy.batches.clone(), proxy.faults.clone());
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (fault, batches, faults) = (fault.clone(), batches.clone(), faults.clone());
                let service = service_fn(move |request| {
                    let now = *fault.lock().unwrap();
                    answer(request, now, upstream, batches.clone(), faults.clone())
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        proxy
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub fn client(&self) -> Client {
        client(self.port)
    }
}

async fn answer(
    request: Request<Incoming>,
    fault: Fault,
    upstream: u16,
    batches: Arc<AtomicU64>,
    faults: Arc<AtomicU64>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let is_batch = head.headers["x-amz-target"].to_str().unwrap().ends_with("BatchWriteItem");
    if is_batch {
        batches.fetch_add(1, Ordering::SeqCst);
    }
    let refuse = |status: u16, kind: &str, message: &str| {
        faults.fetch_add(1, Ordering::SeqCst);
        let body = json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"), "message": message });
        Ok(Response::builder()
            .status(status)
            .header("content-type", "application/x-amz-json-1.0")
            .body(Full::from(body.to_string()))
            .unwrap())
    };
    match fault {
        Fault::Gone => {
            faults.fetch_add(1, Ordering::SeqCst);
            Err(std::io::Error::other("gone"))
        }
        Fault::Throttled => refuse(
            400,
            "ProvisionedThroughputExceededException",
            "The level of configured provisioned throughput for the table was exceeded.",
        ),
        Fault::ServerError => refuse(500, "InternalServerError", "Internal server error"),
        Fault::Expired => refuse(400, "ExpiredTokenException", "The security token included in the request is expired"),
        Fault::Denied => {
            refuse(400, "AccessDeniedException", "User is not authorized to perform: dynamodb:BatchWriteItem")
        }
        Fault::Half if is_batch => {
            let mut sent: Value = serde_json::from_slice(&body).unwrap();
            let tables = sent["RequestItems"].as_object_mut().unwrap();
            let (table, requests) = tables.iter_mut().next().unwrap();
            let table = table.clone();
            let requests = requests.as_array_mut().unwrap();
            let left = requests.split_off(requests.len().div_ceil(2));
            let response = forward(&head, Bytes::from(sent.to_string()), upstream).await;
            if left.is_empty() || response.status() != 200 {
                return Ok(response);
            }
            faults.fetch_add(1, Ordering::SeqCst);
            Ok(Response::new(Full::from(json!({ "UnprocessedItems": { table: left } }).to_string())))
        }
        Fault::None | Fault::Half => Ok(forward(&head, body, upstream).await),
    }
}

async fn forward(head: &http::request::Parts, body: Bytes, port: u16) -> Response<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post("/");
    for (name, value) in head.headers.iter().filter(|(name, _)| *name != http::header::CONTENT_LENGTH) {
        request = request.header(name, value);
    }
    let response = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = head.status;
    if let Some(kind) = head.headers.get(http::header::CONTENT_TYPE) {
        answer.headers_mut().insert(http::header::CONTENT_TYPE, kind.clone());
    }
    answer
}
