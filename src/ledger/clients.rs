//! The current DynamoDB client: made from the environment, and made again when credentials fail.

use aws_sdk_dynamodb::Client;
use tokio::sync::Mutex;

use super::dynamo;

/// The current client.
#[derive(Debug)]
pub(crate) struct Clients {
    region: String,
    /// From whoever started the ledger.
    given: Option<Client>,
    made: Mutex<Option<Client>>,
}

impl Clients {
    /// With `given`, it is always that one.
    pub(crate) fn new(region: &str, given: Option<Client>) -> Clients {
        Clients { region: region.to_owned(), given, made: Mutex::default() }
    }

    pub(crate) async fn client(&self) -> Client {
        if let Some(client) = &self.given {
            return client.clone();
        }
        let mut made = self.made.lock().await;
        match &*made {
            Some(client) => client.clone(),
            None => made.insert(dynamo::client(&self.region).await).clone(),
        }
    }

    /// Drops the client. The SDK reads credentials from a file once; the next client reads them again.
    pub(crate) async fn reset(&self) {
        *self.made.lock().await = None;
    }
}
