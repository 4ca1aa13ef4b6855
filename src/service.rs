//! Which front answers a request on the main address: health, the legacy REST API, or Bedrock.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::exchange::{Body, Exchange};
use crate::listen::{Client, guard, head::Fault};
use crate::road::Road;
use crate::{admin, legacy_rest, proxy};

/// Answers one request.
pub(crate) async fn serve(road: Arc<Road>, client: Arc<Client>, request: Request<Incoming>) -> Response<Body> {
    let headers = request.headers();
    if request.uri().path() == "/health" && Fault::of(headers).is_none() && !guard::is_from_another_site(headers) {
        return admin::health();
    }
    let mut exchange = Exchange::begin(&road, &client);
    let (head, body) = request.into_parts();
    exchange.tags(&head.headers);
    if head.uri.path().starts_with("/v1/") {
        legacy_rest::serve(&road, &client, exchange, head, body).await
    } else {
        proxy::serve(&road, &client, exchange, head, body).await
    }
}
