//! From a record to its item, as the one sequence of bytes that is hashed, stored and shipped.
//!
//! The canonical form is JSON with sorted keys, no white space, whole numbers; what is unknown or empty is absent:
//! DynamoDB takes no item whose attribute is an empty string if an index has that attribute as its key.

use std::time::Duration;

use serde_json::Value;

use super::journal::frame::{Frame, FrameKind};
use super::time_shard;
use super::timestamp::timestamp;
use crate::json::Object;
use crate::record::members::{self, ROOM};
use crate::record::{Former, Record, Usage};

/// Longest text of an item, in bytes: far below DynamoDB's 400 KiB, and room for every AWS identifier.
const MAX_TEXT: usize = 2048;
/// Longest error message, in bytes.
const MAX_MESSAGE: usize = 1024;

/// Longest `tags`, in bytes: more than eight headers can come to.
const MAX_TAGS: usize = 8 * 1024;

const DAY_MS: i64 = 86_400_000;

/// Longest opening that is written as it is, in bytes.
const MAX_OPENING: usize = 32 * 1024;

/// A canonical item without the number of its `chainSeq`, which is known only when the record enters the chain.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) bytes: Vec<u8>,
    /// Where the number is to stand.
    pub(crate) seq_at: usize,
}

impl Draft {
    /// The pieces of the item, in their order.
    pub(crate) fn with_seq<'a>(&'a self, digits: &'a [u8]) -> [&'a [u8]; 3] {
        let (before, after) = self.bytes.split_at(self.seq_at);
        [before, digits, after]
    }
}

/// What an item says beside its record's fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ItemContext<'a> {
    pub(crate) host_id: &'a str,
    pub(crate) chain_id: &'a str,
    /// From the request's start to the item's expiry in DynamoDB.
    pub(crate) retention: Duration,
    /// A time that has certainly passed, in milliseconds since 1970.
    pub(crate) good_ms: i64,
    /// It is the first record after a stop that was not orderly.
    pub(crate) after_unclean_stop: bool,
}

/// Writes the item of a record that has ended.
pub(crate) fn draft_item(record: &Record, context: ItemContext<'_>) -> Draft {
    // Without `..`: a field that is added to Record has to be given its place here.
    let Record {
        request_id,
        started_ms,
        operation,
        model_id,
        inference_profile_used,
        destination_region,
        endpoint,
        upstream_request_id,
        user_arn,
        source_ip,
        caller,
        caller_uid,
        identity_verified,
        access_key_id,
        data_classification,
        tags,
        stored,
        request_size,
        response_size,
        latency,
        first_byte_latency,
        streaming,
        usage: Usage { input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens },
        service_tier,
        cost_nano_usd,
        success,
        status_code,
        error_message,
        attempts,
        outcome,
        ended,
        repeated,
        last_timestamp,
        former,
    } = record;
    // A clock that was slow by more than a day must not let the item expire early.
    let begins_ms = if started_ms.saturating_add(DAY_MS) < context.good_ms { context.good_ms } else { *started_ms };
    let expiry = begins_ms.saturating_add(i64::try_from(context.retention.as_millis()).unwrap_or(i64::MAX)) / 1000;

    let mut json = Canonical(Object::with_capacity(ROOM));
    json.text_if("accessKeyId", access_key_id);
    if context.after_unclean_stop {
        json.0.flag("afterUncleanStop", true);
    }
    json.0.number("attempts", *attempts);
    json.0.number_if("cacheReadTokens", *cache_read_tokens);
    json.0.number_if("cacheWrite1hTokens", *cache_write_1h_tokens);
    json.0.number_if("cacheWriteTokens", *cache_write_tokens);
    json.text_if("caller", caller);
    json.0.number_if("callerUid", *caller_uid);
    json.text("chainId", context.chain_id);
    let seq_at = json.0.gap("chainSeq");
    json.0.number_if("costNanoUsd", *cost_nano_usd);
    json.text_if("dataClassification", data_classification);
    if let Some(partition) = record.destination_partition() {
        json.text("destinationPartition", partition);
    }
    json.text("destinationRegion", destination_region);
    json.text_if("ended", ended);
    json.text_if("endpoint", endpoint);
    if let Some(message) = error_message {
        json.text("errorMessage", shortened(message, MAX_MESSAGE));
    }
    json.0.number_if("firstByteLatency", *first_byte_latency);
    if let Some(former) = former {
        let Former { former_chain, former_chain_hash, former_chain_id, former_chain_seq, former_chain_ttl } = &**former;
        json.text("formerChain", former_chain.as_str());
        json.text_if("formerChainHash", former_chain_hash);
        json.text_if("formerChainId", former_chain_id);
        json.0.number_if("formerChainSeq", *former_chain_seq);
        json.0.number_if("formerChainTtl", *former_chain_ttl);
    }
    json.text("hostId", context.host_id);
    json.0.flag("identityVerified", *identity_verified);
    json.text_if("inferenceProfileUsed", inference_profile_used);
    json.0.number_if("inputTokens", *input_tokens);
    json.text_if("lastTimestamp", last_timestamp);
    json.0.number("latency", *latency);
    json.text("modelId", model_id);
    json.text("operation", operation);
    json.text("outcome", outcome.as_str());
    json.0.number_if("outputTokens", *output_tokens);
    json.0.number_if("repeated", *repeated);
    // The table's key, which makers of records never leave empty.
    json.0.text("requestId", shortened(request_id, MAX_TEXT));
    json.0.number("requestSize", *request_size);
    json.0.number("responseSize", *response_size);
    json.text_if("serviceTier", service_tier);
    json.text("sourceIP", source_ip);
    json.text("sourcePartition", "govcloud");
    json.0.number("statusCode", *status_code);
    if *stored {
        json.0.flag("stored", true);
    }
    json.0.flag("streaming", *streaming);
    json.0.flag("success", *success);
    // Whole: its makers bound it, and half an object could not be read.
    if let Some(tags) = tags.as_ref().filter(|tags| !tags.is_empty()) {
        json.0.text("tags", shortened(tags, MAX_TAGS));
    }
    json.text(time_shard::NAME, time_shard::of_record(context.host_id, request_id));
    json.text("timestamp", &timestamp(*started_ms));
    json.0.number("ttl", expiry);
    json.text_if("upstreamRequestId", upstream_request_id);
    json.text("userArn", user_arn);
    Draft { bytes: json.0.finish(), seq_at }
}

/// The opening of a request, with the record as it is known by then, as the journal has it.
pub(crate) fn encode_opening(record: &Record) -> Frame {
    let json = members::json(record);
    if json.len() <= MAX_OPENING {
        return Frame::new(FrameKind::Open, &json);
    }
    let mut record = record.clone();
    record.error_message = None;
    for text in [&mut record.model_id, &mut record.user_arn, &mut record.source_ip, &mut record.request_id] {
        *text = shortened(text, MAX_TEXT).to_owned();
    }
    Frame::new(FrameKind::Open, &members::json(&record))
}

/// The canonical form of an item that was read from a table or a file, without its `chainHash`; none when it is no
/// object.
pub(crate) fn canonical(item: &Value) -> Option<Vec<u8>> {
    let mut entries: Vec<(&String, &Value)> = item.as_object()?.iter().filter(|(key, _)| *key != "chainHash").collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    let mut json = Object::with_capacity(ROOM);
    for (key, value) in entries {
        json.member(key, value);
    }
    Some(json.finish())
}

/// At most `limit` bytes of a text, cut between characters.
fn shortened(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// An item in the making, whose texts are neither empty nor too long.
struct Canonical(Object);

impl Canonical {
    fn text(&mut self, key: &'static str, text: &str) {
        if !text.is_empty() {
            self.0.text(key, shortened(text, MAX_TEXT));
        }
    }

    fn text_if(&mut self, key: &'static str, text: &Option<String>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::{FormerChain, Outcome};

    /// An item with every attribute that an item can have, apart from `chainHash`.
    pub(crate) fn full_item() -> Value {
        parsed(&full()).1
    }

    const CONTEXT: ItemContext<'static> = ItemContext {
        host_id: "i-0abc",
        chain_id: "c1",
        retention: Duration::from_secs(30 * 86_400),
        good_ms: 0,
        after_unclean_stop: true,
    };

    fn full() -> Record {
        Record {
            request_id: "018f-é\"\n".into(),
            started_ms: 1_700_000_000_007,
            operation: "Converse".into(),
            model_id: "anthropic.claude".into(),
            inference_profile_used: Some("us.anthropic.claude".into()),
            destination_region: "us-east-1".into(),
            endpoint: Some("bedrock-mantle".into()),
            upstream_request_id: Some("up".into()),
            user_arn: "arn:aws-us-gov:iam::1:role/x".into(),
            source_ip: "127.0.0.1".into(),
            caller: Some("billing".into()),
            caller_uid: Some(1007),
            identity_verified: true,
            access_key_id: Some("AKIA".into()),
            data_classification: Some("internal".into()),
            tags: Some(r#"{"x-session":"a"}"#.into()),
            stored: true,
            request_size: 1,
            response_size: 2,
            latency: 3,
            first_byte_latency: Some(4),
            streaming: true,
            usage: Usage {
                input_tokens: Some(5),
                output_tokens: Some(6),
                cache_read_tokens: Some(7),
                cache_write_tokens: Some(8),
                cache_write_1h_tokens: Some(7),
            },
            service_tier: Some("flex".into()),
            cost_nano_usd: Some(9),
            success: true,
            status_code: 200,
            error_message: Some("é".repeat(2000)),
            attempts: 2,
            outcome: Outcome::Completed,
            ended: Some("without_final_event".into()),
            repeated: Some(10),
            last_timestamp: Some("2023-11-14T22:13:59.000Z".into()),
            former: Some(Box::new(Former {
                former_chain: FormerChain::Found,
                former_chain_id: Some("c0".into()),
                former_chain_seq: Some(11),
                former_chain_hash: Some("h".into()),
                former_chain_ttl: Some(12),
            })),
        }
    }

    fn parsed(record: &Record) -> (Vec<u8>, Value) {
        let draft = draft_item(record, CONTEXT);
        let bytes = draft.with_seq(b"17").concat();
        let value = serde_json::from_slice(&bytes).unwrap();
        (bytes, value)
    }

    #[test]
    fn what_is_written_is_already_canonical() {
        for record in [full(), Record::default()] {
            let (bytes, value) = parsed(&record);
            assert_eq!(String::from_utf8(canonical(&value).unwrap()).unwrap(), String::from_utf8(bytes).unwrap());
        }
    }

    #[test]
    fn every_attribute_of_the_contract_is_there_and_in_its_type() {
        let (_, item) = parsed(&full());
        assert_eq!(item["timestamp"], "2023-11-14T22:13:20.007Z");
        assert_eq!(item["ttl"], 1_700_000_000 + 30 * 86_400);
        assert_eq!(item["sourcePartition"], "govcloud");
        assert_eq!(item["destinationPartition"], "commercial");
        assert_eq!(item["chainSeq"], 17);
        assert!(item["errorMessage"].as_str().unwrap().len() <= MAX_MESSAGE);
        let mut fields = serde_json::to_value(full()).unwrap().as_object().unwrap().clone();
        fields.remove("startedMs");
        for field in fields.keys() {
            assert!(item.get(field).is_some(), "{field} of the record is missing in the item");
        }
    }

    #[test]
    fn what_is_unknown_is_absent() {
        let (_, item) = parsed(&Record::default());
        for absent in ["inputTokens", "caller", "callerUid", "errorMessage", "firstByteLatency", "upstreamRequestId"] {
            assert!(item.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn a_slow_clock_does_not_let_an_item_expire_early() {
        let ttl = |started_ms, good_ms| {
            let draft = draft_item(&Record { started_ms, ..Record::default() }, ItemContext { good_ms, ..CONTEXT });
            let item: Value = serde_json::from_slice(&draft.with_seq(b"1").concat()).unwrap();
            item["ttl"].as_i64().unwrap() - 30 * 86_400
        };
        let now = 1_763_812_800;
        assert_eq!(ttl(86_400_000, now * 1000), now, "a clock that began in 1970");
        assert_eq!(ttl(now * 1000 - 3_600_000, now * 1000), now - 3_600, "a request that took an hour");
        assert_eq!(ttl(now * 1000, 0), now, "nothing is known of the clock");
    }

    #[test]
    fn no_attribute_is_an_empty_text() {
        let empty = Some(String::new());
        let record = Record {
            request_id: "r".into(),
            caller: empty.clone(),
            error_message: empty.clone(),
            upstream_request_id: empty,
            ..Record::default()
        };
        let (_, item) = parsed(&record);
        let empty: Vec<_> = item.as_object().unwrap().iter().filter(|(_, value)| **value == "").collect();
        assert!(empty.is_empty(), "{empty:?}");
        assert!(item.get("modelId").is_none());
    }

    #[test]
    fn a_question_to_the_daemon_went_nowhere() {
        let (_, item) = parsed(&Record { operation: Record::DASHBOARD.into(), ..full() });
        assert!(item.get("destinationPartition").is_none());
    }

    #[test]
    fn no_clock_makes_it_panic() {
        for started_ms in [i64::MIN, -1, i64::MAX] {
            let (_, item) = parsed(&Record { started_ms, ..Record::default() });
            assert!(item["timestamp"].as_str().unwrap().ends_with('Z'));
        }
    }
}
