//! Whether a request asks Bedrock to keep its answer, as OpenAI's Responses are kept unless they are told not to be.

use serde::Deserialize;

use crate::operation::Stores;
use crate::request::Received;

/// What a body says of it. A member that stands twice, or is no flag, is an error.
#[derive(Deserialize)]
struct Said {
    store: Option<bool>,
}

/// Whether the answer is kept. What cannot be told counts as kept.
pub(crate) fn asks(received: &Received) -> bool {
    asks_in(received.operation.stores, &received.body)
}

fn asks_in(stores: Stores, body: &[u8]) -> bool {
    let unless_said = match stores {
        Stores::Never => return false,
        Stores::IfAsked => false,
        Stores::UnlessToldNot => true,
    };
    match serde_json::from_slice::<Said>(body) {
        Ok(said) => said.store.unwrap_or(unless_said),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Stores::{IfAsked, Never, UnlessToldNot};

    #[test]
    fn responses_are_kept_unless_told_not_and_chats_if_asked() {
        for (body, response, chat) in [
            (r#"{"model":"m","input":"x"}"#, true, false),
            (r#"{"store":true}"#, true, true),
            (r#"{"model":"m","store":false}"#, false, false),
            (r#"{"st\u006fre":false}"#, false, false),
            (r#"{"store":null}"#, true, false),
            (r#"{"metadata":{"store":true}}"#, true, false),
            (r#"{"store":false,"store":true}"#, true, true),
            (r#"{"store":"false"}"#, true, true),
        ] {
            assert_eq!(asks_in(UnlessToldNot, body.as_bytes()), response, "{body}");
            assert_eq!(asks_in(IfAsked, body.as_bytes()), chat, "{body}");
            assert!(!asks_in(Never, body.as_bytes()));
        }
    }
}
