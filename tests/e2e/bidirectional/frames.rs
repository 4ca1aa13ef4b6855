//! What passes, whoever says it, and what does not: frames that were forged, left out, repeated, put elsewhere or cut off.

use serde_json::json;
use simulator::{Effect, Fault, Options};

use super::*;

/// Each event is answered before the next one is said, so nothing waits for the end of anything.
#[tokio::test]
async fn events_pass_both_ways_at_once_whoever_speaks() {
    for late_head in [false, true] {
        let bedrock = bedrock_with(Options { head_after_first_event: late_head, ..Options::default() }).await;
        let daemon = with_callers(Setup::tls(&bedrock).secret(&aws_keys()), KEYED).ready().await;
        for (who, caller) in [
            (As::Key(BILLING), json!("billing")),
            (As::Key(STRANGER), Value::Null),
            (As::Bearer(TOKEN), json!("reports")),
            (As::Nobody, Value::Null),
        ] {
            bedrock.clear();
            let mut talk = Talk::open(&daemon, who).await;
            for word in ["one", "two CANARY", "three"] {
                talk.exchange(word).await;
            }
            talk.finish().await;
            assert_eq!(talk.said().await.0, "completionEnd", "said after the client's end");
            assert!(talk.hear().await.unwrap().is_none());

            let sent = upstream(&bedrock).await;
            assert_eq!(contents(&sent), ["one", "two CANARY", "three"], "{who:?}");
            assert!(sent.has_final_frame && sent.leaks.is_empty(), "{who:?}: {sent:?}");
            assert_eq!((sent.ended, sent.auth.as_str(), sent.tls), (Ended::Completed, "sigv4", true), "{who:?}");
            let id = talk.headers["x-bedrock-sidecar-request-id"].to_str().unwrap();
            let record = daemon.record_with_id(id).await;
            for (name, value) in [
                ("outcome", json!("completed")),
                ("statusCode", json!(200)),
                ("modelId", json!(SONIC)),
                ("operation", json!(OPERATION)),
                ("streaming", json!(true)),
                ("requestSize", json!(talk.sent)),
                ("responseSize", json!(talk.came)),
                ("inputTokens", json!(4)),
                ("outputTokens", json!(7)),
                ("attempts", json!(1)),
                ("caller", caller.clone()),
                ("identityVerified", json!(!caller.is_null())),
            ] {
                assert_eq!(record[name], value, "{name} of {who:?}: {record}");
            }
            assert!(record["ended"].is_null(), "{record}");
        }
        let log = daemon.log_text();
        assert!(!log.contains("CANARY") && !log.contains(SECRET) && !log.contains(TOKEN));
    }
}

type Spoil = fn(&mut Talk) -> Vec<Bytes>;

/// One bit of the event within the envelope, with checksums that fit.
fn forged(talk: &mut Talk) -> Vec<Bytes> {
    let prior = talk.signer.as_ref().unwrap().prior.clone();
    let good = talk.frame(Some(&text("good")));
    let mut other = Signer { keys: BILLING, region: "us-gov-west-1", prior };
    other.keys.1 = "anotherSecretOfTheSameLength0123456789ABC";
    let bad = other.frame(Some(&text("bad")));
    assert_ne!(good, bad);
    vec![bad]
}

#[tokio::test]
async fn what_is_not_the_next_frame_of_its_client_ends_the_exchange() {
    let (bedrock, daemon) = pair().await;
    let cases: [(&str, Spoil); 8] = [
        ("forged with another key", forged),
        ("of another event under its signature", |talk| {
            let message = |bytes: &Bytes| {
                let mut bytes = bytes.clone();
                aws_smithy_eventstream::frame::read_message_from(&mut bytes).unwrap()
            };
            let (good, other) = (talk.frame(Some(&text("good"))), encoded_message(&text("bad")));
            let good = message(&good);
            let headers = good.headers().iter().cloned();
            vec![encoded_message(&Message::new_from_parts(headers.collect(), other))]
        }),
        ("left out", |talk| {
            talk.frame(Some(&text("lost")));
            vec![talk.frame(Some(&text("after it")))]
        }),
        ("repeated", |talk| {
            let frame = talk.frame(Some(&text("fine")));
            vec![frame.clone(), frame]
        }),
        ("in another order", |talk| {
            let (one, two) = (talk.frame(Some(&text("first"))), talk.frame(Some(&text("second"))));
            vec![two, one]
        }),
        ("unsigned", |_| vec![encoded_message(&text("bare"))]),
        ("with a header that nothing covers", |talk| {
            let mut frame = talk.frame(Some(&text("good")));
            let message = aws_smithy_eventstream::frame::read_message_from(&mut frame).unwrap();
            let extra = Header::new("x-extra", HeaderValue::String("x".into()));
            vec![encoded_message(&message.add_header(extra))]
        }),
        ("of another stream", |_| {
            let mut other = Signer { keys: BILLING, region: "us-gov-west-1", prior: "0".repeat(64) };
            vec![other.frame(Some(&text("elsewhere")))]
        }),
    ];
    for (what, spoil) in cases {
        bedrock.clear();
        let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
        talk.exchange("before CANARY").await;
        let frames = spoil(&mut talk);
        // What is repeated is good the first time, and answered.
        let passes = usize::from(what == "repeated");
        // What follows the bad one may come before the end, or not.
        let behind: u64 = frames.iter().skip(passes + 1).map(|frame| frame.len() as u64).sum();
        for (at, frame) in frames.into_iter().enumerate() {
            talk.send(frame).await;
            if at < passes {
                assert_eq!(talk.said().await.0, "textOutput");
                assert_eq!(talk.said().await.0, "usageEvent");
            }
        }
        let (kind, message) = talk.exception().await;
        assert_eq!(kind, "validationException", "{what}");
        assert!(message.starts_with("bedrock-sidecar: "), "{what}: {message}");
        let sent = upstream(&bedrock).await;
        assert_eq!(sent.ended, Ended::ClientWentAway, "{what}: reset upstream");
        assert!(sent.error_type.is_none() && !sent.has_final_frame, "{what}: {sent:?}");
        let came = contents(&sent);
        assert!(came.len() == 1 + passes && !came.iter().any(|one| one.contains("bad") || one == "bare"), "{came:?}");
        let id = talk.headers["x-bedrock-sidecar-request-id"].to_str().unwrap();
        let record = daemon.record_with_id(id).await;
        let error = record["errorMessage"].as_str().unwrap();
        let expected =
            if what.starts_with("with a header") { "ValidationException" } else { "InvalidSignatureException" };
        assert!(error.starts_with(&format!("bedrock-sidecar: {expected}: ")), "{what}: {error}");
        assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("refused"), &json!(200)), "{what}: {record}");
        let size = record["requestSize"].as_u64().unwrap();
        assert!((talk.sent - behind..=talk.sent).contains(&size), "{what}: {size} of {}", talk.sent);
        assert_eq!(record["responseSize"], json!(talk.came), "{what}");
        assert_eq!((&record["caller"], &record["modelId"]), (&json!("billing"), &json!(SONIC)), "{what}");
        assert!(record["inputTokens"].as_u64().is_some(), "what was told before counts: {record}");
        assert!(!error.contains("CANARY"));
    }
    assert!(!daemon.log_text().contains("CANARY"));
}

/// Before the upstream's answer a refusal is one as of any request.
#[tokio::test]
async fn a_forged_first_frame_is_refused_before_there_is_an_answer() {
    let bedrock = bedrock_with(Options { head_after_first_event: true, ..Options::default() }).await;
    let daemon = with_callers(Setup::tls(&bedrock).secret(&aws_keys()), KEYED).ready().await;
    let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
    let frame = forged(&mut talk).pop().unwrap();
    talk.send(frame).await;
    let message = talk.refusal().await["message"].as_str().unwrap().to_owned();
    assert_eq!(talk.refused_as(), (403, "InvalidSignatureException"));
    assert!(message.contains("frame 1 of the stream"), "{message}");
    let record = record(&daemon).await;
    assert_eq!((&record["outcome"], &record["statusCode"]), (&json!("refused"), &json!(403)), "{record}");
    eventually("nothing of it upstream", || {
        received(&bedrock, OPERATION).iter().all(|sent| sent.event_count == 0 && sent.status != Some(200))
    })
    .await;
}

/// What the upstream has got by then may have been used, although it has answered nothing.
#[tokio::test]
async fn what_an_upstream_has_heard_counts_although_the_stream_is_refused() {
    let bedrock = bedrock_with(Options { head_after_first_event: true, ..Options::default() }).await;
    let setup = with_callers(Setup::tls(&bedrock).secret(&aws_keys()), KEYED);
    let daemon = setup.with("[limits]\ntokens_per_day = 10000\n").ready().await;
    bedrock.inject(Fault::once(Effect::SlowFirstByte { ms: 60_000 }).on(OPERATION));
    let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
    talk.say("hello").await;
    eventually("the first event upstream", || received(&bedrock, OPERATION).iter().any(|one| one.body_length > 0))
        .await;
    let frame = forged(&mut talk).pop().unwrap();
    talk.send(frame).await;
    talk.refusal().await;
    assert_eq!(talk.refused_as(), (403, "InvalidSignatureException"));
    let record = record(&daemon).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(1)), "{record}");
    let used = "bedrock_sidecar_limit_used_ratio{limit=\"tokens_per_day\",scope=\"host\",name=\"\"}";
    let used = metric(&daemon.metrics().await, used).unwrap();
    assert!(used > 0.2, "what was reserved stays: {used}");
}

/// A head that was signed for another body, or with another secret.
#[tokio::test]
async fn a_forged_head_is_refused_at_once() {
    let (bedrock, daemon) = pair().await;
    let wrong = As::Key(("LOCALBILLING", "anotherSecretOfTheSameLength0123456789ABC"));
    let mut talk = Talk::open(&daemon, wrong).await;
    talk.refusal().await;
    assert_eq!(talk.refused_as(), (403, "InvalidSignatureException"));
    let record = record(&daemon).await;
    assert_eq!((&record["outcome"], &record["identityVerified"]), (&json!("refused"), &json!(false)), "{record}");
    assert_eq!(received(&bedrock, OPERATION).len(), 0);
}

/// Of clients whose key is not known, only the form can be judged.
#[tokio::test]
async fn what_is_no_event_stream_ends_the_exchange_whoever_sends_it() {
    let (bedrock, daemon) = pair().await;
    let huge = 3_u32 * 1024 * 1024;
    let mut prelude = [huge.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    prelude.extend_from_slice(&crc32fast::hash(&prelude).to_be_bytes());
    let mut spoilt = encoded_message(&text("bad")).to_vec();
    *spoilt.last_mut().unwrap() ^= 1;
    let two = [&encoded_message(&text("one"))[..], &encoded_message(&text("two"))[..]].concat();
    for (what, bytes, sentence) in [
        ("text", Bytes::from_static(b"{\"event\":{\"sessionStart\":{}}}"), "no event stream"),
        ("a wrong checksum", spoilt.into(), "checksum"),
        ("a frame of 3 MiB", prelude.into(), "longer than 2097152 bytes"),
        (
            "two events in one envelope",
            Signer { keys: STRANGER, region: "us-gov-west-1", prior: String::new() }.frame_of(&two),
            "no event",
        ),
    ] {
        bedrock.clear();
        let mut talk = Talk::open(&daemon, As::Key(STRANGER)).await;
        talk.exchange("before").await;
        talk.send(bytes).await;
        let (kind, message) = talk.exception().await;
        assert!(kind == "validationException" && message.contains(sentence), "{what}: {message}");
        assert_eq!(upstream(&bedrock).await.ended, Ended::ClientWentAway, "{what}");
        let record = daemon.record_with_id(talk.headers["x-bedrock-sidecar-request-id"].to_str().unwrap()).await;
        assert_eq!(record["outcome"], "refused", "{what}: {record}");
        assert!(record["errorMessage"].as_str().unwrap().contains("ValidationException"), "{what}: {record}");
    }
}

impl Signer {
    /// An envelope around any bytes. Nobody verifies this one.
    fn frame_of(&mut self, payload: &[u8]) -> Bytes {
        let mut empty = self.frame(None);
        let envelope = aws_smithy_eventstream::frame::read_message_from(&mut empty).unwrap();
        let headers = envelope.headers().to_vec();
        encoded_message(&Message::new_from_parts(headers, Bytes::copy_from_slice(payload)))
    }
}

#[tokio::test]
async fn a_signed_stream_that_is_cut_off_is_not_taken_for_its_end() {
    let (bedrock, daemon) = pair().await;
    for (what, last, sentence) in [
        ("without its signed end", 0, "without the signed empty frame"),
        ("within a frame", 40, "ended within a frame"),
        ("with a frame behind its end", 1, "a frame follows"),
    ] {
        bedrock.clear();
        let mut talk = Talk::open(&daemon, As::Key(BILLING)).await;
        talk.exchange("before").await;
        let bytes = match last {
            0 => Bytes::new(),
            1 => [talk.frame(None), talk.frame(Some(&text("late")))].concat().into(),
            length => talk.frame(Some(&text("cut"))).slice(..length),
        };
        talk.sent += bytes.len() as u64;
        talk.sends.send_data(bytes, true).unwrap();
        let (_, message) = talk.exception().await;
        assert!(message.contains(sentence), "{what}: {message}");
        let sent = upstream(&bedrock).await;
        assert_eq!((contents(&sent), sent.ended), (vec!["before".to_owned()], Ended::ClientWentAway), "{what}");
        let record = daemon.record_with_id(talk.headers["x-bedrock-sidecar-request-id"].to_str().unwrap()).await;
        assert_eq!((&record["outcome"], &record["requestSize"]), (&json!("refused"), &json!(talk.sent)), "{what}");
    }
}

/// What the daemon sends is verified by a stand-in that refuses what a daemon must not send.
#[tokio::test]
async fn the_stand_in_verifies_each_frame_itself() {
    let bedrock = bedrock().await;
    let address = bedrock.plain_endpoint().trim_start_matches("http://").parse().unwrap();
    let keys = (simulator::DEFAULT_ACCESS_KEY_ID, simulator::DEFAULT_SECRET_ACCESS_KEY);
    let mut good = Talk::at(address, As::Key(keys), "us-east-1").await;
    good.exchange("hello").await;
    good.finish().await;
    assert_eq!(good.said().await.0, "completionEnd");
    let spoilt: [(&str, Spoil); 4] = [
        ("left out", |talk| {
            talk.frame(Some(&text("lost")));
            vec![talk.frame(Some(&text("after it")))]
        }),
        ("repeated", |talk| vec![talk.frame(Some(&text("quiet"))); 2]),
        ("forged", |talk| {
            talk.signer.as_mut().unwrap().keys.1 = "another/secret/of/the/same/length/000001";
            vec![talk.frame(Some(&text("bad")))]
        }),
        ("unsigned", |_| vec![encoded_message(&text("bare"))]),
    ];
    for (what, spoil) in spoilt {
        let mut talk = Talk::at(address, As::Key(keys), "us-east-1").await;
        talk.exchange("hello").await;
        for frame in spoil(&mut talk) {
            talk.send(frame).await;
        }
        talk.exception().await;
        let sent = received(&bedrock, OPERATION).pop().unwrap();
        assert_eq!(sent.error_type.as_deref(), Some("InvalidSignatureException"), "{what}");
    }
    let mut bearer = Talk::at(address, As::Bearer(simulator::DEFAULT_BEARER_TOKEN), "us-east-1").await;
    bearer.refusal().await;
    assert_eq!(bearer.refused_as(), (403, "AccessDeniedException"));
}
