//! The audit record of one request, filled in while the request is served.
//!
//! It holds sizes, counts, names and outcomes. Prompts, answers and secret keys have no field here.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole answer was handed to the client.
    Completed,
    /// The upstream answered with an error status, which was relayed; or with an exception in the stream.
    UpstreamError,
    /// The daemon answered itself.
    Refused,
    /// The client left before the end.
    ClientDisconnected,
    /// The upstream could not be reached or broke before the end.
    UpstreamBroke,
    /// The daemon stopped before the end. What a record says until something else is known.
    #[default]
    Interrupted,
}

impl Outcome {
    /// The name that records, metrics and the log use, in snake_case.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::UpstreamError => "upstream_error",
            Outcome::Refused => "refused",
            Outcome::ClientDisconnected => "client_disconnected",
            Outcome::UpstreamBroke => "upstream_broke",
            Outcome::Interrupted => "interrupted",
        }
    }
}

/// Token usage as the upstream reported it; what it did not report is unknown, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Usage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
}

/// One request. In the ledger, in DynamoDB, in the log and in exports the field names are in camelCase.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Record {
    /// UUIDv7, so that records sort by time.
    pub request_id: String,
    /// Milliseconds since 1970-01-01T00:00:00Z at which the request's head had arrived; written as RFC 3339 in items.
    pub started_ms: i64,
    /// AWS's name of the operation, "Unknown" when no operation matched.
    pub operation: Cow<'static, str>,
    /// The model as the client asked for it; empty when the operation has none.
    pub model_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_profile_used: Option<String>,
    pub destination_region: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_request_id: Option<String>,

    pub user_arn: String,
    /// The client's address; for a unix socket the path of the socket.
    #[serde(rename = "sourceIP")]
    pub source_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_uid: Option<u32>,
    pub identity_verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_classification: Option<String>,

    /// Bytes of the client's request body.
    pub request_size: u64,
    /// Bytes of the answer's body that were handed to the client.
    pub response_size: u64,
    /// Milliseconds from the request's head to the end of the answer.
    pub latency: u64,
    /// Milliseconds from the request's head to the first byte of the upstream's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_latency: Option<u64>,
    pub streaming: bool,
    #[serde(flatten)]
    pub usage: Usage,
    /// Billionths of a US dollar, by the admin's prices; unknown without a price or usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_nano_usd: Option<u64>,

    pub success: bool,
    pub status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// Requests that were sent upstream for this one.
    pub attempts: u32,
    pub outcome: Outcome,
    /// `without_final_event` where a stream ended between two events, before the one that ends such streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}
