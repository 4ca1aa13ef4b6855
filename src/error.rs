//! The daemon's own refusals and the one place that turns them into answers an AWS SDK can parse.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;

use crate::operation::Api;

/// The header in which AWS services name an error's type.
pub const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Why a request is refused, in AWS's own classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// 400: the request is malformed or contradicts itself.
    Validation,
    /// 403: policy, allow lists or the guard against browsers and proxies.
    AccessDenied,
    /// 403: a signature that does not verify under a key that we know.
    SignatureDoesNotMatch,
    /// 403: a key, token or date that is not (or no longer) valid.
    UnrecognizedClient,
    /// 404: no such operation on this endpoint.
    UnknownOperation,
    /// 404: the operation exists, what it names does not.
    ResourceNotFound,
    /// 408: the client took too long to send its request.
    RequestTimeout,
    /// 413: the body exceeds `limits.max_body_bytes`.
    BodyTooLarge,
    /// 429: a limit of this host, caller, model or fleet.
    Throttling,
    /// 431: the head of the request exceeds the limit.
    HeadTooLarge,
    /// 500: an error in the daemon's own code.
    Internal,
    /// 503: credentials, upstream or ledger cannot serve; never the client's fault.
    ServiceUnavailable,
}

impl RefusalKind {
    /// The HTTP status that AWS services give to this class.
    pub fn status(self) -> StatusCode {
        match self {
            RefusalKind::Validation => StatusCode::BAD_REQUEST,
            RefusalKind::AccessDenied | RefusalKind::SignatureDoesNotMatch | RefusalKind::UnrecognizedClient => {
                StatusCode::FORBIDDEN
            }
            RefusalKind::UnknownOperation | RefusalKind::ResourceNotFound => StatusCode::NOT_FOUND,
            RefusalKind::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            RefusalKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            RefusalKind::Throttling => StatusCode::TOO_MANY_REQUESTS,
            RefusalKind::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            RefusalKind::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The value of `x-amzn-errortype`, from which SDKs pick the exception class.
    pub fn error_type(self) -> &'static str {
        match self {
            RefusalKind::Validation | RefusalKind::HeadTooLarge | RefusalKind::BodyTooLarge => "ValidationException",
            RefusalKind::AccessDenied => "AccessDeniedException",
            RefusalKind::SignatureDoesNotMatch => "InvalidSignatureException",
            RefusalKind::UnrecognizedClient => "UnrecognizedClientException",
            RefusalKind::UnknownOperation => "UnknownOperationException",
            RefusalKind::ResourceNotFound => "ResourceNotFoundException",
            RefusalKind::RequestTimeout => "RequestTimeoutException",
            RefusalKind::Throttling => "ThrottlingException",
            RefusalKind::Internal => "InternalServerException",
            RefusalKind::ServiceUnavailable => "ServiceUnavailableException",
        }
    }

    /// The nearest of the error types that OpenAI documents.
    fn openai_type(self) -> &'static str {
        match self.status().as_u16() {
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The nearest of the error types that Anthropic documents.
    fn anthropic_type(self) -> &'static str {
        match self.status().as_u16() {
            403 => "permission_error",
            404 => "not_found_error",
            408 => "timeout_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }
}

/// A request that the daemon answers itself: class, one sentence, and what the client's connection may expect.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Decides the status and the exception class.
    pub kind: RefusalKind,
    /// One sentence that tells the reader what to do; it never holds a secret, a prompt or an answer.
    pub message: Cow<'static, str>,
    /// Sent as `Retry-After`, in whole seconds, rounded up.
    pub retry_after: Option<Duration>,
    /// The request's body was not read to its end, so the connection cannot carry another request.
    pub close: bool,
}

impl Refusal {
    /// A refusal that names no time to try again and leaves the connection usable.
    pub fn new(kind: RefusalKind, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { kind, message: message.into(), retry_after: None, close: false }
    }

    /// Tells the client how long to wait before it tries again.
    pub fn retry_after(mut self, after: Duration) -> Refusal {
        self.retry_after = Some(after);
        self
    }

    /// Marks the connection as unusable after the answer.
    pub fn closing(mut self) -> Refusal {
        self.close = true;
        self
    }

    /// The text as the client sees it and the ledger keeps it.
    pub fn text(&self) -> String {
        format!("bedrock-sidecar: {}", self.message)
    }

    /// The answer in AWS's JSON shape.
    pub fn response(&self) -> Response<Bytes> {
        self.response_for(Api::Aws)
    }

    /// The answer in the shape that the clients of an API read. What AWS's clients read is in all of them.
    pub fn response_for(&self, api: Api) -> Response<Bytes> {
        let (text, code) = (self.text(), self.kind.error_type());
        let body = match api {
            Api::Aws => json!({ "message": text }),
            Api::OpenAi => json!({
                "error": { "message": text, "type": self.kind.openai_type(), "param": null, "code": code },
                "message": text,
            }),
            Api::Anthropic => json!({
                "type": "error",
                "error": { "type": self.kind.anthropic_type(), "message": text },
                "message": text,
            }),
        };
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = self.kind.status();
        self.headers(response.headers_mut());
        response
    }

    /// Error type, retry hint and connection handling; the body's shape is the caller's.
    pub fn headers(&self, headers: &mut http::HeaderMap) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR_TYPE, HeaderValue::from_static(self.kind.error_type()));
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_of_each_api_find_type_and_text_where_they_look() {
        use RefusalKind::{AccessDenied, BodyTooLarge, ServiceUnavailable, Throttling, UnknownOperation, Validation};
        for (kind, openai, anthropic) in [
            (Validation, "invalid_request_error", "invalid_request_error"),
            (AccessDenied, "permission_error", "permission_error"),
            (UnknownOperation, "invalid_request_error", "not_found_error"),
            (BodyTooLarge, "invalid_request_error", "request_too_large"),
            (Throttling, "rate_limit_error", "rate_limit_error"),
            (ServiceUnavailable, "server_error", "api_error"),
        ] {
            let refusal = Refusal::new(kind, "no.");
            let body = |api| -> serde_json::Value {
                serde_json::from_slice(refusal.response_for(api).body()).unwrap_or_default()
            };
            let text = "bedrock-sidecar: no.";
            assert_eq!(body(Api::Aws), json!({ "message": text }));
            let error = json!({ "message": text, "type": openai, "param": null, "code": kind.error_type() });
            assert_eq!(body(Api::OpenAi), json!({ "error": error, "message": text }));
            let error = json!({ "type": anthropic, "message": text });
            assert_eq!(body(Api::Anthropic), json!({ "type": "error", "error": error, "message": text }));
        }
    }
}
