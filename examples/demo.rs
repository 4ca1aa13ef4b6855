//! `cargo run --example demo`: the daemon in front of a simulated commercial Bedrock, driven by the real AWS SDK.
//!
//! No AWS account is needed. After the tour it goes on serving, so that the printed commands can be tried by hand;
//! `--once` ends after the tour, for tests.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_bedrockruntime::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_bedrockruntime::types::{ContentBlock, ContentBlockDelta, ConversationRole, ConverseStreamOutput, Message};
use bedrock_sidecar::app::App;
use bedrock_sidecar::lifecycle::{Event, Events, Inherited};
use bedrock_sidecar::settings::Settings;
use simulator::{DEFAULT_BEARER_TOKEN, Options, Received, Simulator};
use tokio::sync::mpsc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const ON_DEMAND: &str = "anthropic.claude-3-haiku-20240307-v1:0";
const PROFILE_ONLY: &str = "anthropic.claude-opus-4-1-20250805-v1:0";
const WITHOUT_PROFILE: &str = "mistral.pixtral-large-2502-v1:0";
const DENIED: &str = "deepseek.r1-v1:0";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let once = std::env::args().any(|argument| argument == "--once");
    let directory = tempfile::tempdir()?;
    let simulator = Simulator::start(Options::default()).await?;
    let port = free_port(if once { 0 } else { 8790 })?;
    let settings = settings(&simulator, directory.path(), port)?;

    let app = App::bind(settings, Inherited::default())?;
    let admin = app.admin_address();
    let (events, stop) = mpsc::channel(1);
    let daemon = tokio::spawn(app.run(Events::of_channel(stop)));
    wait_until_ready(&admin).await?;
    let endpoint = format!("http://127.0.0.1:{port}");
    say(&format!(
        "bedrock-sidecar listens on {endpoint}; commercial Bedrock is simulated at {}",
        simulator.tls_endpoint()
    ));

    tour(&govcloud_app(&endpoint), &simulator).await?;

    if !once {
        by_hand(&endpoint, &admin);
        tokio::signal::ctrl_c().await?;
    }
    events.send(Event::Stop).await?;
    daemon.await??;
    Ok(())
}

async fn tour(app: &Client, simulator: &Simulator) -> Result<(), Failure> {
    title("1. An app that signs with GovCloud keys is answered by a commercial model");
    say(&format!("   {ON_DEMAND}: {}", converse(app, ON_DEMAND, "Hello from GovCloud").await?));

    title("2. What was stripped, and what was injected");
    let received = simulator.requests().into_iter().rfind(|r| r.operation.as_deref() == Some("Converse"));
    stripped_and_injected(&received.ok_or("the simulator has received nothing")?)?;

    title("3. A model that can only be invoked through an inference profile");
    say(&format!("   {PROFILE_ONLY}: {}", converse(app, PROFILE_ONLY, "Which profile am I?").await?));
    say(&format!("   was sent as {}", last_model(simulator)?));

    title("4. A model without any profile: one is created from the model's ARN");
    say(&format!("   {WITHOUT_PROFILE}: {}", converse(app, WITHOUT_PROFILE, "Make me a profile").await?));
    say(&format!("   was sent as {}", last_model(simulator)?));

    title("5. A stream arrives word by word");
    stream(app, "tell me a story with pace 120 and events 12").await?;

    title("6. A model that the configuration does not allow");
    match converse(app, DENIED, "Let me in").await {
        Err(refusal) => say(&format!("   {refusal}")),
        Ok(answer) => return Err(format!("the denied model answered: {answer}").into()),
    }
    Ok(())
}

/// The app: an unmodified SDK client with GovCloud keys, whose endpoint is the only thing that has changed.
fn govcloud_app(endpoint: &str) -> Client {
    let keys = Credentials::new(
        "AKIAGOVCLOUDEXAMPLE",
        "govcloud/secret/EXAMPLEKEY",
        Some("govcloud-session-token".to_owned()),
        None,
        "demo",
    );
    let config = aws_sdk_bedrockruntime::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-gov-west-1"))
        .credentials_provider(keys)
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

async fn converse(app: &Client, model: &str, text: &str) -> Result<String, Failure> {
    let answer =
        app.converse().model_id(model).messages(user(text)?).send().await.map_err(|error| match error.code() {
            Some(code) => format!("{code}: {}", error.message().unwrap_or_default()),
            None => DisplayErrorContext(&error).to_string(),
        })?;
    let message = answer.output().and_then(|output| output.as_message().ok()).ok_or("the answer has no message")?;
    let text = message.content().first().and_then(|block| block.as_text().ok()).ok_or("the message has no text")?;
    Ok(format!("\"{text}\""))
}

async fn stream(app: &Client, text: &str) -> Result<(), Failure> {
    let mut answer = app.converse_stream().model_id(PROFILE_ONLY).messages(user(text)?).send().await?;
    let began = Instant::now();
    let mut arrivals = BTreeSet::new();
    write("   ");
    while let Some(event) = answer.stream.recv().await? {
        if let ConverseStreamOutput::ContentBlockDelta(delta) = event
            && let Some(ContentBlockDelta::Text(word)) = delta.delta()
        {
            arrivals.insert(began.elapsed());
            write(word);
        }
    }
    let span =
        arrivals.last().copied().unwrap_or_default().saturating_sub(arrivals.first().copied().unwrap_or_default());
    say(&format!("\n   {} pieces over {} ms", arrivals.len(), span.as_millis()));
    if arrivals.len() < 2 || span < Duration::from_millis(50) {
        return Err("the stream did not arrive piece by piece".into());
    }
    Ok(())
}

fn user(text: &str) -> Result<Message, Failure> {
    Ok(Message::builder().role(ConversationRole::User).content(ContentBlock::Text(text.to_owned())).build()?)
}

fn stripped_and_injected(received: &Received) -> Result<(), Failure> {
    let headers: Vec<String> = received.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    for name in ["x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "x-amz-user-agent", "amz-sdk-request"] {
        if headers.iter().any(|header| header == name) {
            return Err(format!("{name} reached the commercial side").into());
        }
    }
    let authorization = received.header("authorization").ok_or("no authorization was injected")?;
    if authorization.contains("AKIAGOVCLOUD") || !authorization.ends_with(DEFAULT_BEARER_TOKEN) {
        return Err("the authorization is not the commercial key".into());
    }
    say("   stripped: the GovCloud SigV4 signature, x-amz-date, x-amz-security-token, x-amz-user-agent, amz-sdk-*");
    say("   injected: Authorization: Bearer ABSK… (the commercial Bedrock API key)");
    say(&format!(
        "   received: {} over {} {}",
        received.path,
        received.http_version,
        if received.tls { "with TLS" } else { "in the clear" }
    ));
    Ok(())
}

fn last_model(simulator: &Simulator) -> Result<String, Failure> {
    let last = simulator.requests().into_iter().rfind(|r| r.operation.as_deref() == Some("Converse"));
    last.and_then(|received| received.model).ok_or_else(|| "the simulator has received no model".into())
}

fn settings(simulator: &Simulator, directory: &std::path::Path, port: u16) -> Result<Settings, Failure> {
    let (ca, secret, config) = (directory.join("ca.pem"), directory.join("secret.json"), directory.join("config.toml"));
    std::fs::write(&ca, simulator.ca_pem())?;
    std::fs::write(&secret, format!("{{\"bedrock_api_key\": \"{DEFAULT_BEARER_TOKEN}\"}}"))?;
    std::fs::write(
        &config,
        format!(
            "[listen]\naddresses = [\"127.0.0.1:{port}\"]\nadmin_address = \"127.0.0.1:{}\"\n\
             [[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = \"{tls}\"\ncontrol_endpoint = \"{tls}\"\nca_file = \"{}\"\n\
             [credentials]\nsource = \"file\"\nfile = \"{}\"\n\
             [models]\ndeny = [\"deepseek.*\"]\n\
             [audit]\nstate_dir = \"{}\"\n",
            free_port(0)?,
            ca.display(),
            secret.display(),
            directory.join("state").display(),
            tls = simulator.tls_endpoint(),
        ),
    )?;
    Ok(Settings::load(&config)?)
}

/// The wanted port if nobody has it, else any.
fn free_port(wanted: u16) -> std::io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    Ok(listener.local_addr()?.port())
}

async fn wait_until_ready(admin: &str) -> Result<(), Failure> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for _ in 0..200 {
        if let Ok(mut stream) = tokio::net::TcpStream::connect(admin).await {
            stream
                .write_all(format!("GET /ready HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").as_bytes())
                .await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            if answer.starts_with("HTTP/1.1 200") {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("the daemon did not become ready".into())
}

fn by_hand(endpoint: &str, admin: &str) {
    title("Try it by hand (Ctrl-C ends)");
    for line in [
        format!("   curl -s {endpoint}/model/{PROFILE_ONLY}/converse -H 'content-type: application/json' \\"),
        "        -d '{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"hello\"}]}]}'".to_owned(),
        format!("   curl -s {endpoint}/v1/bedrock/models"),
        format!("   curl -s {admin}/status"),
        format!("   curl -s '{admin}/v1/dashboard/requests?timeRange=1h'"),
        format!("   curl -s {admin}/metrics"),
        "   or with any AWS SDK, whatever keys it has:".to_owned(),
        format!(
            "   export AWS_ENDPOINT_URL_BEDROCK_RUNTIME={endpoint} AWS_REGION=us-gov-west-1 AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x"
        ),
    ] {
        say(&line);
    }
}

fn title(text: &str) {
    say(&format!("\n{text}"));
}

fn say(line: &str) {
    write(&format!("{line}\n"));
}

fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
