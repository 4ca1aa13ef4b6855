//! Callers that change while the daemon runs.

use http::Method;
use test_support::*;

use super::{KEYED, TOKEN, with_callers};

#[tokio::test]
async fn a_reload_changes_callers_at_once_and_leaves_streams_alone() {
    let bedrock = bedrock().await;
    let text = format!("{KEYED}\n[policy]\nrequire_known_caller = true\n");
    let daemon = with_callers(Setup::plain(&bedrock), &text).ready().await;
    let path = converse_path(ON_DEMAND);
    let ask = |path: &str| {
        let mut request = request(Method::POST, path, converse("events 5"));
        request.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
        request
    };
    let whole = send(daemon.address(), ask(&stream_path(ON_DEMAND))).await;
    assert_eq!(whole.status, 200);
    bedrock.gate().close();
    let mut connection = Http1::to(daemon.address()).await;
    let mut reader = Reader::new(connection.start(ask(&stream_path(ON_DEMAND))).await.unwrap());
    bedrock.gate().release(2);
    reader.until(60).await.unwrap();

    let mut idle = Http1::to(daemon.address()).await;
    assert_eq!(idle.send(ask(&path)).await.status, 200);
    // The token is another one now: at once, also on connections that are open.
    std::fs::write(daemon.directory.path().join("token"), "the-token-that-came-after-it").unwrap();
    daemon.reload("name = \"reports\"", "name = \"renamed\"").await;
    refused(&idle.send(ask(&path)).await, 403, "AccessDeniedException");
    let mut renewed = request(Method::POST, &path, converse("x"));
    renewed.headers_mut().insert("authorization", "Bearer the-token-that-came-after-it".parse().unwrap());
    let answer = idle.send(renewed).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["caller"], "renamed");
    daemon.reload("require_known_caller = true", "require_known_caller = false").await;
    assert_eq!(idle.send(ask(&path)).await.status, 200);

    bedrock.gate().open();
    reader.end().await.unwrap();
    assert_eq!(reader.bytes, whole.body, "not a byte of the stream was lost");
    let record = daemon.record("the stream", |record| {
        record["operation"] == "ConverseStream" && record["caller"] == "reports" && record["latency"].as_u64() > Some(0)
    });
    assert_eq!(record.await["outcome"], "completed");
}
