//! What a listing shows: what its reader may use, unless `models.list` is "all". Apps pick from these lists, and would pick
//! what is refused to them afterwards.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Models;
use super::catalogue::{FoundationModel, Profile};
use super::rules::{Facts, Rules};
use crate::config::Listings;
use crate::error::{Refusal, RefusalKind};
use crate::operation::{self, Operation};
use crate::partition::Partitions;
use crate::settings::callers::CallerEntry;
use crate::upstream::{Answer, AnswerBody};

/// A list of all models of a region has some hundred kilobytes.
const LONGEST: usize = 16 * 1024 * 1024;

/// A listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    Models,
    Profiles,
    /// Models as OpenAI and Anthropic list them, of either host.
    ById,
}

#[derive(Deserialize)]
struct ById {
    id: String,
}

static BY_ID: [&Operation; 3] =
    [&operation::MANTLE_LIST_MODELS, &operation::OPENAI_LIST_MODELS, &operation::ANTHROPIC_LIST_MODELS];

impl Listing {
    fn of(operation: &Operation) -> Option<Listing> {
        match operation {
            _ if *operation == operation::LIST_FOUNDATION_MODELS => Some(Listing::Models),
            _ if *operation == operation::LIST_INFERENCE_PROFILES => Some(Listing::Profiles),
            _ if BY_ID.contains(&operation) => Some(Listing::ById),
            _ => None,
        }
    }

    /// The member of the answer that holds the entries.
    fn member(self) -> &'static str {
        match self {
            Listing::Models => "modelSummaries",
            Listing::Profiles => "inferenceProfileSummaries",
            Listing::ById => "data",
        }
    }

    /// An entry that cannot be read is none that could be used.
    fn shows(self, entry: &RawValue, rules: Rules<'_>, facts: Facts<'_>, may_go: impl Fn(&str) -> bool) -> bool {
        let shows = |id: &str| may_go(id) && rules.judge(id, facts).is_ok();
        match self {
            Listing::Models => {
                serde_json::from_str::<FoundationModel>(entry.get()).is_ok_and(|model| shows(&model.model_id))
            }
            Listing::ById => serde_json::from_str::<ById>(entry.get()).is_ok_and(|model| shows(&model.id)),
            Listing::Profiles => {
                serde_json::from_str::<Profile>(entry.get()).is_ok_and(|profile| match profile.is_application() {
                    true => rules.application(&profile.inference_profile_arn, &profile).is_ok(),
                    false => shows(&profile.inference_profile_id),
                })
            }
        }
    }
}

impl Models {
    /// The same answer, and of a listing only what this caller may use, also where `[models.partition]` places it elsewhere:
    /// `reach` is where a request may go. Where that is everything, the same bytes.
    ///
    /// # Errors
    /// The upstream has not sent the whole list.
    pub(crate) async fn shown(
        &self,
        operation: &Operation,
        caller: Option<&CallerEntry>,
        reach: Partitions,
        answer: Answer,
    ) -> Result<Answer, Refusal> {
        let wanted = Listing::of(operation).filter(|_| self.settings.list == Listings::Allowed);
        let Some(listing) = wanted.filter(|_| answer.status == StatusCode::OK) else { return Ok(answer) };
        let (status, mut headers) = (answer.status, answer.headers.clone());
        let body = answer.read(LONGEST).await.map_err(|why| {
            let sentence = format!("the upstream's list could not be read to its end: {why}; try again.");
            Refusal::new(RefusalKind::ServiceUnavailable, sentence)
        })?;
        let listed = self.catalogue.load();
        let facts = Facts { catalogue: listed.as_ref().map(|listed| &listed.catalogue), looked_up: None };
        let rules = Rules::new(&self.settings, caller);
        let may_go = |id: &str| self.pin(id).is_none_or(|pin| reach.has(pin.partition));
        let body = match without(&body, listing.member(), |entry| listing.shows(entry, rules, facts, may_go)) {
            Some(less) => {
                headers.remove(CONTENT_LENGTH);
                less
            }
            None => body,
        };
        Ok(Answer { status, headers, body: AnswerBody::Read(body), refused_key: None })
    }
}

/// A list without the entries that are not kept; none where all are, or where it is no list.
fn without(body: &[u8], member: &str, keeps: impl Fn(&RawValue) -> bool) -> Option<Bytes> {
    let mut page: BTreeMap<&str, &RawValue> = serde_json::from_slice(body).ok()?;
    let entries: Vec<&RawValue> = serde_json::from_str(page.get(member)?.get()).ok()?;
    let kept: Vec<&RawValue> = entries.iter().copied().filter(|entry| keeps(entry)).collect();
    if kept.len() == entries.len() {
        return None;
    }
    let kept = serde_json::value::to_raw_value(&kept).ok()?;
    page.insert(member, &kept);
    serde_json::to_vec(&page).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_of_models_is_looked_through() {
        let listings: Vec<&str> = operation::OPERATIONS
            .into_iter()
            .filter(|operation| Listing::of(operation).is_some())
            .map(|operation| operation.name)
            .collect();
        let all = [
            "OpenAIListModels",
            "AnthropicListModels",
            "MantleListModels",
            "ListFoundationModels",
            "ListInferenceProfiles",
        ];
        assert_eq!(listings, all);
    }

    #[test]
    fn what_is_kept_keeps_its_bytes() {
        let body = br#"{"nextToken": "t\u002f", "list": [{"a": 1.50}, {"b":2}]}"#;
        let without_b = without(body, "list", |entry| !entry.get().contains('b')).unwrap();
        assert_eq!(without_b, r#"{"list":[{"a": 1.50}],"nextToken":"t\u002f"}"#);
        assert_eq!(without(body, "list", |_| false).unwrap(), r#"{"list":[],"nextToken":"t\u002f"}"#);
        assert_eq!(without(body, "list", |_| true), None);
        for other in [&b"[]"[..], b"{}", br#"{"list":1}"#, b"x", b""] {
            assert_eq!(without(other, "list", |_| false), None);
        }
    }
}
