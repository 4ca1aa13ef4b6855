use std::path::Path;

use super::*;
use crate::config::Source;
use crate::operation;

const GOV: &str = "arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:guardrail/gov1";
const COMMERCIAL: &str = "arn:aws:bedrock:us-east-1:210987654321:guardrail/com1";

fn settings() -> Settings {
    let text =
        format!("[guardrails]\n\"{GOV}\" = \"{COMMERCIAL}\"\n\"bare1\" = \"bare2\"\n[headers]\nforward = [\"x-acme\"]");
    Settings::from_source(&Source::new(Path::new("c.toml"), text)).unwrap()
}

fn received(path: &str, headers: &[(&'static str, &str)], body: &str) -> Received {
    let mut request = http::Request::post(path).body(()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let (head, ()) = request.into_parts();
    let matched = operation::find(&head.method, head.uri.path()).unwrap();
    Received::new(matched.operation, matched.identifier, head, Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

/// What became of a body: itself if nothing was replaced.
fn sent(path: &str, body: &str) -> Result<String, String> {
    let received = received(path, &[], body);
    let replaced = replaced(&received, &settings()).map_err(|refusal| refusal.message.into_owned())?;
    Ok(String::from_utf8(replaced.unwrap_or(received).body.to_vec()).unwrap())
}

#[test]
fn a_mapped_guardrail_is_replaced_and_every_other_byte_stays() {
    for (path, key) in [
        ("/model/a.b/converse", "guardrailConfig"),
        ("/model/a.b/converse-stream", "guardrailConfig"),
        ("/model/a.b/invoke", "amazon-bedrock-guardrailConfig"),
    ] {
        for (asked, sent_as) in [(GOV, COMMERCIAL), ("bare1", "bare2"), ("other", "other"), (COMMERCIAL, COMMERCIAL)] {
            let body = format!(
                "{{ \"x\":1.50e3,\t\"{key}\" : {{\"guardrailVersion\":\"1\", \"guardrailIdentifier\" : \"{asked}\" }} ,\"t\":\"{GOV}\"}}\n"
            );
            let expected = body.replacen(asked, sent_as, 1);
            assert_eq!(sent(path, &body).unwrap(), expected);
        }
    }
    let escaped = GOV.replace("us-gov", "us\\u002dgov");
    let body = |guardrail: &str| format!(r#"{{"\u0067uardrailConfig":{{"guardrailIdentifier":"{guardrail}"}}}}"#);
    assert_eq!(sent("/model/a.b/converse", &body(&escaped)).unwrap(), body(COMMERCIAL));
}

#[test]
fn the_model_is_found_again_behind_a_replaced_guardrail() {
    let body = format!(
        r#"{{"amazon-bedrock-guardrailConfig":{{"guardrailIdentifier":"{GOV}"}},"model":"openai.gpt","messages":[]}}"#
    );
    let received = received("/openai/v1/chat/completions", &[], &body);
    let replaced = replaced(&received, &settings()).unwrap().unwrap();
    let upstream = replaced.to_upstream(&std::sync::Arc::default(), Some("us.openai.gpt")).unwrap();
    let expected = body.replace(GOV, COMMERCIAL).replace("openai.gpt", "us.openai.gpt");
    assert_eq!(upstream.body, expected.as_bytes());
}

#[test]
fn the_header_and_the_path_of_a_guardrail_are_replaced() {
    for (asked, sent) in [(GOV, COMMERCIAL), ("bare1", "bare2")] {
        let asked_in_header = received("/model/a.b/invoke", &[("x-amzn-bedrock-guardrailidentifier", asked)], "{}");
        let replaced_header = replaced(&asked_in_header, &settings()).unwrap().unwrap();
        assert_eq!(replaced_header.headers[GUARDRAIL], sent);

        let encode = |id| utf8_percent_encode(id, SEGMENT).to_string();
        let path = format!("/guardrail/{}/version/1/apply", encode(asked));
        let replaced_path = replaced(&received(&path, &[], "{}"), &settings()).unwrap().unwrap();
        assert_eq!(replaced_path.path, format!("/guardrail/{}/version/1/apply", encode(sent)));
    }
    for headers in [[("x-amzn-bedrock-guardrailidentifier", "other")], [("x-unknown", GOV)]] {
        assert!(replaced(&received("/model/a.b/invoke", &headers, "{}"), &settings()).unwrap().is_none());
    }
}

#[test]
fn a_key_that_differs_from_a_guardrails_in_case_alone_is_refused() {
    for body in [
        r#"{"GuardrailConfig":{"guardrailIdentifier":"x"}}"#,
        r#"{"guardrailconfig":{}}"#,
        r#"{"guardrailConfig":{"GuardrailIdentifier":"x"}}"#,
        r#"{"guardrailConfig":{"guardrailIdentifier":"x","GUARDRAILIDENTIFIER":"y"}}"#,
        r#"{"Amazon-Bedrock-GuardrailConfig":{"guardrailIdentifier":"bare1"}}"#,
        r#"{"amazon-bedrock-guardrailConfig":{"guardrailidentifier":"bare1"}}"#,
        r#"{"guardrailIDENTIFIER":"bare1"}"#,
        r#"{"\u0047uardrailConfig":{}}"#,
    ] {
        let refused = sent("/model/a.b/converse", body).unwrap_err();
        assert!(refused.contains("in case alone") && refused.to_lowercase().contains("guardrail"), "{body}: {refused}");
    }
    for body in [
        r#"{"messages":[{"GuardrailConfig":"in a prompt"}]}"#,
        r#"{"guardrail":{"GuardrailIdentifier":"x"}}"#,
        r#"{"guardrailConfig":{"trace":{"GuardrailIdentifier":"x"}}}"#,
    ] {
        assert_eq!(sent("/model/a.b/converse", body).unwrap(), body, "no place of a guardrail");
    }
}

#[test]
fn other_places_are_found_in_any_case() {
    for key in ["projectIdentifier", "ProjectIdentifier", "OUTPUTDATACONFIG", "requestmetadata"] {
        let body = |value: &str| format!(r#"{{"{key}":"{value}"}}"#);
        assert!(sent("/model/a.b/invoke", &body(GOV)).unwrap_err().contains("GovCloud account"), "{key}");
        assert_eq!(sent("/model/a.b/invoke", &body("guardrail")).unwrap(), body("guardrail"), "{key}");
        let broken = format!(r#"{{"\ud800":1,"{key}":"{GOV}"}}"#);
        assert!(sent("/model/a.b/invoke", &broken).unwrap_err().contains("not valid JSON"), "{key}");
    }
    let tags = format!(r#"{{"modelId":"a.b","Tags":[{{"key":"k","value":"{GOV}"}}]}}"#);
    assert!(sent("/async-invoke", &tags).unwrap_err().contains("GovCloud account"));
}

#[test]
fn what_belongs_to_a_govcloud_account_is_refused() {
    let other = GOV.replace("gov1", "gov2");
    let escaped = other.replace("us-gov", "u\\u0073-gov");
    for (path, body) in [
        ("/model/a.b/converse", format!(r#"{{"guardrailConfig":{{"guardrailIdentifier":"{other}"}}}}"#)),
        ("/model/a.b/converse", format!(r#"{{"guardrailConfig":{{"guardrailIdentifier":"{escaped}"}}}}"#)),
        ("/model/a.b/invoke", format!(r#"{{"amazon-bedrock-guardrailConfig":{{"guardrailIdentifier":"{other}"}}}}"#)),
        ("/model/a.b/invoke", r#"{"projectIdentifier":"arn:aws-us-gov:bedrock:r:1:project/p"}"#.to_owned()),
        ("/model/a.b/converse", format!(r#"{{"requestMetadata":{{"k":"{other}"}}}}"#)),
        ("/model/a.b/converse", format!(r#"{{"guardrailConfig":{{"guardrailIdentifier":"x"}},"guardrailConfig":{{"guardrailIdentifier":"{other}"}}}}"#)),
        ("/async-invoke", r#"{"modelId":"a.b","outputDataConfig":{"s3OutputDataConfig":{"kmsKeyId":"arn:aws-us-gov:kms:r:1:key/k"}}}"#.to_owned()),
        ("/openai/v1/chat/completions?x=arn%3Aaws-us-gov%3Ax", r#"{"model":"a.b"}"#.to_owned()),
    ] {
        let refused = sent(path, &body).unwrap_err();
        assert!(refused.contains("GovCloud") || refused.contains("stands twice"), "{path} {body}: {refused}");
    }
    for (path, headers) in [
        ("/model/a.b/invoke", vec![("x-amzn-bedrock-guardrailidentifier", &*other)]),
        ("/model/a.b/invoke", vec![("x-amzn-bedrock-request-metadata", &*other)]),
        ("/model/a.b/invoke", vec![("x-acme", &*other)]),
        (
            "/model/a.b/invoke",
            vec![("x-amzn-bedrock-guardrailidentifier", GOV), ("x-amzn-bedrock-guardrailidentifier", "x")],
        ),
        ("/guardrail/arn%3Aaws-us-gov%3Abedrock%3Ar%3A1%3Aguardrail%2Fgov2/version/1/apply", vec![]),
    ] {
        assert!(replaced(&received(path, &headers, "{}"), &settings()).is_err(), "{path} {headers:?}");
    }
    let long = "a".repeat(MAX_HEADER + 1);
    assert!(replaced(&received("/model/a.b/invoke", &[("anthropic-beta", &long)], "{}"), &settings()).is_err());
    let echoed = sent(
        "/model/a.b/converse",
        &format!(r#"{{"guardrailConfig":{{"guardrailIdentifier":"aws-us-gov{}"}}}}"#, "x".repeat(5000)),
    );
    assert!(echoed.unwrap_err().len() < 500);
}

#[test]
fn what_a_profile_or_an_async_call_is_labelled_with_is_looked_at() {
    let profile = |more: &str| format!(r#"{{"inferenceProfileName":"p","modelSource":{{"copyFrom":"a.b"}}{more}}}"#);
    for (path, body) in [
        ("/inference-profiles", profile(&format!(r#","tags":[{{"key":"k","value":"{GOV}"}}]"#))),
        ("/inference-profiles", profile(&format!(r#","tags":[{{"key":"{GOV}","value":"v"}}]"#))),
        ("/inference-profiles", profile(&format!(r#","tags":[{{"value":"{GOV}","value":"v"}}]"#))),
        ("/inference-profiles", profile(r#","description":"of arn:aws\u002dus-gov:x""#)),
        (
            "/inference-profiles",
            profile("").replace("a.b", &GOV.replace("guardrail/gov1", "inference-profile/us-gov.a.b")),
        ),
        ("/async-invoke", format!(r#"{{"modelId":"a.b","tags":[{{"key":"k","value":"{GOV}"}}]}}"#)),
    ] {
        assert!(sent(path, &body).unwrap_err().contains("GovCloud"), "{path} {body}");
    }
    for (path, body) in [
        ("/inference-profiles", profile(r#","description":"x","tags":[{"key":"\u006b","value":"v"}]"#)),
        ("/model/a.b/invoke", format!(r#"{{"tags":"{GOV}","description":"{GOV}"}}"#)),
        ("/async-invoke", format!(r#"{{"modelId":"a.b","modelInput":{{"tags":"{GOV}"}}}}"#)),
    ] {
        assert_eq!(sent(path, &body).unwrap(), body);
    }
}

#[test]
fn a_body_that_cannot_be_read_hides_no_name() {
    let metadata = format!(r#""requestMetadata":{{"k":"{GOV}"}}"#);
    let guardrail = format!(r#""guardrailConfig":{{"guardrailIdentifier":"{GOV}2"}}"#);
    let mut bodies: Vec<Vec<u8>> = vec![format!("{{{metadata},\"b\":\"").into_bytes()];
    for named in [metadata, guardrail] {
        let hidden = named.replace("aws-us", "aws\\u002Dus").replace("requestM", "\\u0072equestM");
        for named in [named, hidden] {
            bodies.push(format!(r#"{{"\ud800":1,{named}}}"#).into_bytes());
            bodies.push(format!(r#"{{"a":NaN,{named}}}"#).into_bytes());
            bodies.push(format!("\u{feff}{{{named}}}").into_bytes());
            bodies.push([&b"{\"a\":\"\xff\","[..], named.as_bytes(), b"}"].concat());
            bodies.push(format!("{{{named}}}").bytes().flat_map(|byte| [byte, 0]).collect());
            bodies.push(named.replacen(":{", r#":{"\ud800":1,"#, 1).into_bytes());
            bodies.push(format!("{{{}}}", named.replacen(":{", r#":{"\ud800":1,"#, 1)).into_bytes());
        }
    }
    bodies.push(format!(r#"{{"guardrailConfig":{{"guardrailIdentifier":"{GOV}\ud800"}}}}"#).into_bytes());
    bodies.push(format!(r#"{{"requestMetadata":{{"k":"{GOV}","n":1e999}}}}"#).into_bytes());
    for body in bodies {
        let mut request = received("/model/a.b/converse", &[], "");
        request.body = body.into();
        let refused = replaced(&request, &settings()).unwrap_err();
        assert!(refused.message.contains("GovCloud"), "{request:?}");
    }
    for (value, is_sent) in [("gzip", false), ("aws-chunked", false), ("identity, br", false), ("identity", true)] {
        let request = received("/model/a.b/converse", &[("content-encoding", value)], "{}");
        assert_eq!(replaced(&request, &settings()).is_ok(), is_sent, "{value}");
        let empty = received("/model/a.b/converse", &[("content-encoding", value)], "");
        assert!(replaced(&empty, &settings()).is_ok(), "{value}");
    }
    for body in [r#"{"a":NaN,"requestMetadata":{"k":"\u00e9"}}"#.to_owned(), format!(r#"{{"a":NaN,"text":"{GOV}"}}"#)] {
        assert_eq!(sent("/model/a.b/converse", &body).unwrap(), body);
    }
}

#[test]
fn a_prompt_may_speak_of_any_arn() {
    for body in [
        format!(r#"{{"messages":[{{"content":[{{"text":"{GOV}2"}}]}}],"system":"{GOV}2"}}"#),
        format!(r#"{{"messages":[{{"guardrailConfig":{{"guardrailIdentifier":"{GOV}2"}}}}]}}"#),
        format!(r#"{{"toolConfig":{{"projectIdentifier":"{GOV}2"}}}}"#),
        format!("[\"{GOV}2\"]"),
        format!("not JSON {GOV}2"),
        r#"{"guardrailConfig":null,"text":"\u00e9"}"#.to_owned(),
        r#"{"guardrailConfig":{"guardrailIdentifier":7},"text":"\u00e9"}"#.to_owned(),
    ] {
        assert_eq!(sent("/model/a.b/converse", &body).unwrap(), body);
    }
}
