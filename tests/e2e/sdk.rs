//! The unmodified Rust SDK, signing with GovCloud keys, through the daemon.

use aws_sdk_bedrockruntime::config::Credentials;
use aws_sdk_bedrockruntime::error::ProvideErrorMetadata;
use aws_sdk_bedrockruntime::operation::RequestId;
use aws_sdk_bedrockruntime::primitives::Blob;
use aws_sdk_bedrockruntime::types::{ConverseStreamOutput, CountTokensInput, InvokeModelTokensRequest, ResponseStream};
use simulator::{Effect, Ending, Fault, ThrottleText};
use test_support::*;

use crate::app::{app, user};

/// The host role's keys.
fn host_role() -> Credentials {
    Credentials::new("ASIAGOVCLOUD", "gov-secret-CANARY", Some("gov-token-CANARY".into()), None, "test")
}

#[tokio::test]
async fn every_operation_of_the_sdk_answers() {
    let bedrock = bedrock().await;
    for setup in [
        Setup::tls(&bedrock),
        Setup::tls(&bedrock).secret(&format!(
            "{}:{}",
            simulator::DEFAULT_ACCESS_KEY_ID,
            simulator::DEFAULT_SECRET_ACCESS_KEY
        )),
    ] {
        let daemon = setup.ready().await;
        let app = app(&daemon, host_role());
        bedrock.clear();

        let answer = app.converse().model_id(PROFILE_ONLY).messages(user("hello there")).send().await.unwrap();
        let output = answer.output().unwrap().as_message().unwrap();
        assert_eq!(output.content()[0].as_text().unwrap(), "echo: hello there");
        assert_eq!(answer.usage().unwrap().input_tokens(), 2);
        assert_eq!(answer.request_id(), Some(bedrock.requests().last().unwrap().request_id.as_str()));

        let mut stream =
            app.converse_stream().model_id(PROFILE_ONLY).messages(user("events 5")).send().await.unwrap().stream;
        let (mut text, mut usage) = (String::new(), None);
        while let Some(event) = stream.recv().await.unwrap() {
            match event {
                ConverseStreamOutput::ContentBlockDelta(delta) => {
                    text.push_str(delta.delta().unwrap().as_text().unwrap())
                }
                ConverseStreamOutput::Metadata(metadata) => usage = metadata.usage().map(|usage| usage.output_tokens()),
                _ => {}
            }
        }
        assert_eq!((text.as_str(), usage), ("word0 word1 word2 word3 word4 ", Some(5)));

        let body = Blob::new(converse("one two"));
        let answer = app
            .invoke_model()
            .model_id(ON_DEMAND)
            .content_type("application/json")
            .body(body.clone())
            .send()
            .await
            .unwrap();
        assert!(String::from_utf8_lossy(answer.body().as_ref()).contains("echo: one two"));
        assert_eq!(answer.content_type(), "application/json");

        let mut stream = app
            .invoke_model_with_response_stream()
            .model_id(ON_DEMAND)
            .content_type("application/json")
            .body(body)
            .send()
            .await
            .unwrap()
            .body;
        let mut chunks = Vec::new();
        while let Some(event) = stream.recv().await.unwrap() {
            if let ResponseStream::Chunk(part) = event {
                chunks.push(String::from_utf8(part.bytes().unwrap().as_ref().to_vec()).unwrap());
            }
        }
        assert!(chunks.len() > 4 && chunks.last().unwrap().contains("amazon-bedrock-invocationMetrics"));

        let counted = InvokeModelTokensRequest::builder().body(Blob::new(converse("a b c"))).build().unwrap();
        let answer = app.count_tokens().model_id(ON_DEMAND).input(CountTokensInput::InvokeModel(counted)).send().await;
        assert_eq!(answer.unwrap().input_tokens(), 3);

        let listed = app.list_async_invokes().send().await.unwrap();
        assert_eq!(listed.async_invoke_summaries().len(), 0);

        for sent in bedrock.requests() {
            let all = format!("{:?} {} {}", sent.headers, sent.path, String::from_utf8_lossy(&sent.body));
            assert!(!all.contains("CANARY") && !all.contains("ASIAGOVCLOUD") && !all.contains("us-gov"), "{all}");
            assert_eq!(sent.status, Some(200));
        }
        daemon.record("the last call", |record| record["operation"] == "ListAsyncInvokes").await;
        assert!(!daemon.log_text().contains("CANARY"));
    }
}

#[tokio::test]
async fn errors_are_raised_in_their_own_classes() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[models]\ndeny = [\"cohere.*\"]").ready().await;
    let app = app(&daemon, host_role());
    let call = |model: &str| app.converse().model_id(model).messages(user("x")).send();
    for (effect, code) in [
        (Effect::Throttle { text: ThrottleText::Tokens }, "ThrottlingException"),
        (Effect::InternalServerError, "InternalServerException"),
        (Effect::ServiceUnavailable, "ServiceUnavailableException"),
        (Effect::ModelTimeout, "ModelTimeoutException"),
        (Effect::ModelNotReady, "ModelNotReadyException"),
        (Effect::ModelError, "ModelErrorException"),
    ] {
        bedrock.inject(Fault::once(effect));
        let error = call(ON_DEMAND).await.unwrap_err();
        assert_eq!(error.code(), Some(code), "{error:?}");
        assert!(!error.message().unwrap_or_default().contains("bedrock-sidecar"));
    }
    bedrock.inject(Fault::once(Effect::Throttle { text: ThrottleText::Tokens }));
    let error = call(ON_DEMAND).await.unwrap_err().into_service_error();
    assert!(error.is_throttling_exception(), "{error:?}");
    let error = call("cohere.command-r-v1:0").await.unwrap_err().into_service_error();
    assert!(error.is_access_denied_exception(), "ours are raised just so: {error:?}");
    assert!(error.message().unwrap().contains("models.deny"));
    let error = call("not.a-model").await.unwrap_err().into_service_error();
    assert!(error.is_validation_exception(), "{error:?}");

    let exception = Effect::StreamException {
        after_events: 2,
        exception: "throttlingException".into(),
        message: "Too many".into(),
    };
    bedrock.inject(Fault::once(exception));
    let mut stream = app.converse_stream().model_id(ON_DEMAND).messages(user("events 9")).send().await.unwrap().stream;
    let error = loop {
        match stream.recv().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a clean end"),
            Err(error) => break error,
        }
    };
    assert!(error.into_service_error().is_throttling_exception());

    bedrock.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(3), how: Ending::Rst }));
    let mut stream = app.converse_stream().model_id(ON_DEMAND).messages(user("events 9")).send().await.unwrap().stream;
    loop {
        match stream.recv().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a clean end of a broken stream"),
            Err(_) => break,
        }
    }
}

/// As docs/apps.md and `bedrock-sidecar env` say of this SDK.
#[tokio::test]
async fn this_sdk_refuses_fips_together_with_an_endpoint() {
    let config = aws_sdk_bedrockruntime::Config::builder()
        .behavior_version_latest()
        .region(aws_sdk_bedrockruntime::config::Region::new("us-gov-west-1"))
        .credentials_provider(host_role())
        .endpoint_url("http://127.0.0.1:1")
        .use_fips(true)
        .build();
    let client = aws_sdk_bedrockruntime::Client::from_conf(config);
    let error = client.converse().model_id(ON_DEMAND).messages(user("x")).send().await.unwrap_err();
    assert!(format!("{error:?}").contains("FIPS and custom endpoint are not supported"), "{error:?}");
}
