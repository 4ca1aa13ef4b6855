//! The table, and what is found in it.

use http::Method;

use super::*;
use crate::error::RefusalKind;

fn name(method: Method, path: &str) -> Result<(&'static str, Option<String>), u16> {
    find(&method, path).map(|m| (m.operation.name, m.identifier)).map_err(|refusal| refusal.kind.status().as_u16())
}

#[test]
fn both_spellings_of_a_model_are_one_segment() {
    let expected = Ok(("InvokeModel", Some("anthropic.claude-3-haiku-20240307-v1:0".to_owned())));
    assert_eq!(name(Method::POST, "/model/anthropic.claude-3-haiku-20240307-v1:0/invoke"), expected);
    assert_eq!(name(Method::POST, "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke"), expected);
    assert_eq!(
        name(Method::POST, "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fa.b-v1%3A0/converse"),
        Ok(("Converse", Some("arn:aws:bedrock:us-east-1::foundation-model/a.b-v1:0".to_owned())))
    );
}

#[test]
fn every_row_matches_a_path_made_from_it() {
    for operation in OPERATIONS {
        let path: String = operation.path.iter().map(|s| format!("/{}", s.replace("{}", "x.y"))).collect();
        let method: Method = operation.method.parse().unwrap();
        assert_eq!(find(&method, &path).unwrap().operation, operation, "{path}");
    }
}

#[test]
fn traversal_and_smuggling_are_refused() {
    for path in [
        "/model/../invoke",
        "/model/a%2F..%2Fb/invoke",
        "/model/%2e%2e/invoke",
        "/model/a%3Fb/invoke",
        "/model/a%23b/invoke",
        "/model/a%00b/invoke",
        "/model/a%0Ab/invoke",
        "/model/a%2/invoke",
        "/model/a%zz/invoke",
        "/model/%ff/invoke",
        "/model/a b/invoke",
        "/model/a%2Fb%2F/invoke",
        "/openai/v1/../../x",
        "model/a/invoke",
    ] {
        assert_eq!(name(Method::POST, path), Err(400), "{path}");
    }
}

#[test]
fn unknown_paths_are_unknown_operations() {
    for path in [
        "/",
        "/model",
        "/model//invoke",
        "/model/a/invokes",
        "/model/a/b/invoke",
        "/model/a/invoke/",
        "/openai/v1/",
        "/anthropic",
    ] {
        assert_eq!(name(Method::POST, path), Err(404), "{path}");
    }
    assert_eq!(name(Method::GET, "/model/a/invoke"), Err(404));
    assert_eq!(name(Method::GET, "/model/a/invoke-with-bidirectional-stream"), Err(404));
}

#[test]
fn named_rows_are_in_the_table() {
    let of_both_hosts = [&COUNT_TOKENS, &MESSAGES, &MESSAGES_COUNT_TOKENS, &MANTLE_LIST_MODELS];
    let others = [&INVOKE_MODEL, &LIST_FOUNDATION_MODELS, &CREATE_INFERENCE_PROFILE];
    for named in others.into_iter().chain(of_both_hosts) {
        assert!(OPERATIONS.iter().any(|row| std::ptr::eq(*row, named)), "{}", named.name);
    }
    assert_eq!((INVOKE_MODEL.name, LIST_FOUNDATION_MODELS.name), ("InvokeModel", "ListFoundationModels"));
}

#[test]
fn what_runs_no_model_or_is_not_paid_by_tokens_costs_none() {
    let free: Vec<_> = OPERATIONS.iter().filter(|row| row.tokens == NoTokens).map(|row| row.name).collect();
    assert_eq!(
        free,
        [
            "CountTokens",
            "ApplyGuardrail",
            "InvokeGuardrailChecks",
            "ListAsyncInvokes",
            "GetAsyncInvoke",
            "OpenAICountInputTokens",
            "OpenAIGetResponse",
            "OpenAIDeleteResponse",
            "OpenAICancelResponse",
            "OpenAIListInputItems",
            "OpenAIListModels",
            "OpenAIGetModel",
            "OpenAIListBatches",
            "OpenAIGetBatch",
            "OpenAICancelBatch",
            "MessagesCountTokens",
            "AnthropicListModels",
            "AnthropicGetModel",
            "Rerank",
            "MantleCountInputTokens",
            "MantleGetResponse",
            "MantleDeleteResponse",
            "MantleCancelResponse",
            "MantleListInputItems",
            "MantleListModels",
            "MantleGetModel",
            "ListFoundationModels",
            "GetFoundationModel",
            "GetFoundationModelAvailability",
            "ListGuardrails",
            "ListPromptRouters",
            "ListInferenceProfiles",
            "GetInferenceProfile",
            "CreateInferenceProfile",
            "DeleteInferenceProfile",
        ]
    );
}

#[test]
fn counting_has_rows_of_its_own() {
    for path in ["/anthropic/v1/messages/count_tokens", "/openai/v1/responses/input_tokens"] {
        assert_eq!(find(&Method::POST, path).unwrap().operation.tokens, NoTokens, "{path}");
    }
    assert_eq!(name(Method::POST, "/anthropic/v1/messages/count_tokens"), Ok(("MessagesCountTokens", None)));
    assert_eq!(name(Method::POST, "/openai/v1/responses/x/cancel"), Ok(("OpenAICancelResponse", None)));
    for path in ["/openai/v1/responses/compact", "/openai/v1/batches"] {
        assert_eq!(find(&Method::POST, path).unwrap().operation.tokens, FromBody, "{path}");
    }
}

#[test]
fn nothing_is_relayed_because_of_how_its_path_begins() {
    for (method, path) in [
        (Method::POST, "/anthropic/v1/messages/batches"),
        (Method::POST, "/anthropic/v1/complete"),
        (Method::POST, "/openai/v1/fine_tuning/jobs"),
        (Method::POST, "/openai/v1/files"),
        (Method::DELETE, "/openai/v1/files/file-1"),
        (Method::POST, "/openai/v1/completions"),
        (Method::POST, "/openai/v1/chat/completions/"),
        (Method::POST, "/openai/v1/Chat/Completions"),
        (Method::GET, "/openai/v1/models/x/y"),
        (Method::POST, "/anthropic/v1/messages/"),
    ] {
        assert_eq!(name(method, path), Err(404), "{path}");
    }
}

#[test]
fn an_operation_that_is_spelled_otherwise_is_refused() {
    for path in [
        "/openai/v1/chat/completion%73",
        "/openai/v1/chat%2Fcompletions",
        "/openai//v1/chat/completions",
        "//openai/v1/chat/completions",
        "/openai/v1/chat/completions;x=1",
        "/openai/v1/x/%252e%252e/chat/completions",
        "/openai/v1/x/..%5cchat/completions",
        "/openai/v1/x\\..\\chat/completions",
        "/openai/v1/chat/./completions",
        "/openai/v1/responses/x%2Fcancel",
        "/anthropic/v1/message%73",
        "/%61sync-invoke",
        "/model/a.b%253A0/invoke",
        "/model/a.b;c/invoke",
    ] {
        assert_eq!(name(Method::POST, path), Err(400), "{path}");
    }
    assert_eq!(name(Method::GET, "/openai/v1/responses/a%2Finput_items"), Err(400));
}

#[test]
fn a_path_is_encoded_once() {
    let converse = find(&Method::POST, "/model/a/converse").unwrap().operation;
    assert_eq!(path_with(converse, "us.a.b-v1:0"), "/model/us.a.b-v1%3A0/converse");
    assert_eq!(path_with(converse, "arn:aws:x/y"), "/model/arn%3Aaws%3Ax%2Fy/converse");
}

#[test]
fn of_the_agent_runtime_only_rerank_is_relayed() {
    assert_eq!(find(&Method::POST, "/rerank").unwrap().operation.plane, Plane::AgentRuntime);
    for (method, path, what) in [
        (Method::POST, "/knowledgebases/KB12345678/retrieve", "knowledge bases"),
        (Method::POST, "/retrieveAndGenerate", "knowledge bases"),
        (Method::POST, "/retrieveAndGenerateStream", "knowledge bases"),
        (Method::POST, "/agents/AGENT12345/agentAliases/ALIAS12345/sessions/s/text", "agents"),
        (Method::PUT, "/sessions/", "agents"),
        (Method::POST, "/flows/FLOW123456/aliases/ALIAS12345", "flows"),
        (Method::POST, "/optimize-prompt", "prompts"),
    ] {
        let refusal = find(&method, path).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::UnknownOperation, "{path}");
        assert!(refusal.message.contains(what) && refusal.message.contains("only Rerank"), "{}", refusal.message);
    }
    let other = find(&Method::GET, "/rerank").unwrap_err();
    assert!(other.kind == RefusalKind::UnknownOperation && !other.message.contains("account"), "{}", other.message);
}
