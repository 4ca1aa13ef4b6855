//! What an upstream's error answer asks for: another credential, another clock, a profile, or nothing. Which answers lead to
//! another upstream is told in `forward.rs`.

use std::time::SystemTime;

use http::{HeaderMap, StatusCode};

use crate::error::ERROR_TYPE;

/// The class and text of an error, as AWS services word them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AwsError {
    /// Without the `:http://…` suffix that some services append.
    pub error_type: String,
    pub message: String,
}

/// The longest text that the ledger keeps of an error, in bytes.
pub(crate) const LONGEST_FOR_RECORD: usize = 512;

/// The longest name that is taken from an upstream, in bytes.
const LONGEST_WORD: usize = 128;

/// A name that an upstream gives to something (an error, a request), as records hold it: all of a record has to fit in an
/// item of the table, whatever an upstream sends.
pub(crate) fn word(text: &str) -> String {
    // Without a way out, which lets the compiler look at many bytes at once.
    let is_plain = || text.bytes().fold(true, |all, byte| all & matches!(byte, b' '..=b'~'));
    if text.len() <= LONGEST_WORD && is_plain() {
        return text.to_owned();
    }
    let mut word: String = text.chars().filter(|c| !c.is_control()).take(LONGEST_WORD).collect();
    word.truncate(word.floor_char_boundary(LONGEST_WORD));
    word
}

/// What could help.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    None,
    /// The key is not (or no longer) valid.
    Credential,
    /// The signature's date is off; the answer's `Date` header tells the upstream's time.
    Clock(SystemTime),
    /// The model can only be invoked through an inference profile.
    Profile,
}

impl AwsError {
    pub(crate) fn new(headers: &HeaderMap, body: &[u8]) -> AwsError {
        let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| json.get(key).and_then(serde_json::Value::as_str);
        // As OpenAI and Anthropic tell errors.
        let within = |key: &str| json.get("error")?.get(key)?.as_str();
        let header = headers.get(ERROR_TYPE).and_then(|value| value.to_str().ok());
        let named = header.or_else(|| text("__type")).or_else(|| text("code"));
        let named = named.or_else(|| within("code")).or_else(|| within("type")).unwrap_or_default();
        let named = named.split(':').next().unwrap_or_default();
        let named = named.rsplit('#').next().unwrap_or_default();
        AwsError {
            error_type: word(named),
            message: text("message")
                .or_else(|| text("Message"))
                .or_else(|| within("message"))
                .unwrap_or_default()
                .to_owned(),
        }
    }

    /// By the texts that Bedrock uses (bedrock-runtime error references and issue threads of its SDKs). Texts of 400 may quote
    /// the request, so of these the type counts, or the whole form.
    pub(crate) fn remedy(&self, status: StatusCode, headers: &HeaderMap) -> Remedy {
        let text = self.message.to_ascii_lowercase();
        let has = |part: &str| text.contains(part);
        if status == StatusCode::BAD_REQUEST && self.error_type == "ValidationException" && demands_profile(&text) {
            return Remedy::Profile;
        }
        if !matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST) {
            return Remedy::None;
        }
        let is_told =
            status != StatusCode::BAD_REQUEST && (has("signature expired") || has("signature not yet current"));
        if is_told || matches!(self.error_type.as_str(), "RequestTimeTooSkewed" | "RequestExpired") {
            return date(headers).map_or(Remedy::None, Remedy::Clock);
        }
        if status == StatusCode::BAD_REQUEST {
            return Remedy::None;
        }
        let by_type = matches!(
            self.error_type.as_str(),
            "UnrecognizedClientException"
                | "ExpiredTokenException"
                | "ExpiredToken"
                | "InvalidSignatureException"
                | "InvalidClientTokenId"
                | "invalid_api_key"
        );
        let by_text = has("invalid api key format")
            || has("authentication failed: please make sure your api key is valid")
            || has("bearer token has expired")
            || has("security token included in the request is invalid")
            || has("security token included in the request is expired");
        if by_type || by_text { Remedy::Credential } else { Remedy::None }
    }

    /// It says that the model or profile that was named is not there, and not that the request is wrong otherwise. Other texts
    /// of 400 may quote the request, so these are looked for at the beginning.
    pub(crate) fn blames_model(&self, status: StatusCode) -> bool {
        let text = self.message.to_ascii_lowercase();
        let begins = |start: &str| text.starts_with(start);
        match status {
            StatusCode::NOT_FOUND => self.error_type == "ResourceNotFoundException",
            StatusCode::BAD_REQUEST => {
                self.error_type == "ValidationException"
                    && (begins("the provided model identifier is invalid")
                        || begins("the provided inference profile")
                        || begins("the requested inference profile"))
            }
            _ => false,
        }
    }

    /// The operation or the model is not to be had on bedrock-runtime, as far as it says so itself. What an account still has
    /// to do before it may use a model is for the account to do.
    pub(crate) fn is_of_what_is_lacking(&self, status: StatusCode) -> bool {
        let text = self.message.to_ascii_lowercase();
        let counts_none = text.starts_with("the provided model doesn't support counting tokens")
            || text.starts_with("the provided model doesn\u{2019}t support counting tokens");
        match status {
            StatusCode::NOT_FOUND if self.error_type == "ResourceNotFoundException" => {
                !text.starts_with("model use case details")
            }
            StatusCode::NOT_FOUND => {
                matches!(self.error_type.as_str(), "" | "UnknownOperationException" | "not_found_error")
            }
            StatusCode::BAD_REQUEST => counts_none || self.blames_model(status),
            _ => false,
        }
    }

    /// The mantle host may serve the model below another prefix of its path: "model `X` isn't supported on this route", or
    /// "The model 'X' does not support the '/v1/responses' API".
    pub(crate) fn names_another_route(&self, status: StatusCode) -> bool {
        let text = self.message.to_ascii_lowercase();
        let of_path = ["' does not support the '/v1/", "' does not support the '/openai/v1/"];
        matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
            && (text.starts_with("model ") || text.starts_with("the model "))
            && (text.contains("supported on this route")
                || (of_path.into_iter().any(|part| text.contains(part)) && text.ends_with("' api")))
    }

    /// What the ledger keeps. Texts of 400 and 424 may quote the prompt, so only their type is kept.
    pub(crate) fn for_record(&self, status: StatusCode) -> String {
        let may_quote_input = matches!(status.as_u16(), 400 | 422 | 424);
        let kind = if self.error_type.is_empty() { status.as_str() } else { &self.error_type };
        if may_quote_input || self.message.is_empty() {
            return kind.to_owned();
        }
        let mut text = format!("{kind}: {}", self.message);
        text.truncate(text.floor_char_boundary(LONGEST_FOR_RECORD));
        text
    }
}

/// "Invocation of model ID … with on-demand throughput isn't supported", in small letters.
fn demands_profile(text: &str) -> bool {
    text.strip_prefix("invocation of model id ")
        .and_then(|rest| rest.split_once(' '))
        .is_some_and(|(_model, rest)| rest.starts_with("with on-demand throughput isn"))
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(http::header::DATE)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(status: u16, error_type: &str, message: &str) -> Remedy {
        let mut headers = HeaderMap::new();
        headers.insert(ERROR_TYPE, format!("{error_type}:http://internal.amazon.com/coral/").parse().unwrap());
        headers.insert(http::header::DATE, "Sat, 31 Jan 2026 23:59:59 GMT".parse().unwrap());
        let body = serde_json::json!({ "Message": message }).to_string();
        AwsError::new(&headers, body.as_bytes()).remedy(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn texts_of_bedrock_lead_to_their_remedy() {
        let on_demand = "Invocation of model ID a.b with on-demand throughput isn\u{2019}t supported. Retry your request with the ID or ARN of an inference profile that contains this model.";
        assert_eq!(remedy(400, "ValidationException", on_demand), Remedy::Profile);
        assert_eq!(remedy(400, "ValidationException", &on_demand.replace('\u{2019}', "'")), Remedy::Profile);
        for (kind, text) in [
            ("AccessDeniedException", "Invalid API Key format: Must start with pre-defined prefix"),
            ("AccessDeniedException", "Authentication failed: Please make sure your API Key is valid."),
            ("AccessDeniedException", "Bearer Token has expired"),
            ("UnrecognizedClientException", "The security token included in the request is invalid."),
            ("ExpiredTokenException", "The security token included in the request is expired"),
            ("InvalidSignatureException", "The request signature we calculated does not match"),
        ] {
            assert_eq!(remedy(403, kind, text), Remedy::Credential, "{text}");
        }
        assert!(matches!(
            remedy(403, "InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier than …"),
            Remedy::Clock(_)
        ));
        for text in [
            "You don't have access to the model with the specified model ID.",
            "User: arn:aws:iam::1:user/x is not authorized to perform: bedrock:InvokeModel on resource: arn:…",
        ] {
            assert_eq!(remedy(403, "AccessDeniedException", text), Remedy::None, "{text}");
        }
        assert_eq!(remedy(400, "ValidationException", "Malformed input request"), Remedy::None);
        for kind in ["RequestExpired", "RequestTimeTooSkewed"] {
            assert!(matches!(remedy(400, kind, ""), Remedy::Clock(_)), "{kind}");
        }
        assert_eq!(
            remedy(429, "ThrottlingException", "Too many tokens, please wait before trying again."),
            Remedy::None
        );
    }

    #[test]
    fn a_text_that_quotes_the_request_leads_to_no_remedy() {
        let on_demand = "Invocation of model ID a.b with on-demand throughput isn't supported.";
        for text in [
            format!("Malformed input request: \"{on_demand}\" is not one of auto, any"),
            format!("\"{on_demand}\""),
            "Invocation of model ID a.b failed: \"x with on-demand throughput isn't supported\"".to_owned(),
            "Value 'on-demand throughput' at 'messages' failed to satisfy constraint".to_owned(),
            "Malformed input: \"Signature expired: 2026\"".to_owned(),
            "signature not yet current".to_owned(),
            "Malformed input: \"The security token included in the request is invalid\"".to_owned(),
        ] {
            assert_eq!(remedy(400, "ValidationException", &text), Remedy::None, "{text}");
        }
        assert_eq!(remedy(400, "SerializationException", on_demand), Remedy::None);
    }

    #[test]
    fn errors_in_the_words_of_openai_and_anthropic_are_read() {
        for (body, kind, message) in [
            (
                r#"{"error":{"code":"invalid_api_key","message":"Invalid bearer token","type":"invalid_request_error"}}"#,
                "invalid_api_key",
                "Invalid bearer token",
            ),
            (
                r#"{"type":"error","error":{"type":"not_found_error","message":"no"},"request_id":"r"}"#,
                "not_found_error",
                "no",
            ),
            (r#"{"error":{"code":7,"message":"no","type":"server_error"}}"#, "server_error", "no"),
            (r#"{"error":"x"}"#, "", ""),
        ] {
            let error = AwsError::new(&HeaderMap::new(), body.as_bytes());
            assert_eq!((error.error_type.as_str(), error.message.as_str()), (kind, message), "{body}");
        }
        let stale = AwsError { error_type: "invalid_api_key".into(), message: "Invalid bearer token".into() };
        assert_eq!(stale.remedy(StatusCode::UNAUTHORIZED, &HeaderMap::new()), Remedy::Credential);
    }

    #[test]
    fn only_what_is_not_to_be_had_is_asked_for_elsewhere() {
        let counts = "The provided model doesn't support counting tokens.";
        for (status, error_type, message, expected) in [
            (404, "UnknownOperationException", "", true),
            (404, "", "", true),
            (404, "not_found_error", "model: x", true),
            (404, "ResourceNotFoundException", "Could not resolve the foundation model", true),
            (404, "ResourceNotFoundException", "Model use case details have not been submitted", false),
            (400, "ValidationException", counts, true),
            (400, "ValidationException", "The provided model identifier is invalid.", true),
            (400, "ValidationException", "messages: \"doesn't support counting tokens\"", false),
            (403, "AccessDeniedException", counts, false),
            (429, "ThrottlingException", "Too many tokens", false),
        ] {
            let error = AwsError { error_type: error_type.into(), message: message.into() };
            let lacks = error.is_of_what_is_lacking(StatusCode::from_u16(status).unwrap());
            assert_eq!(lacks, expected, "{status} {error_type} {message}");
        }
        let route = |status: u16, message: &str| {
            let error = AwsError { error_type: "invalid_request_error".into(), message: message.into() };
            error.names_another_route(StatusCode::from_u16(status).unwrap())
        };
        assert!(route(400, "model `openai.gpt-5.5` isn't supported on this route"));
        assert!(route(400, "The model 'openai.gpt-5.5' does not support the '/v1/responses' API"));
        assert!(route(400, "The model 'openai.gpt-oss-20b' does not support the '/openai/v1/responses' API"));
        assert!(!route(400, "The model 'x' does not support the 'verbosity' parameter"));
        assert!(!route(429, "The model 'x' does not support the '/v1/responses' API"));
        assert!(!route(400, "input: \"model x isn't supported on this route\""));
        assert!(!route(503, "model `x` isn't supported on this route"));
    }

    #[test]
    fn only_what_names_the_model_blames_it() {
        for (status, error_type, message, expected) in [
            (404, "ResourceNotFoundException", "The requested inference profile could not be found.", true),
            (
                404,
                "ResourceNotFoundException",
                "Could not resolve the foundation model from the model identifier.",
                true,
            ),
            (404, "UnknownOperationException", "", false),
            (400, "ValidationException", "The provided model identifier is invalid.", true),
            (400, "ValidationException", "Malformed input: \"the provided model identifier is invalid\"", false),
            (400, "ValidationException", "Malformed input request: #: required key [prompt] not found", false),
            (400, "SerializationException", "", false),
            (403, "AccessDeniedException", "The provided model identifier is invalid.", false),
            (429, "ThrottlingException", "Too many tokens", false),
        ] {
            let error = AwsError { error_type: error_type.into(), message: message.into() };
            assert_eq!(error.blames_model(StatusCode::from_u16(status).unwrap()), expected, "{status} {message}");
        }
    }

    #[test]
    fn no_name_of_an_upstream_makes_a_record_too_long() {
        let long = "x".repeat(100_000);
        for body in [format!(r#"{{"__type":"{long}","message":"m"}}"#), format!(r#"{{"code":"a#{long}"}}"#)] {
            let error = AwsError::new(&HeaderMap::new(), body.as_bytes());
            for status in [400, 429, 500] {
                assert!(error.for_record(StatusCode::from_u16(status).unwrap()).len() <= LONGEST_FOR_RECORD);
            }
        }
        assert_eq!(word("Throttling\n\u{1b}Exception"), "ThrottlingException");
        assert_eq!(word(&"é".repeat(500)).len(), 128);
        assert_eq!(word("req-1"), "req-1");
    }

    #[test]
    fn a_text_that_may_quote_the_prompt_is_not_recorded() {
        let error = AwsError { error_type: "ValidationException".into(), message: "unexpected \"CANARY\"".into() };
        assert_eq!(error.for_record(StatusCode::BAD_REQUEST), "ValidationException");
        let error = AwsError { error_type: "ThrottlingException".into(), message: "Too many tokens".into() };
        assert_eq!(error.for_record(StatusCode::TOO_MANY_REQUESTS), "ThrottlingException: Too many tokens");
    }
}
