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
            assert_eq!(ask(&daemon).await.status, 200);
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
