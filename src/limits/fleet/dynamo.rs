//! The lease store on DynamoDB. One table, one key: `id` (S). The item `pool` and an item `lease#…` for each host.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{AttributeValue, Delete, Put, TransactWriteItem, Update};
use tokio::sync::Mutex;

use crate::credentials::source::{http_client, on_this_host};

use super::amount::{Amount, Terms};
use super::store::{Change, LeaseStore, Pool, StoreError, StoreRequest, StoreResponse, StoredLease};
use crate::sdk_failure::unanswered;

const POOL: &str = "pool";
const LEASE: &str = "lease#";

/// A call that takes longer is given up. The lease outlives several of them.
const CALL: Duration = Duration::from_secs(4);

type Item = HashMap<String, AttributeValue>;

/// The table, and what calls it.
#[derive(Debug, Clone)]
pub struct Dynamo {
    client: Client,
    table: String,
    /// Written beside the lease, for people who look at the table.
    host: String,
    /// A call has failed in a way that another configuration of this host may mend.
    is_spent: Arc<AtomicBool>,
}

impl Dynamo {
    /// With a client that is made already.
    pub fn new(client: Client, table: &str, host: &str) -> Dynamo {
        Dynamo { client, table: table.to_owned(), host: host.to_owned(), is_spent: Arc::default() }
    }

    async fn get(&self, id: &str, consistent: bool) -> Result<Option<Item>, StoreError> {
        let request = self.client.get_item().table_name(&self.table).key("id", text(id)).consistent_read(consistent);
        Ok(request.send().await.map_err(|error| self.failed(error))?.item)
    }

    async fn list(&self) -> Result<Vec<StoredLease>, StoreError> {
        let mut leases = Vec::new();
        let mut pages = self.client.scan().table_name(&self.table).into_paginator().items().send();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| self.failed(error))?;
            leases.extend(lease(&item));
        }
        Ok(leases)
    }

    async fn create(&self, Terms { limit, revision }: Terms) -> Result<(), StoreError> {
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("id", text(POOL))
            .item("requestsLimit", number(limit.requests))
            .item("tokensLimit", number(limit.tokens))
            .item("revision", number(revision))
            .item("requestsFree", number(limit.requests))
            .item("tokensFree", number(limit.tokens))
            .item("requestsWanted", number(0))
            .item("tokensWanted", number(0))
            .item("hosts", number(0))
            .condition_expression("attribute_not_exists(id)");
        request.send().await.map(drop).map_err(|error| self.failed(error))
    }

    async fn resize(&self, before: Terms, after: Terms) -> Result<(), StoreError> {
        let (from, to) = (before.limit, after.limit);
        // A pool that an older version has made has none.
        let revision = if before.revision == 0 {
            "(attribute_not_exists(revision) OR revision = :oldRevision)"
        } else {
            "revision = :oldRevision"
        };
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("id", text(POOL))
            .update_expression(
                "SET requestsLimit = :requests, tokensLimit = :tokens, revision = :revision ADD requestsFree :moreRequests, tokensFree :moreTokens",
            )
            .condition_expression(format!("requestsLimit = :oldRequests AND tokensLimit = :oldTokens AND {revision}"))
            .expression_attribute_values(":requests", number(to.requests))
            .expression_attribute_values(":tokens", number(to.tokens))
            .expression_attribute_values(":revision", number(after.revision))
            .expression_attribute_values(":oldRevision", number(before.revision))
            .expression_attribute_values(":oldRequests", number(from.requests))
            .expression_attribute_values(":oldTokens", number(from.tokens))
            .expression_attribute_values(":moreRequests", number(i128::from(to.requests) - i128::from(from.requests)))
            .expression_attribute_values(":moreTokens", number(i128::from(to.tokens) - i128::from(from.tokens)));
        request.send().await.map(drop).map_err(|error| self.failed(error))
    }

    async fn write(&self, before: Option<StoredLease>, after: Option<StoredLease>) -> Result<(), StoreError> {
        let change = Change::of(before.as_ref(), after.as_ref());
        let condition = if before.is_some() { "version = :version" } else { "attribute_not_exists(id)" };
        let version = before.as_ref().map(|before| HashMap::from([(":version".to_owned(), number(before.version))]));
        if let Some(after) = &after
            && change == Change::default()
        {
            // A mere renewal, which leaves the pool alone: half the cost, and no other host in the way.
            let request = self
                .client
                .put_item()
                .table_name(&self.table)
                .set_item(Some(self.item(after)))
                .condition_expression(condition)
                .set_expression_attribute_values(version);
            return request.send().await.map(drop).map_err(|error| self.failed(error));
        }
        let lease = match (&before, &after) {
            (_, Some(after)) => TransactWriteItem::builder().put(built(
                Put::builder()
                    .table_name(&self.table)
                    .set_item(Some(self.item(after)))
                    .condition_expression(condition)
                    .set_expression_attribute_values(version)
                    .build(),
            )?),
            (Some(before), None) => TransactWriteItem::builder().delete(built(
                Delete::builder()
                    .table_name(&self.table)
                    .key("id", text(&format!("{LEASE}{}", before.id)))
                    .condition_expression(condition)
                    .set_expression_attribute_values(version)
                    .build(),
            )?),
            (None, None) => return Err(StoreError::Conflict),
        };
        let mut enough = vec!["attribute_exists(id)"];
        let mut pool = Update::builder()
            .table_name(&self.table)
            .key("id", text(POOL))
            .update_expression(
                "ADD requestsFree :freeRequests, tokensFree :freeTokens, requestsWanted :wantedRequests, tokensWanted :wantedTokens, hosts :hosts",
            )
            .expression_attribute_values(":freeRequests", number(change.free_requests))
            .expression_attribute_values(":freeTokens", number(change.free_tokens))
            .expression_attribute_values(":wantedRequests", number(change.wanted_requests))
            .expression_attribute_values(":wantedTokens", number(change.wanted_tokens))
            .expression_attribute_values(":hosts", number(change.hosts));
        if change.free_requests < 0 {
            enough.push("requestsFree >= :needRequests");
            pool = pool.expression_attribute_values(":needRequests", number(-i128::from(change.free_requests)));
        }
        if change.free_tokens < 0 {
            enough.push("tokensFree >= :needTokens");
            pool = pool.expression_attribute_values(":needTokens", number(-i128::from(change.free_tokens)));
        }
        let pool = built(pool.condition_expression(enough.join(" AND ")).build())?;
        let request = self
            .client
            .transact_write_items()
            .transact_items(lease.build())
            .transact_items(TransactWriteItem::builder().update(pool).build());
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.as_service_error() {
                // Conditions that did not hold, and transactions that met another: neither wrote anything.
                Some(TransactWriteItemsError::TransactionCanceledException(cancelled))
                    if cancelled.cancellation_reasons().iter().any(|reason| {
                        matches!(reason.code(), Some("ConditionalCheckFailed" | "TransactionConflict"))
                    }) =>
                {
                    StoreError::Conflict
                }
                _ => self.failed(error),
            }),
        }
    }

    fn item(&self, lease: &StoredLease) -> Item {
        HashMap::from([
            ("id".to_owned(), text(&format!("{LEASE}{}", lease.id))),
            ("host".to_owned(), text(&self.host)),
            ("version".to_owned(), number(lease.version)),
            ("requests".to_owned(), number(lease.held.requests)),
            ("tokens".to_owned(), number(lease.held.tokens)),
            ("requestsWanted".to_owned(), number(lease.wanted.requests)),
            ("tokensWanted".to_owned(), number(lease.wanted.tokens)),
            ("holdMs".to_owned(), number(lease.hold_ms)),
        ])
    }

    fn failed<E, R>(&self, error: SdkError<E, R>) -> StoreError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        R: Debug + Send + Sync + 'static,
    {
        if may_be_configuration(error.code()) {
            self.is_spent.store(true, Ordering::Relaxed);
        }
        match error.code() {
            Some("ConditionalCheckFailedException" | "TransactionConflictException") => StoreError::Conflict,
            Some("ResourceNotFoundException") => StoreError::Unavailable(format!(
                "the table {} does not exist; create it with `aws dynamodb create-table --table-name {} --attribute-definitions AttributeName=id,AttributeType=S --key-schema AttributeName=id,KeyType=HASH --billing-mode PAY_PER_REQUEST`",
                self.table, self.table
            )),
            Some(code) => StoreError::Unavailable(format!(
                "the table {} cannot be used: {code}: {}",
                self.table,
                error.message().unwrap_or("no message")
            )),
            None => StoreError::Unavailable(format!(
                "DynamoDB cannot be asked for the table {}: {}",
                self.table,
                unanswered(&error).sentence
            )),
        }
    }
}

/// Whether another endpoint or other credentials could help, by the code of a failure: there was no answer, or it said whose
/// call it takes. A table that throttles is not helped by hosts that fetch their credentials again.
fn may_be_configuration(code: Option<&str>) -> bool {
    let Some(code) = code else { return true };
    matches!(
        code,
        "AccessDeniedException"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "IncompleteSignatureException"
            | "InvalidSignatureException"
            | "MissingAuthenticationTokenException"
            | "UnrecognizedClientException"
    )
}

/// The table as this host's own credentials reach it. The client is made with the first call, and anew after a failure that
/// the host's configuration may have caused: the SDK reads it once.
#[derive(Debug)]
pub(crate) struct OwnDynamo {
    table: String,
    region: String,
    host: String,
    made: Mutex<Option<Dynamo>>,
}

impl OwnDynamo {
    /// `host` is written beside the lease. Endpoint and credentials are as the AWS SDK finds them in environment, profile and
    /// instance role.
    pub(crate) fn new(table: &str, region: &str, host: &str) -> OwnDynamo {
        OwnDynamo { table: table.to_owned(), region: region.to_owned(), host: host.to_owned(), made: Mutex::default() }
    }

    async fn current(&self) -> Dynamo {
        let mut made = self.made.lock().await;
        if let Some(dynamo) = &*made {
            return dynamo.clone();
        }
        let loader = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new(self.region.clone()))
            .http_client(http_client())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().operation_timeout(CALL).build());
        let client = Client::new(&on_this_host(loader).await);
        made.insert(Dynamo::new(client, &self.table, &self.host)).clone()
    }
}

impl LeaseStore for OwnDynamo {
    async fn call(&self, request: StoreRequest) -> Result<StoreResponse, StoreError> {
        let dynamo = self.current().await;
        let outcome = dynamo.call(request).await;
        if dynamo.is_spent.load(Ordering::Relaxed) {
            *self.made.lock().await = None;
        }
        outcome
    }
}

impl LeaseStore for Dynamo {
    async fn call(&self, request: StoreRequest) -> Result<StoreResponse, StoreError> {
        match request {
            StoreRequest::Read => Ok(StoreResponse::Pool(self.get(POOL, false).await?.as_ref().and_then(pool))),
            StoreRequest::Create(limit) => self.create(limit).await.map(|()| StoreResponse::Done),
            StoreRequest::Resize(from, to) => self.resize(from, to).await.map(|()| StoreResponse::Done),
            StoreRequest::Write(before, after) => self.write(before, after).await.map(|()| StoreResponse::Done),
            StoreRequest::Get(id) => {
                let item = self.get(&format!("{LEASE}{id}"), true).await?;
                Ok(StoreResponse::Lease(item.as_ref().and_then(lease)))
            }
            StoreRequest::List => self.list().await.map(StoreResponse::Leases),
        }
    }
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn read<T: std::str::FromStr>(item: &Item, key: &str) -> Option<T> {
    item.get(key)?.as_n().ok()?.parse().ok()
}

fn pool(item: &Item) -> Option<Pool> {
    // Sums of wishes never are below zero; if someone has edited the item, they count as nothing.
    let sum = |key| read::<i64>(item, key).map(|sum| u64::try_from(sum).unwrap_or(0));
    Some(Pool {
        limit: Amount { requests: read(item, "requestsLimit")?, tokens: read(item, "tokensLimit")? },
        revision: read(item, "revision").unwrap_or(0),
        free_requests: read(item, "requestsFree")?,
        free_tokens: read(item, "tokensFree")?,
        wanted: Amount { requests: sum("requestsWanted")?, tokens: sum("tokensWanted")? },
        hosts: sum("hosts")?,
    })
}

fn lease(item: &Item) -> Option<StoredLease> {
    Some(StoredLease {
        id: item.get("id")?.as_s().ok()?.strip_prefix(LEASE)?.to_owned(),
        version: read(item, "version")?,
        held: Amount { requests: read(item, "requests")?, tokens: read(item, "tokens")? },
        wanted: Amount { requests: read(item, "requestsWanted")?, tokens: read(item, "tokensWanted")? },
        hold_ms: read(item, "holdMs")?,
    })
}

/// Required members are all set above; should the SDK ever want more, the table counts as unusable.
fn built<T, E: std::error::Error>(built: Result<T, E>) -> Result<T, StoreError> {
    built.map_err(|error| StoreError::Unavailable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::may_be_configuration;

    #[test]
    fn a_client_is_made_anew_only_where_that_may_help() {
        for code in [None, Some("ExpiredTokenException"), Some("AccessDeniedException")] {
            assert!(may_be_configuration(code), "{code:?}");
        }
        for code in ["ProvisionedThroughputExceededException", "ThrottlingException", "ResourceNotFoundException"] {
            assert!(!may_be_configuration(Some(code)), "{code}");
        }
    }
}
