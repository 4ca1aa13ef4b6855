//! Short-term Bedrock API keys: their region and their end.

use simulator::{AwsKey, short_term_key};
use test_support::*;

use super::{ask, now};

#[tokio::test]
async fn a_short_term_key_of_another_region_is_refused_with_a_sentence() {
    let bedrock = bedrock().await;
    let key = short_term_key(&AwsKey::default_long_lived(), "us-west-2", now(), 3600);
    let daemon = Setup::plain(&bedrock).secret(&key).start().await;
    bedrock.clear();
    let answer = ask(&daemon).await;
    let sentence = refused(&answer, 503, "ServiceUnavailableException");
    assert!(sentence.contains("is valid in us-west-2 only, and the upstream is us-east-1"), "{sentence}");
    assert_eq!(bedrock.requests().len(), 0);
    daemon.record_of(&answer).await;
    let log = daemon.log_text();
    assert!(!log.contains(&key[16..60]), "the key stands in the log");
}

#[tokio::test]
async fn an_expired_short_term_key_is_not_sent_and_a_new_one_is_found() {
    let bedrock = bedrock().await;
    let key = AwsKey::default_long_lived();
    let expired = short_term_key(&key, "us-east-1", now() - 4000, 3600);
    let daemon = Setup::plain(&bedrock).secret(&expired).start().await;
    bedrock.clear();
    let sentence = refused(&ask(&daemon).await, 503, "ServiceUnavailableException");
    assert!(sentence.contains("the commercial short-term Bedrock API key has expired"), "{sentence}");
    assert_eq!(daemon.admin_get("/ready").await.status, 503);
    assert_eq!(bedrock.requests().len(), 0, "an expired key is not even tried");
    std::fs::write(daemon.secret_path(), short_term_key(&key, "us-east-1", now(), 3600)).unwrap();
    daemon.until_ready().await;
    assert_eq!(ask(&daemon).await.status, 200);
}

#[tokio::test]
async fn a_short_term_key_is_replaced_before_it_expires() {
    let bedrock = bedrock().await;
    let key = AwsKey::default_long_lived();
    // It has eight seconds to live, which is less than the lead of five minutes; the source has a better one ready.
    let daemon = Setup::plain(&bedrock).secret(&short_term_key(&key, "us-east-1", now() - 3592, 3600)).ready().await;
    let fresh = short_term_key(&key, "us-east-1", now(), 3600);
    std::fs::write(daemon.secret_path(), &fresh).unwrap();
    let authorization = format!("Bearer {fresh}");
    until_async("the fresh key in use", || async {
        bedrock.clear();
        assert_eq!(ask(&daemon).await.status, 200, "never an expired one");
        received(&bedrock, "Converse")[0].header("authorization").filter(|sent| *sent == authorization).map(|_| ())
    })
    .await;
}
