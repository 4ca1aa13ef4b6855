//! What goes upstream, what comes back, and what happens when upstream does not answer.

use http::Method;
use serde_json::{Value, json};
use simulator::{Certificate, Effect, Ending, Fault, Options, Simulator, ThrottleText};
use test_support::*;

fn ask() -> Request {
    request(Method::POST, &converse_path(ON_DEMAND), converse("hello"))
}

#[tokio::test]
async fn only_what_bedrock_defines_goes_upstream_and_every_trace_of_the_client_is_stripped() {
    let bedrock = bedrock().await;
    for setup in [Setup::plain(&bedrock), Setup::tls(&bedrock)] {
        let daemon = setup.ready().await;
        bedrock.clear();
        let traces = [
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIACANARY/20260101/us-gov-west-1/bedrock/aws4_request, SignedHeaders=host, Signature=c0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ff",
            ),
            ("x-amz-date", "20260101T000000Z-CANARY"),
            ("x-amz-security-token", "CANARY"),
            ("x-amz-content-sha256", "CANARY"),
            ("x-amz-user-agent", "CANARY"),
            ("x-amz-target", "CANARY"),
            ("cookie", "session=CANARY"),
            ("proxy-authorization", "Basic CANARY"),
            ("x-api-key", "CANARY"),
            ("api-key", "CANARY"),
            ("x-real-ip", "CANARY"),
            ("referer", "http://CANARY/"),
            ("from", "CANARY"),
            ("x-bedrock-sidecar-anything", "CANARY"),
            ("te", "trailers"),
            ("x-hop", "CANARY"),
            ("accept-encoding", "gzip, CANARY"),
            ("user-agent", "aws-sdk-rust/1.3 os/linux#CANARY"),
            ("amz-sdk-invocation-id", "CANARY"),
            ("amz-sdk-request", "attempt=1; CANARY"),
            ("x-stainless-os", "CANARY"),
            ("x-claude-code-session-id", "CANARY"),
            ("x-amzn-trace-id", "Root=CANARY"),
            ("traceparent", "00-CANARY"),
            ("tracestate", "CANARY"),
            ("baggage", "user=CANARY"),
            ("x-request-id", "CANARY"),
            ("accept-language", "CANARY"),
            ("x-custom", "CANARY"),
        ];
        let kept = [
            ("content-type", "application/json; charset=utf-8"),
            ("accept", "application/json"),
            ("anthropic-beta", "a,b"),
            ("anthropic-version", "2023-06-01"),
            ("openai-beta", "assistants=v2"),
            ("x-amzn-bedrock-service-tier", "flex"),
            ("x-amzn-bedrock-trace", "ENABLED"),
            ("x-amzn-bedrock-guardrailidentifier", "g-1"),
        ];
        for version in [1, 2] {
            let mut asked = ask();
            for (name, value) in traces.iter().chain(&kept) {
                asked.headers_mut().insert(*name, value.parse().unwrap());
            }
            bedrock.clear();
            let answer = if version == 1 {
                asked.headers_mut().insert("connection", "keep-alive, X-Hop".parse().unwrap());
                send(daemon.address(), asked).await
            } else {
                asked.headers_mut().remove("x-hop");
                Http2::to(daemon.address()).await.send(asked).await
            };
            assert_eq!(answer.status, 200, "{answer:?}");
            let sent = &bedrock.requests()[0];
            let all = format!("{:?} {}", sent.headers, sent.path);
            assert!(!all.contains("CANARY") && !all.contains("c0ffee") && !all.contains("us-gov"), "{all}");
            assert_eq!(
                sent.header("authorization"),
                Some(format!("Bearer {}", simulator::DEFAULT_BEARER_TOKEN).as_str())
            );
            assert_eq!(sent.header("accept-encoding"), Some("identity"), "a compressed stream could be held back");
            assert_eq!(sent.header("te"), None);
            let ours = format!("bedrock-sidecar/{}", env!("CARGO_PKG_VERSION"));
            assert_eq!(sent.header("user-agent"), Some(ours.as_str()));
            for (name, value) in kept {
                assert_eq!(sent.header(name), Some(value), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn every_error_of_bedrock_passes_unchanged() {
    let bedrock = bedrock().await;
    let error = |status, error_type: &str, message: &str, capital, headers: &[(&str, &str)]| Effect::Error {
        status,
        error_type: error_type.into(),
        message: message.into(),
        capital,
        headers: headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    };
    let daemon = Setup::tls(&bedrock).ready().await;
    for effect in [
        Effect::Throttle { text: ThrottleText::Tokens },
        Effect::Throttle { text: ThrottleText::TokensPerDay },
        Effect::Throttle { text: ThrottleText::Requests },
        Effect::InternalServerError,
        Effect::ServiceUnavailable,
        Effect::ModelError,
        Effect::ModelTimeout,
        Effect::ModelNotReady,
        error(400, "ValidationException", "Malformed input request: #: extraneous key", false, &[]),
        error(400, "ServiceQuotaExceededException", "Your request exceeds the quota.", true, &[]),
        error(400, "ConflictException", "It exists.", false, &[]),
        error(
            403,
            "AccessDeniedException",
            "You don't have access to the model with the specified model ID.",
            false,
            &[],
        ),
        error(
            404,
            "ResourceNotFoundException",
            "Model use case details have not been submitted for this account.",
            false,
            &[],
        ),
        error(
            429,
            "ThrottlingException:http://internal.amazon.com/coral/",
            "Slow down.",
            true,
            &[("retry-after", "7"), ("x-custom", "a")],
        ),
        error(424, "ModelErrorException", "x", false, &[]),
        error(418, "TeapotException", "unheard of", false, &[]),
        error(500, "", "", false, &[]),
        error(400, "ValidationException", &"long ".repeat(40_000), false, &[]),
    ] {
        for asked in [
            ask(),
            request(Method::POST, &stream_path(ON_DEMAND), converse("hello")),
            request(Method::GET, "/foundation-models", ""),
        ] {
            bedrock.inject(Fault::once(effect.clone()));
            let expected = direct(&bedrock, asked.clone()).await;
            assert!(expected.status >= 400, "{effect:?}");
            bedrock.inject(Fault::once(effect.clone()));
            let before = bedrock.requests().len();
            let answer = send(daemon.address(), asked).await;
            same(&answer, &expected);
            assert_eq!(bedrock.requests().len(), before + 1, "retries are the SDK's: {effect:?}");
            let record = daemon.record_of(&answer).await;
            assert_eq!(
                (&record["outcome"], &record["statusCode"]),
                (&json!("upstream_error"), &json!(expected.status))
            );
            assert_eq!(record["success"], false);
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_our_503_and_sent_once() {
    for http2 in [false, true] {
        let bedrock = bedrock_with(Options { http2, ..Options::default() }).await;
        let daemon = Setup::tls(&bedrock).ready().await;
        // Both on a fresh connection and on one that has served before.
        for how in [Ending::Rst, Ending::Fin, Ending::Rst] {
            bedrock.clear();
            bedrock.inject(Fault::once(Effect::BreakBeforeHeaders { how }));
            let answer = send(daemon.address(), ask()).await;
            let sentence = refused(&answer, 503, "ServiceUnavailableException");
            assert!(
                sentence.contains("the upstream gave no answer: the connection to https://127.0.0.1:"),
                "{sentence}"
            );
            assert_eq!(
                received(&bedrock, "Converse").len(),
                1,
                "it may have been received, so that it is not repeated"
            );
            assert_eq!(daemon.record_of(&answer).await["outcome"], "upstream_broke");
            assert_eq!(send(daemon.address(), ask()).await.status, 200);
        }
    }
}

#[tokio::test]
async fn what_is_not_http_is_our_503() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.inject(Fault::once(Effect::Garbage));
    let answer = send(daemon.address(), ask()).await;
    assert!(refused(&answer, 503, "ServiceUnavailableException").contains("broke before an answer"));
    bedrock.inject(Fault::once(Effect::HugeHeaders { bytes: 2_000_000 }));
    refused(&send(daemon.address(), ask()).await, 503, "ServiceUnavailableException");
    for effect in [Effect::HugeHeaders { bytes: 20_000 }, Effect::EmptyBody] {
        bedrock.inject(Fault::once(effect.clone()));
        let expected = direct(&bedrock, ask()).await;
        bedrock.inject(Fault::once(effect));
        same(&send(daemon.address(), ask()).await, &expected);
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_is_our_503_until_it_is_back() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).ready().await;
    assert_eq!(send(daemon.address(), ask()).await.status, 200);
    bedrock.refuse_connections(true);
    until_async("the upstream to be gone", || async {
        let answer = send(daemon.address(), ask()).await;
        answer.text().contains("no connection to https://127.0.0.1:").then_some(())
    })
    .await;
    for _ in 0..4 {
        let answer = send(daemon.address(), ask()).await;
        let sentence = refused(&answer, 503, "ServiceUnavailableException");
        assert!(sentence.contains("onnection refused"), "{sentence}");
    }
    bedrock.refuse_connections(false);
    until_async("service again", || async { (send(daemon.address(), ask()).await.status == 200).then_some(()) }).await;
}

#[tokio::test]
async fn a_certificate_that_does_not_hold_is_refused_and_says_why() {
    for (certificate, says) in [
        (Certificate::OtherCa, "UnknownIssuer"),
        (Certificate::Expired, "expired"),
        (Certificate::WrongName, "not valid for"),
    ] {
        let bedrock = bedrock_with(Options { certificate, ..Options::default() }).await;
        let daemon = Setup::tls(&bedrock).start().await;
        let sentence = refused(&send(daemon.address(), ask()).await, 503, "ServiceUnavailableException");
        assert!(
            sentence.contains("no connection to https://127.0.0.1:") && sentence.contains(says),
            "{certificate:?}: {sentence}"
        );
        assert_eq!(bedrock.requests().len(), 0, "the key was not shown");
    }
    // Without ca_file the system's roots count, and they do not know the stand-in.
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).upstreams(&upstream("us-east-1", &bedrock.tls_endpoint(), None)).start().await;
    refused(&send(daemon.address(), ask()).await, 503, "ServiceUnavailableException");
    assert_eq!(bedrock.requests().len(), 0);
}

#[tokio::test]
async fn connections_are_kept_and_speak_what_alpn_decides() {
    for (http2, version) in [(true, "HTTP/2.0"), (false, "HTTP/1.1")] {
        let bedrock = bedrock_with(Options { http2, ..Options::default() }).await;
        let daemon = Setup::tls(&bedrock).one_thread().ready().await;
        for _ in 0..10 {
            assert_eq!(send(daemon.address(), ask()).await.status, 200);
        }
        let sent = received(&bedrock, "Converse");
        assert!(sent.iter().all(|one| one.http_version == version && one.tls), "{version}");
        let connections: std::collections::BTreeSet<u64> = sent.iter().map(|one| one.connection).collect();
        assert_eq!(connections.len(), 1, "{version}: {connections:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_upstream_has_closed_is_replaced_unnoticed() {
    let bedrock = bedrock_with(Options { http2: false, ..Options::default() }).await;
    let daemon = Setup::tls(&bedrock).one_thread().ready().await;
    for _ in 0..5 {
        bedrock.inject(Fault::once(Effect::CloseAfter));
        assert_eq!(send(daemon.address(), ask()).await.status, 200);
        assert_eq!(send(daemon.address(), ask()).await.status, 200);
    }
}

async fn east_and_west() -> (Simulator, Simulator) {
    let east = bedrock().await;
    let west = bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await;
    (east, west)
}

#[tokio::test]
async fn the_next_upstream_answers_when_the_first_is_throttled_or_broken() {
    let (east, west) = east_and_west().await;
    // A daemon that remembers no throttle.
    let fresh = || {
        Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")])
            .secret(&format!("{}:{}", simulator::DEFAULT_ACCESS_KEY_ID, simulator::DEFAULT_SECRET_ACCESS_KEY))
            .ready()
    };
    let daemon = fresh().await;
    let home = send(daemon.address(), ask()).await;
    assert_eq!((home.status, home.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")));
    assert_eq!(received(&west, "Converse").len(), 0);
    for effect in [
        Effect::Throttle { text: ThrottleText::Tokens },
        Effect::InternalServerError,
        Effect::ServiceUnavailable,
        Effect::ModelNotReady,
    ] {
        let daemon = fresh().await;
        east.clear();
        west.clear();
        east.inject(Fault::once(effect.clone()));
        let answer = send(daemon.address(), ask()).await;
        assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{effect:?}");
        assert_eq!((received(&east, "Converse").len(), received(&west, "Converse").len()), (1, 1));
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["destinationRegion"], &record["attempts"]), (&json!("us-west-2"), &json!(2)), "{record}");
    }
    // Both are throttled: the client gets an upstream's own answer, and each was asked once.
    let daemon = fresh().await;
    east.clear();
    west.clear();
    east.inject(Fault::once(Effect::Throttle { text: ThrottleText::Tokens }));
    west.inject(Fault::once(Effect::Throttle { text: ThrottleText::Requests }));
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (429, Some("ThrottlingException")));
    assert_eq!((received(&east, "Converse").len(), received(&west, "Converse").len()), (1, 1));
}

/// Where no other upstream can be reached, the answer of the first one is better than none, and it is recorded as its own.
#[tokio::test]
async fn an_answer_after_a_failover_that_led_nowhere_is_recorded_under_the_region_that_gave_it() {
    let (east, west) = east_and_west().await;
    let third = bedrock_with(Options { region: "us-east-2".into(), ..Options::default() }).await;
    let upstreams = [(&east, "us-east-1"), (&west, "us-west-2"), (&third, "us-east-2")];
    let daemon = Setup::several(&upstreams)
        .secret(&format!("{}:{}", simulator::DEFAULT_ACCESS_KEY_ID, simulator::DEFAULT_SECRET_ACCESS_KEY))
        .ready()
        .await;
    west.refuse_connections(true);
    third.refuse_connections(true);
    east.inject(Fault::once(Effect::Throttle { text: ThrottleText::Tokens }));
    let answer = send(daemon.address(), ask()).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (429, Some("us-east-1")), "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_eq!(
        (&record["destinationRegion"], &record["statusCode"], &record["outcome"]),
        (&json!("us-east-1"), &json!(429), &json!("upstream_error")),
        "{record}"
    );
}

#[tokio::test]
async fn what_another_region_would_answer_alike_is_not_tried_there() {
    let (east, west) = east_and_west().await;
    let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).ready().await;
    west.clear();
    let error = |status, error_type: &str| Effect::Error {
        status,
        error_type: error_type.into(),
        message: "x".into(),
        capital: false,
        headers: Default::default(),
    };
    for effect in [
        error(400, "ValidationException"),
        error(403, "AccessDeniedException"),
        error(404, "ResourceNotFoundException"),
        Effect::ModelTimeout,
        Effect::ModelError,
        // It may have been received, and paid for.
        Effect::BreakBeforeHeaders { how: Ending::Rst },
    ] {
        east.inject(Fault::once(effect.clone()));
        let answer = send(daemon.address(), ask()).await;
        assert!(answer.status >= 400, "{effect:?}");
        assert_eq!(west.requests().len(), 0, "{effect:?}");
    }
    // After the first byte there is no other upstream.
    east.inject(Fault::once(Effect::Cut { after_bytes: None, after_events: Some(1), how: Ending::Rst }));
    let mut connection = Http1::to(daemon.address()).await;
    let asked = request(Method::POST, &stream_path(ON_DEMAND), converse("events 9"));
    if let Ok(response) = connection.start(asked).await {
        assert!(client::Reader::new(response).end().await.is_err());
    }
    assert_eq!(west.requests().len(), 0);
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_passed_over_and_taken_up_again() {
    let (east, west) = east_and_west().await;
    let daemon = Setup::several(&[(&east, "us-east-1"), (&west, "us-west-2")]).ready().await;
    let region = |answer: &Answer| answer.header("x-bedrock-sidecar-region").unwrap_or_default().to_owned();
    east.refuse_connections(true);
    // A connection that was open is found broken once; after that every request is served.
    until_async("the other region", || async {
        let answer = send(daemon.address(), ask()).await;
        (answer.status == 200 && region(&answer) == "us-west-2").then_some(())
    })
    .await;
    for _ in 0..6 {
        let answer = send(daemon.address(), ask()).await;
        assert_eq!((answer.status, region(&answer).as_str()), (200, "us-west-2"));
    }
    east.refuse_connections(false);
    until_async("the first region again", || async {
        let answer = send(daemon.address(), ask()).await;
        assert_eq!(answer.status, 200, "no request fails meanwhile");
        (region(&answer) == "us-east-1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_region_resolves_models_by_its_own_profiles() {
    let east = bedrock().await;
    let tokyo = bedrock_with(Options { region: "ap-northeast-1".into(), ..Options::default() }).await;
    let daemon = Setup::several(&[(&east, "us-east-1"), (&tokyo, "ap-northeast-1")])
        .with("[models]\ngeographies = [\"us\", \"jp\"]")
        .ready()
        .await;
    let sonnet = "anthropic.claude-sonnet-4-5-20250929-v1:0";
    let first = daemon.post(&converse_path(sonnet), converse("x")).await;
    assert_eq!(first.header("x-bedrock-sidecar-model"), Some(format!("us.{sonnet}").as_str()));
    // After a failover that leads nowhere, the record has the profile of the answer that is given.
    tokyo.refuse_connections(true);
    east.inject(Fault::once(Effect::Throttle { text: ThrottleText::Tokens }));
    let throttled = daemon.post(&converse_path(sonnet), converse("x")).await;
    assert_eq!((throttled.status, throttled.header("x-bedrock-sidecar-region")), (429, Some("us-east-1")));
    let record = daemon.record_of(&throttled).await;
    assert_eq!(record["inferenceProfileUsed"], format!("us.{sonnet}"), "{record}");
    tokyo.refuse_connections(false);

    east.inject(Fault::once(Effect::Throttle { text: ThrottleText::Tokens }));
    let second = daemon.post(&converse_path(sonnet), converse("x")).await;
    assert_eq!((second.status, second.header("x-bedrock-sidecar-model")), (200, Some(format!("jp.{sonnet}").as_str())));
}

/// SDKs show a request's id under AWS's name; and what was sent nowhere has no region.
#[tokio::test]
async fn answers_of_our_own_have_an_id_that_sdks_show_and_a_region_only_if_something_was_sent() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).with("[models]\ndeny = [\"cohere.*\"]").ready().await;
    let ids = |answer: &Answer| {
        let ours = answer.header("x-bedrock-sidecar-request-id").unwrap().to_owned();
        (ours, answer.header("x-amzn-requestid").unwrap_or_default().to_owned())
    };
    for (path, body, status) in [
        (converse_path("cohere.command-r-v1:0"), converse("x"), 403),
        ("/nothing".to_owned(), String::new(), 404),
        (converse_path("us-gov.us-gov.a.b"), converse("x"), 400),
        ("/v1/bedrock/invoke-model".to_owned(), "{}".to_owned(), 400),
        ("/v1/nothing".to_owned(), "{}".to_owned(), 404),
    ] {
        let answer = daemon.post(&path, body).await;
        let (ours, shown) = ids(&answer);
        assert_eq!((answer.status, &shown), (status, &ours), "{path}");
        assert_eq!(answer.header("x-bedrock-sidecar-region"), None, "{path}");
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["statusCode"], &record["upstreamRequestId"]), (&json!(status), &Value::Null), "{record}");
    }
    let listing = daemon.get("/v1/bedrock/models").await;
    assert_eq!((listing.status, listing.header("x-bedrock-sidecar-region")), (200, None), "the daemon's own");
    assert_eq!(ids(&listing).0, ids(&listing).1);

    // The upstream's own id stays on its answers.
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    let (ours, theirs) = ids(&answer);
    assert_ne!(ours, theirs);
    assert_eq!(daemon.record_of(&answer).await["upstreamRequestId"], theirs);

    // It may have been received.
    bedrock.inject(Fault::once(Effect::BreakBeforeHeaders { how: simulator::Ending::Rst }));
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (503, Some("us-east-1")), "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "upstream_broke");

    // Nobody was there to receive it.
    let alone = Setup::alone().start().await;
    let answer = alone.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (503, None), "{answer:?}");
    let (ours, shown) = ids(&answer);
    assert_eq!(ours, shown);
    assert_eq!(alone.record_of(&answer).await["outcome"], "refused");
}
