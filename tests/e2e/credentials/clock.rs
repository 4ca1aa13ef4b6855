//! A clock that differs from Bedrock's.

use simulator::{Effect, Fault, Simulator};
use test_support::*;

use super::{ask, long_lived};

async fn skewed(bedrock: &Simulator, seconds: i64) {
    bedrock.inject(Fault::once(Effect::ClockSkew { seconds }).times(0));
}

#[tokio::test]
async fn a_clock_that_is_off_is_healed_once() {
    for seconds in [3600, -3600] {
        let bedrock = bedrock().await;
        skewed(&bedrock, seconds).await;
        let daemon = Setup::plain(&bedrock).secret(&long_lived()).ready().await;
        for _ in 0..3 {
            let answer = ask(&daemon).await;
            assert_eq!(answer.status, 200);
            daemon.record_of(&answer).await;
        }
        let refused = bedrock.requests().into_iter().filter(|one| one.status == Some(403)).count();
        assert_eq!(refused, 1, "learned once, at the first call");
        let warnings = daemon
            .lines()
            .into_iter()
            .filter(|line| line["message"].as_str().unwrap_or_default().contains("clock differs"));
        assert_eq!(warnings.count(), 1);
        // The clock is set right: that is noticed too.
        bedrock.clear_faults();
        assert_eq!(ask(&daemon).await.status, 200);
    }
}

#[tokio::test]
async fn an_upstream_that_always_says_skewed_is_not_asked_for_ever() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).secret(&long_lived()).ready().await;
    bedrock.clear();
    bedrock.inject(
        Fault::once(Effect::Error {
            status: 403,
            error_type: "InvalidSignatureException".into(),
            message: "Signature expired: 20200101T000000Z is now earlier than 20200101T000500Z".into(),
            capital: false,
            headers: Default::default(),
        })
        .times(0)
        .on("Converse"),
    );
    let answer = ask(&daemon).await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (403, Some("InvalidSignatureException")));
    assert!(received(&bedrock, "Converse").len() <= 2);
}

/// All of them were signed before anyone knew better, and each has a second attempt.
#[tokio::test]
async fn requests_that_are_refused_together_all_succeed_after_one_shift() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).secret(&long_lived()).ready().await;
    for seconds in [3600, -3600] {
        bedrock.clear_faults();
        skewed(&bedrock, seconds).await;
        let asked: Vec<_> = (0..32)
            .map(|_| {
                let address = daemon.address();
                tokio::spawn(async move { post(address, &converse_path(ON_DEMAND), converse("hello")).await.status })
            })
            .collect();
        for answer in asked {
            assert_eq!(answer.await.unwrap(), 200);
        }
    }
    daemon.all_records(64).await;
    let differs = |line: &serde_json::Value| line["message"].as_str().unwrap_or_default().contains("clock differs");
    assert_eq!(daemon.lines().iter().filter(|line| differs(line)).count(), 2, "said once for each shift");
}

/// A date at the end of time came with a refused signature, and signing with it would have ended the process.
#[tokio::test]
async fn a_clock_that_cannot_be_right_is_not_believed_and_said() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).secret(&long_lived()).ready().await;
    // Into the year 9948, back to about 1973, and a day and some hours.
    for seconds in [250_000_000_000, -1_700_000_000, 100_000] {
        bedrock.inject(Fault::once(Effect::ClockSkew { seconds }).on("Converse"));
        let answer = ask(&daemon).await;
        assert_eq!((answer.status, answer.header("x-amzn-errortype")), (403, Some("InvalidSignatureException")));
        let answer = ask(&daemon).await;
        assert_eq!(answer.status, 200, "the next one is signed with the time as it was");
        daemon.record_of(&answer).await;
    }
    let disbelieves = |line: &serde_json::Value| line["message"].as_str().unwrap_or_default().contains("not believed");
    assert_eq!(daemon.lines().iter().filter(|line| disbelieves(line)).count(), 1, "said, and not each time");
    assert_eq!(metric(&daemon.metrics().await, "bedrock_sidecar_disbelieved_clocks_total"), Some(3.0));
}
