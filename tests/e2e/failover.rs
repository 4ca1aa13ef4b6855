//! What the client gets when an upstream could not serve and the next one cannot either; and how often one is asked.

use http::Method;
use serde_json::json;
use simulator::framing::Choice;
use simulator::{AwsKey, Effect, Fault, Options, Simulator, ThrottleText, short_term_key};
use test_support::*;

fn ask() -> Request {
    request(Method::POST, &converse_path(ON_DEMAND), converse("hello"))
}

fn throttled() -> Fault {
    Fault::once(Effect::Throttle { text: ThrottleText::Tokens })
}

fn error(status: u16, error_type: &str) -> Fault {
    Fault::once(Effect::Error {
        status,
        error_type: error_type.into(),
        message: "x".into(),
        capital: false,
        headers: Default::default(),
    })
}

async fn regions() -> (Simulator, Simulator, Simulator) {
    let of = |region: &str| bedrock_with(Options { region: region.into(), ..Options::default() });
    (bedrock().await, of("us-west-2").await, of("us-east-2").await)
}

fn aws_keys() -> String {
    format!("{}:{}", simulator::DEFAULT_ACCESS_KEY_ID, simulator::DEFAULT_SECRET_ACCESS_KEY)
}

/// 429 tells the client to try again. That another region does not have the model tells it nothing.
#[tokio::test]
async fn a_throttled_answer_is_kept_when_the_next_region_does_not_have_what_was_asked_for() {
    let (east, west, _) = regions().await;
    let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).secret(&aws_keys()).ready().await;
    for (status, error_type) in
        [(400, "ValidationException"), (403, "AccessDeniedException"), (404, "ResourceNotFoundException")]
    {
        east.inject(throttled());
        west.inject(error(status, error_type));
        let answer = send(daemon.address(), ask()).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (429, Some("us-east-1")), "{status}");
        let record = daemon.record_of(&answer).await;
        for (field, expected) in [
            ("destinationRegion", json!("us-east-1")),
            ("statusCode", json!(429)),
            ("outcome", json!("upstream_error")),
            ("attempts", json!(2)),
            ("upstreamRequestId", json!(answer.header("x-amzn-requestid"))),
            ("responseSize", json!(answer.body.len())),
        ] {
            assert_eq!(record[field], expected, "{field} after {status}: {record}");
        }
    }
    // What the model itself says is an answer.
    east.inject(throttled());
    west.inject(error(424, "ModelErrorException"));
    assert_eq!(send(daemon.address(), ask()).await.status, 424);
}

#[tokio::test]
async fn the_region_after_one_that_does_not_have_the_model_is_tried_too() {
    let (east, west, third) = regions().await;
    let upstreams = [(&east, "us-east-1"), (&west, "us-west-2"), (&third, "us-east-2")];
    let daemon = Setup::several(&upstreams).secret(&aws_keys()).ready().await;
    east.inject(throttled());
    west.inject(error(404, "ResourceNotFoundException"));
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-east-2")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["attempts"], 3);
}

/// An ARN names its region. While that cannot be reached, another region's "no such model" is not the truth about it.
#[tokio::test]
async fn what_is_bound_to_a_region_that_cannot_be_reached_is_not_refused_by_another_one() {
    let (east, west, _) = regions().await;
    let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).secret(&aws_keys()).ready().await;
    let arn = format!("arn:aws:bedrock:us-east-1::foundation-model/{ON_DEMAND}");
    east.refuse_connections(true);
    until_async("the upstream to be gone", || async {
        let answer = send(daemon.address(), ask()).await;
        (answer.header("x-bedrock-sidecar-region") == Some("us-west-2")).then_some(())
    })
    .await;
    // Refused connections at first, and then an upstream that is left alone for a while.
    for _ in 0..6 {
        let answer = daemon.post(&converse_path(&arn), converse("hello")).await;
        refused(&answer, 503, "ServiceUnavailableException");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("refused"), &json!(503)), "{record}");
    }
    // What any region could have refused is refused.
    west.inject(error(400, "ValidationException"));
    assert_eq!(send(daemon.address(), ask()).await.status, 400);
}

#[tokio::test]
async fn a_throttled_answer_is_kept_when_there_is_no_credential_for_the_next_region() {
    let (east, west, _) = regions().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let key = short_term_key(&AwsKey::default_long_lived(), "us-east-1", now.try_into().unwrap(), 3600);
    let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).secret(&key).ready().await;
    east.inject(throttled().on("Converse"));
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (429, Some("us-east-1")), "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!(
        (&record["destinationRegion"], &record["outcome"]),
        (&json!("us-east-1"), &json!("upstream_error")),
        "{record}"
    );
}

/// A stream that the peer refuses unread is sent again, but not for ever, and every time counts.
#[tokio::test]
async fn a_request_that_the_upstream_refuses_unread_is_repeated_a_few_times_and_each_is_counted() {
    for framing in ["h2-rst-refused-stream-before", "h2-goaway-below"] {
        let (east, west, _) = regions().await;
        let setup = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).secret(&aws_keys());
        let daemon = setup.one_thread().ready().await;
        east.set_framing(Some(Choice::Always(simulator::framing::Framing::PLAIN)));
        let framing: simulator::framing::Framing = framing.parse().unwrap();
        // Connections that hyper serves in the simulator end first.
        until_async("a connection that is framed by hand", || async {
            send(daemon.address(), ask()).await;
            (!east.connections().is_empty()).then_some(())
        })
        .await;

        east.clear();
        east.inject(Fault::once(Effect::Framing { variant: framing }));
        let answer = send(daemon.address(), ask()).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")), "{framing}");
        assert_eq!(daemon.record_of(&answer).await["attempts"], 2, "{framing}");
        assert_eq!(received(&east, "Converse").len(), 2, "{framing}");

        east.clear();
        east.inject(Fault::once(Effect::Framing { variant: framing }).times(0));
        let answer = send(daemon.address(), ask()).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{framing}");
        // What is begun on a connection that has just been told to go away is repeated without being sent.
        let sent = received(&east, "Converse").len();
        let least = if framing.to_string().contains("goaway") { 1 } else { 4 };
        assert!((least..=4).contains(&sent), "{framing}: once, and three times more: {sent}");
        assert_eq!(daemon.record_of(&answer).await["attempts"], sent + 1, "{framing}: and once elsewhere");

        west.refuse_connections(true);
        let answer = until_async("an upstream alone", || async {
            let answer = send(daemon.address(), ask()).await;
            (answer.status == 503).then_some(answer)
        })
        .await;
        assert!(refused(&answer, 503, "ServiceUnavailableException").len() > 20, "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("refused"), &json!(503)), "{record}");
    }
}

/// Two upstreams over plain HTTP/1.1; the first has its control plane elsewhere.
fn planes(runtime: &Simulator, control: &Simulator, west: &Simulator) -> Setup {
    Setup::alone().upstreams(&format!(
        "[[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = \"{}\"\ncontrol_endpoint = \"{}\"\n{}",
        runtime.plain_endpoint(),
        control.plain_endpoint(),
        upstream("us-west-2", &west.plain_endpoint(), None)
    ))
}

/// The same, with one host for both planes.
fn two(east: &Simulator, west: &Simulator) -> Setup {
    planes(east, east, west)
}

#[tokio::test]
async fn a_credential_that_one_upstream_refuses_leads_to_the_next() {
    let (east, west, _) = regions().await;
    for effect in [
        Effect::UnrecognizedClient,
        Effect::ExpiredToken,
        Effect::InvalidKey,
        Effect::Error {
            status: 403,
            error_type: "InvalidSignatureException".into(),
            message: "The request signature we calculated does not match the signature you provided.".into(),
            capital: false,
            headers: Default::default(),
        },
    ] {
        let kind = effect.kind();
        let daemon = two(&east, &west).secret(&aws_keys()).ready().await;
        east.inject(Fault::once(effect.clone()).times(0).on("Converse"));
        west.clear();
        let answer = send(daemon.address(), ask()).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{kind}");
        let record = daemon.record_of(&answer).await;
        let told = (&record["destinationRegion"], &record["outcome"], &record["statusCode"]);
        assert_eq!(told, (&json!("us-west-2"), &json!("completed"), &json!(200)), "{kind}: {record}");
        assert!(record["attempts"].as_u64().unwrap() >= 2, "{kind}: {record}");
        assert_eq!(received(&west, "Converse").len(), 1, "{kind}");

        // Where all refuse it, the client hears so.
        west.inject(Fault::once(effect).times(0).on("Converse"));
        let answer = send(daemon.address(), ask()).await;
        assert_eq!(answer.status, 403, "{kind}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("upstream_error"), &json!(403)), "{record}");
        east.clear_faults();
        west.clear_faults();
    }
    // What the key may not do is an answer, and not the key's fault.
    let daemon = two(&east, &west).secret(&aws_keys()).ready().await;
    west.clear();
    east.inject(error(403, "AccessDeniedException"));
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (403, Some("us-east-1")));
    assert_eq!(daemon.record_of(&answer).await["attempts"], 1);
    assert!(received(&west, "Converse").is_empty());
}

#[tokio::test]
async fn an_upstream_that_refuses_the_key_is_passed_over_until_there_is_another_key() {
    let (east, west, _) = regions().await;
    let daemon = two(&east, &west).secret(&aws_keys()).ready().await;
    east.set_aws_keys(Vec::new());
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    assert!(daemon.record_of(&answer).await["attempts"].as_u64().unwrap() >= 2);
    east.clear();
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["attempts"], 1);
    assert!(received(&east, "Converse").is_empty());

    let key = simulator::DEFAULT_BEARER_TOKEN;
    std::fs::write(daemon.secret_path(), key).unwrap();
    let answer = until_async("the new key", || async {
        let answer = send(daemon.address(), ask()).await;
        (answer.header("x-bedrock-sidecar-region") == Some("us-east-1")).then_some(answer)
    })
    .await;
    assert_eq!((answer.status, &daemon.record_of(&answer).await["attempts"]), (200, &json!(1)));
}

#[tokio::test]
async fn a_credential_that_is_valid_elsewhere_only_leads_there() {
    let (east, west, _) = regions().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let key = short_term_key(&AwsKey::default_long_lived(), "us-west-2", now.try_into().unwrap(), 3600);
    let daemon = two(&east, &west).secret(&key).ready().await;
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["destinationRegion"], &record["attempts"]), (&json!("us-west-2"), &json!(1)), "{record}");
    assert!(received(&east, "Converse").is_empty());
    // A model that needs a profile, too: the key makes none in us-east-1.
    let answer = daemon.post(&converse_path(NEEDS_CREATED_PROFILE), converse("hello")).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
}

/// The profile that a model needs cannot be made in the first region. Its models that need none are served there as before.
#[tokio::test]
async fn a_control_plane_that_is_gone_leads_to_the_next_upstream_and_leaves_inference_alone() {
    let (east, west, _) = regions().await;
    let control = bedrock().await;
    let daemon = planes(&east, &control, &west).ready().await;
    control.refuse_connections(true);
    let breaker = |plane| format!("bedrock_sidecar_upstream_breaker_state{{region=\"us-east-1\",plane=\"{plane}\"}}");
    until_async("the breaker of the control plane", || async {
        let answer = daemon.post(&converse_path(NEEDS_CREATED_PROFILE), converse("hello")).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["destinationRegion"], &record["attempts"]), (&json!("us-west-2"), &json!(1)), "{record}");
        (metric(&daemon.metrics().await, &breaker("control")) == Some(2.0)).then_some(())
    })
    .await;
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["attempts"], 1);
    assert_eq!(metric(&daemon.metrics().await, &breaker("runtime")), Some(0.0));
    // What the daemon tried itself is recorded.
    let own = daemon.record("the profile", |record| record["operation"] == "CreateInferenceProfile").await;
    assert_eq!((&own["outcome"], &own["destinationRegion"]), (&json!("refused"), &json!("us-east-1")), "{own}");
    assert_eq!(own["attempts"], 0, "{own}");

    // Nor does it tell which profiles there are, because it was away from the start.
    let daemon = planes(&east, &control, &west).ready().await;
    let answer = daemon.post(&converse_path(PROFILE_ONLY), converse("hello")).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["inferenceProfileUsed"], format!("us.{PROFILE_ONLY}"));

    // Where no upstream's profiles can be listed, the daemon says so: what a region says of the bare model is not the reason.
    west.inject(Fault::once(Effect::InternalServerError).times(0).on("ListFoundationModels"));
    let daemon = planes(&east, &control, &west).ready().await;
    let answer = daemon.post(&converse_path(PROFILE_ONLY), converse("hello")).await;
    let message = refused(&answer, 503, "ServiceUnavailableException");
    assert!(message.contains("could not be listed"), "{message}");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(2)), "{record}");
    assert_eq!((&record["statusCode"], &record["destinationRegion"]), (&json!(503), &json!("us-west-2")), "{record}");
    west.clear_faults();

    // A key that the control plane refuses, too.
    let refusing = bedrock().await;
    let daemon = planes(&east, &refusing, &west).ready().await;
    refusing.inject(Fault::once(Effect::UnrecognizedClient).times(0).on("CreateInferenceProfile"));
    let answer = daemon.post(&converse_path(NEEDS_CREATED_PROFILE), converse("hello")).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
}

#[tokio::test]
async fn what_may_have_reached_a_model_is_sent_again_only_where_the_configuration_says_so() {
    let broken = || Fault::once(Effect::BreakBeforeHeaders { how: simulator::Ending::Rst });
    let (east, west, _) = regions().await;
    let daemon = two(&east, &west).ready().await;
    west.clear();
    east.inject(broken().on("Converse"));
    let answer = send(daemon.address(), ask()).await;
    refused(&answer, 503, "ServiceUnavailableException");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("upstream_broke"), &json!(1)), "{record}");
    assert!(received(&west, "Converse").is_empty());
    // Reading twice does no harm.
    east.inject(broken().on("ListFoundationModels"));
    let answer = daemon.get("/foundation-models").await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["attempts"], 2);

    let daemon = two(&east, &west).with("[upstreams_policy]\nretry_after_send = true").ready().await;
    west.clear();
    for fault in [broken(), error(502, "BadGateway"), error(504, "GatewayTimeout")] {
        east.inject(fault.on("Converse"));
        let answer = send(daemon.address(), ask()).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["outcome"], &record["attempts"]), (&json!("completed"), &json!(2)), "{record}");
    }
    // A model may have been at work, so this is no request that was never sent.
    east.inject(broken().on("Converse"));
    west.refuse_connections(true);
    let answer = send(daemon.address(), ask()).await;
    refused(&answer, 503, "ServiceUnavailableException");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("upstream_broke"), &json!(1)), "{record}");
    // The region is the one whose outcome this is, and not the one that was asked last.
    assert_eq!(answer.header("x-bedrock-sidecar-region"), Some("us-east-1"), "{answer:?}");
    assert_eq!(record["destinationRegion"], "us-east-1", "{record}");
}

/// The counter has one result for each attempt that the records count, and those that could not be made.
#[tokio::test]
async fn every_attempt_is_counted_with_what_came_of_it() {
    let (east, west, _) = regions().await;
    let daemon = two(&east, &west).with("[upstreams_policy]\nretry_after_send = true").ready().await;
    let broken = || Fault::once(Effect::BreakBeforeHeaders { how: simulator::Ending::Rst });
    // Broken, and served elsewhere; a key that is refused once; throttled and served elsewhere; broken off in its body.
    for (fault, region, attempts) in [
        (broken(), "us-west-2", 2),
        (Fault::once(Effect::UnrecognizedClient), "us-east-1", 2),
        (error(404, "ResourceNotFoundException"), "us-east-1", 1),
        (error(500, "InternalServerException"), "us-west-2", 2),
    ] {
        east.inject(fault.on("Converse"));
        let answer = send(daemon.address(), ask()).await;
        assert_eq!(answer.header("x-bedrock-sidecar-region"), Some(region), "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["attempts"], attempts);
    }
    let cut = Effect::Cut { after_bytes: None, after_events: Some(1), how: simulator::Ending::Fin };
    east.inject(Fault::once(cut).on("ConverseStream"));
    let mut client = Http1::to(daemon.address()).await;
    let stream = || request(Method::POST, &stream_path(ON_DEMAND), converse("events 3"));
    let mut reader = client::Reader::new(client.start(stream()).await.unwrap());
    assert!(reader.end().await.is_err());
    daemon.record("the broken one", |record| record["outcome"] == "upstream_broke").await;
    // Its client leaves before there is an answer.
    east.inject(Fault::once(Effect::SlowFirstByte { ms: 600_000 }).on("Converse"));
    east.clear();
    let mut client = Http1::to(daemon.address()).await;
    let waiting = tokio::spawn(async move { client.start(ask()).await.map(drop) });
    eventually("the request to arrive", || !received(&east, "Converse").is_empty()).await;
    waiting.abort();
    let _ = waiting.await;
    daemon.record("the one who left", |record| record["outcome"] == "client_disconnected").await;
    let answer = send(daemon.address(), stream()).await;
    assert_eq!((answer.status, &daemon.record_of(&answer).await["outcome"]), (200, &json!("completed")));

    let page = daemon.metrics().await;
    let mut sum = 0.0;
    for (region, result, expected) in [
        ("us-east-1", "success", Some(2.0)),
        ("us-east-1", "broke", Some(2.0)),
        ("us-east-1", "refused", Some(2.0)),
        ("us-east-1", "failed", Some(1.0)),
        ("us-east-1", "abandoned", Some(1.0)),
        ("us-east-1", "throttled", None),
        ("us-west-2", "success", Some(2.0)),
    ] {
        let line = format!("bedrock_sidecar_upstream_attempts_total{{region=\"{region}\",result=\"{result}\"}}");
        assert_eq!(metric(&page, &line), expected, "{line} in\n{page}");
        sum += expected.unwrap_or_default();
    }
    let recorded: f64 = daemon.records().iter().map(|record| record["attempts"].as_f64().unwrap()).sum();
    assert_eq!(recorded, sum, "as many as the records tell");

    // What could not be sent is no attempt of a record.
    east.refuse_connections(true);
    let unreached = "bedrock_sidecar_upstream_attempts_total{region=\"us-east-1\",result=\"unreached\"}";
    until_async("an attempt that finds nobody", || async {
        let answer = send(daemon.address(), ask()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        metric(&daemon.metrics().await, unreached)
    })
    .await;
}

/// Each upstream has a profile of its own for the model.
#[tokio::test]
async fn the_record_of_a_failure_tells_of_the_upstream_whose_failure_it_is() {
    let (east, west, _) = regions().await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let setup = Setup::alone().upstreams(&format!(
        "{}[[upstreams]]\nregion = \"us-west-2\"\nruntime_endpoint = \"http://{nobody}\"\ncontrol_endpoint = \"{}\"\n[upstreams_policy]\nretry_after_send = true",
        upstream("us-east-1", &east.plain_endpoint(), None),
        west.plain_endpoint(),
    ));
    let daemon = setup.ready().await;
    east.inject(Fault::once(Effect::BreakBeforeHeaders { how: simulator::Ending::Rst }).on("Converse"));
    let answer = daemon.post(&converse_path(NEEDS_CREATED_PROFILE), converse("hello")).await;
    refused(&answer, 503, "ServiceUnavailableException");
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("upstream_broke"), &json!(1)), "{record}");
    assert_eq!(record["destinationRegion"], "us-east-1", "{record}");
    let profile = record["inferenceProfileUsed"].as_str().unwrap();
    assert!(profile.starts_with("arn:aws:bedrock:us-east-1:"), "{record}");
    assert_eq!(received(&west, "CreateInferenceProfile").len(), 1, "the other one was asked last");

    // One that no upstream takes has been sent as nothing.
    east.refuse_connections(true);
    let answer = until_async("nobody to be there", || async {
        let answer = daemon.post(&converse_path(NEEDS_CREATED_PROFILE), converse("hello")).await;
        (answer.status == 503 && daemon.record_of(&answer).await["attempts"] == 0).then_some(answer)
    })
    .await;
    let record = daemon.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["inferenceProfileUsed"]), (&json!("refused"), &json!(null)), "{record}");
}

#[tokio::test]
async fn a_client_that_has_left_is_not_taken_to_the_next_upstream() {
    let (east, west, _) = regions().await;
    let daemon = two(&east, &west)
        .with("[upstream_timeouts]\nfirst_byte = \"1s\"\n[upstreams_policy]\nretry_after_send = true")
        .ready()
        .await;
    west.clear();
    east.inject(Fault::once(Effect::SlowFirstByte { ms: 600_000 }).times(0).on("Converse"));
    let mut client = Http1::to(daemon.address()).await;
    let waiting = tokio::spawn(async move { client.start(ask()).await.map(drop) });
    eventually("the request to arrive", || !received(&east, "Converse").is_empty()).await;
    waiting.abort();
    let _ = waiting.await;
    let record = daemon.record("the one who left", |record| record["outcome"] == "client_disconnected").await;
    assert_eq!((&record["attempts"], &record["destinationRegion"]), (&json!(1), &json!("us-east-1")), "{record}");
    // Another one waits for as long, and is taken there.
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["attempts"], 2);
    assert_eq!(received(&west, "Converse").len(), 1, "and only that one");
}

/// An ARN names its region, wherever that stands in the order.
#[tokio::test]
async fn what_is_bound_to_a_region_goes_there_first() {
    let (east, west, _) = regions().await;
    let daemon = two(&east, &west).ready().await;
    let arn = format!("arn:aws:bedrock:us-west-2::foundation-model/{ON_DEMAND}");
    let answer = daemon.post(&converse_path(&arn), converse("hello")).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["attempts"], 1);
    let job = "arn:aws:bedrock:us-west-2:123456789012:async-invoke/abcdefghijkl";
    let answer = daemon.get(&format!("/async-invoke/{}", encoded(job))).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (404, Some("us-west-2")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["attempts"], 1);
}
