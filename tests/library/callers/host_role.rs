//! The host's own role: keys from an IMDSv2 stand-in, their ARN from an STS stand-in, and the real Rust SDK that signs
//! with them and with local keys.

use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime};

use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_bedrockruntime::error::ProvideErrorMetadata;
use aws_sdk_bedrockruntime::primitives::Blob;
use bedrock_sidecar::caller::{Caller, Callers, HostRole, Peer};
use bedrock_sidecar::error::Refusal;
use bedrock_sidecar::settings::Settings;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use test_support::eventually;

const ARN: &str = "arn:aws-us-gov:sts::123456789012:assumed-role/app/i-0123456789abcdef0";
const SECRET: &str = "secretOfTheRoleThatOnlyTestsKnow0123456";

/// Serves `answer` on a loopback port for as long as the test runs.
async fn serve(answer: impl Fn(Request<()>, Bytes) -> Response<String> + Clone + Send + Sync + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let answer = answer.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let answer = answer(Request::from_parts(parts, ()), body);
                    Ok::<_, Infallible>(answer.map(|text| Full::new(Bytes::from(text))))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    format!("http://{address}")
}

/// The instance's metadata service; `key` is the number of the current key.
async fn imds(key: Arc<AtomicUsize>, asked: Arc<AtomicUsize>) -> String {
    serve(move |request, _| {
        let with_token = request.headers().get("x-aws-ec2-metadata-token").is_some_and(|token| token == "token");
        let text = match request.uri().path() {
            "/latest/api/token" if request.method() == "PUT" => "token".to_owned(),
            _ if !with_token => return status(StatusCode::UNAUTHORIZED),
            "/latest/meta-data/iam/security-credentials/" => "app".to_owned(),
            "/latest/meta-data/iam/security-credentials/app" => {
                asked.fetch_add(1, Ordering::SeqCst);
                let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(6);
                let id = format!("ASIAKEY{}", key.load(Ordering::SeqCst));
                format!(
                    r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"{id}","SecretAccessKey":"{SECRET}","Token":"t/{id}","Expiration":"{}"}}"#,
                    expires.strftime("%Y-%m-%dT%H:%M:%SZ")
                )
            }
            _ => return status(StatusCode::NOT_FOUND),
        };
        let mut answer = Response::new(text);
        let ttl = http::HeaderValue::from_static("21600");
        answer.headers_mut().insert("x-aws-ec2-metadata-token-ttl-seconds", ttl);
        answer
    })
    .await
}

fn status(status: StatusCode) -> Response<String> {
    let mut answer = Response::new(String::new());
    *answer.status_mut() = status;
    answer
}

async fn sts(asked: Arc<AtomicUsize>) -> String {
    serve(move |_, body| {
        assert!(body.starts_with(b"Action=GetCallerIdentity"), "{body:?}");
        asked.fetch_add(1, Ordering::SeqCst);
        Response::new(format!(
            "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>{ARN}</Arn><UserId>A:i</UserId><Account>123456789012</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
        ))
    })
    .await
}

async fn config(imds: &str, sts: &str) -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let provider = ProviderConfig::without_region().with_http_client(http.clone());
    let imds = aws_config::imds::Client::builder().configure(&provider).endpoint(imds).unwrap().build();
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::from_static("us-gov-west-1"))
        .http_client(http)
        .endpoint_url(sts)
        .credentials_provider(ImdsCredentialsProvider::builder().configure(&provider).imds_client(imds).build())
        .load()
        .await
}

/// Between two looks that requests cause.
const PAUSE: Duration = Duration::from_secs(10);

/// Whether a future is over without waiting for anything.
fn is_ready(future: impl Future<Output = ()>) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn start(config: &SdkConfig) -> Arc<HostRole> {
    let config = config.clone();
    HostRole::start(move || std::future::ready(config.clone()))
}

#[tokio::test]
async fn keys_come_from_imds_and_their_arn_from_sts() {
    let (key, looks, asked) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let config = config(&imds(key.clone(), looks.clone()).await, &sts(asked.clone()).await).await;
    let host = start(&config);
    eventually("the ARN", || &*host.user_arn() == ARN).await;
    let first = host.key("ASIAKEY0", SystemTime::now()).unwrap();
    assert_eq!(first.user_arn.as_deref(), Some(ARN));

    // The same keys again cost no question to STS.
    assert!(!host.refresh(&config).await);
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    // New keys: the old ones stay good until they expire.
    key.store(1, Ordering::SeqCst);
    assert!(host.refresh(&config).await);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    for id in ["ASIAKEY0", "ASIAKEY1"] {
        assert!(host.key(id, SystemTime::now()).is_some(), "{id}");
        assert!(host.key(id, SystemTime::now() + Duration::from_secs(7 * 3600)).is_none(), "{id}");
    }
}

#[tokio::test]
async fn a_key_that_the_app_has_first_is_looked_for() {
    let (key, looks, asked) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let config = config(&imds(key.clone(), looks.clone()).await, &sts(asked).await).await;
    let began = Instant::now();
    let host = start(&config);
    eventually("the first key", || &*host.user_arn() == ARN).await;
    key.store(1, Ordering::SeqCst);

    // Ten seconds between two looks: a made-up key costs no look, nor does it wait for one.
    for _ in 0..100 {
        let waits = !is_ready(host.await_new_key("ASIAMADEUP", SystemTime::now()));
        assert!(!waits || began.elapsed() >= PAUSE);
    }
    if began.elapsed() < PAUSE {
        assert_eq!(looks.load(Ordering::SeqCst), 1);
    }

    tokio::time::sleep(PAUSE + Duration::from_millis(100)).await;
    host.await_new_key("ASIAKEY1", SystemTime::now()).await;
    eventually("the new key", || host.key("ASIAKEY1", SystemTime::now()).is_some()).await;
}

#[tokio::test]
async fn without_imds_requests_and_start_cost_nothing() {
    // A port that swallows connections, as an address that nobody answers at.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let config = config(&url, &url).await;
    let host = start(&config);
    assert!(is_ready(host.await_new_key("ASIAMADEUP", SystemTime::now())), "nobody is waited for");
    let callers = Callers::new(&Settings::built_in().unwrap(), host);
    let headers = http::HeaderMap::new();
    assert!(is_ready(callers.await_new_key(&headers, None, SystemTime::now())));
    let path = "/model/a/invoke";
    let caller = callers
        .identify(&Peer::default(), &http::Method::POST, path, "localhost", &headers, b"", SystemTime::now())
        .unwrap();
    assert!(caller.user_arn.contains("unknown"));
}

/// What the daemon has thought of each request.
type Seen = Arc<Mutex<Vec<Result<Caller, Refusal>>>>;

async fn daemon(callers: Arc<Callers>) -> (String, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let url = serve(move |request, body| {
        let path = request.uri().path_and_query().unwrap().as_str();
        let authority = request.headers()["host"].to_str().unwrap();
        let (method, headers) = (request.method(), request.headers());
        let peer = Peer::default();
        let result = callers.identify(&peer, method, path, authority, headers, &body, SystemTime::now());
        let answer = match &result {
            Ok(_) => Response::new("{}".to_owned()),
            Err(refusal) => refusal.response().map(|body| String::from_utf8(body.to_vec()).unwrap()),
        };
        log.lock().unwrap().push(result);
        answer
    })
    .await;
    (url, seen)
}

fn settings(dir: &Path) -> Settings {
    std::fs::write(dir.join("secret"), SECRET).unwrap();
    let text = format!(
        "[[callers]]\nname = \"billing\"\naccess_key_id = \"LOCALBILLING\"\nsecret_access_key_file = \"{}/secret\"\n[[callers]]\nname = \"role\"\nhost_role = true\n",
        dir.display()
    );
    std::fs::write(dir.join("config.toml"), text).unwrap();
    Settings::load(&dir.join("config.toml")).unwrap()
}

#[tokio::test]
async fn the_rust_sdk_signs_with_local_keys_and_with_the_role() {
    let dir = tempfile::tempdir().unwrap();
    let host = Arc::new(HostRole::unknown());
    host.learn(&Credentials::new("ASIAROLE", SECRET, Some("t".to_owned()), None, "test"));
    host.name("ASIAROLE", ARN);
    let (url, seen) = daemon(Arc::new(Callers::new(&settings(dir.path()), host))).await;
    let client = async |id: &str, secret: &str| {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::from_static("us-gov-west-1"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(&url)
            .credentials_provider(Credentials::new(id, secret, Some("tok/en==".to_owned()), None, "test"))
            .load()
            .await;
        aws_sdk_bedrockruntime::Client::new(&config)
    };
    for model in [
        "us.anthropic.claude-opus-4-1-20250805-v1:0",
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123",
    ] {
        for (id, name) in [("LOCALBILLING", "billing"), ("ASIAROLE", "role")] {
            let body = Blob::new("{\"max_tokens\":1}");
            client(id, SECRET).await.invoke_model().model_id(model).body(body.clone()).send().await.unwrap();
            let caller = seen.lock().unwrap().pop().unwrap().unwrap();
            assert_eq!((caller.name(), caller.identity_verified), (Some(name), true), "{model}");
            assert_eq!(&*caller.user_arn, ARN);

            let error = client(id, "forged").await.invoke_model().model_id(model).body(body).send().await.unwrap_err();
            assert_eq!(error.code(), Some("InvalidSignatureException"));
            assert!(error.message().unwrap().contains("does not match the signature you provided"));
        }
    }
    let body = Blob::new("{}");
    client("AKIADUMMY", "dummy").await.invoke_model().model_id("a").body(body).send().await.unwrap();
    let caller = seen.lock().unwrap().pop().unwrap().unwrap();
    assert_eq!((caller.name(), caller.identity_verified), (None, false));
}
