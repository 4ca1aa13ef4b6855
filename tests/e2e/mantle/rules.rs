//! Policy, limits and settings hold on this host as on the other one.

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Fault};
use test_support::users::own_uid;
use test_support::*;

use super::{CLAUDE, GPT, assert_record, chat, message_to, response};

#[tokio::test]
async fn where_it_is_not_enabled_its_paths_say_so() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    bedrock.clear();
    for (method, path, body, operation) in [
        (Method::POST, "/v1/chat/completions", chat(GPT, json!({})), "MantleChatCompletions"),
        (Method::POST, "/v1/responses", response(GPT, json!({})), "MantleResponses"),
        (Method::GET, "/v1/models", String::new(), "MantleListModels"),
        (Method::GET, "/v1/responses/resp_1", String::new(), "MantleGetResponse"),
    ] {
        let answer = send(daemon.address(), request(method, path, body)).await;
        let sentence = refused(&answer, 404, "UnknownOperationException");
        assert!(sentence.contains("enabled = true under [mantle]") && sentence.contains("/openai/v1"), "{sentence}");
        // As OpenAI's SDKs read errors.
        let error = &answer.json()["error"];
        assert_eq!((&error["message"], &error["type"]), (&json!(sentence), &json!("invalid_request_error")), "{error}");
        let record = daemon.record_of(&answer).await;
        assert_record(
            &record,
            &[
                ("operation", json!(operation)),
                ("outcome", json!("refused")),
                ("attempts", json!(0)),
                ("endpoint", Value::Null),
            ],
        );
    }
    assert_eq!(bedrock.requests().len(), 0);
}

#[tokio::test]
async fn models_go_by_bare_names_and_aliases() {
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).with(&format!("[models.aliases]\n\"gpt\" = \"{GPT}\"")).ready().await;
    for (asked, sent) in [
        (GPT.to_owned(), GPT),
        ("gpt".to_owned(), GPT),
        (format!("us.{GPT}"), GPT),
        (format!("us-gov.{GPT}"), GPT),
        (format!("arn:aws:bedrock:us-east-1::foundation-model/{GPT}"), GPT),
        (format!("arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{GPT}"), GPT),
        (format!("arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{GPT}"), GPT),
    ] {
        bedrock.clear();
        let body = chat(&asked, json!({}));
        let answer = daemon.post("/v1/chat/completions", body.clone()).await;
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
        let got = received(&bedrock, "MantleChatCompletions");
        assert_eq!(got[0].body.as_ref(), body.replacen(&asked, sent, 1).as_bytes(), "{asked}");
        assert_eq!(answer.header("x-bedrock-sidecar-model"), Some(sent));
        let record = daemon.record_of(&answer).await;
        assert_record(&record, &[("modelId", json!(asked)), ("inferenceProfileUsed", Value::Null)]);
    }
    bedrock.clear();
    let opaque = "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abc";
    let answer = daemon.post("/v1/chat/completions", chat(opaque, json!({}))).await;
    assert!(refused(&answer, 400, "ValidationException").contains("by their own names"));
    daemon.record_of(&answer).await;
    let answer = daemon.post("/v1/responses", "{\"input\":\"x\"}").await;
    assert!(refused(&answer, 400, "ValidationException").contains("does not name the model"));
    assert!(received(&bedrock, "MantleChatCompletions").is_empty());
}

#[tokio::test]
async fn rules_on_models_operations_and_limits_hold() {
    let bedrock = bedrock().await;
    let entry = format!(
        "[models]\ndeny = [\"openai.gpt-oss-20b\"]\n[limits.models.\"{GPT}\"]\nrequests_per_minute = 1\nrequest_burst = 1\n\
         [[callers]]\nname = \"me\"\nusers = [\"{}\"]\ndeny_operations = [\"MantleGetResponse\"]",
        own_uid()
    );
    let daemon = Setup::mantle(&bedrock).with(&entry).ready().await;
    bedrock.clear();
    let denied = daemon.post("/v1/responses", response("us.openai.gpt-oss-20b", json!({}))).await;
    refused(&denied, 403, "AccessDeniedException");
    assert_eq!(denied.json()["error"]["type"], "permission_error");
    assert_record(&daemon.record_of(&denied).await, &[("outcome", json!("refused")), ("attempts", json!(0))]);
    let answer = daemon.get("/v1/responses/resp_1").await;
    assert!(refused(&answer, 403, "AccessDeniedException").contains("may not call MantleGetResponse"));
    assert_eq!(bedrock.requests().len(), 0);
    assert_eq!(daemon.post("/v1/responses", response(GPT, json!({}))).await.status, 200);
    let throttled = daemon.post("/v1/chat/completions", chat(GPT, json!({}))).await;
    refused(&throttled, 429, "ThrottlingException");
    assert_eq!(throttled.json()["error"]["type"], "rate_limit_error");
    assert!(throttled.header("retry-after").is_some(), "{throttled:?}");
    let listed = daemon.get("/v1/models").await;
    let ids: Vec<Value> = listed.json()["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert!(ids.contains(&json!(GPT)) && !ids.contains(&json!("openai.gpt-oss-20b")), "{ids:?}");
    let hidden = daemon.get("/v1/models/openai.gpt-oss-20b").await;
    refused(&hidden, 403, "AccessDeniedException");
}

/// What a request builds on it reads.
#[tokio::test]
async fn who_may_not_read_a_response_may_not_build_on_it() {
    let bedrock = bedrock().await;
    let entry = format!(
        "[[callers]]\nname = \"me\"\nusers = [\"{}\"]\ndeny_operations = [\"MantleGetResponse\", \"OpenAIGetResponse\"]",
        own_uid()
    );
    let daemon = Setup::mantle(&bedrock).with(&entry).ready().await;
    bedrock.clear();
    for (path, reading) in [
        ("/v1/responses", "MantleGetResponse"),
        ("/v1/responses/input_tokens", "MantleGetResponse"),
        ("/v1/responses/compact", "MantleGetResponse"),
        ("/openai/v1/responses", "OpenAIGetResponse"),
    ] {
        for more in [json!({ "previous_response_id": "resp_1" }), json!({ "conversation": "conv_1" })] {
            let body = response("openai.gpt-oss-20b-1:0", more);
            let answer = daemon.post(path, body.clone()).await;
            let sentence = refused(&answer, 403, "AccessDeniedException");
            assert!(sentence.contains("stored response") && sentence.contains(reading), "{sentence}");
            let record = daemon.record_of(&answer).await;
            assert_record(
                &record,
                &[
                    ("outcome", json!("refused")),
                    ("statusCode", json!(403)),
                    ("attempts", json!(0)),
                    ("modelId", json!("openai.gpt-oss-20b-1:0")),
                    ("requestSize", json!(body.len())),
                ],
            );
        }
    }
    assert_eq!(bedrock.requests().len(), 0);
    let answer = daemon.post("/v1/responses", response(GPT, json!({ "previous_response_id": null }))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("completed")), ("inputTokens", json!(3))]);
}

/// A model has a date and a version behind its name on bedrock-runtime, and none here. It is the same model.
#[tokio::test]
async fn rules_on_a_model_s_name_on_bedrock_runtime_hold_here_too() {
    let bedrock = bedrock().await;
    let (model, other) = ("openai.gpt-oss-20b", "openai.gpt-oss-20b-1:0");
    let user = own_uid();
    for rules in [
        format!("[models]\ndeny = [\"{other}\"]"),
        format!("[[callers]]\nname = \"me\"\nusers = [\"{user}\"]\ndeny_models = [\"{other}\"]"),
    ] {
        let daemon = Setup::mantle(&bedrock).with(&rules).ready().await;
        bedrock.clear();
        let answer = daemon.post("/v1/chat/completions", chat(model, json!({}))).await;
        refused(&answer, 403, "AccessDeniedException");
        assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("refused")), ("attempts", json!(0))]);
        assert!(received(&bedrock, "MantleChatCompletions").is_empty(), "{rules}");
        let answer = daemon.post("/v1/chat/completions", chat(GPT, json!({}))).await;
        assert_eq!(answer.status, 200, "another model: {answer:?}");
        daemon.record_of(&answer).await;
    }
    // Nobody knows whether it is denied as long as nobody knows what bedrock-runtime calls it.
    bedrock.inject(Fault::once(Effect::InternalServerError).times(0).on("ListFoundationModels"));
    let daemon = Setup::mantle(&bedrock).with(&format!("[models]\ndeny = [\"{other}\"]")).start().await;
    bedrock.clear();
    let answer = daemon.post("/v1/chat/completions", chat(model, json!({}))).await;
    let sentence = refused(&answer, 503, "ServiceUnavailableException");
    assert!(
        sentence.contains("models are denied by names that only the list of us-east-1's models tells"),
        "{sentence}"
    );
    assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("refused")), ("attempts", json!(0))]);
    assert!(received(&bedrock, "MantleChatCompletions").is_empty());
    drop(daemon);
    bedrock.clear_faults();
    let limit = format!("[limits.models.\"{other}\"]\nrequests_per_minute = 1\nrequest_burst = 1");
    let daemon = Setup::mantle(&bedrock).with(&limit).ready().await;
    assert_eq!(daemon.post("/v1/chat/completions", chat(model, json!({}))).await.status, 200);
    let throttled = daemon.post("/v1/chat/completions", chat(model, json!({}))).await;
    refused(&throttled, 429, "ThrottlingException");
    assert_record(&daemon.record_of(&throttled).await, &[("outcome", json!("refused")), ("attempts", json!(0))]);
}

/// What Bedrock calls by itself is under no rule of this host.
#[tokio::test]
async fn servers_that_bedrock_would_call_are_refused_unless_an_entry_names_them() {
    let bedrock = bedrock().await;
    let tool = |id: &str| json!({ "tools": [{ "type": "mcp", "server_label": "l", "connector_id": id }] });
    let (here, gov) = ("arn:aws:lambda:us-east-1:1:function:f", "arn:aws-us-gov:lambda:us-gov-west-1:1:function:f");
    let user = own_uid();
    let entry = |rules: &str| format!("[[callers]]\nname = \"me\"\nusers = [\"{user}\"]\n{rules}");
    for (rules, is_allowed) in [
        (String::new(), false),
        (entry("operations = [\"*\"]"), false),
        (entry("operations = [\"Mantle\", \"Messages\"]"), false),
        (entry("operations = [\"*\", \"MantleServerTools\"]"), true),
        (entry("operations = [\"*\", \"MantleServerTools\"]\ndeny_operations = [\"MantleServerTools\"]"), false),
    ] {
        let daemon = Setup::mantle(&bedrock).with(&rules).ready().await;
        bedrock.clear();
        let answer = daemon.post("/v1/responses", response(GPT, tool(here))).await;
        let record = daemon.record_of(&answer).await;
        if is_allowed {
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_record(&record, &[("outcome", json!("completed")), ("endpoint", json!("bedrock-mantle"))]);
            let answer = daemon.post("/v1/responses", response(GPT, tool(gov))).await;
            assert!(refused(&answer, 400, "ValidationException").contains("\"connector_id\" of a tool"), "{answer:?}");
            assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("refused"))]);
        } else {
            assert!(refused(&answer, 403, "AccessDeniedException").contains("MantleServerTools"), "{answer:?}");
            assert_record(&record, &[("outcome", json!("refused")), ("attempts", json!(0))]);
        }
        assert_eq!(received(&bedrock, "MantleResponses").len(), usize::from(is_allowed), "{rules}");
        let function = json!({ "tools": [{ "type": "function", "name": "mcp", "parameters": {} }] });
        let answer = daemon.post("/v1/responses", response(GPT, function)).await;
        assert_eq!(answer.status, 200, "what the client calls: {answer:?}");
        daemon.record_of(&answer).await;
        let answer = daemon.post("/v1/responses", response(GPT, json!({ "metadata": { "f": gov } }))).await;
        assert!(refused(&answer, 400, "ValidationException").contains("\"metadata\""), "{answer:?}");
        assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("refused")), ("attempts", json!(0))]);
    }
}

#[tokio::test]
async fn the_group_names_all_of_its_operations() {
    let bedrock = bedrock().await;
    let entry =
        format!("[[callers]]\nname = \"me\"\nusers = [\"{}\"]\noperations = [\"Converse\", \"Mantle\"]", own_uid());
    let daemon = Setup::mantle(&bedrock).with(&entry).ready().await;
    assert_eq!(daemon.post("/v1/chat/completions", chat(GPT, json!({}))).await.status, 200);
    assert_eq!(daemon.get("/v1/models").await.status, 200);
    let answer = daemon.post("/anthropic/v1/messages", message_to(CLAUDE, json!({}))).await;
    refused(&answer, 403, "AccessDeniedException");
    // As Anthropic's SDKs read errors.
    let body = answer.json();
    assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!("permission_error")), "{body}");
}

#[tokio::test]
async fn what_must_stay_in_govcloud_does_not_go_there() {
    let bedrock = bedrock().await;
    let policy = "[policy]\ndata_classifications = [\"public\", \"cui\"]\n[policy.partitions]\n\"aws\" = [\"public\"]";
    let daemon = Setup::mantle(&bedrock).with(policy).ready().await;
    bedrock.clear();
    for (level, status) in [("cui", 403), ("public", 200)] {
        let mut asked = request(Method::POST, "/v1/chat/completions", chat(GPT, json!({})));
        asked.headers_mut().insert("x-data-classification", level.parse().unwrap());
        let answer = send(daemon.address(), asked).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let record = daemon.record_of(&answer).await;
        assert_record(&record, &[("dataClassification", json!(level)), ("destinationPartition", json!("commercial"))]);
    }
    assert_eq!(bedrock.requests().len(), 1);
}

/// A GovCloud region and a commercial one, in this order, and which of the two mantle hosts is named.
struct Both {
    gov: simulator::Simulator,
    east: simulator::Simulator,
}

impl Both {
    async fn start() -> Both {
        let gov = bedrock_with(simulator::Options { region: "us-gov-west-1".into(), ..Default::default() }).await;
        Both { gov, east: bedrock().await }
    }

    fn setup(&self, gov_has_it: bool, more: &str) -> Setup {
        let setup = Setup::mantle(&self.east);
        let secret = setup.path().join("gov");
        std::fs::write(&secret, simulator::GOVCLOUD_BEARER_TOKEN).unwrap();
        let at = |region: &str, bedrock: &simulator::Simulator, has_it: bool| {
            let ca = setup.path().join(region);
            std::fs::write(&ca, bedrock.ca_pem()).unwrap();
            let mantle = format!("mantle_endpoint = \"{}\"\n", bedrock.mantle_tls_endpoint());
            upstream(region, &bedrock.tls_endpoint(), Some(&ca)) + if has_it { &mantle } else { "" }
        };
        let gov = at("us-gov-west-1", &self.gov, gov_has_it);
        let key = format!("credentials = {{ source = \"file\", file = \"{}\" }}\n", secret.display());
        let upstreams = gov + &key + &at("us-east-1", &self.east, true);
        setup.upstreams(&upstreams).with(more)
    }

    fn mantle_calls(&self) -> (usize, usize) {
        let calls = |bedrock| received(bedrock, "MantleChatCompletions").len();
        (calls(&self.gov), calls(&self.east))
    }
}

/// GovCloud has a host of its own, so what need not leave does not.
#[tokio::test]
async fn the_first_partition_of_the_file_serves_what_no_line_places_elsewhere() {
    let both = Both::start().await;
    let pins = "[models.partition]\n\"openai.gpt-oss-20b\" = \"aws\"\n\
                [policy]\ndata_classifications = [\"public\", \"cui\"]\n[policy.partitions]\n\"aws\" = [\"public\"]\n\
                \"aws-us-gov\" = [\"public\", \"cui\"]";
    let daemon = both.setup(true, pins).ready().await;
    let arn = format!("arn:aws:bedrock:us-east-1::foundation-model/{GPT}");
    let (gov, east) = (Some(("us-gov-west-1", "govcloud")), Some(("us-east-1", "commercial")));
    for (model, level, expected) in [
        (GPT, "public", gov),
        (GPT, "cui", gov),
        ("us-gov.openai.gpt-oss-120b", "cui", gov),
        (arn.as_str(), "public", east),
        (arn.as_str(), "cui", gov),
        ("openai.gpt-oss-20b", "public", east),
        ("openai.gpt-oss-20b", "cui", None),
    ] {
        let before = both.mantle_calls();
        let mut asked = request(Method::POST, "/v1/chat/completions", chat(model, json!({})));
        asked.headers_mut().insert("x-data-classification", level.parse().unwrap());
        let answer = send(daemon.address(), asked).await;
        let record = daemon.record_of(&answer).await;
        assert_record(&record, &[("modelId", json!(model)), ("dataClassification", json!(level))]);
        let Some((region, partition)) = expected else {
            assert!(refused(&answer, 403, "AccessDeniedException").contains("by [models.partition] at"), "{answer:?}");
            assert_record(&record, &[("outcome", json!("refused")), ("attempts", json!(0))]);
            assert_eq!(both.mantle_calls(), before);
            continue;
        };
        assert_eq!(
            (answer.status, answer.header("x-bedrock-sidecar-region")),
            (200, Some(region)),
            "{model}: {answer:?}"
        );
        assert_record(
            &record,
            &[
                ("destinationPartition", json!(partition)),
                ("destinationRegion", json!(region)),
                ("endpoint", json!("bedrock-mantle")),
                ("outcome", json!("completed")),
                ("inputTokens", json!(3)),
                ("outputTokens", json!(4)),
            ],
        );
    }
    assert_eq!(both.mantle_calls(), (4, 2));
    let status: Value = daemon.admin_get("/status").await.json();
    for (upstream, bedrock) in status["upstreams"].as_array().unwrap().iter().zip([&both.gov, &both.east]) {
        assert_eq!(upstream["mantle"]["endpoint"], json!(bedrock.mantle_tls_endpoint()), "{status}");
    }
}

#[tokio::test]
async fn an_upstream_with_written_endpoints_has_none_unless_it_is_written() {
    let both = Both::start().await;
    let more =
        "[models.partition]\n\"openai.gpt-oss-20b\" = \"aws-us-gov\"\n[[callers]]\nname = \"me\"\nusers = [\"UID\"]";
    let more = more.replace("UID", &own_uid().to_string());
    let daemon = both.setup(false, &more).ready().await;
    let answer = daemon.post("/v1/chat/completions", chat(GPT, json!({}))).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-east-1")), "{answer:?}");
    let record = daemon.record_of(&answer).await;
    assert_record(&record, &[("destinationPartition", json!("commercial")), ("endpoint", json!("bedrock-mantle"))]);
    let answer = daemon.post("/v1/chat/completions", chat("openai.gpt-oss-20b", json!({}))).await;
    let sentence = refused(&answer, 403, "AccessDeniedException");
    assert!(sentence.contains("no upstream has a bedrock-mantle host"), "{sentence}");
    assert_record(&daemon.record_of(&answer).await, &[("outcome", json!("refused")), ("attempts", json!(0))]);
    let status: Value = daemon.admin_get("/status").await.json();
    assert!(status["upstreams"][0].get("mantle").is_none(), "{status}");
    let stays = both.setup(false, &format!("{more}\ncommercial = \"deny\"")).ready().await;
    let answer = stays.post("/v1/chat/completions", chat(GPT, json!({}))).await;
    refused(&answer, 403, "AccessDeniedException");
    assert_record(&stays.record_of(&answer).await, &[("outcome", json!("refused")), ("attempts", json!(0))]);
    assert_eq!(both.mantle_calls(), (0, 1));
}

/// A model that a line places where the caller may not go, or where no such host is, is not listed.
#[tokio::test]
async fn what_is_placed_out_of_reach_is_not_listed() {
    let both = Both::start().await;
    let lines = "[policy]\ndata_classifications = [\"public\", \"cui\"]\n[policy.partitions]\n\"aws\" = [\"public\"]\n\
                 [models.partition]\n\"openai.gpt-oss-20b\" = ";
    let out_of_reach =
        [("public", true, "aws", true), ("cui", true, "aws", false), ("public", false, "aws-us-gov", false)];
    for (level, gov_has_it, partition, is_listed) in out_of_reach {
        let daemon = both.setup(gov_has_it, &format!("{lines}\"{partition}\"")).ready().await;
        let mut asked = request(Method::GET, "/v1/models", "");
        asked.headers_mut().insert("x-data-classification", level.parse().unwrap());
        let answer = send(daemon.address(), asked).await;
        let list = answer.json();
        let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
        assert_eq!(ids.contains(&"openai.gpt-oss-20b"), is_listed, "{level} {partition}: {ids:?}");
        assert!(ids.contains(&GPT), "{ids:?}");
        let record = daemon.record_of(&answer).await;
        assert_record(&record, &[("operation", json!("MantleListModels")), ("responseSize", json!(answer.body.len()))]);
    }
}

#[tokio::test]
async fn the_other_partition_is_asked_only_where_failover_may_lead_there() {
    for (crosses, status, asked) in [(false, 503, (1, 0)), (true, 200, (1, 1))] {
        let both = Both::start().await;
        let daemon = both.setup(true, &format!("[policy]\ncross_partition_failover = {crosses}")).ready().await;
        both.gov.inject(
            Fault::once(Effect::Error {
                status: 503,
                error_type: "overloaded".into(),
                message: "x".into(),
                capital: false,
                headers: Default::default(),
            })
            .on("MantleChatCompletions"),
        );
        let answer = daemon.post("/v1/chat/completions", chat(GPT, json!({}))).await;
        assert_eq!((answer.status, both.mantle_calls()), (status, asked), "{answer:?}");
        let record = daemon.record_of(&answer).await;
        let partition = if crosses { "commercial" } else { "govcloud" };
        assert_record(&record, &[("destinationPartition", json!(partition)), ("statusCode", json!(status))]);
    }
}

/// The breaker and the room of this host are its own.
#[tokio::test]
async fn trouble_there_does_not_touch_the_other_host() {
    use simulator::{Effect, Fault};
    let bedrock = bedrock().await;
    let daemon = Setup::mantle(&bedrock).ready().await;
    bedrock.inject(
        Fault::once(Effect::Error {
            status: 503,
            error_type: "overloaded".into(),
            message: "x".into(),
            capital: false,
            headers: Default::default(),
        })
        .times(0)
        .on("MantleChatCompletions"),
    );
    for _ in 0..8 {
        let answer = daemon.post("/v1/chat/completions", chat(GPT, json!({}))).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        daemon.record_of(&answer).await;
    }
    let page = daemon.metrics().await;
    let position = |plane: &str| page.lines().filter(|line| line.contains(&format!("plane=\"{plane}\""))).count();
    assert!(position("mantle") > 0 && position("runtime") > 0, "{page}");
    assert_eq!(daemon.admin_get("/ready").await.status, 200);
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("x")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    daemon.record_of(&answer).await;
}

#[tokio::test]
async fn a_configuration_of_fips_hosts_refuses_it_unless_it_is_allowed() {
    for (more, code) in [("", 78), ("allow_non_fips = true", 0)] {
        let setup = Setup::alone()
            .upstreams("[[upstreams]]\nregion = \"us-east-1\"\n")
            .with(&format!("[mantle]\nenabled = true\n{more}"));
        let output = setup.command(&["check"]).await;
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.contains("AWS lists no FIPS host of bedrock-mantle"), code == 78, "{said}");
    }
}

#[tokio::test]
async fn check_online_asks_the_host_for_its_models() {
    let bedrock = bedrock().await;
    let output = Setup::mantle(&bedrock).command(&["check", "--online"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("bedrock-mantle in us-east-1 (https://") && said.contains("8 models"), "{said}");
    bedrock.inject(
        simulator::Fault::once(simulator::Effect::Error {
            status: 403,
            error_type: "access_denied".into(),
            message: "no".into(),
            capital: false,
            headers: Default::default(),
        })
        .on("MantleListModels"),
    );
    let output = Setup::mantle(&bedrock).command(&["check", "--online"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("FAIL") && said.contains("bedrock-mantle:ListModels"), "{said}");
}
