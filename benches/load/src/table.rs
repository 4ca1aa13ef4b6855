//! A stand-in for DynamoDB that takes whatever it is given and keeps nothing: it costs the machine little, so that what
//! shipping costs the daemon is seen. It says nothing of how fast a table is.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::Error;

const DESCRIPTION: &str = r#"{"Table":{"TableName":"requests","TableStatus":"ACTIVE","KeySchema":[
{"AttributeName":"requestId","KeyType":"HASH"},{"AttributeName":"timestamp","KeyType":"RANGE"}],"AttributeDefinitions":[
{"AttributeName":"requestId","AttributeType":"S"},{"AttributeName":"timestamp","AttributeType":"S"}]}}"#;

/// Serves plain HTTP/1.1.
pub(crate) async fn listen(listener: TcpListener) -> Result<(), io::Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let _ended = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Error> {
    let (head, mut body) = request.into_parts();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let operation = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let text = match operation.rsplit('.').next() {
        Some("DescribeTable") => DESCRIPTION,
        Some("BatchWriteItem") => r#"{"UnprocessedItems":{}}"#,
        _ => "{}",
    };
    Ok(Response::builder().header("content-type", "application/x-amz-json-1.0").body(Full::from(text))?)
}
