//! Every operation is relayed, byte for byte, on the path that AWS expects; nothing else is.

use http::Method;
use serde_json::{Value, json};
use test_support::*;

const CLAUDE: &str = "anthropic.claude-3-haiku-20240307-v1:0";

/// Name, method, path and body of every operation, with what the stand-in answers.
fn operations() -> Vec<(&'static str, Method, String, String, u16)> {
    let (get, post) = (Method::GET, Method::POST);
    let model = encoded(ON_DEMAND);
    let invocation = encoded("arn:aws:bedrock:us-east-1:123456789012:async-invoke/abcdef012345");
    let profile = "us.amazon.nova-premier-v1%3A0";
    let chat =
        json!({ "model": "openai.gpt-oss-20b-1:0", "messages": [{ "role": "user", "content": "hi" }] }).to_string();
    let guarded = json!({ "source": "INPUT", "content": [{ "text": { "text": "fine" } }] }).to_string();
    let checks =
        json!({ "messages": [], "checks": { "promptAttack": { "categories": [{ "category": "JAILBREAK" }] } } });
    let video = json!({
        "modelId": "amazon.nova-reel-v1:0", "modelInput": { "a": 1.50 },
        "outputDataConfig": { "s3OutputDataConfig": { "s3Uri": "s3://bucket" } },
    });
    let messages = json!({ "model": CLAUDE, "max_tokens": 9, "messages": [{ "role": "user", "content": "hi" }] });
    let tokens =
        json!({ "input": { "converse": { "messages": [{ "role": "user", "content": [{ "text": "a b" }] }] } } });
    vec![
        ("InvokeModel", post.clone(), format!("/model/{model}/invoke"), converse("hi"), 200),
        (
            "InvokeModelWithResponseStream",
            post.clone(),
            format!("/model/{model}/invoke-with-response-stream"),
            converse("events 5"),
            200,
        ),
        ("Converse", post.clone(), format!("/model/{model}/converse"), converse("hi"), 200),
        ("ConverseStream", post.clone(), format!("/model/{model}/converse-stream"), converse("events 5"), 200),
        ("CountTokens", post.clone(), format!("/model/{model}/count-tokens"), tokens.to_string(), 200),
        ("ApplyGuardrail", post.clone(), "/guardrail/abc123/version/DRAFT/apply".into(), guarded, 200),
        ("InvokeGuardrailChecks", post.clone(), "/guardrail-checks/invoke".into(), checks.to_string(), 200),
        ("StartAsyncInvoke", post.clone(), "/async-invoke".into(), video.to_string(), 200),
        (
            "ListAsyncInvokes",
            get.clone(),
            "/async-invoke?statusEquals=Completed&maxResults=5".into(),
            String::new(),
            200,
        ),
        ("GetAsyncInvoke", get.clone(), format!("/async-invoke/{invocation}"), String::new(), 404),
        ("ChatCompletions", post.clone(), "/openai/v1/chat/completions".into(), chat, 200),
        (
            "Responses",
            post.clone(),
            "/openai/v1/responses".into(),
            json!({ "model": "openai.gpt-oss-20b-1:0", "input": "hi" }).to_string(),
            200,
        ),
        ("ListModels", get.clone(), "/openai/v1/models".into(), String::new(), 200),
        ("Messages", post.clone(), "/anthropic/v1/messages".into(), messages.to_string(), 200),
        (
            "MessagesCountTokens",
            post.clone(),
            "/anthropic/v1/messages/count_tokens".into(),
            json!({ "model": CLAUDE, "messages": [{ "role": "user", "content": "hi" }] }).to_string(),
            200,
        ),
        ("ListFoundationModels", get.clone(), "/foundation-models?byProvider=Amazon".into(), String::new(), 200),
        ("GetFoundationModel", get.clone(), format!("/foundation-models/{model}"), String::new(), 200),
        (
            "GetFoundationModelAvailability",
            get.clone(),
            format!("/foundation-model-availability/{model}"),
            String::new(),
            200,
        ),
        ("ListGuardrails", get.clone(), "/guardrails?guardrailIdentifier=abc123".into(), String::new(), 200),
        ("ListPromptRouters", get.clone(), "/prompt-routers?type=default".into(), String::new(), 200),
        (
            "ListInferenceProfiles",
            get.clone(),
            "/inference-profiles?maxResults=2&type=SYSTEM_DEFINED".into(),
            String::new(),
            200,
        ),
        ("GetInferenceProfile", get, format!("/inference-profiles/{profile}"), String::new(), 200),
        (
            "CreateInferenceProfile",
            post,
            "/inference-profiles".into(),
            json!({
                "inferenceProfileName": "mine", "clientRequestToken": "t-1",
                "modelSource": { "copyFrom": format!("arn:aws:bedrock:us-east-1::foundation-model/{ON_DEMAND}") },
            })
            .to_string(),
            201,
        ),
        ("DeleteInferenceProfile", Method::DELETE, "/inference-profiles/nothing".into(), String::new(), 404),
    ]
}

#[tokio::test]
async fn every_operation_is_relayed_byte_for_byte() {
    let bedrock = bedrock().await;
    let over_tls = Setup::tls(&bedrock).managing_profiles("").ready().await;
    let over_plain = Setup::plain(&bedrock).managing_profiles("").ready().await;
    for (name, method, path, body, status) in operations() {
        for daemon in [&over_tls, &over_plain] {
            let expected = direct(&bedrock, request(method.clone(), &path, body.clone())).await;
            assert_eq!(expected.status, status, "{name}: {expected:?}");
            bedrock.clear();
            let mut asked = request(method.clone(), &path, body.clone());
            asked.headers_mut().insert("x-amzn-bedrock-trace", "ENABLED".parse().unwrap());
            let answer = send(daemon.address(), asked).await;
            same(&answer, &expected);
            let sent = received(&bedrock, name);
            assert_eq!(sent.len(), 1, "{name}: {:?}", bedrock.requests());
            assert_eq!((&sent[0].method, &sent[0].path), (&method.to_string(), &path), "{name}");
            assert_eq!(sent[0].body, body.as_bytes(), "{name}");
            assert_eq!(sent[0].auth, "bearer", "{name}");
            assert_eq!(sent[0].header("x-amzn-bedrock-trace"), Some("ENABLED"), "{name}");
            assert_eq!(sent[0].leaks, Vec::<String>::new(), "{name}");
            assert_eq!(answer.header("x-bedrock-sidecar-region"), Some("us-east-1"), "{name}");
            let record = daemon.record_of(&answer).await;
            let logged = if name == "ListModels" { "OpenAIListModels" } else { name };
            assert_eq!(record["operation"], logged, "{record}");
        }
    }
}

#[tokio::test]
async fn both_spellings_of_an_identifier_are_sent_as_one_encoded_segment() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    let arn = format!("arn:aws:bedrock:us-east-1::foundation-model/{ON_DEMAND}");
    for (written, sent) in [
        (ON_DEMAND.to_owned(), encoded(ON_DEMAND)),
        (encoded(ON_DEMAND), encoded(ON_DEMAND)),
        (encoded(ON_DEMAND).replace("%3A", "%3a"), encoded(ON_DEMAND)),
        (arn.replace('/', "%2F"), encoded(&arn)),
        (encoded(&arn), encoded(&arn)),
    ] {
        bedrock.clear();
        let answer = daemon.post(&format!("/model/{written}/converse"), converse("x")).await;
        assert_eq!(answer.status, 200, "{written}: {answer:?}");
        assert_eq!(bedrock.requests()[0].path, format!("/model/{sent}/converse"), "{written}");
    }
}

#[tokio::test]
async fn a_model_in_the_body_is_replaced_and_nothing_else_changes() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock)
        .with("[models.aliases]\n\"gpt\" = \"openai.gpt-oss-20b-1:0\"\n\"video\" = \"amazon.nova-reel-v1:0\"")
        .ready()
        .await;
    let chat = "{ \"messages\":[{\"role\":\"user\",\"content\":\"model \\u00e9 \\\"gpt\\\"\"}],\r\n\t\"temperature\": 1.0e0 , \"model\" : \"gpt\",\"metadata\":{\"model\":\"gpt\"}}\n";
    let opus = "anthropic.claude-opus-4-1-20250805-v1:0";
    for (name, path, body, from, to) in [
        ("ChatCompletions", "/openai/v1/chat/completions", chat.to_owned(), "\"model\" : \"gpt\"", "\"model\" : \"openai.gpt-oss-20b-1:0\""),
        ("Responses", "/openai/v1/responses", "{\"mod\\u0065l\":\"gpt\", \"input\":\"x\"}".to_owned(), "\"gpt\"", "\"openai.gpt-oss-20b-1:0\""),
        (
            "Messages",
            "/anthropic/v1/messages",
            format!("{{\"max_tokens\":  9,\"model\":\"{opus}\",\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}]}}"),
            opus,
            "us.anthropic.claude-opus-4-1-20250805-v1:0",
        ),
        (
            "StartAsyncInvoke",
            "/async-invoke",
            "{\"modelId\":\"video\",\"modelInput\":{\"seed\":9007199254740993},\"outputDataConfig\":{\"s3OutputDataConfig\":{\"s3Uri\":\"s3://b\"}}}".to_owned(),
            "\"video\"",
            "\"amazon.nova-reel-v1:0\"",
        ),
    ] {
        bedrock.clear();
        let answer = daemon.post(path, body.clone()).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let sent = &received(&bedrock, name)[0];
        assert_eq!(String::from_utf8_lossy(&sent.body), body.replacen(from, to, 1), "{name}");
    }
}

#[tokio::test]
async fn a_body_that_names_its_model_unclearly_is_refused() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.clear();
    for (path, body, says) in [
        ("/openai/v1/chat/completions", "{\"messages\":[]}", "does not name the model under \"model\""),
        ("/openai/v1/chat/completions", "{\"model\":\"a.b\",\"model\":\"c.d\"}", "\"model\" stands twice"),
        ("/anthropic/v1/messages", "{\"model\":7}", "must be a string"),
        ("/anthropic/v1/messages", "[]", "must be a JSON object"),
        ("/async-invoke", "{\"model\":\"a.b\"}", "does not name the model under \"modelId\""),
        ("/openai/v1/responses", "{\"model\":\"a.b\"", "must be a JSON object"),
    ] {
        let answer = daemon.post(path, body).await;
        let sentence = refused(&answer, 400, "ValidationException");
        assert!(sentence.contains(says), "{path} {body}: {sentence}");
    }
    let mut compressed = request(Method::POST, "/openai/v1/chat/completions", "x");
    compressed.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let answer = send(daemon.address(), compressed).await;
    assert!(refused(&answer, 400, "ValidationException").contains("compressed"));
    assert_eq!(bedrock.requests().len(), 0);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_no_operations() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.clear();
    for (method, path) in [
        (Method::GET, "/".to_owned()),
        (Method::POST, "/".to_owned()),
        (Method::GET, converse_path(ON_DEMAND)),
        (Method::PUT, converse_path(ON_DEMAND)),
        (Method::POST, format!("{}/", converse_path(ON_DEMAND))),
        (Method::POST, "/model//converse".to_owned()),
        (Method::POST, format!("/model/arn:aws:bedrock:us-east-1::foundation-model/{ON_DEMAND}/converse")),
        (Method::POST, "/foundation-models".to_owned()),
        (Method::GET, "/custom-models".to_owned()),
        // Nothing is relayed because of how its path begins.
        (Method::POST, "/openai/v1/chat/completions/".to_owned()),
        (Method::POST, "/openai/v1/fine_tuning/jobs".to_owned()),
        (Method::POST, "/openai/v1/files".to_owned()),
        (Method::DELETE, "/openai/v1/files/file-1".to_owned()),
        (Method::POST, "/anthropic/v1/messages/".to_owned()),
        (Method::POST, "/anthropic/v1/messages/batches".to_owned()),
        (Method::POST, "/anthropic/v1/complete".to_owned()),
        (Method::DELETE, "/foundation-models/x".to_owned()),
        (Method::GET, "/_simulator/requests".to_owned()),
        (Method::GET, "/latest/meta-data/".to_owned()),
    ] {
        let body = if method == Method::GET { String::new() } else { converse("x") };
        let answer = send(daemon.address(), request(method.clone(), &path, body)).await;
        let sentence = refused(&answer, 404, "UnknownOperationException");
        assert!(sentence.contains("no operation of bedrock-runtime"), "{method} {path}: {sentence}");
        assert_eq!(daemon.record_of(&answer).await["operation"], "Unknown");
    }
    assert_eq!(bedrock.requests().len(), 0);
}

#[tokio::test]
async fn traversal_and_smuggled_delimiters_are_refused() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.clear();
    for path in [
        "/model/../invoke",
        "/model/./invoke",
        "/model/%2e%2e/invoke",
        "/model/%2E%2E%2Ffoundation-models/invoke",
        "/model/a.b%2F..%2F..%2Fc/invoke",
        "/model/a.b%2F/invoke",
        "/model/a.b%3Fx=1/invoke",
        "/model/a.b%23x/invoke",
        "/model/a.b%00/invoke",
        "/model/a.b%0D%0AX-Y:%20z/invoke",
        "/model/a.b%/invoke",
        "/model/a.b%2/invoke",
        "/model/a.b%zz/invoke",
        "/model/a.b%FF/invoke",
        "/model/a.b%5Cc/invoke",
        "/model/a.b%253A0/invoke",
        "/model/a.b;x/invoke",
        "//model/a.b/invoke",
        "/%6dodel/a.b/invoke",
        "/openai/v1/chat/completion%73",
        "/openai/v1//chat/completions",
        "/openai/v1/chat/completions;x",
        "/openai/v1/files/%252e%252e/chat/completions",
        "/openai/v1/files/..%5cbatches",
        "/openai/v1/files\\..\\batches",
        "/anthropic/v1/message%73",
        "/model/a%20b/invoke",
        "/guardrail/..%2F..%2Fmodel/version/1/apply",
        "/openai/v1/../../foundation-models",
        "/openai/v1/%2e%2e/%2e%2e/foundation-models",
        "/async-invoke/..%2Fx",
        "/inference-profiles/%2e%2e",
    ] {
        let method = if path.starts_with("/async") || path.starts_with("/inf") { "GET" } else { "POST" };
        let bytes = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        );
        let answer = raw::exchange(daemon.address(), bytes).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(answer.contains("x-amzn-errortype: ValidationException"), "{path}: {answer}");
    }
    assert_eq!(bedrock.requests().len(), 0, "{:?}", bedrock.requests());
}

#[tokio::test]
async fn the_query_is_kept_and_a_presigned_one_is_stripped() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    for (asked, sent) in [
        ("/inference-profiles?maxResults=3&type=APPLICATION", "/inference-profiles?maxResults=3&type=APPLICATION"),
        ("/foundation-models?byProvider=Mistral%20AI", "/foundation-models?byProvider=Mistral%20AI"),
        ("/foundation-models?", "/foundation-models"),
        (
            "/foundation-models?X-Amz-Algorithm=AWS4-HMAC-SHA256&byProvider=Amazon&X-Amz-Credential=AKIAGOV%2F20260101%2Fus-gov-west-1%2Fbedrock%2Faws4_request&X-Amz-Date=20260101T000000Z&X-Amz-Expires=300&X-Amz-SignedHeaders=host&X-Amz-Security-Token=t&X-Amz-Signature=c0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ff",
            "/foundation-models?byProvider=Amazon",
        ),
        ("/foundation-models?X%2DAmz%2DSignature=00", "/foundation-models"),
    ] {
        bedrock.clear();
        let answer = daemon.get(asked).await;
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
        assert_eq!(bedrock.requests()[0].path, sent, "{asked}");
    }
}

#[tokio::test]
async fn govcloud_names_are_translated_for_reads_too() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.clear();
    let arn = encoded(&format!("arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{ON_DEMAND}"));
    let answer = daemon.get(&format!("/foundation-models/{arn}")).await;
    assert_eq!((answer.status, &answer.json()["modelDetails"]["modelId"]), (200, &Value::from(ON_DEMAND)));
    assert_eq!(bedrock.requests()[0].path, format!("/foundation-models/{}", encoded(ON_DEMAND)));

    for (asked, profile) in [
        (format!("us-gov.{ON_DEMAND}"), format!("us.{ON_DEMAND}")),
        (
            format!("arn:aws-us-gov:bedrock:us-gov-west-1:111122223333:inference-profile/us-gov.{PROFILE_ONLY}"),
            format!("us.{PROFILE_ONLY}"),
        ),
    ] {
        bedrock.clear();
        let answer = daemon.get(&format!("/inference-profiles/{}", encoded(&asked))).await;
        assert_eq!(
            (answer.status, &answer.json()["inferenceProfileId"]),
            (200, &Value::from(profile.clone())),
            "{asked}"
        );
        assert_eq!(
            received(&bedrock, "GetInferenceProfile")[0].path,
            format!("/inference-profiles/{}", encoded(&profile))
        );
        let record = daemon.record_of(&answer).await;
        assert_eq!((&record["modelId"], &record["inferenceProfileUsed"]), (&json!(asked), &json!(profile)), "{record}");
    }
    bedrock.clear();
    for (method, name) in [(Method::GET, "us-gov.no.such-model-v1:0"), (Method::DELETE, "us-gov.amazon.nova-lite-v1:0")]
    {
        let path = format!("/inference-profiles/{}", encoded(name));
        let answer = send(daemon.address(), request(method.clone(), &path, "")).await;
        let record = daemon.record_of(&answer).await;
        if method == Method::GET {
            assert!(refused(&answer, 404, "ResourceNotFoundException").contains("is a GovCloud profile"), "{name}");
            assert_eq!((&record["modelId"], &record["outcome"]), (&json!(name), &json!("refused")));
        } else {
            refused(&answer, 403, "AccessDeniedException");
            assert_eq!(record["operation"], "DeleteInferenceProfile");
        }
    }
    assert_eq!(bedrock.requests().len(), 0);
    let bound = encoded("arn:aws-us-gov:bedrock:us-gov-west-1:111122223333:application-inference-profile/abc");
    let answer = daemon.get(&format!("/inference-profiles/{bound}")).await;
    assert!(refused(&answer, 400, "ValidationException").contains("belongs to a GovCloud account"));
}

#[tokio::test]
async fn profiles_are_made_read_and_deleted() {
    let bedrock = bedrock().await;
    let daemon = Setup::tls(&bedrock).managing_profiles("").ready().await;
    let body = json!({
        "inferenceProfileName": "team profile", "tags": [{ "key": "k", "value": "v" }],
        "modelSource": { "copyFrom": format!("arn:aws:bedrock:us-east-1::foundation-model/{ON_DEMAND}") },
    });
    let made = daemon.post("/inference-profiles", body.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
    let arn = made.json()["inferenceProfileArn"].as_str().unwrap().to_owned();
    let path = format!("/inference-profiles/{}", encoded(&arn));
    assert_eq!(daemon.get(&path).await.json()["inferenceProfileName"], "team profile");
    let again = daemon.post("/inference-profiles", body.to_string()).await;
    assert_eq!((again.status, again.header("x-amzn-errortype")), (400, Some("ConflictException")));
    let answer = daemon.post(&converse_path(&arn), converse("by profile")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let deleted = send(daemon.address(), request(Method::DELETE, &path, "")).await;
    assert_eq!(deleted.status, 200);
    assert_eq!(daemon.get(&path).await.status, 404);
}

#[tokio::test]
async fn profiles_are_made_and_deleted_only_by_those_who_are_named() {
    let bedrock = bedrock().await;
    let body = json!({
        "inferenceProfileName": "mine",
        "modelSource": { "copyFrom": format!("arn:aws:bedrock:us-east-1::foundation-model/{ON_DEMAND}") },
    });
    let entry = format!("[[callers]]\nname = \"me\"\nusers = [\"{}\"]\noperations = ", users::own_uid());
    for (text, says) in [
        (String::new(), "set allow_profile_management = true in [models]"),
        (format!("{entry}[\"*InferenceProfile\"]"), "set allow_profile_management = true in [models]"),
        ("[models]\nallow_profile_management = true".to_owned(), "whose [[callers]] entry names it in operations"),
        (
            format!("[models]\nallow_profile_management = true\n{entry}[\"*\"]"),
            "whose [[callers]] entry names it in operations",
        ),
    ] {
        let daemon = Setup::plain(&bedrock).with(&text).ready().await;
        bedrock.clear();
        for (method, path, body, name) in [
            (Method::POST, "/inference-profiles", body.to_string(), "CreateInferenceProfile"),
            (Method::DELETE, "/inference-profiles/mine", String::new(), "DeleteInferenceProfile"),
        ] {
            let answer = send(daemon.address(), request(method, path, body)).await;
            let sentence = refused(&answer, 403, "AccessDeniedException");
            assert!(sentence.contains(says) && sentence.contains(name), "{text}: {sentence}");
            let record = daemon.record_of(&answer).await;
            for (field, expected) in [
                ("operation", json!(name)),
                ("outcome", json!("refused")),
                ("statusCode", json!(403)),
                ("attempts", json!(0)),
                ("errorMessage", json!(sentence)),
            ] {
                assert_eq!(record[field], expected, "{field}: {record}");
            }
        }
        assert_eq!(bedrock.requests().len(), 0);
    }
}

#[tokio::test]
async fn output_to_s3_is_off_where_data_has_levels_until_it_is_named() {
    let bedrock = bedrock().await;
    let video = json!({
        "modelId": "amazon.nova-reel-v1:0", "modelInput": {},
        "outputDataConfig": { "s3OutputDataConfig": { "s3Uri": "s3://bucket" } },
    });
    let levels = "[policy]\ndata_classifications = [\"public\", \"cui\"]\n[[callers]]\nname = \"me\"\n\
        data_classification = \"cui\"\n";
    let user = format!("users = [\"{}\"]\n", users::own_uid());
    let without = Setup::plain(&bedrock).with(&format!("{levels}{user}")).ready().await;
    bedrock.clear();
    let answer = without.post("/async-invoke", video.to_string()).await;
    let sentence = refused(&answer, 403, "AccessDeniedException");
    assert!(sentence.contains("commercial S3") && sentence.contains("names it in operations"), "{sentence}");
    let record = without.record_of(&answer).await;
    assert_eq!((&record["outcome"], &record["attempts"]), (&json!("refused"), &json!(0)), "{record}");
    let answer = without.post("/openai/v1/batches", json!({ "input_file_id": "s3://bucket/in" }).to_string()).await;
    let sentence = refused(&answer, 403, "AccessDeniedException");
    assert!(sentence.contains("commercial S3") && sentence.contains("names it in operations"), "{sentence}");
    assert_eq!(without.record_of(&answer).await["operation"], "OpenAICreateBatch");
    assert_eq!(bedrock.requests().len(), 0);
    let named = format!("{levels}{user}operations = [\"StartAsyncInvoke\"]");
    let named = Setup::plain(&bedrock).with(&named).ready().await;
    let answer = named.post("/async-invoke", video.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(named.record_of(&answer).await["dataClassification"], "cui");
}
