//! Whether a request asks Bedrock to keep its answer, as OpenAI's Responses are kept unless they are told not to be.

use serde::Deserialize;

use crate::operation::Stores;
use crate::request::Received;

/// What a body says of it. A member that stands twice, or is no flag, is an error.
#[derive(Deserialize)]
struct Said {
    store: Option<bool>,
    background: Option<bool>,
}

/// What Bedrock is asked to do with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storing {
    /// Not to keep it.
    No,
    /// Nothing is said, and it is kept unless the account keeps nothing.
    Unsaid,
    /// To keep it.
    Asked,
}

/// What is asked for. What cannot be told counts as asked for.
pub(crate) fn asks(received: &Received) -> Storing {
    asks_in(received.operation.stores, &received.body)
}

fn asks_in(stores: Stores, body: &[u8]) -> Storing {
    let unless_said = match stores {
        Stores::Never => return Storing::No,
        Stores::IfAsked => Storing::No,
        Stores::UnlessToldNot => Storing::Unsaid,
    };
    let Ok(Said { store, background }) = serde_json::from_slice(body) else { return Storing::Asked };
    match (store, background) {
        // Its answer is there to be fetched later, whatever else is said.
        (_, Some(true)) if stores == Stores::UnlessToldNot => Storing::Asked,
        (Some(true), _) => Storing::Asked,
        (Some(false), _) => Storing::No,
        (None, _) => unless_said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Stores::{IfAsked, Never, UnlessToldNot};
    use Storing::{Asked, No, Unsaid};

    #[test]
    fn responses_are_kept_unless_told_not_and_chats_if_asked() {
        for (body, response, chat) in [
            (r#"{"model":"m","input":"x"}"#, Unsaid, No),
            (r#"{"store":true}"#, Asked, Asked),
            (r#"{"model":"m","store":false}"#, No, No),
            (r#"{"st\u006fre":false}"#, No, No),
            (r#"{"store":null}"#, Unsaid, No),
            (r#"{"metadata":{"store":true}}"#, Unsaid, No),
            (r#"{"store":false,"store":true}"#, Asked, Asked),
            (r#"{"store":"false"}"#, Asked, Asked),
            (r#"{"store":false,"background":true}"#, Asked, No),
            (r#"{"store":false,"background":false}"#, No, No),
            (r#"{"store":false,"background":"true"}"#, Asked, Asked),
        ] {
            assert_eq!(asks_in(UnlessToldNot, body.as_bytes()), response, "{body}");
            assert_eq!(asks_in(IfAsked, body.as_bytes()), chat, "{body}");
            assert_eq!(asks_in(Never, body.as_bytes()), No);
        }
    }
}
