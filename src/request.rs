//! A request that has arrived, whole but for the events of a bidirectional stream: its operation, the model it names, and the form in which it goes upstream.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderMap};
use http::request::Parts;
use http::uri::PathAndQuery;

use crate::bidirectional::ClientEvents;
use crate::error::{Refusal, RefusalKind};
use crate::limits::{self, Estimate};
use crate::model::body::{self, NamedModel};
use crate::operation::{self, ModelPlace, Operation, TokenEstimate};
use crate::service_tier::{self, AskedTier};
use crate::upstream::sign::BodyHash;
use crate::upstream::{UpstreamRequest, strip};

/// A request whose operation is known and whose body has arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub operation: &'static Operation,
    pub method: http::Method,
    pub headers: HeaderMap,
    /// Without the parameters of a presigned request.
    pub query: Option<String>,
    /// The raw path; used as it is where it names no model.
    pub path: String,
    pub body: Bytes,
    /// Of this body, for all upstreams that get it.
    pub body_hash: BodyHash,
    pub model: Option<RequestedModel>,
    /// What follows in place of a body, where the client speaks as long as the stream lasts.
    pub events: Option<ClientEvents>,
}

/// The model as the client names it, and where.
#[derive(Debug, Clone)]
pub(crate) struct RequestedModel {
    pub name: String,
    /// The string in the body that is to be replaced; none when the path names the model.
    pub in_body: Option<Arc<NamedModel>>,
}

impl Received {
    /// Reads which model the request names. `identifier` is what the path carries, decoded.
    ///
    /// # Errors
    /// A body that should name the model and does not, or names it in a way that two readers could read differently.
    pub(crate) fn new(
        operation: &'static Operation,
        identifier: Option<String>,
        head: Parts,
        body: Bytes,
    ) -> Result<Received, Refusal> {
        let model = requested_model(operation, identifier, &head.headers, &body)?;
        Ok(Received {
            operation,
            method: head.method,
            query: head.uri.query().and_then(strip::query),
            path: head.uri.path().to_owned(),
            headers: head.headers,
            body,
            body_hash: BodyHash::default(),
            model,
            events: None,
        })
    }

    /// The same for a bidirectional stream, which has no body in that sense.
    ///
    /// # Errors
    /// As those of `new`.
    pub(crate) fn streaming(
        operation: &'static Operation,
        identifier: Option<String>,
        head: Parts,
        events: ClientEvents,
    ) -> Result<Received, Refusal> {
        let received = Received::new(operation, identifier, head, Bytes::new())?;
        Ok(Received { events: Some(events), ..received })
    }

    /// A part of it has been sent that cannot be sent once more.
    pub(crate) fn has_begun(&self) -> bool {
        self.events.as_ref().is_some_and(ClientEvents::has_begun)
    }

    /// The same request with another body, in which the model may stand elsewhere.
    ///
    /// # Errors
    /// As those of `new`.
    pub(crate) fn with_body(self, body: Bytes) -> Result<Received, Refusal> {
        let model = match self.model {
            Some(RequestedModel { name, in_body: Some(_) }) => {
                requested_model(self.operation, Some(name), &self.headers, &body)?
            }
            other => other,
        };
        Ok(Received { body, body_hash: BodyHash::default(), model, ..self })
    }

    /// The identifier that policy and limits decide over; none where the operation invokes no model.
    pub(crate) fn invoked_model(&self) -> Option<&str> {
        let invokes = self.operation.model != ModelPlace::Described;
        self.model.as_ref().filter(|_| invokes).map(|model| model.name.as_str())
    }

    /// What it may use, and the service tier that it asks for, in its headers or its body.
    pub(crate) fn estimate_and_tier(&self) -> (Estimate, AskedTier<'_>) {
        let tokens = self.operation.tokens;
        let (estimate, in_body) = limits::estimate_and_tier(tokens, &self.body);
        if tokens == TokenEstimate::NoTokens {
            return (estimate, in_body);
        }
        // What is compressed may say anything.
        let hidden = in_body == AskedTier::Unsaid && self.headers.contains_key(CONTENT_ENCODING);
        let in_body = if hidden { AskedTier::Unclear } else { in_body };
        (estimate, service_tier::asked_by(&self.headers).and(in_body))
    }

    /// The request with `model` in the place of the one that was asked for. `headers` are those that go upstream.
    ///
    /// # Errors
    /// A target that cannot be written as a path; `operation` refuses those before.
    pub(crate) fn to_upstream(
        &self,
        headers: &Arc<HeaderMap>,
        model: Option<&str>,
    ) -> Result<UpstreamRequest, Refusal> {
        let requested = self.model.as_ref().map(|model| model.name.as_str());
        let mut path = match (self.operation.model, model) {
            (ModelPlace::Path | ModelPlace::Described, Some(model)) => operation::path_with(self.operation, model),
            _ => self.path.clone(),
        };
        if let Some(query) = &self.query {
            path.push('?');
            path.push_str(query);
        }
        let (body, body_hash) = match (self.model.as_ref().and_then(|model| model.in_body.as_deref()), model) {
            (Some(named), Some(model)) if Some(model) != requested => {
                (body::replace(&self.body, named, model), BodyHash::default())
            }
            _ => (self.body.clone(), self.body_hash.clone()),
        };
        let path = PathAndQuery::try_from(path)
            .map_err(|_| Refusal::new(RefusalKind::Validation, "the request's target cannot be sent on."))?;
        let (method, headers, events) = (self.method.clone(), Arc::clone(headers), self.events.clone());
        Ok(UpstreamRequest { plane: self.operation.plane, method, path, headers, body, body_hash, events })
    }
}

/// The model that a body names, if it can be read.
pub(crate) fn named_in(operation: &'static Operation, headers: &HeaderMap, body: &Bytes) -> Option<String> {
    match operation.model {
        ModelPlace::Path | ModelPlace::Described => None,
        _ => requested_model(operation, None, headers, body).ok().flatten().map(|model| model.name),
    }
}

/// The model that a request names.
fn requested_model(
    operation: &Operation,
    identifier: Option<String>,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Option<RequestedModel>, Refusal> {
    let in_body = |keys: &[&str]| {
        if headers.contains_key(CONTENT_ENCODING) {
            return Err(Refusal::new(RefusalKind::Validation, "a body that names the model must not be compressed."));
        }
        let Some(named) = body::find(body, keys)? else {
            let keys = keys.join(".");
            return Err(Refusal::new(
                RefusalKind::Validation,
                format!("the request's body does not name the model under \"{keys}\"."),
            ));
        };
        // Before anybody records, logs or quotes it: a body may name a model of megabytes, with line ends in it.
        operation::check_identifier(&named.model)?;
        Ok(Some(RequestedModel { name: named.model.clone(), in_body: Some(Arc::new(named)) }))
    };
    match operation.model {
        ModelPlace::None | ModelPlace::Unseen => Ok(None),
        ModelPlace::Path | ModelPlace::Described => Ok(identifier.map(|name| RequestedModel { name, in_body: None })),
        ModelPlace::Body(key) => in_body(&[key]),
        ModelPlace::Within(keys) => in_body(keys),
        ModelPlace::CopyFrom => {
            serde_json::from_slice::<serde_json::Value>(body)
                .map_err(|_| Refusal::new(RefusalKind::Validation, "the request's body is not valid JSON."))?;
            let source = body::copy_source(body)?;
            operation::check_identifier(&source)?;
            Ok(Some(RequestedModel { name: source, in_body: None }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::secret;

    /// The hash of a large body is work, and each upstream of a failover gets the same body but for the model in it.
    #[tokio::test]
    async fn a_body_is_hashed_once_for_all_upstreams_that_get_it() {
        let keys =
            r#"{"aws_access_key_id":"AKIDEXAMPLE","aws_secret_access_key":"not/a/real/secret/but/forty/characters/l"}"#;
        let (keys, bearer) = (secret::parse(keys).unwrap(), secret::parse("ABSKbm90LWEta2V5").unwrap());
        let (head, ()) = http::Request::post("/async-invoke").body(()).unwrap().into_parts();
        let body = Bytes::from_static(br#"{"modelId":"m","modelInput":{}}"#);
        let found = operation::find(&head.method, head.uri.path()).unwrap();
        let received = Received::new(found.operation, found.identifier, head, body).unwrap();
        let to_upstream = |received: &Received, model| received.to_upstream(&Arc::default(), Some(model)).unwrap();
        let (one, two) = (to_upstream(&received, "m"), to_upstream(&received, "m"));
        assert_eq!(one.body_hash.of(&bearer, &one.body).await, "");
        let hash = one.body_hash.of(&keys, &one.body).await;
        assert_eq!(hash, crate::sigv4::hash(&one.body));
        assert!(std::ptr::eq(hash, two.body_hash.of(&keys, &two.body).await));
        let other = to_upstream(&received, "n");
        assert_eq!(
            other.body_hash.of(&keys, &other.body).await,
            crate::sigv4::hash(br#"{"modelId":"n","modelInput":{}}"#)
        );
        let later = received.with_body(Bytes::from_static(br#"{"modelId":"m"}"#)).unwrap();
        let later = to_upstream(&later, "m");
        assert_eq!(later.body_hash.of(&keys, &later.body).await, crate::sigv4::hash(&later.body));
    }
}
