//! Rerank of bedrock-agent-runtime: a host, a breaker and a form of the model's name of its own.

use http::Method;
use serde_json::{Value, json};
use simulator::{Options, Simulator};
use test_support::*;

const MODEL: &str = "cohere.rerank-v3-5:0";
const SENT: &str = "arn:aws:bedrock:us-east-1::foundation-model/cohere.rerank-v3-5:0";
const GOV: &str = "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/cohere.rerank-v3-5:0";

/// Three sources, of which the last is the most relevant. A document may hold any text, the marks of GovCloud among them.
fn body(model: &str) -> String {
    let source = |text: &str| json!({ "type": "INLINE", "inlineDocumentSource": { "type": "TEXT", "textDocument": { "text": text } } });
    json!({
        "queries": [{ "type": "TEXT", "textQuery": { "text": "where is CANARY" } }],
        "sources": [source("nothing of it"), source("where modelArn is"), source(&format!("where is CANARY of {GOV}"))],
        "rerankingConfiguration": {
            "type": "BEDROCK_RERANKING_MODEL",
            "bedrockRerankingConfiguration": {
                "numberOfResults": 2,
                "modelConfiguration": { "modelArn": model, "additionalModelRequestFields": { "n": 1.5 } },
            },
        },
    })
    .to_string()
}

fn keys() -> String {
    json!({
        "aws_access_key_id": simulator::DEFAULT_ACCESS_KEY_ID,
        "aws_secret_access_key": simulator::DEFAULT_SECRET_ACCESS_KEY,
    })
    .to_string()
}

/// All three planes of a region, over plain HTTP/1.1.
fn at(region: &str, bedrock: &Simulator) -> String {
    let agents = format!("agent_runtime_endpoint = \"{}\"\n", bedrock.plain_agent_endpoint());
    upstream(region, &bedrock.plain_endpoint(), None) + &agents
}

fn setup(bedrock: &Simulator) -> Setup {
    Setup::alone().upstreams(&at("us-east-1", bedrock)).secret(&keys())
}

/// Whoever writes private endpoints does not want a public host beside them.
#[tokio::test]
async fn where_other_endpoints_are_written_its_own_is_not_a_public_host() {
    let (east, west) =
        (bedrock().await, bedrock_with(Options { region: "us-west-2".into(), ..Default::default() }).await);
    let private = upstream("us-east-1", &east.plain_endpoint(), None);
    let daemon = Setup::alone().upstreams(&private).secret(&keys()).ready().await;
    east.clear();
    let answer = rerank(&daemon, MODEL).await;
    assert!(refused(&answer, 404, "UnknownOperationException").contains("write agent_runtime_endpoint"), "{answer:?}");
    let nowhere = [("operation", json!("Rerank")), ("outcome", json!("refused")), ("attempts", json!(0))];
    recorded(&daemon, &answer, &nowhere).await;
    assert!(east.requests().is_empty());
    // Another upstream has one.
    let daemon = Setup::alone().upstreams(&(private + &at("us-west-2", &west))).secret(&keys()).ready().await;
    let answer = rerank(&daemon, MODEL).await;
    assert_eq!((answer.status, answer.header("x-bedrock-sidecar-region")), (200, Some("us-west-2")), "{answer:?}");
    let there = [("destinationRegion", json!("us-west-2")), ("attempts", json!(1)), ("outcome", json!("completed"))];
    recorded(&daemon, &answer, &there).await;
    assert!(received(&east, "Rerank").is_empty());
}

async fn rerank(daemon: &Daemon, model: &str) -> Answer {
    daemon.post("/rerank", body(model)).await
}

/// Looks at the record of a request, field by field; `null` is what is not there.
async fn recorded(daemon: &Daemon, answer: &Answer, fields: &[(&str, Value)]) -> Value {
    let record = daemon.record_of(answer).await;
    for (field, expected) in fields {
        assert_eq!(record[field], *expected, "{field}: {record}");
    }
    record
}

#[tokio::test]
async fn a_model_is_sent_by_its_arn_in_the_upstreams_region_however_it_is_named() {
    let bedrock = bedrock().await;
    let daemon = setup(&bedrock).with(&format!("[models.aliases]\n\"rerank\" = \"{MODEL}\"")).ready().await;
    for asked in [
        SENT,
        GOV,
        // A client that knows the partition aws alone makes this of an app's region.
        "arn:aws:bedrock:us-gov-west-1::foundation-model/cohere.rerank-v3-5:0",
        "arn:aws:bedrock:us-west-2::foundation-model/cohere.rerank-v3-5:0",
        MODEL,
        "rerank",
    ] {
        bedrock.clear();
        let answer = rerank(&daemon, asked).await;
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
        let results = answer.json()["results"].clone();
        let places: Vec<_> = results.as_array().unwrap().iter().map(|result| result["index"].clone()).collect();
        assert_eq!(places, [json!(2), json!(1)], "{results}");
        assert!(results[0]["relevanceScore"].as_f64() > results[1]["relevanceScore"].as_f64(), "{results}");
        let sent = received(&bedrock, "Rerank");
        assert_eq!(sent.len(), 1, "{asked}: {:?}", bedrock.requests());
        assert_eq!(sent[0].body, body(SENT).as_bytes(), "{asked}: the rest is as it came");
        assert_eq!((sent[0].auth.as_str(), &sent[0].leaks), ("sigv4", &Vec::new()), "{asked}");
        let fields = [
            ("operation", json!("Rerank")),
            ("modelId", json!(asked)),
            ("outcome", json!("completed")),
            ("statusCode", json!(200)),
            ("attempts", json!(1)),
            ("destinationRegion", json!("us-east-1")),
            ("destinationPartition", json!("commercial")),
            ("requestSize", json!(body(asked).len())),
            ("responseSize", json!(answer.body.len())),
            ("inputTokens", Value::Null),
            ("outputTokens", Value::Null),
            ("inferenceProfileUsed", Value::Null),
        ];
        recorded(&daemon, &answer, &fields).await;
    }
    assert!(!daemon.log_text().contains("CANARY"), "no query and no document is logged");
    let metrics = daemon.metrics().await;
    let count = "bedrock_sidecar_requests_total{operation=\"Rerank\",model=\"cohere.rerank-v3-5:0\",status=\"200\"}";
    assert!(metric(&metrics, count).is_some_and(|count| count >= 1.0), "{metrics}");
}

#[tokio::test]
async fn results_come_in_pages_and_over_tls() {
    let bedrock = bedrock_with(Options { page_size: 1, ..Options::default() }).await;
    let setup = Setup::tls(&bedrock).secret(&keys());
    let ca = setup.path().join("ca-0.pem");
    let agents = format!("agent_runtime_endpoint = \"{}\"\n", bedrock.tls_agent_endpoint());
    let upstreams = upstream("us-east-1", &bedrock.tls_endpoint(), Some(&ca)) + &agents;
    let daemon = setup.upstreams(&upstreams).ready().await;
    let first = rerank(&daemon, GOV).await;
    assert_eq!(first.status, 200, "{first:?}");
    let mut next: Value = serde_json::from_str(&body(GOV)).unwrap();
    next["nextToken"] = first.json()["nextToken"].clone();
    let second = daemon.post("/rerank", next.to_string()).await;
    assert_eq!(second.status, 200, "{second:?}");
    assert_eq!((&first.json()["results"][0]["index"], &second.json()["results"][0]["index"]), (&json!(2), &json!(1)));
    assert!(second.json().get("nextToken").is_none(), "{second:?}");
    assert!(received(&bedrock, "Rerank").iter().all(|sent| sent.tls && sent.leaks.is_empty()));
    recorded(&daemon, &second, &[("outcome", json!("completed")), ("modelId", json!(GOV))]).await;
}

#[tokio::test]
async fn what_rules_deny_is_not_reranked() {
    let bedrock = bedrock().await;
    let user = users::own_uid();
    for rule in [
        "[models]\ndeny = [\"cohere.rerank*\"]".to_owned(),
        "[models]\nallow = [\"amazon.*\"]".to_owned(),
        format!("[[callers]]\nname = \"me\"\nusers = [\"{user}\"]\ndeny_models = [\"cohere.*\"]"),
        format!("[[callers]]\nname = \"me\"\nusers = [\"{user}\"]\ndeny_operations = [\"Rerank\"]"),
    ] {
        let daemon = setup(&bedrock).with(&rule).ready().await;
        bedrock.clear();
        for asked in [SENT, GOV, MODEL] {
            let answer = rerank(&daemon, asked).await;
            refused(&answer, 403, "AccessDeniedException");
            let fields = [("outcome", json!("refused")), ("attempts", json!(0)), ("operation", json!("Rerank"))];
            recorded(&daemon, &answer, &fields).await;
        }
        assert!(received(&bedrock, "Rerank").is_empty(), "{rule}");
    }
    let daemon = setup(&bedrock).with("[models]\nallow = [\"cohere.rerank*\"]").ready().await;
    assert_eq!(rerank(&daemon, GOV).await.status, 200);
}

/// Tokens are not what it is paid by; requests are counted.
#[tokio::test]
async fn limits_on_tokens_do_not_hold_it_and_those_on_requests_do() {
    let bedrock = bedrock().await;
    let limits = "[limits]\ntokens_per_minute = 1\n[limits.models.\"cohere.rerank*\"]\nrequests_per_minute = 1\nrequest_burst = 1";
    let daemon = setup(&bedrock).with(limits).ready().await;
    bedrock.clear();
    assert_eq!(rerank(&daemon, GOV).await.status, 200);
    let answer = rerank(&daemon, SENT).await;
    refused(&answer, 429, "ThrottlingException");
    recorded(&daemon, &answer, &[("outcome", json!("refused")), ("statusCode", json!(429))]).await;
    assert_eq!(received(&bedrock, "Rerank").len(), 1);
}

#[tokio::test]
async fn a_body_that_names_no_model_or_two_is_refused() {
    let bedrock = bedrock().await;
    let daemon = setup(&bedrock).ready().await;
    bedrock.clear();
    let place = "rerankingConfiguration.bedrockRerankingConfiguration.modelConfiguration.modelArn";
    let twice = body(GOV).replace("\"modelArn\":", &format!("\"modelArn\":\"{SENT}\",\"modelArn\":"));
    for (body, says) in [
        (body(GOV).replace("\"modelArn\":", "\"other\":"), place),
        ("{}".to_owned(), place),
        (twice, "\"modelArn\" stands twice"),
        (body("a b"), "not one of a model"),
        ("[]".to_owned(), "must be a JSON object"),
    ] {
        let answer = daemon.post("/rerank", body).await;
        let sentence = refused(&answer, 400, "ValidationException");
        assert!(sentence.contains(says), "{sentence}");
        recorded(&daemon, &answer, &[("operation", json!("Rerank")), ("outcome", json!("refused"))]).await;
    }
    let mut compressed = request(Method::POST, "/rerank", body(GOV));
    compressed.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    refused(&send(daemon.address(), compressed).await, 400, "ValidationException");
    // What it is not the daemon's to judge, Bedrock answers.
    let answer = rerank(&daemon, "arn:aws:bedrock:us-east-1:1:provisioned-model/x1").await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (400, Some("ValidationException")), "{answer:?}");
    assert!(answer.header("x-bedrock-sidecar-region").is_some(), "{answer:?}");
    recorded(&daemon, &answer, &[("outcome", json!("upstream_error")), ("attempts", json!(1))]).await;
    assert_eq!(received(&bedrock, "Rerank").len(), 1);
}

/// AWS takes API keys for neither agents nor Rerank. Nothing is sent with one, and an upstream that has AWS keys serves.
#[tokio::test]
async fn an_api_key_is_not_sent_and_an_upstream_with_aws_keys_is_asked() {
    let (east, west) =
        (bedrock().await, bedrock_with(Options { region: "us-west-2".into(), ..Options::default() }).await);
    let alone = Setup::alone().upstreams(&at("us-east-1", &east)).ready().await;
    let answer = rerank(&alone, GOV).await;
    let sentence = refused(&answer, 403, "AccessDeniedException");
    assert!(sentence.contains("takes no Bedrock API key for Rerank") && sentence.contains("us-east-1"), "{sentence}");
    recorded(&alone, &answer, &[("outcome", json!("refused")), ("statusCode", json!(403))]).await;
    assert!(received(&east, "Rerank").is_empty());
    assert_eq!(alone.admin_get("/ready").await.status, 200, "the key is good for all else");
    assert_eq!(alone.post(&converse_path(ON_DEMAND), converse("hello")).await.status, 200);

    let setup = Setup::alone();
    let file = setup.path().join("keys");
    std::fs::write(&file, keys()).unwrap();
    let own = format!("credentials = {{ source = \"file\", file = \"{}\" }}\n", file.display());
    let both = at("us-east-1", &east) + &at("us-west-2", &west) + &own;
    let daemon = setup.upstreams(&both).ready().await;
    let answer = rerank(&daemon, GOV).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let sent = received(&west, "Rerank");
    let arn = SENT.replace("us-east-1", "us-west-2");
    assert_eq!(sent[0].body, body(&arn).as_bytes(), "the ARN is of the region that is asked");
    recorded(&daemon, &answer, &[("outcome", json!("completed")), ("destinationRegion", json!("us-west-2"))]).await;
    assert!(received(&east, "Rerank").is_empty());
}

#[tokio::test]
async fn a_host_that_is_gone_is_passed_over_for_rerank_alone() {
    let bedrock = bedrock().await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let upstreams = at("us-east-1", &bedrock).replace(&bedrock.plain_agent_endpoint(), &gone);
    let daemon = Setup::alone().upstreams(&upstreams).secret(&keys()).ready().await;
    for _ in 0..3 {
        let answer = rerank(&daemon, GOV).await;
        refused(&answer, 503, "ServiceUnavailableException");
        recorded(&daemon, &answer, &[("outcome", json!("refused")), ("statusCode", json!(503))]).await;
    }
    let state = async |plane: &str| {
        let line = format!("bedrock_sidecar_upstream_breaker_state{{region=\"us-east-1\",plane=\"{plane}\"}}");
        metric(&daemon.metrics().await, &line)
    };
    assert_eq!((state("agent_runtime").await, state("runtime").await), (Some(2.0), Some(0.0)));
    assert_eq!(daemon.admin_get("/ready").await.status, 200);
    let status = daemon.admin_get("/status").await.json();
    assert_eq!(status["upstreams"][0]["agentRuntime"]["endpoint"], gone, "{status}");
    assert_eq!(daemon.post(&converse_path(ON_DEMAND), converse("hello")).await.status, 200);
}

#[tokio::test]
async fn agents_and_knowledge_bases_are_refused_and_told_why() {
    let bedrock = bedrock().await;
    let daemon = setup(&bedrock).ready().await;
    bedrock.clear();
    for (method, path) in [
        (Method::POST, "/knowledgebases/KB12345678/retrieve"),
        (Method::POST, "/retrieveAndGenerate"),
        (Method::POST, "/agents/AGENT12345/agentAliases/ALIAS12345/sessions/one/text"),
        (Method::POST, "/flows/FLOW123456/aliases/ALIAS12345"),
    ] {
        let answer = send(daemon.address(), request(method, path, "{}")).await;
        let sentence = refused(&answer, 404, "UnknownOperationException");
        assert!(
            sentence.contains("only Rerank is relayed") && sentence.contains("GovCloud's own endpoint"),
            "{sentence}"
        );
        recorded(&daemon, &answer, &[("outcome", json!("refused")), ("operation", json!("Unknown"))]).await;
    }
    assert!(bedrock.requests().is_empty(), "{:?}", bedrock.requests());
}

/// GovCloud has no model that reranks: what may leave is reranked on the commercial side, and what may not is refused.
#[tokio::test]
async fn what_govcloud_does_not_serve_goes_to_the_commercial_side() {
    let commercial = bedrock().await;
    let options = Options { region: "us-gov-west-1".into(), account: "210987654321".into(), ..Options::default() };
    let gov = bedrock_with(options).await;
    let upstreams = at("us-gov-west-1", &gov) + "credentials = { source = \"host\" }\n" + &at("us-east-1", &commercial);
    let host = [
        ("AWS_ACCESS_KEY_ID", simulator::GOVCLOUD_ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", simulator::GOVCLOUD_SECRET_ACCESS_KEY.to_owned()),
        ("AWS_SESSION_TOKEN", simulator::GOVCLOUD_SESSION_TOKEN.to_owned()),
    ];
    let setup = || Setup::alone().upstreams(&upstreams).secret(&keys()).environment(host.clone());
    let daemon = setup().ready().await;
    let answer = rerank(&daemon, GOV).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    recorded(&daemon, &answer, &[("destinationPartition", json!("commercial")), ("modelId", json!(GOV))]).await;
    assert_eq!(received(&commercial, "Rerank")[0].body, body(SENT).as_bytes());

    let daemon = setup().with("[policy.partitions]\n\"aws\" = [\"public\"]").ready().await;
    commercial.clear();
    let answer = rerank(&daemon, GOV).await;
    refused(&answer, 403, "AccessDeniedException");
    recorded(&daemon, &answer, &[("outcome", json!("refused")), ("attempts", json!(0))]).await;
    assert!(received(&commercial, "Rerank").is_empty() && received(&gov, "Rerank").is_empty());
}
