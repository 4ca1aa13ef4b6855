//! Rerank of bedrock-agent-runtime: sources in the order of their relevance for a query, a page at a time. The more of the
//! query's words a source holds, the more relevant it is.

use serde_json::{Value, json};

use super::Input;
use crate::catalogue::{self, Model, Vendor};
use crate::prompt::all_text;
use crate::reply::{AwsError, Reply};
use crate::state::State;

const MOST_SOURCES: usize = 1_000;
const LONGEST_TEXT: usize = 32_000;

pub(crate) fn rerank(state: &State, input: &Input<'_>) -> Result<Reply, AwsError> {
    let body = input.json()?;
    let reranking = &body["rerankingConfiguration"];
    if reranking["type"] != "BEDROCK_RERANKING_MODEL" {
        return Err(invalid("rerankingConfiguration.type must be BEDROCK_RERANKING_MODEL"));
    }
    let bedrock = &reranking["bedrockRerankingConfiguration"];
    let model = model(state, &bedrock["modelConfiguration"]["modelArn"])?;
    let wanted = match &bedrock["numberOfResults"] {
        Value::Null => MOST_SOURCES,
        number => match number.as_u64().and_then(|number| usize::try_from(number).ok()) {
            Some(number @ 1..=MOST_SOURCES) => number,
            _ => return Err(invalid("numberOfResults must be from 1 to 1000")),
        },
    };
    let query = match body["queries"].as_array().map(Vec::as_slice) {
        Some([query]) if query["type"] == "TEXT" => text(&query["textQuery"])?,
        _ => return Err(invalid("queries must hold one query of the type TEXT")),
    };
    let sources = match body["sources"].as_array() {
        Some(sources) if (1..=MOST_SOURCES).contains(&sources.len()) => sources,
        _ => return Err(invalid("sources must hold from 1 to 1000 sources")),
    };
    let mut ranked = Vec::with_capacity(sources.len());
    for (index, source) in sources.iter().enumerate() {
        ranked.push((relevance(&query, &document(source)?), index));
    }
    ranked.sort_by(|(one, at), (two, behind)| two.total_cmp(one).then(at.cmp(behind)));
    ranked.truncate(wanted);
    let start = match &body["nextToken"] {
        Value::Null => 0,
        token => {
            token.as_str().and_then(|token| token.parse().ok()).ok_or_else(|| invalid("nextToken is not valid"))?
        }
    };
    let page = ranked.iter().skip(start).take(state.page_size);
    let results: Vec<Value> = page.map(|(score, index)| json!({ "index": index, "relevanceScore": score })).collect();
    let mut answer = json!({ "results": results });
    if start + results.len() < ranked.len() {
        answer["nextToken"] = json!((start + results.len()).to_string());
    }
    Ok(Reply::json(200, &answer).by(model.id))
}

/// Only the ARN of a model of this region will do, and only of one that reranks.
fn model(state: &State, arn: &Value) -> Result<&'static Model, AwsError> {
    let arn = arn.as_str().ok_or_else(|| invalid("modelArn is required"))?;
    let mut models = catalogue::models(&state.region).iter();
    models.find(|model| model.vendor == Vendor::Rerank && model.arn(&state.region) == arn).ok_or_else(|| {
        AwsError::validation(
            "The provided model ARN for reranking is invalid. Please, use a valid model ARN. Also check the model ARN \
             follows this format: arn:<partition>:bedrock:<region>::foundation-model/<model-id>",
        )
    })
}

fn document(source: &Value) -> Result<String, AwsError> {
    if source["type"] != "INLINE" {
        return Err(invalid("the type of a source must be INLINE"));
    }
    let document = &source["inlineDocumentSource"];
    match document["type"].as_str() {
        Some("TEXT") => text(&document["textDocument"]),
        Some("JSON") if !document["jsonDocument"].is_null() => Ok(all_text(&document["jsonDocument"])),
        _ => Err(invalid("the type of a document must be TEXT or JSON, and the document be there")),
    }
}

fn text(holder: &Value) -> Result<String, AwsError> {
    match holder["text"].as_str() {
        Some(text) if !text.is_empty() && text.len() <= LONGEST_TEXT => Ok(text.to_owned()),
        _ => Err(invalid("a text must have from 1 to 32000 characters")),
    }
}

fn relevance(query: &str, document: &str) -> f64 {
    let words: Vec<&str> = query.split_whitespace().collect();
    let known = words.iter().filter(|word| document.split_whitespace().any(|other| other == **word)).count();
    f64::from(u32::try_from(known).unwrap_or(0)) / f64::from(u32::try_from(words.len().max(1)).unwrap_or(1))
}

fn invalid(why: &str) -> AwsError {
    AwsError::validation(format!("The request is invalid: {why}."))
}
