//! What a request may use, read from its body before it is sent: enough to reserve with, corrected when it is settled.

use super::scan::{Found, scan};
use crate::operation::TokenEstimate;
use crate::service_tier::AskedTier;

/// Tokens that a request is expected to use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimate {
    /// What the model reads.
    pub input: u64,
    /// What the model may answer.
    pub output: u64,
}

impl Estimate {
    /// Nothing but the request itself counts.
    pub const NONE: Estimate = Estimate { input: 0, output: 0 };

    /// Both together.
    pub fn tokens(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// Reserved for the answer where the request does not bound it.
const DEFAULT_OUTPUT: u64 = 2_048;

/// More than any model answers with; a body that asks for more is refused upstream, and must not empty a bucket for days.
const MAX_OUTPUT: u64 = 1_000_000;

/// Reads `max_tokens` and its kin at the places where the models' request shapes have them, without parsing the JSON into
/// values and without allocating. The body may be anything: what is not JSON is counted by its size.
///
/// `tokens` is the operation's column in the table. Operations that run no model, such as CountTokens and the control
/// plane, cost no tokens.
pub fn estimate(tokens: TokenEstimate, body: &[u8]) -> Estimate {
    estimate_and_tier(tokens, body).0
}

/// The same, and the service tier that the body asks for.
pub(crate) fn estimate_and_tier(tokens: TokenEstimate, body: &[u8]) -> (Estimate, AskedTier<'_>) {
    match tokens {
        TokenEstimate::Unbounded => {
            return (Estimate { input: 0, output: DEFAULT_OUTPUT }, AskedTier::Unsaid);
        }
        TokenEstimate::NoTokens => return (Estimate::NONE, AskedTier::Unsaid),
        TokenEstimate::FromBody if body.is_empty() => return (Estimate::NONE, AskedTier::Unsaid),
        TokenEstimate::FromBody => {}
    }
    let Found { output, no_output, media_bytes, media_tokens, tier } = scan(body);
    let text = (body.len() as u64).saturating_sub(media_bytes);
    let output = match output {
        Some(most) => most.min(MAX_OUTPUT),
        None if no_output => 0,
        None => DEFAULT_OUTPUT,
    };
    (Estimate { input: text.div_ceil(4) + media_tokens, output }, tier)
}

#[cfg(test)]
mod tests {
    use super::*;

    use TokenEstimate::{FromBody, NoTokens};

    fn output(body: &str) -> u64 {
        estimate(FromBody, body.as_bytes()).output
    }

    /// The column of the operation of this name.
    fn column(name: &str) -> TokenEstimate {
        crate::operation::OPERATIONS.iter().find(|row| row.name == name).unwrap().tokens
    }

    #[test]
    fn every_shape_of_request_bounds_its_answer() {
        for (operation, body) in [
            (
                "Converse",
                r#"{"messages":[{"role":"user","content":[{"text":"hi"}]}],"inferenceConfig":{"temperature":0.5,"maxTokens":77}}"#,
            ),
            ("ConverseStream", r#"{"inferenceConfig":{"maxTokens": 77}}"#),
            ("Converse", r#"{"additionalModelRequestFields":{"max_tokens":77}}"#),
            ("Converse", r#"{"\u0061dditionalModelRequestField\u0073":{"m\u0061x_token\u0073":77}}"#),
            ("InvokeModel", r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":77,"messages":[]}"#),
            ("InvokeModel", r#"{"prompt":"\n\nHuman: hi","max_tokens_to_sample":77}"#),
            ("InvokeModel", r#"{"inputText":"hi","textGenerationConfig":{"maxTokenCount":77,"topP":1}}"#),
            ("InvokeModel", r#"{"prompt":"hi","max_gen_len":77}"#),
            ("InvokeModelWithResponseStream", r#"{"inferenceConfig":{"max_new_tokens":77},"messages":[]}"#),
            ("InvokeModel", r#"{"schemaVersion":"messages-v1","inferenceConfig":{"maxTokens":77}}"#),
            ("InvokeModel", r#"{"prompt":"<s>[INST] hi [/INST]","max_tokens":77}"#),
            ("InvokeModel", r#"{"prompt":"hi","maxTokens":77}"#),
            ("ChatCompletions", r#"{"model":"openai.gpt-oss-20b","max_completion_tokens":77}"#),
            ("Responses", "{\"input\":\"hi\",\r\n\t\"max_output_tokens\" :\n 77}"),
            ("Messages", r#"{"max_tokens":77}"#),
            ("InvokeModel", "\u{feff}{\"max_tokens\":77}"),
        ] {
            assert_eq!(estimate(column(operation), body.as_bytes()).output, 77, "{operation} {body}");
        }
    }

    #[test]
    fn the_tier_of_every_shape_is_read_with_the_bound() {
        use AskedTier::{Named, Unclear, Unsaid};
        for (body, tier) in [
            (r#"{"messages":[],"serviceTier":{"type":"flex"},"max_tokens":77}"#, Named("flex")),
            (r#"{"max_tokens":77,"serviceTier" : { "x":1, "type" : "priority" }}"#, Named("priority")),
            (r#"{"service_tier":"flex","max_tokens":77}"#, Named("flex")),
            (r#"{"max_tokens":77,"service_\u0074ier":"flex"}"#, Named("flex")),
            (r#"{"additionalModelRequestFields":{"service_tier":"flex"},"max_tokens":77}"#, Named("flex")),
            (r#"{"service_tier":"flex","serviceTier":{"type":"flex"},"max_tokens":77}"#, Named("flex")),
            (r#"{"service_tier":"flex","service_tier":"priority","max_tokens":77}"#, Unclear),
            (r#"{"service_tier":"Flex","max_tokens":77}"#, Unclear),
            (r#"{"service_tier":"fl\u0065x","max_tokens":77}"#, Unclear),
            (r#"{"service_tier":"","max_tokens":77}"#, Unclear),
            (r#"{"service_tier":7,"max_tokens":77}"#, Unclear),
            (r#"{"service_tier":{"type":"flex"},"max_tokens":77}"#, Unclear),
            (r#"{"serviceTier":"flex","max_tokens":77}"#, Unclear),
            (r#"{"serviceTier":{"type":["flex"]},"max_tokens":77}"#, Unclear),
            (r#"{"service_tier":null,"serviceTier":null,"max_tokens":77}"#, Unsaid),
            (r#"{"serviceTier":{"kind":"flex"},"type":"flex","max_tokens":77}"#, Unsaid),
            (r#"{"messages":[{"service_tier":"flex"}],"metadata":{"service_tier":"flex"},"max_tokens":77}"#, Unsaid),
            (r#"{"prompt":"\"service_tier\":\"flex\"","max_tokens":77}"#, Unsaid),
            (r#"{"prompt":"service_tier","x":"flex","max_tokens":77}"#, Unsaid),
        ] {
            let (estimate, asked) = estimate_and_tier(FromBody, body.as_bytes());
            assert_eq!((asked, estimate.output), (tier, 77), "{body}");
        }
        assert_eq!(estimate_and_tier(NoTokens, br#"{"service_tier":"flex"}"#).1, Unsaid);
        for broken in [r#"{"service_tier"#, r#"{"service_tier":"#, r#"{"service_tier":"fle"#] {
            estimate_and_tier(FromBody, broken.as_bytes());
        }
    }

    /// A stream's client has said nothing yet.
    #[test]
    fn a_stream_reserves_what_an_answer_without_a_bound_does() {
        let expected = Estimate { input: 0, output: DEFAULT_OUTPUT };
        assert_eq!(estimate(column("InvokeModelWithBidirectionalStream"), b""), expected);
    }

    #[test]
    fn what_runs_no_model_costs_no_tokens() {
        for operation in
            ["CountTokens", "ListFoundationModels", "GetInferenceProfile", "CreateInferenceProfile", "ApplyGuardrail"]
        {
            assert_eq!(estimate(column(operation), br#"{"max_tokens":77}"#), Estimate::NONE, "{operation}");
        }
        assert_eq!(estimate(FromBody, b""), Estimate::NONE);
        assert_eq!(estimate(NoTokens, br#"{"max_tokens":77}"#), Estimate::NONE);
    }

    #[test]
    fn embeddings_and_rerankers_answer_with_no_tokens() {
        for body in [
            r#"{"inputText":"hello"}"#,
            r#"{"inputText":"hello","dimensions":512,"normalize":true}"#,
            r#"{"texts":["hello"],"input_type":"search_document"}"#,
            r#"{"query":"a","documents":["b"],"top_n":1,"api_version":2}"#,
            r#"{"taskType":"TEXT_IMAGE","textToImageParams":{"text":"a"}}"#,
        ] {
            assert_eq!(output(body), 0, "{body}");
        }
        assert_eq!(output(r#"{"messages":[]}"#), DEFAULT_OUTPUT);
        assert_eq!(output(r#"{"inputText":"hello","textGenerationConfig":{}}"#), DEFAULT_OUTPUT);
    }

    #[test]
    fn keys_elsewhere_do_not_count() {
        for body in [
            r#"{"prompt":"\"max_tokens\":77"}"#,
            r#"{"prompt":"say {\"max_tokens\":77}"}"#,
            r#"{"messages":[{"max_tokens":77}]}"#,
            r#"{"tools":{"max_tokens":77}}"#,
            r#"{"a":{"inferenceConfig":{"maxTokens":77}}}"#,
            r#"{"inferenceConfig":[{"maxTokens":77}]}"#,
            r#"{"inferenceConfig":"maxTokens","x":77}"#,
            r#"["max_tokens",77]"#,
            r#""max_tokens":77"#,
            r#"{"max_tokens":"77"}"#,
            r#"{"max_tokens":null}"#,
            r#"{"max_tokens":-77}"#,
            r#"{"max_tokens":{"a":77}}"#,
            r#"{"max_tokens_":77,"Max_Tokens":77}"#,
            r#"{"stop":["max_tokens",77]}"#,
        ] {
            assert_eq!(output(body), DEFAULT_OUTPUT, "{body}");
        }
    }

    #[test]
    fn of_several_the_largest_counts() {
        assert_eq!(output(r#"{"max_tokens":5,"max_tokens":77}"#), 77);
        assert_eq!(output(r#"{"max_tokens":77,"max_tokens":5}"#), 77);
        assert_eq!(output(r#"{"inferenceConfig":{"maxTokens":5},"inferenceConfig":{"maxTokens":77}}"#), 77);
    }

    #[test]
    fn escapes_hide_nothing() {
        assert_eq!(output(r#"{"max\u005ftokens":77}"#), 77);
        assert_eq!(output(r#"{"\u006d\u0061x_tokens":77}"#), 77);
        assert_eq!(output(r#"{"inference\u0043onfig":{"m\u0061xTokens":77}}"#), 77);
        assert_eq!(output(r#"{"x\\":1,"max_tokens":77}"#), 77);
        assert_eq!(output(r#"{"x":"\\\"","max_tokens":77}"#), 77);
        assert_eq!(output(r#"{"max\u00zztokens":77}"#), DEFAULT_OUTPUT);
    }

    #[test]
    fn numbers_as_people_write_them() {
        for (text, tokens) in [
            ("0", 0),
            ("1e2", 100),
            ("100.0", 100),
            ("1000000", 1_000_000),
            ("1000001", 1_000_000),
            ("18446744073709551616", 1_000_000),
            ("1e400", 1_000_000),
            ("99999999999999999999999999999999999999999999999999999999999999999999999999999999999999", 1_000_000),
        ] {
            assert_eq!(output(&format!("{{\"max_tokens\":{text}}}")), tokens, "{text}");
            assert_eq!(output(&format!("{{\"max_tokens\":{text},\"a\":1}}")), tokens, "{text}");
        }
        for not in ["abc", "", "+", "--1", "nan", "inf", "infinity", "0x10"] {
            assert_eq!(output(&format!("{{\"max_tokens\":{not}}}")), DEFAULT_OUTPUT, "{not}");
        }
    }

    #[test]
    fn broken_and_deep_bodies_are_survived() {
        let deep = "[".repeat(2_000_000);
        assert_eq!(output(&deep), DEFAULT_OUTPUT);
        let nested = format!("{{\"a\":{}{},\"max_tokens\":77}}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
        assert_eq!(output(&nested), 77);
        let closed = format!("{}{{\"max_tokens\":77}}", "}".repeat(1_000));
        assert_eq!(output(&closed), 77, "read as well as can be");
        let valid = r#"{"messages":[{"content":"a\"b\\"}],"inferenceConfig":{"maxTokens":77}}"#;
        for end in 0..valid.len() {
            estimate(FromBody, &valid.as_bytes()[..end]);
        }
        for byte in 0..=255u8 {
            estimate(FromBody, &[byte, b'"', byte, b':', byte, b'\\']);
        }
    }

    /// The fuzz target's claims, on mutations of real bodies, wherever the tests run.
    #[test]
    fn mutated_bodies_are_read_as_serde_json_reads_them() {
        let seeds = [
            r#"{"max_tokens":77,"messages":[{"role":"user","content":"a\"b\\"}]}"#,
            r#"{"a":{"b":[1,{"c":"}"}]},"max\u005ftokens" : 1e2,"z":null}"#,
            r#"{"inferenceConfig":{"maxTokens":5},"max_tokens":9}"#,
        ];
        let mut random = 99u64;
        let mut next = |bound: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % bound as u64).unwrap()
        };
        let mut objects = 0;
        for round in 0..60_000 {
            let mut body = seeds[round % seeds.len()].as_bytes().to_vec();
            for _ in 0..=next(3) {
                let at = next(body.len().max(1));
                match next(4) {
                    _ if body.is_empty() => {}
                    0 => body[at] = b"\"\\{}[]:,0 \xff"[next(11)],
                    1 => drop(body.remove(at)),
                    2 => body.insert(at, b"\"\\{}[]:,0 \xff"[next(11)]),
                    _ => body.truncate(at + 1),
                }
            }
            let estimate = estimate(FromBody, &body);
            assert!(estimate.output <= MAX_OUTPUT);
            if let Ok(serde_json::Value::Object(top)) = serde_json::from_slice::<serde_json::Value>(&body)
                && let Some(most) = top.get("max_tokens").and_then(serde_json::Value::as_f64)
                && most >= 0.0
            {
                objects += 1;
                let text = String::from_utf8_lossy(&body);
                assert!(estimate.output as f64 >= most.floor().min(MAX_OUTPUT as f64), "{most} {text}");
            }
        }
        assert!(objects > 1_000, "{objects}");
    }

    #[test]
    fn input_follows_the_size_and_media_are_counted_soberly() {
        let text = format!(r#"{{"max_tokens":1,"prompt":"{}"}}"#, "word and word ".repeat(1_000));
        let input = estimate(FromBody, text.as_bytes()).input;
        assert_eq!(input, (text.len() as u64).div_ceil(4));

        let filler = "A".repeat(1_000_000);
        for (prefix, tokens) in [("iVBORw0KGgo", 1_600), ("/9j/4AAQ", 1_600), ("JVBERi0x", 31_250), ("AAAA", 31_250)] {
            let body = format!(
                r#"{{"messages":[{{"content":[{{"image":{{"source":{{"bytes":"{prefix}{filler}"}}}}}}]}}],"max_tokens":1}}"#
            );
            let input = estimate(FromBody, body.as_bytes()).input;
            assert!((tokens..tokens + 100).contains(&input), "{prefix}: {input}");
        }
        let url = format!(r#"{{"messages":[{{"url":"data:image/png;base64,iVBORw0KGgo{filler}"}}]}}"#);
        assert!(estimate(FromBody, url.as_bytes()).input < 2_000);
    }
}
