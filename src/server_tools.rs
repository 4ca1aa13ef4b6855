//! Whether a request has Bedrock call servers by itself: connectors and MCP servers, which run with the rights of the commercial
//! account or outside it, and see what the model tells them.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::operation::{Operation, Plane};
use crate::request::Received;

/// What a body says of it. A member that stands twice, or has another form, is an error.
#[derive(Deserialize)]
struct Said {
    tools: Option<Vec<Tool>>,
    mcp_servers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Tool {
    #[serde(rename = "type")]
    kind: Option<String>,
    connector_id: Option<IgnoredAny>,
    server_url: Option<IgnoredAny>,
}

/// Whether a request of this operation can ask for them.
pub(crate) fn may_be_asked_for(operation: &Operation) -> bool {
    operation.plane == Plane::Mantle || operation.is_of_both()
}

/// Whether the body asks for one. What cannot be told counts as asked for.
pub(crate) fn are_asked_for(received: &Received) -> bool {
    ask(&received.body)
}

fn ask(body: &[u8]) -> bool {
    // A quick look that most bodies end with; `\u00` may write any letter of a name.
    static NAMES: LazyLock<[Finder<'static>; 4]> =
        LazyLock::new(|| ["mcp", "connector_id", "server_url", "\\u00"].map(Finder::new));
    if !NAMES.iter().any(|name| name.find(body).is_some()) {
        return false;
    }
    let Ok(Said { tools, mcp_servers }) = serde_json::from_slice(body) else { return true };
    let is_called =
        |tool: &Tool| tool.kind.as_deref() == Some("mcp") || tool.connector_id.is_some() || tool.server_url.is_some();
    mcp_servers.is_some() || tools.unwrap_or_default().iter().any(is_called)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_bedrock_would_call_is_found() {
        for (body, expected) in [
            (r#"{"input":"mcp connector_id","tools":[{"type":"function","name":"mcp"}]}"#, false),
            (r#"{"input":[{"type":"mcp_call"}],"tools":[{"type":"custom","name":"f"}]}"#, false),
            (r#"{"tools":null,"input":"server_url"}"#, false),
            (r#"{"tools":[{"type":"mcp","server_label":"l"}]}"#, true),
            (r#"{"tools":[{"type":"\u006dcp"}]}"#, true),
            (r#"{"tools":[{"type":"function"},{"connector_id":"c"}]}"#, true),
            (r#"{"tools":[{"server_url":"https://x"}]}"#, true),
            (r#"{"mcp_servers":[]}"#, true),
            (r#"{"tools":[],"tools":[{"type":"mcp"}]}"#, true),
            (r#"{"tools":{"type":"mcp"}}"#, true),
            ("mcp", true),
            ("", false),
        ] {
            assert_eq!(ask(body.as_bytes()), expected, "{body}");
        }
    }
}
