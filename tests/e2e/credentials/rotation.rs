//! Keys that are replaced or revoked while requests are on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::Method;
use simulator::{DEFAULT_BEARER_TOKEN, Effect, Fault, ROTATED_BEARER_TOKEN};
use test_support::*;

use super::{ask, temporary};

/// Counts requests and failures of clients that never stop.
async fn under_load<F: Future<Output = ()>>(daemon: &Daemon, during: impl FnOnce() -> F) -> (u64, Vec<String>) {
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (stop, served, address) = (Arc::clone(&stop), Arc::clone(&served), daemon.address());
        clients.spawn(async move {
            let mut connection = Http1::to(address).await;
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.send(request(Method::POST, &converse_path(ON_DEMAND), converse("load"))).await;
                served.fetch_add(1, Ordering::Relaxed);
                if answer.status != 200 {
                    failures.push(format!("{answer:?}"));
                }
            }
            failures
        });
    }
    until("the load to run", || Some(()).filter(|()| served.load(Ordering::Relaxed) > 50)).await;
    during().await;
    let reached = served.load(Ordering::Relaxed) + 50;
    until("more load", || Some(()).filter(|()| served.load(Ordering::Relaxed) > reached)).await;
    stop.store(true, Ordering::Relaxed);
    let failures = clients.join_all().await.concat();
    (served.load(Ordering::Relaxed), failures)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_fails_no_request() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).with("[models]\ncreate_profiles = false").ready().await;
    let path = daemon.secret_path();
    let (served, failures) = under_load(&daemon, || async {
        // The new key is in the secret before the old one stops: the daemon learns of it by a refusal.
        std::fs::write(&path, ROTATED_BEARER_TOKEN).unwrap();
        bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
        let rotated = format!("Bearer {ROTATED_BEARER_TOKEN}");
        until("the new key in use", || {
            bedrock.requests().iter().rev().find(|one| one.header("authorization") == Some(&rotated)).map(|_| ())
        })
        .await;
    })
    .await;
    assert!(failures.is_empty(), "{} of {served} failed: {:?}", failures.len(), failures.first());
}

async fn concurrent(daemon: &Daemon, count: usize) -> Vec<Answer> {
    let connection = Http2::to(daemon.address()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let connection = connection.clone();
        tasks.spawn(async move {
            connection.send(request(Method::POST, &converse_path(ON_DEMAND), converse("hello"))).await
        });
    }
    tasks.join_all().await
}

fn refreshes(page: &str) -> f64 {
    metric(page, "bedrock_sidecar_credential_refresh_total{result=\"success\"}").unwrap()
        + metric(page, "bedrock_sidecar_credential_refresh_total{result=\"failure\"}").unwrap()
}

/// Every sign of a stale key that Bedrock gives: one read of the source for all requests in flight, and one retry each.
#[tokio::test]
async fn a_stale_key_is_read_anew_once_for_all_and_each_request_retried_once() {
    let bedrock = bedrock().await;
    for effect in [
        Effect::InvalidKey,
        Effect::InvalidKeyFormat,
        Effect::ExpiredKey,
        Effect::ExpiredToken,
        Effect::UnrecognizedClient,
    ] {
        // Requests, and nothing else, may cause reads of the source. A daemon for each: reads in vain are not repeated at once.
        let daemon = Setup::tls(&bedrock)
            .credentials("[credentials]\nsource = \"environment\"\n")
            .env("AWS_BEARER_TOKEN_BEDROCK", DEFAULT_BEARER_TOKEN)
            .ready()
            .await;
        let before = refreshes(&daemon.metrics().await);
        bedrock.clear();
        bedrock.inject(Fault::once(effect.clone()).times(0).on("Converse"));
        let answers = concurrent(&daemon, 10).await;
        for answer in &answers {
            assert_eq!(answer.status, 403, "{effect:?}: the upstream's answer, then: {answer:?}");
            assert!(!answer.text().contains("bedrock-sidecar"), "{effect:?}: {}", answer.text());
        }
        assert_eq!(received(&bedrock, "Converse").len(), 20, "{effect:?}: one retry each");
        let read = refreshes(&daemon.metrics().await) - before;
        assert!((1.0..=2.0).contains(&read), "{effect:?}: {read} reads for 10 requests at once");
        bedrock.clear_faults();

        // One refusal only: nobody notices.
        bedrock.inject(Fault::once(effect.clone()).on("Converse"));
        let answer = ask(&daemon).await;
        assert_eq!(answer.status, 200, "{effect:?}: {answer:?}");
        assert_eq!(daemon.record_of(&answer).await["attempts"], 2);

        // However many are refused now, the source has just been read in vain.
        let before = refreshes(&daemon.metrics().await);
        bedrock.inject(Fault::once(effect.clone()).times(0).on("Converse"));
        for _ in 0..3 {
            assert!(concurrent(&daemon, 10).await.iter().all(|answer| answer.status == 403), "{effect:?}");
        }
        assert_eq!(refreshes(&daemon.metrics().await), before, "{effect:?}");
        bedrock.clear_faults();
    }
}

#[tokio::test]
async fn a_403_that_is_not_about_the_key_passes_at_once() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let before = refreshes(&daemon.metrics().await);
    for message in [
        "You don't have access to the model with the specified model ID.",
        "User: arn:aws:iam::1:user/x is not authorized to perform: bedrock:InvokeModel on resource: x",
        "User: x is not authorized to perform: bedrock:InvokeModel with an explicit deny in a service control policy",
    ] {
        let error = Effect::Error {
            status: 403,
            error_type: "AccessDeniedException".into(),
            message: message.into(),
            capital: false,
            headers: Default::default(),
        };
        let asked = || request(Method::POST, &converse_path(ON_DEMAND), converse("hello"));
        bedrock.inject(Fault::once(error.clone()));
        let expected = direct(&bedrock, asked()).await;
        bedrock.inject(Fault::once(error));
        bedrock.clear();
        same(&send(daemon.address(), asked()).await, &expected);
        assert_eq!(received(&bedrock, "Converse").len(), 1);
    }
    assert_eq!(refreshes(&daemon.metrics().await), before);
}

#[tokio::test]
async fn a_key_that_is_revoked_and_replaced_heals_within_the_request() {
    let bedrock = bedrock().await;
    for (new, change) in [(ROTATED_BEARER_TOKEN.to_owned(), "bearer"), (temporary(), "sigv4")] {
        bedrock.reset_credentials();
        let daemon = Setup::tls(&bedrock).ready().await;
        bedrock.set_bearer_tokens(vec![ROTATED_BEARER_TOKEN.into()]);
        std::fs::write(daemon.secret_path(), new).unwrap();
        bedrock.clear();
        let answer = ask(&daemon).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(received(&bedrock, "Converse").last().unwrap().auth, change);
    }
}
