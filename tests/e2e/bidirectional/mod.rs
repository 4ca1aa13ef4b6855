//! InvokeModelWithBidirectionalStream, with a client that has every frame in its hand. AWS's own code signs for it.

mod ends;
mod frames;
mod pressure;
mod upstreams;

use std::net::SocketAddr;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use simulator::eventstream;
use simulator::{Ended, Received, Simulator};
use test_support::*;
use tokio::net::TcpStream;

use crate::callers::{KEYED, SECRET, TOKEN, with_callers};

const SONIC: &str = "amazon.nova-sonic-v1:0";
const OPERATION: &str = "InvokeModelWithBidirectionalStream";
/// A key that the daemon does not know.
const STRANGER: (&str, &str) = ("ASIAGOVCLOUD", "gov-secret-CANARY");
const BILLING: (&str, &str) = ("LOCALBILLING", SECRET);

/// AWS keys of the commercial account, which streams need.
fn aws_keys() -> String {
    json!({
        "aws_access_key_id": simulator::DEFAULT_ACCESS_KEY_ID,
        "aws_secret_access_key": simulator::DEFAULT_SECRET_ACCESS_KEY,
    })
    .to_string()
}

async fn pair() -> (Simulator, Daemon) {
    let bedrock = bedrock().await;
    let daemon = with_callers(Setup::tls(&bedrock).secret(&aws_keys()), KEYED).ready().await;
    (bedrock, daemon)
}

/// How a client says who it is.
#[derive(Debug, Clone, Copy)]
enum As {
    Key((&'static str, &'static str)),
    Bearer(&'static str),
    Nobody,
}

/// The signatures of one client's stream, by AWS's own code.
struct Signer {
    keys: (&'static str, &'static str),
    region: &'static str,
    prior: String,
}

impl Signer {
    /// The next frame: an event in its envelope, or the signed end.
    fn frame(&mut self, event: Option<&Message>) -> Bytes {
        let identity = Credentials::new(self.keys.0, self.keys.1, None, None, "test").into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(self.region)
            .name("bedrock")
            .time(SystemTime::now())
            .settings(())
            .build()
            .unwrap();
        let signed = match event {
            Some(event) => aws_sigv4::event_stream::sign_message(event, &self.prior, &params),
            None => aws_sigv4::event_stream::sign_empty_message(&self.prior, &params),
        };
        let (message, signature) = signed.unwrap().into_parts();
        self.prior = signature;
        encoded_message(&message)
    }
}

fn encoded_message(message: &Message) -> Bytes {
    let mut bytes = Vec::new();
    write_message_to(message, &mut bytes).unwrap();
    bytes.into()
}

/// An event of the client, as SDKs make it.
fn event(value: &Value) -> Message {
    let string = |name: &'static str, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
    Message::new(json!({ "bytes": STANDARD.encode(value.to_string()) }).to_string())
        .add_header(string(":message-type", "event"))
        .add_header(string(":event-type", "chunk"))
        .add_header(string(":content-type", "application/json"))
}

fn text(content: &str) -> Message {
    event(&json!({ "event": { "textInput": { "content": content } } }))
}

/// One stream of a client.
struct Talk {
    sends: SendStream<Bytes>,
    head: Option<ResponseFuture>,
    hears: Option<RecvStream>,
    status: StatusCode,
    headers: HeaderMap,
    signer: Option<Signer>,
    /// What came and is not a whole frame yet.
    rest: BytesMut,
    sent: u64,
    came: u64,
}

impl Talk {
    async fn open(daemon: &Daemon, who: As) -> Talk {
        Talk::at(daemon.address(), who, "us-gov-west-1").await
    }

    async fn at(address: SocketAddr, who: As, region: &'static str) -> Talk {
        let (mut sender, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        let (request, signer) = request(address, who, region);
        sender = within("a connection", sender.ready()).await.unwrap();
        let (head, sends) = sender.send_request(request, false).unwrap();
        Talk {
            sends,
            head: Some(head),
            hears: None,
            status: StatusCode::default(),
            headers: HeaderMap::new(),
            signer,
            rest: BytesMut::new(),
            sent: 0,
            came: 0,
        }
    }

    /// Sends bytes as they are, when the daemon takes them.
    async fn send(&mut self, bytes: Bytes) {
        self.sent += bytes.len() as u64;
        self.sends.send_data(bytes, false).unwrap();
    }

    /// The next frame of this client, which may be spoilt before it is sent.
    fn frame(&mut self, event: Option<&Message>) -> Bytes {
        match (&mut self.signer, event) {
            (Some(signer), event) => signer.frame(event),
            (None, Some(event)) => encoded_message(event),
            (None, None) => Bytes::new(),
        }
    }

    async fn say(&mut self, content: &str) {
        let frame = self.frame(Some(&text(content)));
        self.send(frame).await;
    }

    /// Ends this half as SDKs do: with a signed empty frame, and the end of the stream.
    async fn finish(&mut self) {
        let last = self.frame(None);
        self.sent += last.len() as u64;
        self.sends.send_data(last, true).unwrap();
    }

    /// Waits for the answer's head.
    async fn answered(&mut self) {
        let response = within("the head", self.head.take().unwrap()).await.unwrap();
        let (head, hears) = response.into_parts();
        (self.status, self.headers, self.hears) = (head.status, head.headers, Some(hears));
    }

    /// The next event; none at the clean end.
    async fn hear(&mut self) -> Result<Option<eventstream::Message>, h2::Error> {
        if self.hears.is_none() {
            self.answered().await;
            assert_eq!(self.status, 200, "{:?}", self.headers);
        }
        loop {
            if self.rest.len() >= 4 {
                let length = u32::from_be_bytes([self.rest[0], self.rest[1], self.rest[2], self.rest[3]]) as usize;
                if self.rest.len() >= length {
                    let frame = self.rest.split_to(length);
                    return Ok(eventstream::decode_all(&frame).unwrap().pop());
                }
            }
            let hears = self.hears.as_mut().unwrap();
            match within("the next event", hears.data()).await {
                Some(data) => {
                    let data = data?;
                    hears.flow_control().release_capacity(data.len()).unwrap();
                    self.came += data.len() as u64;
                    self.rest.extend_from_slice(&data);
                }
                None => {
                    assert!(self.rest.is_empty(), "a clean end within a frame");
                    return Ok(None);
                }
            }
        }
    }

    /// The next event's own name and value.
    async fn said(&mut self) -> (String, Value) {
        let message = self.hear().await.unwrap().expect("an event");
        assert_eq!(message.header(":event-type"), Some("chunk"), "{message:?}");
        let chunk: Value = serde_json::from_slice(&message.payload).unwrap();
        let value: Value = serde_json::from_slice(&STANDARD.decode(chunk["bytes"].as_str().unwrap()).unwrap()).unwrap();
        let (name, value) = value["event"].as_object().unwrap().iter().next().unwrap();
        (name.clone(), value.clone())
    }

    /// Says something and waits for the whole answer to it.
    async fn exchange(&mut self, content: &str) {
        self.say(content).await;
        let (name, value) = self.said().await;
        assert_eq!((name.as_str(), &value["content"]), ("textOutput", &json!(format!("echo: {content}"))));
        assert_eq!(self.said().await.0, "usageEvent");
    }

    /// The exception with which the answer ends.
    async fn exception(&mut self) -> (String, String) {
        let message = self.hear().await.unwrap().expect("an exception");
        assert_eq!(message.header(":message-type"), Some("exception"), "{message:?}");
        let kind = message.header(":exception-type").unwrap().to_owned();
        let text: Value = serde_json::from_slice(&message.payload).unwrap();
        assert!(self.hear().await.unwrap().is_none(), "nothing follows an exception");
        (kind, text["message"].as_str().unwrap().to_owned())
    }

    /// Status and type of an error.
    fn refused_as(&self) -> (u16, &str) {
        (self.status.as_u16(), self.headers["x-amzn-errortype"].to_str().unwrap())
    }

    /// The whole body of an answer that is no stream.
    async fn refusal(&mut self) -> Value {
        self.answered().await;
        let (mut body, hears) = (BytesMut::new(), self.hears.as_mut().unwrap());
        while let Some(data) = within("the refusal", hears.data()).await {
            body.extend_from_slice(&data.unwrap());
        }
        serde_json::from_slice(&body).unwrap()
    }
}

fn request(address: SocketAddr, who: As, region: &'static str) -> (Request<()>, Option<Signer>) {
    let uri = format!("http://{address}/model/{}/invoke-with-bidirectional-stream", encoded(SONIC));
    let mut request =
        Request::post(&uri).header("content-type", "application/vnd.amazon.eventstream").body(()).unwrap();
    let keys = match who {
        As::Nobody => return (request, None),
        As::Bearer(token) => {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            return (request, None);
        }
        As::Key(keys) => keys,
    };
    let mut settings = SigningSettings::default();
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let identity = Credentials::new(keys.0, keys.1, None, None, "test").into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("bedrock")
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .unwrap();
    let plain = [("content-type", "application/vnd.amazon.eventstream")];
    let body = SignableBody::Precomputed("STREAMING-AWS4-HMAC-SHA256-EVENTS".to_owned());
    let signable = SignableRequest::new("POST", &uri, plain.into_iter(), body).unwrap();
    let (instructions, prior) = sign(signable, &params.into()).unwrap().into_parts();
    for (name, value) in instructions.headers() {
        let name = http::HeaderName::try_from(name).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    (request, Some(Signer { keys, region, prior }))
}

/// What the stand-in knows of its stream, once that has ended.
async fn upstream(bedrock: &Simulator) -> Received {
    until("the upstream's end", || received(bedrock, OPERATION).pop().filter(|one| one.ended != Ended::Open)).await
}

async fn record(daemon: &Daemon) -> Value {
    daemon.record("the stream", |record| record["operation"] == OPERATION).await
}

fn contents(received: &Received) -> Vec<String> {
    let content = |event: &String| {
        let value: Value = serde_json::from_str(event).unwrap();
        value["event"]["textInput"]["content"].as_str().unwrap().to_owned()
    };
    received.events.iter().map(content).collect()
}
