//! Sending one batch, again and again until every record in it is confirmed by the table, or known to be invalid.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;

use super::body::{Put, batch};
use crate::jitter;
use crate::ledger::clients::Clients;
use crate::ledger::core::Core;
use crate::ledger::dynamo::{self, Failure, FailureClass};
use crate::ledger::health::Component;
use crate::ledger::index::read::IndexedRecord;

/// The pause after a failure doubles from the first to the second; each has jitter, so that a fleet does not return as
/// one.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// What all batches share.
#[derive(Debug)]
pub(crate) struct BatchSender {
    pub(crate) core: Arc<Core>,
    pub(crate) clients: Clients,
    pub(crate) table: String,
}

/// A batch of which nothing is left to send.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) first: i64,
    pub(crate) confirmed: u64,
    /// Records that the table does not take, and why.
    pub(crate) rejected: Vec<(i64, String)>,
}

/// Why DynamoDB rejected a record that was sent alone.
enum RejectionCause {
    /// The record itself.
    Record,
    /// The table, or that is not known yet; in a sentence that says what to repair.
    Table(String),
}

/// A record that waits for its confirmation.
struct Unconfirmed {
    record: IndexedRecord,
    put: Put,
}

impl BatchSender {
    /// Returns when nothing of the batch is left to send.
    pub(crate) async fn deliver(&self, records: Vec<IndexedRecord>) -> Delivered {
        let mut delivered =
            Delivered { first: records.first().map_or(0, |record| record.id), confirmed: 0, rejected: Vec::new() };
        let mut unconfirmed = Vec::with_capacity(records.len());
        for record in records {
            match Put::new(&record.item, &record.hash) {
                Some(put) => unconfirmed.push(Unconfirmed { record, put }),
                None => delivered.rejected.push((record.id, "it is not a flat JSON object".to_owned())),
            }
        }
        // A batch knows no conditions, so these are sent one by one, last.
        unconfirmed.sort_by_key(|one| one.put.is_interrupted);
        let mut backoff = MIN_BACKOFF;
        // After a rejection of several, each is sent alone, to find out which is invalid.
        let mut one_by_one = false;
        while !unconfirmed.is_empty() {
            let leading = unconfirmed.iter().take_while(|one| !one.put.is_interrupted).count();
            let count = if one_by_one || leading == 0 { 1 } else { leading };
            let before = unconfirmed.len();
            match self.send(&mut unconfirmed, count).await {
                Ok(()) => {
                    delivered.confirmed += (before - unconfirmed.len()) as u64;
                    if unconfirmed.len() < before {
                        self.report_success();
                        backoff = MIN_BACKOFF;
                    }
                    if before - unconfirmed.len() < count {
                        let sentence = format!(
                            "DynamoDB throttles the table {}: it left {} of {count} records of a batch unprocessed",
                            self.table,
                            count - (before - unconfirmed.len())
                        );
                        self.report_failure(&sentence, false);
                        back_off(&mut backoff).await;
                    }
                }
                Err(Failure { class: FailureClass::Rejected, .. }) if count > 1 => one_by_one = true,
                Err(Failure { class: FailureClass::Rejected, sentence }) => match self.find_cause(&sentence).await {
                    RejectionCause::Record => {
                        let id = unconfirmed.remove(0).record.id;
                        tracing::error!(id, reason = %sentence, "audit: a record is set aside, because the table does not take it; it stays in the ledger for its retention, and `bedrock-sidecar audit list --set-aside` shows it");
                        delivered.rejected.push((id, sentence));
                    }
                    RejectionCause::Table(sentence) => {
                        self.report_failure(&sentence, true);
                        back_off(&mut backoff).await;
                    }
                },
                Err(failure) => {
                    self.report_failure(&failure.sentence, true);
                    if failure.class == FailureClass::Credentials {
                        self.clients.reset().await;
                    }
                    back_off(&mut backoff).await;
                }
            }
        }
        delivered
    }

    /// Sends the first `count` and takes those out of `unconfirmed` that the table confirmed.
    async fn send(&self, unconfirmed: &mut Vec<Unconfirmed>, count: usize) -> Result<(), Failure> {
        if let Some(one) = unconfirmed.first().filter(|one| one.put.is_interrupted) {
            self.put_unless_there(&one.record).await?;
            unconfirmed.remove(0);
            return Ok(());
        }
        let body = Bytes::from(batch(&self.table, unconfirmed[..count].iter().map(|one| &one.put)));
        let client = self.clients.client().await;
        // The SDK does all but write the body: before it signs, ours takes the place of one without items.
        let call = client.batch_write_item().request_items(&self.table, Vec::new()).customize();
        let call = call.mutate_request(move |request| {
            request.headers_mut().insert("content-length", body.len().to_string());
            *request.body_mut() = SdkBody::from(body.clone());
        });
        let answer = call.send().await.map_err(|error| dynamo::classify(error, &self.table))?;
        let unprocessed: Vec<&String> = answer
            .unprocessed_items()
            .into_iter()
            .flat_map(|tables| tables.values().flatten())
            .filter_map(|request| request.put_request()?.item().get("requestId")?.as_s().ok())
            .collect();
        let left = |one: &Unconfirmed| unprocessed.contains(&&one.put.request_id);
        let mut index = 0;
        unconfirmed.retain(|one| {
            index += 1;
            index > count || left(one)
        });
        Ok(())
    }

    /// Sends one record, unless the table has an item for its request: that one is the truth.
    async fn put_unless_there(&self, record: &IndexedRecord) -> Result<(), Failure> {
        let item = dynamo::item_to_attributes(&record.item, &record.hash);
        let put = self.clients.client().await.put_item().table_name(&self.table).set_item(item);
        match put.condition_expression("attribute_not_exists(requestId)").send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(()),
            Err(error) => Err(dynamo::classify(error, &self.table)),
        }
    }

    /// A record that was sent alone was rejected: is it the record, or would the table reject any?
    async fn find_cause(&self, sentence: &str) -> RejectionCause {
        let client = self.clients.client().await;
        let described = client.describe_table().table_name(&self.table).send().await;
        let by_message = dynamo::rejection(sentence);
        match described.map_err(|error| dynamo::classify(error, &self.table)) {
            Ok(answer) => match answer.table().map(dynamo::table_keys) {
                Some(Err(why)) => RejectionCause::Table(format!("the table {} cannot hold records: {why}", self.table)),
                _ if by_message == dynamo::Rejection::Index => RejectionCause::Table(self.blame_index(sentence)),
                _ => RejectionCause::Record,
            },
            // Without the permission to describe the table, the message has to tell.
            Err(failure) if failure.class == FailureClass::Credentials => match by_message {
                dynamo::Rejection::Index => RejectionCause::Table(self.blame_index(sentence)),
                dynamo::Rejection::Key => RejectionCause::Table(sentence.to_owned()),
                dynamo::Rejection::Record => RejectionCause::Record,
            },
            // It is not known yet.
            Err(failure) => RejectionCause::Table(failure.sentence),
        }
    }

    fn blame_index(&self, sentence: &str) -> String {
        format!(
            "an index of the table {} cannot hold records, so the table takes none: {sentence}; delete that index, or create it again with a key whose type is that of docs/record.md",
            self.table
        )
    }

    fn report_success(&self) {
        self.core.counts.set_table_reachable(true);
        self.core.health.report_success(Component::Shipping);
    }

    fn report_failure(&self, sentence: &str, unreachable: bool) {
        if unreachable {
            self.core.counts.set_table_reachable(false);
        }
        self.core.health.report_failure(Component::Shipping, sentence);
    }
}

/// Waits. The pause is the batch's own: what a throttled table takes of one batch says nothing about the others, and
/// would have them all come back at once.
async fn back_off(backoff: &mut Duration) {
    tokio::time::sleep(backoff.mul_f64(0.5 + jitter::fraction() / 2.0)).await;
    *backoff = (*backoff * 2).min(MAX_BACKOFF);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::chain::Chain;
    use crate::ledger::journal::Journal;
    use crate::ledger::journal::disk::RealDisk;
    use crate::ledger::state_dir::StateDir;
    use crate::settings::Settings;
    use std::sync::mpsc;
    use std::time::Instant;

    #[tokio::test]
    async fn the_success_of_one_batch_does_not_wake_another() {
        let directory = tempfile::tempdir().unwrap();
        let journal =
            Journal::new(directory.path().to_owned(), 1 << 18, false, Arc::new(RealDisk), 1, Chain::new("host"));
        let settings = Settings::built_in().unwrap().audit;
        let state_dir = StateDir { root: directory.path().to_owned() };
        let core = Core::new(state_dir, "host".to_owned(), settings, journal, mpsc::channel().0);
        let clients = Clients::new("us-gov-west-1", None);
        let sender = BatchSender { core: Arc::new(core), clients, table: "records".to_owned() };
        let begun = Instant::now();
        let mut backoff = Duration::from_millis(400);
        let other = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                sender.report_success();
            }
        };
        tokio::join!(back_off(&mut backoff), other);
        assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    }
}
