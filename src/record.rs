//! The audit record of one request, filled in while the request is served.
//!
//! It holds sizes, counts, names and outcomes. Prompts, answers and secret keys have no field here.

pub(crate) mod members;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::partition::Partition;

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
    /// The client took no byte of its answer for too long, and was cut off.
    ClientStalled,
    /// The upstream could not be reached or broke before the end.
    UpstreamBroke,
    /// The daemon stopped before the end. What a record says until something else is known.
    #[default]
    Interrupted,
}

impl Outcome {
    /// The outcome of that name, in snake_case.
    pub fn named(name: &str) -> Option<Outcome> {
        serde::Deserialize::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name)).ok()
    }

    /// The name that records, metrics and the log use, in snake_case.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::UpstreamError => "upstream_error",
            Outcome::Refused => "refused",
            Outcome::ClientDisconnected => "client_disconnected",
            Outcome::ClientStalled => "client_stalled",
            Outcome::UpstreamBroke => "upstream_broke",
            Outcome::Interrupted => "interrupted",
        }
    }
}

/// Whether an upstream that answers so has refused the request, so that no model has run. A gateway before it, which answers
/// 502 or 504, does not know what came of the request.
pub(crate) fn is_refusal(status: u16) -> bool {
    status >= 400 && !matches!(status, 502 | 504)
}

/// Token usage as the upstream reported it; what it did not report is unknown, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Usage {
    /// Tokens of the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Tokens of the request that were read from the prompt cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<u64>,
    /// Tokens of the request that were written into the prompt cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    /// Those of them that the cache keeps for an hour; the others for five minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_1h_tokens: Option<u64>,
}

/// What is known of the chain that this host's records were in before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormerChain {
    /// Its last record is known.
    Found,
    /// The table was searched to its end: there is none.
    None,
    /// The table has not been asked yet. Another record will tell.
    Searching,
    /// The table could not be searched.
    Unknown,
    /// There was no table to search.
    NoTable,
}

impl FormerChain {
    /// The name that records use, in snake_case.
    pub fn as_str(self) -> &'static str {
        match self {
            FormerChain::Found => "found",
            FormerChain::None => "none",
            FormerChain::Searching => "searching",
            FormerChain::Unknown => "unknown",
            FormerChain::NoTable => "no_table",
        }
    }
}

/// What a chain's first record says of the chain before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Former {
    /// Whether there is one.
    pub former_chain: FormerChain,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_chain_id: Option<String>,
    /// The place of its last record that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_chain_seq: Option<u64>,
    /// The hash of that record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_chain_hash: Option<String>,
    /// When that record may go from the table, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_chain_ttl: Option<i64>,
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
    /// The model as the client asked for it; empty when the operation has none, and then absent in items.
    pub model_id: String,
    /// The inference profile that was sent upstream; none when a model was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_profile_used: Option<String>,
    /// The region that the request went to, or would have gone to.
    pub destination_region: String,
    /// `bedrock-mantle` where the request was sent to that host; none where it was another one of Bedrock's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The `x-amzn-requestid` of the upstream's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_request_id: Option<String>,

    /// The ARN of the role session that signed the request; for everybody else the host's own.
    pub user_arn: String,
    /// The client's address; for a unix socket the path of the socket.
    #[serde(rename = "sourceIP")]
    pub source_ip: String,
    /// The name of the caller's entry in the configuration; none when no entry fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The uid of the client's process, from the kernel; none when the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_uid: Option<u32>,
    /// Whether the request brought a signature, token or certificate that was verified. A uid alone leaves it false.
    pub identity_verified: bool,
    /// The key id that the request names; a mere claim unless `identity_verified`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// The data classification of the request, by its header or the caller's entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_classification: Option<String>,
    /// Headers of the client that the configuration wants kept, and the ids of its own tracing: a JSON object of names and
    /// values, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<String>,

    /// Bedrock was asked to store the answer, for requests that come later.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stored: bool,

    /// Bytes of the client's request body.
    pub request_size: u64,
    /// Bytes of the answer's body that were handed to the client.
    pub response_size: u64,
    /// Milliseconds from the request's head to the end of the answer.
    pub latency: u64,
    /// Milliseconds from the request's head to the first byte of the upstream's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_latency: Option<u64>,
    /// Whether the answer is a stream of events.
    pub streaming: bool,
    /// Tokens, as the upstream reported them.
    #[serde(flatten)]
    pub usage: Usage,
    /// The service tier that the answer reports, else the one that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// Billionths of a US dollar, by the admin's prices; unknown without a price or usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_nano_usd: Option<u64>,

    /// Whether the outcome is [`Outcome::Completed`].
    pub success: bool,
    /// The HTTP status that the client got.
    pub status_code: u16,
    /// What went wrong; never the text of a prompt or an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// Requests that were sent upstream for this one.
    pub attempts: u32,
    /// How the request ended.
    pub outcome: Outcome,
    /// `without_final_event` where a stream ended between two events, before the one that ends such streams; `before_client`
    /// where the answer's half of a bidirectional stream ended before the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// How many more refusals of the same caller and reason this record stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeated: Option<u64>,
    /// When the last of them arrived, in RFC 3339; `started_ms` is the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_timestamp: Option<String>,
    /// Of the record that a chain begins with: what came before it.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub former: Option<Box<Former>>,
}

impl Record {
    /// The host that `endpoint` names.
    pub(crate) const MANTLE: &'static str = "bedrock-mantle";
    /// The operation of questions to this daemon's own records.
    pub const DASHBOARD: &'static str = "DashboardRequests";
    /// The operation of the record that a chain begins with, and of the one that says what was found of its forerunner.
    pub const LEDGER_START: &'static str = "LedgerStart";
    /// The operations that are no requests to a model.
    pub(crate) const OWN: [&str; 2] = [Record::DASHBOARD, Record::LEDGER_START];

    /// Whether it is about this daemon's own records, and no request to a model.
    pub fn is_own(&self) -> bool {
        Record::OWN.contains(&&*self.operation)
    }

    /// The AWS partition that the request went to, or would have gone to: that of its region. None when the daemon answers
    /// itself.
    pub fn destination_partition(&self) -> Option<&'static str> {
        (!self.is_own()).then(|| Partition::of_region(&self.destination_region).in_records())
    }
}
