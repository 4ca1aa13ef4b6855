//! Which front answers a request on the main address: health, the legacy REST API, or Bedrock. A panic on the way to an
//! answer ends here.

use std::future::Future;
use std::sync::Arc;

use http::header::HeaderValue;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio_util::either::Either;

use crate::error::{Refusal, RefusalKind};
use crate::exchange::{AMZN_REQUEST_ID, Body, Exchange, REQUEST_ID};
use crate::listen::{Client, guard, head::Fault};
use crate::operation::{self, Matched};
use crate::panics::Panicked;
use crate::road::Road;
use crate::{admin, large, legacy_rest, panics, proxy, receive, request_id, workers};

/// Answers one request: on this thread, unless it is a worker's and the work may take it for long. Then that is done
/// elsewhere, until this is dropped.
pub(crate) fn serve(
    road: Arc<Road>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Response<Body>> + Send {
    // The legacy REST API holds whole answers, and asks for records.
    let may_take_long = large::may_be(request.body()) || legacy_rest::is_below(request.uri().path());
    if workers::here().is_none() || !may_take_long {
        Either::Left(serve_here(road, client, request))
    } else {
        Either::Right(Box::pin(serve_elsewhere(road, client, request)))
    }
}

async fn serve_elsewhere(road: Arc<Road>, client: Arc<Client>, request: Request<Incoming>) -> Response<Body> {
    let mut served = JoinSet::new();
    // Nothing there contains a panic, not even one while this is dropped.
    served.spawn_on(panics::contained(serve_here(road, client, request)), &workers::elsewhere());
    match served.join_next().await {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(Panicked))) => {
            let sentence = "an error in the daemon's own code ended this request; its log says where.";
            Refusal::new(RefusalKind::Internal, sentence).response().map(Body::whole)
        }
        // That runtime ends.
        _ => Refusal::new(RefusalKind::ServiceUnavailable, "the daemon is stopping.").response().map(Body::whole),
    }
}

async fn serve_here(road: Arc<Road>, client: Arc<Client>, request: Request<Incoming>) -> Response<Body> {
    let (version, uri, headers) = (request.version(), request.uri(), request.headers());
    if uri.path() == "/health" && Fault::of(version, uri, headers).is_none() && !guard::is_from_another_site(headers) {
        return admin::health();
    }
    panics::inject("service", uri.path());
    let exchange = Exchange::begin(&road, &client);
    let id = exchange.id();
    panics::contained(answer(road, client, exchange, request)).await.unwrap_or_else(|_panicked| {
        let id = request_id::text(id);
        let sentence =
            format!("an error in the daemon's own code ended this request; its log says where (request {id}).");
        let mut response = Refusal::new(RefusalKind::Internal, sentence).response().map(Body::whole);
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, id.clone());
            response.headers_mut().insert(AMZN_REQUEST_ID, id);
        }
        response
    })
}

async fn answer(
    road: Arc<Road>,
    client: Arc<Client>,
    mut exchange: Box<Exchange>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    exchange.tags(&head.headers);
    if let Err(refusal) = exchange.take_turn() {
        if let Ok(Matched { operation, identifier }) = operation::find(&head.method, head.uri.path()) {
            exchange.operation(operation, identifier.as_deref());
        }
        let left = Box::pin(receive::leave_small(&head.headers, body)).await;
        exchange.record.request_size = left.size;
        return exchange.refuse(&if left.ended { refusal } else { refusal.closing() });
    }
    if legacy_rest::is_below(head.uri.path()) {
        // In a box: what is asked for seldom shall not make the future of every request larger.
        Box::pin(legacy_rest::serve(&road, &client, exchange, head, body)).await
    } else {
        proxy::serve(&road, &client, exchange, head, body).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of this many arguments returns.
    macro_rules! size_of_answer {
        ($function:expr, $($argument:ident)*) => {{
            fn size<$($argument,)* T>(_: impl Fn($($argument),*) -> T) -> usize {
                size_of::<T>()
            }
            size($function)
        }};
    }

    /// Futures are copied when they are made and when they are awaited, and each holds those that it awaits: what a request
    /// needs seldom has a place of its own.
    #[test]
    fn the_future_of_a_request_is_small() {
        let (whole, here) = (size_of_answer!(serve, A B C), size_of_answer!(serve_here, A B C));
        let own = size_of_answer!(answer, A B C D);
        assert!(whole <= here + 16, "{whole}, {here}");
        assert!(here <= 768, "{here}");
        assert!(own <= 5 * 1024, "{own}");
    }
}
