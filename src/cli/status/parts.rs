//! Parts of the answer to `/status` as text, for the screen of `status` and for that of `top`.

use serde_json::Value;

use super::attention::{attention, breaker, list};
use crate::cli::terminal::{Text, Tone};
use crate::cli::words::{of, time};

/// One sentence, and further reasons in lines of their own.
pub(in crate::cli) fn headline(status: &Value) -> Vec<Text> {
    if status["ready"] != true {
        let reasons: Vec<&str> = list(&status["reasons"]).iter().filter_map(Value::as_str).collect();
        let first = reasons.first().copied().unwrap_or("the daemon does not say why").trim_end_matches('.');
        let sentence = format!(": {first}; `bedrock-sidecar check --online` tries each part and says what to do.");
        let mut lines = vec![vec![(Tone::Bad, "NOT READY".to_owned()), (Tone::Plain, sentence)]];
        let others = reasons.iter().skip(1).map(|reason| (*reason).to_owned());
        let others = others.chain(attention(status).into_iter().map(|clause| format!("{clause}.")));
        lines.extend(others.map(|other| vec![(Tone::Bad, "Also: ".to_owned()), (Tone::Plain, other)]));
        return lines;
    }
    let clauses = attention(status);
    if clauses.is_empty() {
        let region = status["upstreams"][0]["region"].as_str().unwrap_or("the upstream");
        let kind = status["credential"]["kind"].as_str().unwrap_or("credential");
        let sentence = format!(": requests go to {region} with the {kind}.");
        return vec![vec![(Tone::Good, "READY".to_owned()), (Tone::Plain, sentence)]];
    }
    let ready = (Tone::Doubtful, "READY".to_owned());
    vec![vec![ready, (Tone::Plain, format!(", but {}.", clauses.join("; ")))]]
}

/// Its kind, age and expiry, and what is wrong with it.
pub(in crate::cli) fn credential(credential: &Value) -> Text {
    let mut facts = match credential["kind"].as_str() {
        Some(kind) => vec![plain(kind.to_owned())],
        None => vec![(Tone::Bad, "none".to_owned())],
    };
    if let Some(seconds) = credential["confirmedSecondsAgo"].as_u64() {
        facts.push(plain(format!("read {} ago", time(seconds))));
    }
    match credential["expiresInSeconds"].as_u64() {
        Some(0) => facts.push((Tone::Bad, "expired".to_owned())),
        Some(seconds) => facts.push(plain(format!("expires in {}", time(seconds)))),
        None => {}
    }
    if let Some(problem) = credential["problem"].as_str() {
        facts.push((Tone::Bad, problem.to_owned()));
    }
    joined(facts)
}

/// Its breakers and models.
pub(in crate::cli) fn upstream(upstream: &Value) -> Text {
    let mut facts = vec![(Tone::Strong, upstream["region"].as_str().unwrap_or("?").to_owned())];
    for plane in ["runtime", "control", "agent_runtime", "mantle"] {
        let breaker = breaker(upstream, plane);
        // Most hosts never rerank: that plane is told of when it is in trouble.
        let state = breaker["state"].as_str().filter(|state| plane != "agent_runtime" || *state != "closed");
        let Some(state) = state else { continue };
        let tone = match state {
            "closed" => Tone::Good,
            "open" => Tone::Bad,
            _ => Tone::Doubtful,
        };
        let probe = breaker["probeInSeconds"].as_u64().map(|seconds| format!(", tried again in {seconds} s"));
        facts.push((tone, format!("{plane} {state}{}", probe.unwrap_or_default())));
    }
    if upstream["paused"] == true && breaker(upstream, "runtime").is_null() {
        facts.push((Tone::Bad, "passed over".to_owned()));
    }
    if upstream["objection"].is_string() {
        facts.push((Tone::Bad, "cannot be used".to_owned()));
    }
    match (upstream["models"].as_u64(), upstream["modelsListedSecondsAgo"].as_u64()) {
        (Some(models), Some(seconds)) => {
            facts.push(plain(format!("{} listed {} ago", of(models, "model", "models"), time(seconds))));
        }
        _ if upstream["modelsListed"] == true => facts.push(plain("models listed".to_owned())),
        _ => facts.push((Tone::Doubtful, "models not listed".to_owned())),
    }
    if let Some(mode) = upstream["dataRetention"].as_str() {
        facts.push(plain(format!("data retention {mode}")));
    }
    if let Some(kind) = upstream["credential"].as_str().or_else(|| upstream["credential"]["kind"].as_str()) {
        facts.push(plain(kind.to_owned()));
    }
    if let Some(endpoint) = upstream["runtime"]["endpoint"].as_str() {
        facts.push((Tone::Faint, endpoint.to_owned()));
    }
    joined(facts)
}

/// A fact that nothing distinguishes.
pub(in crate::cli) fn plain(text: String) -> (Tone, String) {
    (Tone::Plain, text)
}

/// Facts of one paragraph.
pub(in crate::cli) fn joined(facts: Vec<(Tone, String)>) -> Text {
    let mut text = Text::new();
    for fact in facts {
        if !text.is_empty() {
            text.push((Tone::Faint, " · ".to_owned()));
        }
        text.push(fact);
    }
    text
}
