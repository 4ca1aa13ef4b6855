//! The lease store on DynamoDB. One table, one key: `id` (S). The item `pool`, an item `shard#…` for some fifty hosts, and, of
//! hosts with an older version, an item `lease#…` for each.

mod items;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{Delete, ReturnValue, TransactWriteItem, Update};
use tokio::sync::Mutex;

use self::items::{Item, lease_text, number, old_lease, old_lease_key, pool, shard, shard_item, shard_key, text};
use super::amount::Terms;
use super::shard::{Balance, FULL, Shard};
use super::store::{LeaseStore, StoreError, StoreRequest, StoreResponse, StoredLease, held, more};
use crate::credentials::source::{http_client, on_this_host};
use crate::sdk_failure::unanswered;

const POOL: &str = "pool";

/// A call that takes longer is given up. The lease outlives several of them.
const CALL: Duration = Duration::from_secs(4);

/// The table, and what calls it.
#[derive(Debug, Clone)]
pub struct Dynamo {
    client: Client,
    table: String,
    /// A call has failed in a way that another configuration of this host may mend.
    is_spent: Arc<AtomicBool>,
}

impl Dynamo {
    /// With a client that is made already.
    pub fn new(client: Client, table: &str) -> Dynamo {
        Dynamo { client, table: table.to_owned(), is_spent: Arc::default() }
    }

    async fn get(&self, id: &str, consistent: bool) -> Result<Option<Item>, StoreError> {
        let request = self.client.get_item().table_name(&self.table).key("id", text(id)).consistent_read(consistent);
        Ok(request.send().await.map_err(|error| self.failed(error))?.item)
    }

    /// What is in an item, if there is one. Somebody may have edited it.
    fn read<T>(&self, item: &Option<Item>, read: fn(&Item) -> Option<T>) -> Result<Option<Arc<T>>, StoreError> {
        let Some(item) = item else { return Ok(None) };
        read(item).map(|found| Some(Arc::new(found))).ok_or_else(|| {
            StoreError::Unavailable(format!(
                "the table {} holds an item that this version cannot read; if nobody has a newer version, delete all of its items",
                self.table
            ))
        })
    }

    async fn list_old(&self) -> Result<Vec<StoredLease>, StoreError> {
        let mut leases = Vec::new();
        let mut pages = self.client.scan().table_name(&self.table).into_paginator().items().send();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| self.failed(error))?;
            leases.extend(old_lease(&item));
        }
        Ok(leases)
    }

    async fn create(&self, Terms { limit, revision }: Terms) -> Result<StoreResponse, StoreError> {
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
            .item("shards", number(1))
            .condition_expression("attribute_not_exists(id)");
        request.send().await.map(|_| StoreResponse::Done).map_err(|error| self.failed(error))
    }

    async fn resize(&self, before: Terms, after: Terms) -> Result<StoreResponse, StoreError> {
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
        request.send().await.map(|_| StoreResponse::Done).map_err(|error| self.failed(error))
    }

    async fn double(&self, shards: u64) -> Result<StoreResponse, StoreError> {
        // A pool that an older version has made has one shard without saying so.
        let condition = if shards == 1 {
            "attribute_exists(id) AND (attribute_not_exists(shards) OR shards = :shards)"
        } else {
            "shards = :shards"
        };
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("id", text(POOL))
            .update_expression("SET shards = :twice")
            .condition_expression(condition)
            .expression_attribute_values(":shards", number(shards))
            .expression_attribute_values(":twice", number(u128::from(shards) * 2));
        request.send().await.map(|_| StoreResponse::Done).map_err(|error| self.failed(error))
    }

    async fn open(&self, shard: u64) -> Result<StoreResponse, StoreError> {
        let request = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(shard_item(&Shard::empty(shard))))
            .condition_expression("attribute_not_exists(id)");
        request.send().await.map(|_| StoreResponse::Done).map_err(|error| self.failed(error))
    }

    async fn write(
        &self,
        shard_number: u64,
        before: Option<StoredLease>,
        after: Option<StoredLease>,
    ) -> Result<StoreResponse, StoreError> {
        let Some(id) = before.as_ref().or(after.as_ref()).map(|lease| lease.id.clone()) else {
            return Err(StoreError::Conflict);
        };
        let mut request = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("id", text(&shard_key(shard_number)))
            .return_values(ReturnValue::AllNew)
            .expression_attribute_names("#id", id.as_ref());
        let mut conditions = Vec::new();
        if let Some(before) = &before {
            conditions.push("leases.#id = :before".to_owned());
            request = request.expression_attribute_values(":before", text(&lease_text(before)));
        } else {
            conditions.push("attribute_not_exists(leases.#id) AND size(leases) < :full".to_owned());
            request = request.expression_attribute_values(":full", number(FULL));
        }
        let lease = if let Some(after) = &after {
            request = request.expression_attribute_values(":after", text(&lease_text(after)));
            "SET leases.#id = :after"
        } else {
            "REMOVE leases.#id"
        };
        let (from, to) = (held(before.as_ref()), held(after.as_ref()));
        let mut free = Vec::new();
        for (what, from, to) in [("requests", from.requests, to.requests), ("tokens", from.tokens, to.tokens)] {
            if from == to {
                continue;
            }
            free.push(format!("{what}Free :{what}"));
            request = request.expression_attribute_values(format!(":{what}"), number(more(to, from)));
            if to > from {
                conditions.push(format!("{what}Free >= :{what}Needed"));
                request = request.expression_attribute_values(format!(":{what}Needed"), number(to - from));
            }
        }
        let free = if free.is_empty() { String::new() } else { format!(" ADD {}", free.join(", ")) };
        let request =
            request.update_expression(format!("{lease}{free}")).condition_expression(conditions.join(" AND "));
        let item = request.send().await.map_err(|error| self.failed(error))?.attributes;
        Ok(StoreResponse::Shard(self.read(&item, shard)?))
    }

    async fn balance(&self, balance: Balance) -> Result<StoreResponse, StoreError> {
        let (before, after) = (&balance.before.declared, &balance.declared);
        let mut pool = Update::builder().table_name(&self.table).key("id", text(POOL));
        let mut pool_conditions = vec!["attribute_exists(id)".to_owned()];
        let mut pool_sums = vec!["hosts :hosts".to_owned()];
        pool = pool.expression_attribute_values(":hosts", number(more(before.hosts, after.hosts)));
        let mut shard = Update::builder()
            .table_name(&self.table)
            .key("id", text(&shard_key(balance.before.number)))
            .expression_attribute_values(":round", number(balance.before.round))
            .expression_attribute_values(":next", number(balance.before.round.saturating_add(1)));
        let mut shard_conditions = vec!["#round = :round".to_owned()];
        shard = shard.expression_attribute_names("#round", "round");
        let mut shard_sums = Vec::new();
        let moves = [
            ("requests", balance.requests, more(before.wanted.requests, after.wanted.requests)),
            ("tokens", balance.tokens, more(before.wanted.tokens, after.wanted.tokens)),
        ];
        for (what, moved, wanted) in moves {
            pool_sums.push(format!("{what}Free :{what}, {what}Wanted :{what}Wanted"));
            pool = pool
                .expression_attribute_values(format!(":{what}"), number(-i128::from(moved)))
                .expression_attribute_values(format!(":{what}Wanted"), number(wanted));
            shard_sums.push(format!("{what}Budget :{what}, {what}Free :{what}"));
            shard = shard.expression_attribute_values(format!(":{what}"), number(moved));
            let needed = number(moved.unsigned_abs());
            if moved > 0 {
                pool_conditions.push(format!("{what}Free >= :{what}Needed"));
                pool = pool.expression_attribute_values(format!(":{what}Needed"), needed);
            } else if moved < 0 {
                shard_conditions.push(format!("{what}Free >= :{what}Needed"));
                shard = shard.expression_attribute_values(format!(":{what}Needed"), needed);
            }
        }
        for (what, step) in ["requestsBy", "tokensBy"].into_iter().zip(&balance.steps) {
            for (bucket, hosts) in step.buckets() {
                pool_sums.push(format!("{what}{bucket} :{what}{bucket}"));
                pool = pool.expression_attribute_values(format!(":{what}{bucket}"), number(hosts));
            }
        }
        let told = Shard {
            due: balance.due,
            terms: balance.terms,
            shards: balance.shards,
            elsewhere: balance.elsewhere,
            declared: balance.declared.clone(),
            ..Shard::empty(balance.before.number)
        };
        let mut set = vec!["#round = :next".to_owned()];
        let kept = |name: &str| {
            name != "id" && name != "round" && name != "leases" && !name.ends_with("Free") && !name.ends_with("Budget")
        };
        for (name, value) in shard_item(&told).into_iter().filter(|(name, _)| kept(name)) {
            set.push(format!("{name} = :{name}"));
            shard = shard.expression_attribute_values(format!(":{name}"), value);
        }
        let pool = pool
            .update_expression(format!("ADD {}", pool_sums.join(", ")))
            .condition_expression(pool_conditions.join(" AND "));
        let shard = shard
            .update_expression(format!("SET {} ADD {}", set.join(", "), shard_sums.join(", ")))
            .condition_expression(shard_conditions.join(" AND "));
        self.both(
            TransactWriteItem::builder().update(built(shard.build())?).build(),
            TransactWriteItem::builder().update(built(pool.build())?).build(),
        )
        .await
    }

    async fn reclaim_old(&self, lease: StoredLease) -> Result<StoreResponse, StoreError> {
        let gone = Delete::builder()
            .table_name(&self.table)
            .key("id", text(&old_lease_key(&lease.id)))
            .condition_expression("version = :version")
            .expression_attribute_values(":version", number(lease.version));
        let pool = Update::builder()
            .table_name(&self.table)
            .key("id", text(POOL))
            .update_expression(
                "ADD requestsFree :requests, tokensFree :tokens, requestsWanted :requestsWanted, tokensWanted :tokensWanted, hosts :hosts",
            )
            .condition_expression("attribute_exists(id)")
            .expression_attribute_values(":requests", number(lease.held.requests))
            .expression_attribute_values(":tokens", number(lease.held.tokens))
            .expression_attribute_values(":requestsWanted", number(-i128::from(lease.wanted.requests)))
            .expression_attribute_values(":tokensWanted", number(-i128::from(lease.wanted.tokens)))
            .expression_attribute_values(":hosts", number(-1));
        self.both(
            TransactWriteItem::builder().delete(built(gone.build())?).build(),
            TransactWriteItem::builder().update(built(pool.build())?).build(),
        )
        .await
    }

    /// Both or neither.
    async fn both(&self, one: TransactWriteItem, other: TransactWriteItem) -> Result<StoreResponse, StoreError> {
        match self.client.transact_write_items().transact_items(one).transact_items(other).send().await {
            Ok(_) => Ok(StoreResponse::Done),
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
    made: Mutex<Option<Dynamo>>,
}

impl OwnDynamo {
    /// Endpoint and credentials are as the AWS SDK finds them in environment, profile and
    /// instance role.
    pub(crate) fn new(table: &str, region: &str) -> OwnDynamo {
        OwnDynamo { table: table.to_owned(), region: region.to_owned(), made: Mutex::default() }
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
        made.insert(Dynamo::new(client, &self.table)).clone()
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
            StoreRequest::ReadPool => Ok(StoreResponse::Pool(self.read(&self.get(POOL, false).await?, pool)?)),
            StoreRequest::Create(terms) => self.create(terms).await,
            StoreRequest::Resize(from, to) => self.resize(from, to).await,
            StoreRequest::Double(shards) => self.double(shards).await,
            StoreRequest::ReadShard { number, now } => {
                let item = self.get(&shard_key(number), now).await?;
                Ok(StoreResponse::Shard(self.read(&item, shard)?))
            }
            StoreRequest::Open(number) => self.open(number).await,
            StoreRequest::Write(number, before, after) => self.write(number, before, after).await,
            StoreRequest::Balance(balance) => self.balance(*balance).await,
            StoreRequest::ListOld => self.list_old().await.map(StoreResponse::Leases),
            StoreRequest::ReclaimOld(lease) => self.reclaim_old(lease).await,
        }
    }
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
