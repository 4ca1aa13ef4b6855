//! A stand-in for AWS Secrets Manager, which holds one secret and can be away.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::watch;

use crate::plan::Away;

/// A running one; it answers until the test ends.
#[derive(Debug)]
pub(crate) struct Secrets {
    address: SocketAddr,
    secret: Arc<Mutex<String>>,
    away: watch::Sender<Option<Away>>,
}

impl Secrets {
    pub(crate) async fn start(secret: &str) -> Secrets {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let secrets =
            Secrets { address, secret: Arc::new(Mutex::new(secret.to_owned())), away: watch::Sender::new(None) };
        let (secret, away) = (secrets.secret.clone(), secrets.away.clone());
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                if *away.borrow() == Some(Away::Refused) {
                    continue;
                }
                let (secret, away) = (secret.clone(), away.clone());
                let service = service_fn(move |request| answer(request, secret.clone(), away.subscribe()));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        secrets
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn put(&self, secret: &str) {
        secret.clone_into(&mut self.secret.lock().unwrap());
    }

    /// How it cannot be read; `None` when it can.
    pub(crate) fn set(&self, away: Option<Away>) {
        self.away.send_replace(away);
    }
}

async fn answer(
    request: Request<Incoming>,
    secret: Arc<Mutex<String>>,
    mut away: watch::Receiver<Option<Away>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    assert_eq!(target, "secretsmanager.GetSecretValue");
    let _ = request.into_body().collect().await;
    let now = *away.borrow_and_update();
    let (status, body) = match now {
        Some(Away::Silent) => {
            let _ = away.wait_for(|away| *away != Some(Away::Silent)).await;
            (500, json!({ "__type": "InternalServiceError", "message": "it was away" }))
        }
        Some(_) => (500, json!({ "__type": "InternalServiceError", "message": "it is away" })),
        None => {
            let secret = secret.lock().unwrap().clone();
            let arn = "arn:aws-us-gov:secretsmanager:us-gov-west-1:111122223333:secret:chaos-AbCdEf";
            (200, json!({ "ARN": arn, "Name": "chaos", "SecretString": secret, "VersionStages": ["AWSCURRENT"] }))
        }
    };
    let response = Response::builder().status(status).header("content-type", "application/x-amz-json-1.1");
    Ok(response.body(Full::from(body.to_string())).unwrap())
}
