//! What one region offers: its foundation models and the inference profiles that reach them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde::{Deserialize, Serialize};

use super::lookup::Asker;
use crate::operation::{Plane, SEGMENT};
use crate::sdk_failure::bounded;
use crate::upstream::answer::{AwsError, Remedy, word};
use crate::upstream::breaker::Turn;
use crate::upstream::pool::Effort;
use crate::upstream::sign::BodyHash;
use crate::upstream::{Failure, Upstream, UpstreamRequest};

/// More than any listing has; a bound against an upstream that never ends.
const MAX_LISTING: usize = 16 * 1024 * 1024;
const MAX_PAGES: usize = 200;

/// A `modelSummary` of ListFoundationModels. Unknown values stay as they come: the service has more than SDK enums list.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct FoundationModel {
    pub model_id: String,
    pub model_arn: String,
    pub model_name: String,
    pub provider_name: String,
    pub input_modalities: Vec<String>,
    pub output_modalities: Vec<String>,
    pub response_streaming_supported: Option<bool>,
    pub customizations_supported: Vec<String>,
    pub inference_types_supported: Vec<String>,
    pub model_lifecycle: Option<Lifecycle>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lifecycle {
    pub status: String,
}

/// A summary of ListInferenceProfiles.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Profile {
    pub inference_profile_id: String,
    pub inference_profile_arn: String,
    pub inference_profile_name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub models: Vec<ProfileModel>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ProfileModel {
    pub model_arn: String,
}

/// Models and profiles of one region, as listed at one moment.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    models: HashMap<String, FoundationModel>,
    profiles: Vec<Profile>,
    /// By identifier and by ARN.
    profile_index: HashMap<String, usize>,
    /// The system profiles that reach one model only, by that model.
    of_model: HashMap<String, Vec<usize>>,
    /// What the names of models begin with.
    providers: HashSet<String>,
}

impl Profile {
    pub(crate) fn is_application(&self) -> bool {
        self.kind == "APPLICATION"
    }

    pub(crate) fn is_active(&self) -> bool {
        self.status.is_empty() || self.status == "ACTIVE"
    }

    /// It sends to this model and to no other.
    pub(crate) fn is_only_of(&self, model: &str) -> bool {
        self.only_model() == Some(model)
    }

    /// The one model that it sends to; none if there are more.
    pub(super) fn only_model(&self) -> Option<&str> {
        let mut models = self.models.iter().map(|model| foundation_model(&model.model_arn));
        let first = models.next()??;
        models.all(|model| model == Some(first)).then_some(first)
    }

    /// The identifiers of the models behind it, without repetition.
    pub(crate) fn model_ids(&self) -> BTreeSet<&str> {
        self.models.iter().filter_map(|model| foundation_model(&model.model_arn)).collect()
    }

    /// The regions that it may send to; the empty name stands for "anywhere".
    pub(crate) fn regions(&self) -> BTreeSet<&str> {
        self.models.iter().filter_map(|model| model.model_arn.split(':').nth(3)).collect()
    }
}

fn foundation_model(arn: &str) -> Option<&str> {
    arn.rsplit_once("foundation-model/").map(|(_, id)| id)
}

impl FoundationModel {
    pub(crate) fn on_demand(&self) -> bool {
        self.inference_types_supported.iter().any(|kind| kind == "ON_DEMAND")
    }

    /// It is invoked through inference profiles.
    pub(crate) fn by_profile(&self) -> bool {
        self.inference_types_supported.iter().any(|kind| kind == "INFERENCE_PROFILE")
    }
}

impl Catalogue {
    pub(crate) fn new(models: Vec<FoundationModel>, profiles: Vec<Profile>) -> Catalogue {
        let mut index = HashMap::with_capacity(profiles.len() * 2);
        let mut of_model: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, profile) in profiles.iter().enumerate() {
            if let Some(model) = profile.only_model().filter(|_| !profile.is_application()) {
                of_model.entry(model.to_owned()).or_default().push(at);
            }
            index.insert(profile.inference_profile_id.clone(), at);
            index.insert(profile.inference_profile_arn.clone(), at);
        }
        let provider = |model: &FoundationModel| Some(model.model_id.split_once('.')?.0.to_owned());
        let providers = models.iter().filter_map(provider).collect();
        let models = models.into_iter().map(|model| (model.model_id.clone(), model)).collect();
        Catalogue { models, profiles, profile_index: index, of_model, providers }
    }

    pub(crate) fn model(&self, id: &str) -> Option<&FoundationModel> {
        self.models.get(id)
    }

    /// Whether a model can be invoked here at all: by itself or through a profile.
    pub(crate) fn reaches(&self, id: &str) -> bool {
        self.of_model.contains_key(id) || self.model(id).is_some_and(|model| model.on_demand() || model.by_profile())
    }

    /// Whether some model's name begins with it.
    pub(crate) fn has_provider(&self, provider: &str) -> bool {
        self.providers.contains(provider)
    }

    /// All models, by identifier.
    pub(crate) fn models(&self) -> Vec<&FoundationModel> {
        let mut models: Vec<_> = self.models.values().collect();
        models.sort_by(|a, b| a.model_id.cmp(&b.model_id));
        models
    }

    /// Of models and profiles, whatever they may be called by.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let of_profiles = self.profiles.iter().flat_map(|profile| {
            [&profile.inference_profile_id, &profile.inference_profile_arn, &profile.inference_profile_name]
        });
        self.models.keys().chain(of_profiles).map(String::as_str)
    }

    /// By identifier or ARN.
    pub(crate) fn profile(&self, name: &str) -> Option<&Profile> {
        self.profile_index.get(name).map(|at| &self.profiles[*at])
    }

    /// The system profile of a model in the first geography that has one. The one that is called after both comes first.
    pub(crate) fn system_profile(&self, model: &str, geographies: &[String]) -> Option<&Profile> {
        let behind = |profile: &Profile, geography: &str| {
            profile.inference_profile_id.strip_prefix(geography)?.strip_prefix('.').map(|rest| rest == model)
        };
        geographies.iter().find_map(|geography| {
            let here = || {
                self.system_profiles(model)
                    .filter(|profile| profile.is_active())
                    .filter_map(|profile| Some((behind(profile, geography)?, profile)))
            };
            here().find(|(exact, _)| *exact).or_else(|| here().next()).map(|(_, profile)| profile)
        })
    }

    /// A system profile that reaches a model, in whatever geography.
    pub(crate) fn any_system_profile(&self, model: &str) -> Option<&Profile> {
        self.system_profiles(model).next()
    }

    /// The system profiles that reach this model and no other, as they were listed.
    fn system_profiles(&self, model: &str) -> impl Iterator<Item = &Profile> {
        self.of_model.get(model).into_iter().flatten().map(|at| &self.profiles[*at])
    }

    /// An application profile by its name.
    pub(crate) fn application_profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|p| p.is_application() && p.is_active() && p.inference_profile_name == name)
    }
}

/// Lists models and profiles, all pages.
///
/// # Errors
/// A sentence with the upstream's own error.
pub(crate) async fn fetch(upstream: &Upstream) -> Result<Catalogue, CallError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Models {
        model_summaries: Vec<FoundationModel>,
    }
    let body = call(upstream, Method::GET, "/foundation-models", Bytes::new()).await?;
    let models: Models = serde_json::from_slice(&body)
        .map_err(|error| CallError::Transport(format!("ListFoundationModels: {error}")))?;
    let mut profiles = list_profiles(upstream, "SYSTEM_DEFINED").await?;
    profiles.extend(list_profiles(upstream, "APPLICATION").await?);
    Ok(Catalogue::new(models.model_summaries, profiles))
}

/// All profiles of one type.
pub(crate) async fn list_profiles(upstream: &Upstream, kind: &str) -> Result<Vec<Profile>, CallError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        #[serde(default)]
        inference_profile_summaries: Vec<Profile>,
        next_token: Option<String>,
    }
    let mut profiles = Vec::new();
    let mut token: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let mut path = format!("/inference-profiles?maxResults=1000&type={kind}");
        if let Some(token) = &token {
            path.push_str("&nextToken=");
            path.extend(utf8_percent_encode(token, SEGMENT));
        }
        let body = call(upstream, Method::GET, &path, Bytes::new()).await?;
        let page: Page = serde_json::from_slice(&body)
            .map_err(|error| CallError::Transport(format!("ListInferenceProfiles: {error}")))?;
        profiles.extend(page.inference_profile_summaries);
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(profiles);
        }
    }
    Err(CallError::Transport(format!("ListInferenceProfiles did not end after {MAX_PAGES} pages")))
}

/// One profile by identifier or ARN.
pub(crate) async fn profile(upstream: &Upstream, name: &str) -> Result<Profile, CallError> {
    let path = format!("/inference-profiles/{}", utf8_percent_encode(name, SEGMENT));
    let body = call(upstream, Method::GET, &path, Bytes::new()).await?;
    serde_json::from_slice(&body).map_err(|error| CallError::Transport(format!("GetInferenceProfile: {error}")))
}

/// Why a control-plane call of our own failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The upstream answered with this status and error.
    #[error("{} ({}): {}", .1.error_type, .0, bounded(&.1.message))]
    Answered(u16, AwsError),
    /// The upstream has done nothing with the call, or was not asked.
    #[error("{0}")]
    NotSent(String),
    /// No answer came, or none that could be read.
    #[error("{0}")]
    Transport(String),
}

impl CallError {
    /// The upstream does not know the key.
    pub(crate) fn refuses_credential(&self) -> bool {
        match self {
            CallError::Answered(status, error) => StatusCode::from_u16(*status)
                .is_ok_and(|status| error.remedy(status, &HeaderMap::new()) == Remedy::Credential),
            CallError::NotSent(_) | CallError::Transport(_) => false,
        }
    }
}

/// One call to Bedrock's control plane.
pub(crate) async fn call(upstream: &Upstream, method: Method, path: &str, body: Bytes) -> Result<Bytes, CallError> {
    send(upstream, method, path, body, &mut Effort::default()).await.result
}

/// The right to call the control plane for a request that waits. While it cannot be reached, one at a time finds out
/// whether it can again; `asker` may be the one.
///
/// # Errors
/// Connections to it have just failed.
pub(crate) fn turn<'a>(upstream: &'a Upstream, asker: &Asker) -> Result<Turn<'a>, CallError> {
    if asker.probes_control {
        return Ok(Turn::Go);
    }
    let breaker = upstream.breaker(Plane::Control);
    match breaker.turn(Instant::now()) {
        Turn::PassOver if breaker.is_unreachable() => {
            let endpoint = upstream.endpoint(Plane::Control);
            Err(CallError::NotSent(format!("connections to {endpoint} have just failed several times in a row")))
        }
        turn => Ok(turn),
    }
}

/// A call of the daemon's own, with what its record needs.
#[derive(Debug)]
pub(crate) struct Call {
    pub upstream_request_id: Option<String>,
    /// Bytes of the answer's body, an error's too.
    pub response_size: u64,
    pub result: Result<Bytes, CallError>,
}

/// How many models the mantle host lists.
pub(crate) async fn count_on_mantle(upstream: &Upstream) -> Result<usize, CallError> {
    #[derive(Deserialize)]
    struct Answer {
        data: Vec<serde::de::IgnoredAny>,
    }
    let effort = &mut Effort::default();
    let body = send_to(Plane::Mantle, upstream, Method::GET, "/v1/models", Bytes::new(), effort).await.result?;
    let answer: Answer =
        serde_json::from_slice(&body).map_err(|error| CallError::Transport(format!("/v1/models: {error}")))?;
    Ok(answer.data.len())
}

/// The same, for a call that is recorded. What it takes is added to `effort`.
pub(crate) async fn send(upstream: &Upstream, method: Method, path: &str, body: Bytes, effort: &mut Effort) -> Call {
    send_to(Plane::Control, upstream, method, path, body, effort).await
}

async fn send_to(
    plane: Plane,
    upstream: &Upstream,
    method: Method,
    path: &str,
    body: Bytes,
    effort: &mut Effort,
) -> Call {
    let failed = |error| Call { upstream_request_id: None, response_size: 0, result: Err(error) };
    let path = match PathAndQuery::try_from(path) {
        Ok(path) => path,
        Err(error) => return failed(CallError::NotSent(error.to_string())),
    };
    let mut headers = HeaderMap::new();
    headers.insert(http::header::ACCEPT, http::HeaderValue::from_static("application/json"));
    if !body.is_empty() {
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    }
    let request = UpstreamRequest {
        plane,
        method,
        path,
        headers: Arc::new(headers),
        body,
        body_hash: BodyHash::default(),
        events: None,
    };
    let answer = match upstream.exchange(&request, effort).await {
        Ok(answer) => answer,
        Err(failure) => {
            let why = failure.refusal().message.into_owned();
            return failed(match failure {
                Failure::NotSent { .. } | Failure::NotRepeatable(_) | Failure::NoCredential(_) | Failure::Unfit(_) => {
                    CallError::NotSent(why)
                }
                Failure::Broke(_) => CallError::Transport(why),
            });
        }
    };
    let (status, headers) = (answer.status, answer.headers.clone());
    let id = headers.get("x-amzn-requestid").and_then(|value| value.to_str().ok()).map(word);
    let read = answer.read(MAX_LISTING).await;
    let response_size = read.as_ref().map_or(0, |body| body.len() as u64);
    let result = match read {
        Ok(body) if status.is_success() => Ok(body),
        Ok(body) => Err(CallError::Answered(status.as_u16(), AwsError::new(&headers, &body))),
        Err(why) => Err(CallError::Transport(why)),
    };
    Call { upstream_request_id: id, response_size, result }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The index says what a look at every profile would.
    #[test]
    fn the_first_geography_that_has_a_profile_of_exactly_the_model_gives_it() {
        let profile = |id: &str, kind: &str, status: &str, models: &[&str]| Profile {
            inference_profile_id: id.to_owned(),
            inference_profile_arn: format!("arn:aws:bedrock:us-east-1:111122223333:inference-profile/{id}"),
            kind: kind.to_owned(),
            status: status.to_owned(),
            models: models.iter().map(|arn| ProfileModel { model_arn: (*arn).to_owned() }).collect(),
            ..Profile::default()
        };
        let [a, a_too] =
            ["us-east-1", "us-west-2"].map(|region| format!("arn:aws:bedrock:{region}::foundation-model/v.a"));
        let [b, other] =
            ["arn:aws:bedrock:us-east-1::foundation-model/v.b", "arn:aws:bedrock:us-east-1:1:custom-model/v.a"];
        let catalogue = Catalogue::new(
            Vec::new(),
            vec![
                profile("eu.v.a", "SYSTEM_DEFINED", "DELETING", &[&a]),
                profile("us.v.a-wide", "SYSTEM_DEFINED", "ACTIVE", &[&a, &a_too]),
                profile("us.v.a", "SYSTEM_DEFINED", "ACTIVE", &[&a, &a_too]),
                profile("usa.v.a", "SYSTEM_DEFINED", "ACTIVE", &[&a]),
                profile("apac.v.a", "APPLICATION", "ACTIVE", &[&a]),
                profile("global.v.a", "SYSTEM_DEFINED", "", &[&a, b]),
                profile("global.v.b-new", "SYSTEM_DEFINED", "", &[b]),
                profile("au.v.a", "SYSTEM_DEFINED", "ACTIVE", &[&a, other]),
                profile("ca.v.a", "SYSTEM_DEFINED", "ACTIVE", &[]),
            ],
        );
        for (model, geographies, expected) in [
            ("v.a", &["us"][..], Some("us.v.a")),
            ("v.a", &["eu", "apac", "au", "ca", "global", "usa", "us"], Some("usa.v.a")),
            ("v.a", &["eu", "apac", "au", "ca", "global", "u", ""], None),
            ("v.b", &["us", "global"], Some("global.v.b-new")),
            ("v.c", &["us", "global"], None),
        ] {
            let geographies: Vec<String> = geographies.iter().map(|name| (*name).to_owned()).collect();
            let found = catalogue.system_profile(model, &geographies);
            assert_eq!(found.map(|profile| profile.inference_profile_id.as_str()), expected, "{model} {geographies:?}");
        }
        let any = |model| catalogue.any_system_profile(model).map(|profile| profile.inference_profile_id.as_str());
        assert_eq!((any("v.a"), any("v.b"), any("v.c")), (Some("eu.v.a"), Some("global.v.b-new"), None));
    }
}
