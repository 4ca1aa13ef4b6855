//! A record as the log and the openings of the journal have it: the members that serde_json would write, without a
//! serializer's detours.

use super::{Former, Record, Usage};
use crate::json::Object;

/// Bytes that most records fit into, with what a line of the log has beside.
pub(crate) const ROOM: usize = 1280;

/// The record alone, as JSON.
pub(crate) fn json(record: &Record) -> Vec<u8> {
    let mut object = Object::with_capacity(ROOM);
    members(&mut object, record);
    object.finish()
}

/// Adds the members of a record.
pub(crate) fn members(object: &mut Object, record: &Record) {
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
        usage,
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
    object.text("requestId", request_id);
    object.number("startedMs", started_ms);
    object.text("operation", operation);
    object.text("modelId", model_id);
    object.text_if("inferenceProfileUsed", inference_profile_used.as_deref());
    object.text("destinationRegion", destination_region);
    object.text_if("endpoint", endpoint.as_deref());
    object.text_if("upstreamRequestId", upstream_request_id.as_deref());
    object.text("userArn", user_arn);
    object.text("sourceIP", source_ip);
    object.text_if("caller", caller.as_deref());
    object.number_if("callerUid", *caller_uid);
    object.flag("identityVerified", *identity_verified);
    object.text_if("accessKeyId", access_key_id.as_deref());
    object.text_if("dataClassification", data_classification.as_deref());
    object.text_if("tags", tags.as_deref());
    if *stored {
        object.flag("stored", true);
    }
    object.number("requestSize", request_size);
    object.number("responseSize", response_size);
    object.number("latency", latency);
    object.number_if("firstByteLatency", *first_byte_latency);
    object.flag("streaming", *streaming);
    tokens(object, usage);
    object.text_if("serviceTier", service_tier.as_deref());
    object.number_if("costNanoUsd", *cost_nano_usd);
    object.flag("success", *success);
    object.number("statusCode", status_code);
    object.text_if("errorMessage", error_message.as_deref());
    object.number("attempts", attempts);
    object.text("outcome", outcome.as_str());
    object.text_if("ended", ended.as_deref());
    object.number_if("repeated", *repeated);
    object.text_if("lastTimestamp", last_timestamp.as_deref());
    if let Some(former) = former {
        chain_before(object, former);
    }
}

fn tokens(object: &mut Object, usage: &Usage) {
    let Usage { input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens } = usage;
    object.number_if("inputTokens", *input_tokens);
    object.number_if("outputTokens", *output_tokens);
    object.number_if("cacheReadTokens", *cache_read_tokens);
    object.number_if("cacheWriteTokens", *cache_write_tokens);
    object.number_if("cacheWrite1hTokens", *cache_write_1h_tokens);
}

fn chain_before(object: &mut Object, former: &Former) {
    let Former { former_chain, former_chain_id, former_chain_seq, former_chain_hash, former_chain_ttl } = former;
    object.text("formerChain", former_chain.as_str());
    object.text_if("formerChainId", former_chain_id.as_deref());
    object.number_if("formerChainSeq", *former_chain_seq);
    object.text_if("formerChainHash", former_chain_hash.as_deref());
    object.number_if("formerChainTtl", *former_chain_ttl);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::{FormerChain, Outcome};

    /// Records with none, some and all of their fields, and with values that need escapes.
    pub(crate) fn records() -> Vec<Record> {
        let evil = "a\"b\\c\n\u{1}\u{7f}\u{2028}é😀";
        let text = |field: &str| Some(format!("{field} {evil}"));
        let former = |former_chain| Former {
            former_chain,
            former_chain_id: text("id"),
            former_chain_seq: Some(u64::MAX),
            former_chain_hash: text("hash"),
            former_chain_ttl: Some(i64::MIN),
        };
        let full = Record {
            request_id: "0193a6f0-5b2c-7d34-8a1e-3f5b9c2d7e10".to_owned(),
            started_ms: 1_795_375_674_123,
            operation: evil.into(),
            model_id: evil.to_owned(),
            inference_profile_used: text("profile"),
            destination_region: "us-east-1".to_owned(),
            endpoint: text("endpoint"),
            upstream_request_id: text("upstream"),
            user_arn: evil.to_owned(),
            source_ip: "127.0.0.1".to_owned(),
            caller: text("caller"),
            caller_uid: Some(u32::MAX),
            identity_verified: true,
            access_key_id: text("key"),
            data_classification: text("class"),
            tags: Some(r#"{"team":"a"}"#.to_owned()),
            stored: true,
            request_size: u64::MAX,
            response_size: 0,
            latency: 10,
            first_byte_latency: Some(9),
            streaming: true,
            usage: Usage {
                input_tokens: Some(1),
                output_tokens: Some(2),
                cache_read_tokens: Some(3),
                cache_write_tokens: Some(4),
                cache_write_1h_tokens: Some(5),
            },
            service_tier: text("tier"),
            cost_nano_usd: Some(6),
            success: true,
            status_code: 599,
            error_message: text("error"),
            attempts: 7,
            outcome: Outcome::UpstreamBroke,
            ended: text("ended"),
            repeated: Some(8),
            last_timestamp: text("last"),
            former: Some(Box::new(former(FormerChain::NoTable))),
        };
        let mut records = vec![Record::default(), full.clone()];
        records.extend([FormerChain::Found, FormerChain::None, FormerChain::Searching, FormerChain::Unknown].map(
            |chain| {
                let nothing = Former {
                    former_chain_id: None,
                    former_chain_seq: None,
                    former_chain_hash: None,
                    former_chain_ttl: None,
                    ..former(chain)
                };
                Record { former: Some(Box::new(nothing)), operation: Record::LEDGER_START.into(), ..Record::default() }
            },
        ));
        use Outcome::{ClientDisconnected, ClientStalled, Completed, Interrupted, Refused, UpstreamError};
        records.extend(
            [ClientDisconnected, ClientStalled, Completed, Interrupted, Refused, UpstreamError].map(|outcome| Record {
                outcome,
                started_ms: -1,
                identity_verified: false,
                former: None,
                ..full.clone()
            }),
        );
        records
    }

    #[test]
    fn a_record_is_written_as_serde_json_writes_and_reads_it() {
        for record in records() {
            let written = json(&record);
            assert_eq!(String::from_utf8(written.clone()).unwrap(), serde_json::to_string(&record).unwrap());
            assert_eq!(serde_json::from_slice::<Record>(&written).unwrap(), record);
        }
    }
}
