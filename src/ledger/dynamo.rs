//! DynamoDB as the ledger uses it: a client, items, keys of the table, and what errors mean.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeValue, GlobalSecondaryIndexDescription, IndexStatus, KeyType, ProjectionType, ScalarAttributeType,
    TableDescription,
};
use serde_json::Value;

use super::time_shard;
use crate::partition::Partition;
use crate::sdk_failure::{Unanswered, unanswered};

/// An item as the SDK has it.
pub type Attributes = HashMap<String, AttributeValue>;

/// A client for the table's region. Endpoint variables and credentials are the SDK's own; retries are ours.
pub(crate) async fn client(region: &str) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(Duration::from_secs(15))
        .build();
    let shared = crate::credentials::source::aws_sdk_config(region).await;
    let config = aws_sdk_dynamodb::config::Builder::from(&shared)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .build();
    Client::from_conf(config)
}

/// The attributes of a stored record; none if it is no flat object. Empty texts, which older versions wrote, are left
/// out: an index may have that attribute as its key.
pub(crate) fn item_to_attributes(item: &str, hash: &str) -> Option<Attributes> {
    let Value::Object(fields) = serde_json::from_str(item).ok()? else { return None };
    let mut attributes = Attributes::with_capacity(fields.len() + 1);
    for (key, value) in fields {
        let value = match value {
            Value::String(text) if text.is_empty() && key != "requestId" => continue,
            Value::String(text) => AttributeValue::S(text),
            Value::Number(number) => AttributeValue::N(number.to_string()),
            Value::Bool(flag) => AttributeValue::Bool(flag),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        attributes.insert(key, value);
    }
    attributes.insert("chainHash".to_owned(), AttributeValue::S(hash.to_owned()));
    Some(attributes)
}

/// An item as JSON. Attributes of kinds that we do not write are shown as text, so that they stay visible.
pub fn item_to_json(attributes: Attributes) -> Value {
    let field = |value: AttributeValue| match value {
        AttributeValue::S(text) => Value::String(text),
        AttributeValue::N(number) => serde_json::from_str(&number).unwrap_or(Value::String(number)),
        AttributeValue::Bool(flag) => Value::Bool(flag),
        other => Value::String(format!("{other:?}")),
    };
    Value::Object(attributes.into_iter().map(|(key, value)| (key, field(value))).collect())
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: FailureClass,
    /// For the admin.
    pub(crate) sentence: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureClass {
    /// It may work later: throttles, server errors, a network that is gone.
    Transient,
    /// Someone has to change permissions or credentials.
    Credentials,
    /// There is no such table.
    NoTable,
    /// The request itself is invalid.
    Rejected,
}

/// Says what a failed call means for the table.
pub(crate) fn classify<E>(error: SdkError<E>, table: &str) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let code = error.code().unwrap_or_default().to_owned();
    let message = error.message().map(str::to_owned);
    let (class, sentence) = match code.as_str() {
        "ResourceNotFoundException" => (
            FailureClass::NoTable,
            format!(
                "the table {table} does not exist in this region and account; `bedrock-sidecar check --online` prints the command that creates it"
            ),
        ),
        // Whatever the code: the table is there, and its key cannot be used.
        code if is_about_kms(code) || message.as_deref().is_some_and(is_about_kms) => (
            FailureClass::Credentials,
            format!(
                "the table {table} cannot be used, because the KMS key that encrypts it cannot: {code}: {}; enable the key, and let the host's role use it",
                message.unwrap_or_default()
            ),
        ),
        "ValidationException" | "SerializationException" | "ItemCollectionSizeLimitExceededException" => (
            FailureClass::Rejected,
            format!("DynamoDB refuses what was sent to the table {table}: {}", message.unwrap_or(code)),
        ),
        "AccessDeniedException" => (
            FailureClass::Credentials,
            format!(
                "the host's role may not write to the table {table}: {}; packaging/aws has the policy it needs",
                message.unwrap_or_default()
            ),
        ),
        "ExpiredTokenException"
        | "ExpiredToken"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "IncompleteSignatureException"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken"
        | "InvalidClientTokenId" => (
            FailureClass::Credentials,
            format!(
                "DynamoDB does not accept the host's credentials for the table {table}: {code}: {}",
                message.unwrap_or_default()
            ),
        ),
        "" => {
            let Unanswered { sentence, lacks_credentials } = unanswered(&error);
            let class = if lacks_credentials { FailureClass::Credentials } else { FailureClass::Transient };
            (class, format!("DynamoDB cannot be asked for the table {table}: {sentence}"))
        }
        _ => (
            FailureClass::Transient,
            format!(
                "DynamoDB does not take records for the table {table} now: {code}: {}",
                message.unwrap_or_default()
            ),
        ),
    };
    Failure { class, sentence }
}

fn is_about_kms(text: &str) -> bool {
    text.contains("KMS") || text.contains("kms:")
}

/// Why DynamoDB rejected a record that was sent alone, as far as its message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// What the record itself holds.
    Record,
    /// A key of one of the table's indexes, which takes no records such as ours.
    Index,
    /// The table's own key.
    Key,
}

/// Reads the message of a rejection. Sizes are the record's, whichever key is too long: a client may have chosen it,
/// and must not stop the shipping of all.
pub(crate) fn rejection(sentence: &str) -> Rejection {
    let text = sentence.to_ascii_lowercase();
    if text.contains("size") {
        Rejection::Record
    } else if text.contains("indexname") || text.contains("index key") || text.contains("secondary index") {
        Rejection::Index
    } else if text.contains("missing the key")
        || text.contains("type mismatch for key")
        || text.contains("does not match the schema")
    {
        Rejection::Key
    } else {
        Rejection::Record
    }
}

/// The keys of a table and of its index by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableKeys {
    /// Keyed on requestId and timestamp, as the table of the legacy REST API; else on requestId alone.
    pub(crate) has_sort_key: bool,
    /// Global secondary indexes that can be queried by time, the most complete first.
    pub(crate) time_indexes: Vec<TimeIndex>,
}

/// An index of whole items whose sort key is `timestamp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimeIndex {
    pub(crate) name: String,
    pub(crate) hash: TimeIndexHash,
}

/// What an index by time is partitioned by, the most complete first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimeIndexHash {
    /// It has the same value in every item, those of older versions too.
    SourcePartition,
    /// It has a few values, and is in every item that this version or a newer one wrote.
    TimeShard,
    /// One of two values in every item, but absent in questions to the daemon itself.
    DestinationPartition,
}

impl TimeIndexHash {
    const ALL: [TimeIndexHash; 3] =
        [TimeIndexHash::SourcePartition, TimeIndexHash::TimeShard, TimeIndexHash::DestinationPartition];

    /// The attribute.
    pub(crate) fn name(self) -> &'static str {
        match self {
            TimeIndexHash::SourcePartition => "sourcePartition",
            TimeIndexHash::TimeShard => time_shard::NAME,
            TimeIndexHash::DestinationPartition => "destinationPartition",
        }
    }

    /// Every value that it has.
    pub(crate) fn values(self) -> Vec<String> {
        match self {
            TimeIndexHash::SourcePartition => vec!["govcloud".to_owned()],
            TimeIndexHash::TimeShard => time_shard::all(),
            TimeIndexHash::DestinationPartition => destination_partitions(),
        }
    }
}

/// Every value of `destinationPartition`.
pub(crate) fn destination_partitions() -> Vec<String> {
    Partition::ALL.map(|partition| partition.in_records().to_owned()).into()
}

/// Why a table cannot hold records. Keys of a table cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WrongKeys {
    /// Its key attributes are others; what they are.
    #[error("it is keyed on {0}, and has to be keyed on requestId (HASH), or requestId (HASH) and timestamp (RANGE)")]
    Schema(String),
    /// A key attribute is no text; which.
    #[error("its key {0} has to be of type S")]
    Type(String),
}

/// Reads a table's keys.
pub(crate) fn table_keys(table: &TableDescription) -> Result<TableKeys, WrongKeys> {
    let kind = |name: &str| {
        table.attribute_definitions().iter().find(|a| a.attribute_name() == name).map(|a| a.attribute_type().clone())
    };
    let keys: Vec<(&str, &KeyType)> =
        table.key_schema().iter().map(|key| (key.attribute_name(), key.key_type())).collect();
    let has_sort_key = match keys.as_slice() {
        [("requestId", KeyType::Hash)] => false,
        [("requestId", KeyType::Hash), ("timestamp", KeyType::Range)] => true,
        _ => {
            let keys: Vec<String> = keys.iter().map(|(name, kind)| format!("{name} ({kind})")).collect();
            return Err(WrongKeys::Schema(keys.join(" and ")));
        }
    };
    if let Some((name, _)) = keys.iter().find(|(name, _)| kind(name) != Some(ScalarAttributeType::S)) {
        return Err(WrongKeys::Type((*name).to_owned()));
    }
    let mut time_indexes: Vec<TimeIndex> = table.global_secondary_indexes().iter().filter_map(time_index).collect();
    time_indexes.sort_by_key(|index| index.hash);
    Ok(TableKeys { has_sort_key, time_indexes })
}

/// An index as one by time, if it is one and can be read.
fn time_index(index: &GlobalSecondaryIndexDescription) -> Option<TimeIndex> {
    let key = |kind: &KeyType| index.key_schema().iter().find(|key| key.key_type() == kind);
    let hash = key(&KeyType::Hash)?.attribute_name();
    let hash = TimeIndexHash::ALL.into_iter().find(|known| known.name() == hash)?;
    let is_timed = key(&KeyType::Range)?.attribute_name() == "timestamp";
    let is_whole = index.projection()?.projection_type()? == &ProjectionType::All;
    // While it is created it lacks items, and cannot be asked.
    let is_there = index.index_status().is_none_or(|status| *status == IndexStatus::Active);
    (is_timed && is_whole && is_there).then(|| Some(TimeIndex { name: index.index_name()?.to_owned(), hash })).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::error::ErrorMetadata;
    use aws_sdk_dynamodb::operation::batch_write_item::BatchWriteItemError;
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

    fn failure(code: &str, message: &str) -> Failure {
        let error = BatchWriteItemError::generic(ErrorMetadata::builder().code(code).message(message).build());
        let response = HttpResponse::new(400.try_into().unwrap(), "".into());
        classify(SdkError::service_error(error, response), "records")
    }

    #[test]
    fn a_problem_of_the_table_is_not_one_of_the_record() {
        for (code, message, says) in [
            ("ResourceNotFoundException", "Requested resource not found", "does not exist"),
            ("AccessDeniedException", "not authorized to perform: dynamodb:BatchWriteItem", "packaging/aws"),
            ("AccessDeniedException", "not authorized to perform: kms:Decrypt", "let the host's role use it"),
            ("ValidationException", "KMS key is disabled", "enable the key"),
            ("KMSInvalidStateException", "it is pending deletion", "enable the key"),
        ] {
            let failure = failure(code, message);
            assert_ne!(failure.class, FailureClass::Rejected, "{failure:?}");
            assert!(failure.sentence.contains(says), "{failure:?}");
        }
    }

    #[test]
    fn the_message_tells_whether_the_record_an_index_or_the_key_is_at_fault() {
        for (message, expected) in [
            ("Item size has exceeded the maximum allowed size", Rejection::Record),
            ("Aggregated size of all range keys has exceeded the size limit of 1024 bytes", Rejection::Record),
            (
                "The AttributeValue for a key attribute cannot contain an empty string value. Key: requestId",
                Rejection::Record,
            ),
            (
                "One or more parameter values were invalid: Type mismatch for Index Key modelId Expected: N Actual: S IndexName: by-model",
                Rejection::Index,
            ),
            (
                "A value specified for a secondary index key is not supported. The AttributeValue for a key attribute cannot contain an empty string value. IndexName: by-model, IndexKey: modelId",
                Rejection::Index,
            ),
            ("One or more parameter values were invalid: Missing the key id in the item", Rejection::Key),
            ("The provided key element does not match the schema", Rejection::Key),
        ] {
            assert_eq!(rejection(message), expected, "{message}");
        }
    }

    #[test]
    fn a_record_of_an_older_version_is_sent_without_its_empty_texts() {
        let attributes = item_to_attributes(r#"{"chainSeq":1,"modelId":"","requestId":"r"}"#, "h").unwrap();
        let mut names: Vec<&str> = attributes.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["chainHash", "chainSeq", "requestId"]);
    }
}
