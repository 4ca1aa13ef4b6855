//! One batch on its way: sent until every record in it is confirmed by the table, or known to be refused for what it is.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use tokio::sync::Notify;

use super::dynamo::{self, Attributes, Class, Failure};
use super::source::Clients;
use crate::audit::core::{Part, Shared};
use crate::audit::store::read::Stored;

/// The first pause, doubled up to the last; each is shortened by chance, so that a fleet does not return as one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(20);

/// What lanes share.
#[derive(Debug)]
pub struct Lane {
    pub core: Shared,
    pub clients: Clients,
    pub table: String,
    /// A batch got through: whoever pauses may try again.
    pub works: Notify,
}

/// How a batch ended.
#[derive(Debug)]
pub struct Delivered {
    pub first: i64,
    pub confirmed: u64,
    /// Records that the table will never take, and why.
    pub poison: Vec<(i64, String)>,
}

/// A record that waits for its confirmation.
struct Waiting {
    id: i64,
    attributes: Attributes,
}

impl Lane {
    /// Returns when nothing of the batch is left to send.
    pub async fn deliver(&self, rows: Vec<Stored>) -> Delivered {
        let mut delivered = Delivered { first: rows.first().map_or(0, |row| row.id), confirmed: 0, poison: Vec::new() };
        let mut waiting = Vec::with_capacity(rows.len());
        for row in rows {
            match dynamo::attributes(&row.item, &row.hash) {
                Some(attributes) => waiting.push(Waiting { id: row.id, attributes }),
                None => delivered.poison.push((row.id, "it is not a flat JSON object".to_owned())),
            }
        }
        let mut pause = FIRST_PAUSE;
        // After a refusal of several, each is sent alone, to find out which is meant.
        let mut alone = false;
        while !waiting.is_empty() {
            let count = if alone { 1 } else { waiting.len() };
            let before = waiting.len();
            match self.send(&mut waiting, count).await {
                Ok(()) => {
                    delivered.confirmed += (before - waiting.len()) as u64;
                    if waiting.len() < before {
                        self.got_through();
                        pause = FIRST_PAUSE;
                    }
                    if before - waiting.len() < count {
                        let sentence = format!(
                            "DynamoDB throttles the table {}: it left {} of {count} records of a batch unprocessed",
                            self.table,
                            count - (before - waiting.len())
                        );
                        self.stuck(&sentence, false);
                        self.pause(&mut pause).await;
                    }
                }
                Err(Failure { class: Class::Refused, .. }) if count > 1 => alone = true,
                Err(Failure { class: Class::Refused, sentence }) => match self.table_takes_records(&sentence).await {
                    Ok(()) => {
                        let id = waiting.remove(0).id;
                        tracing::error!(id, reason = %sentence, "audit: a record is set aside: the table will never take it; it stays in the ledger for its retention");
                        delivered.poison.push((id, sentence));
                    }
                    Err(sentence) => {
                        self.stuck(&sentence, true);
                        self.pause(&mut pause).await;
                    }
                },
                Err(failure) => {
                    self.stuck(&failure.sentence, true);
                    if failure.class == Class::Credentials {
                        self.clients.forget().await;
                    }
                    self.pause(&mut pause).await;
                }
            }
        }
        delivered
    }

    /// Sends the first `count` and takes those out of `waiting` that the table confirmed.
    async fn send(&self, waiting: &mut Vec<Waiting>, count: usize) -> Result<(), Failure> {
        let mut requests = Vec::with_capacity(count);
        for one in &waiting[..count] {
            let put = PutRequest::builder().set_item(Some(one.attributes.clone())).build();
            let put = put.map_err(|error| Failure { class: Class::Refused, sentence: error.to_string() })?;
            requests.push(WriteRequest::builder().put_request(put).build());
        }
        let client = self.clients.client().await;
        let sent = client.batch_write_item().request_items(&self.table, requests).send().await;
        let answer = sent.map_err(|error| dynamo::failure(error, &self.table))?;
        let unprocessed: Vec<&Attributes> = answer
            .unprocessed_items()
            .into_iter()
            .flat_map(|tables| tables.values().flatten())
            .filter_map(|request| Some(request.put_request()?.item()))
            .collect();
        let left =
            |one: &Waiting| unprocessed.iter().any(|item| item.get("requestId") == one.attributes.get("requestId"));
        let mut index = 0;
        waiting.retain(|one| {
            index += 1;
            index > count || left(one)
        });
        Ok(())
    }

    /// A record alone was refused: is it the record, or would the table refuse any?
    async fn table_takes_records(&self, sentence: &str) -> Result<(), String> {
        let client = self.clients.client().await;
        match client.describe_table().table_name(&self.table).send().await {
            Ok(answer) => match answer.table().map(dynamo::shape) {
                Some(Err(why)) => Err(format!("the table {} cannot hold records: {why}", self.table)),
                _ => Ok(()),
            },
            // Without the permission to look, the message has to tell.
            Err(_) if sentence.contains("Missing the key") || sentence.contains("does not match the schema") => {
                Err(sentence.to_owned())
            }
            Err(_) => Ok(()),
        }
    }

    fn got_through(&self) {
        self.core.counts.table_reachable.store(1, Relaxed);
        self.core.works(Part::Shipping);
        self.works.notify_waiters();
    }

    fn stuck(&self, sentence: &str, unreachable: bool) {
        if unreachable {
            self.core.counts.table_reachable.store(2, Relaxed);
        }
        self.core.trouble(Part::Shipping, sentence);
    }

    async fn pause(&self, pause: &mut Duration) {
        let chance = f64::from(uuid::Uuid::now_v7().as_bytes()[15]) / 255.0;
        let _ = tokio::time::timeout(pause.mul_f64(0.5 + chance / 2.0), self.works.notified()).await;
        *pause = (*pause * 2).min(LAST_PAUSE);
    }
}
