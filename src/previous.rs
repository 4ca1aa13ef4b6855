//! Whether a request builds on what Bedrock keeps: a response that came before, or the conversation that it is part of.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// What a body says of it. A member that stands twice is an error.
#[derive(Deserialize)]
struct Said {
    previous_response_id: Option<IgnoredAny>,
    conversation: Option<IgnoredAny>,
}

/// Whether the body names something that is kept. What cannot be told counts as naming it.
pub(crate) fn is_named_in(body: &[u8]) -> bool {
    serde_json::from_slice::<Said>(body)
        .map_or(true, |said| said.previous_response_id.is_some() || said.conversation.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_is_named_by_its_member() {
        for (body, expected) in [
            (r#"{"model":"m","input":"previous_response_id"}"#, false),
            (r#"{"previous_response_id":null,"conversation":null}"#, false),
            (r#"{"metadata":{"previous_response_id":"resp_1"}}"#, false),
            (r#"{"previous_response_id":"resp_1"}"#, true),
            (r#"{"previous_response\u005fid":"resp_1"}"#, true),
            (r#"{"conversation":{"id":"conv_1"}}"#, true),
            (r#"{"previous_response_id":null,"previous_response_id":"resp_1"}"#, true),
            ("[]", true),
        ] {
            assert_eq!(is_named_in(body.as_bytes()), expected, "{body}");
        }
    }
}
