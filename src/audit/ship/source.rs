//! Where clients come from: the environment, made anew when credentials fail, or whoever starts the ledger.

use aws_sdk_dynamodb::Client;
use tokio::sync::Mutex;

use super::dynamo;

/// Hands out the current client.
#[derive(Debug)]
pub struct Clients {
    region: String,
    given: Option<Client>,
    made: Mutex<Option<Client>>,
}

impl Clients {
    /// With `given`, always that one.
    pub fn new(region: &str, given: Option<Client>) -> Clients {
        Clients { region: region.to_owned(), given, made: Mutex::default() }
    }

    pub async fn client(&self) -> Client {
        if let Some(client) = &self.given {
            return client.clone();
        }
        let mut made = self.made.lock().await;
        match &*made {
            Some(client) => client.clone(),
            None => made.insert(dynamo::client(&self.region).await).clone(),
        }
    }

    /// The SDK keeps credentials from a file for good; a new client reads them again.
    pub async fn forget(&self) {
        *self.made.lock().await = None;
    }
}
