//! The models behind a name that does not tell its model: an application profile, a prompt router, provisioned throughput.
//! Limits, prices and the rules on models go by them, so they are found before a request is admitted.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use percent_encoding::utf8_percent_encode;
use serde_json::Value;

use super::Models;
use super::catalogue::{self, CallError};
use super::identifier::{self, Identifier, untold};
use super::lookup::{Asker, Looked};
use super::resolve::unalias;
use crate::error::{Refusal, RefusalKind};
use crate::limits::Behind;
use crate::operation::SEGMENT;
use crate::settings;
use crate::upstream::Upstream;

/// The name that a record's model goes by, after aliases, and what is behind it as far as the record tells.
pub(crate) fn of_record(asked: &str, profile: Option<&str>, settings: &settings::Models) -> (String, Behind) {
    let name = unalias(asked, settings);
    let is_opaque = |name: &str| {
        matches!(identifier::read_at_home(name), Ok(Identifier::ApplicationProfileArn | Identifier::OtherArn))
    };
    let behind = match profile.filter(|profile| !is_opaque(profile)) {
        Some(profile) if profile != name => Behind::Models(vec![profile.to_owned()]),
        _ if is_opaque(name) => Behind::Unknown,
        _ => Behind::Itself,
    };
    (name.to_owned(), behind)
}

impl Models {
    /// What stands behind a name, after aliases: from the catalogue, or asked of the upstream once and kept. What cannot be
    /// found in time, or not for this caller now, is unknown: the strictest of the limits holds.
    pub(crate) async fn behind(&self, name: &str, upstream: &Upstream, asker: &Asker) -> Behind {
        let identifier = identifier::read(name, self.settings.partition, |_| false);
        if let Ok(Identifier::Profile { .. } | Identifier::ProfileArn { .. } | Identifier::ModelArn { .. }) = identifier
        {
            return Behind::Itself;
        }
        if let Some(listed) = self.catalogue.load().as_ref()
            && let Some(profile) = listed.catalogue.profile(name)
        {
            let models: Vec<String> = profile.model_ids().into_iter().map(str::to_owned).collect();
            return if models.is_empty() { Behind::Unknown } else { Behind::Models(models) };
        }
        match identifier {
            Ok(Identifier::ApplicationProfileArn | Identifier::OtherArn) => {
                let looked = self.look_up(name, upstream, asker).await;
                looked.map_or(Behind::Unknown, |looked| Behind::Models(looked.models.clone()))
            }
            _ => Behind::Itself,
        }
    }

    /// What stands behind an ARN, from the upstream or from what it said before.
    pub(super) async fn look_up(&self, arn: &str, upstream: &Upstream, asker: &Asker) -> Result<Arc<Looked>, Refusal> {
        // Nothing has to be asked about what cannot be.
        let kind = Some(Kind::of(arn)).filter(|kind| kind.can_be_described()).ok_or_else(|| untold(arn))?;
        // In a box: a request's future is deep enough without a look-up that it seldom needs.
        let look = || -> Pin<Box<dyn Future<Output = Result<Looked, Refusal>> + Send + '_>> {
            Box::pin(ask(arn, kind, upstream, asker))
        };
        self.lookups.get(arn, asker, self.settings.refresh_interval, look).await
    }
}

/// What an ARN that does not tell its model names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ApplicationProfile,
    PromptRouter,
    ProvisionedModel,
    /// Runs where it is, and Bedrock does not say what it is made from.
    OwnModel,
    /// A prompt, which names any model; and what this program does not know.
    Other,
}

impl Kind {
    pub(super) fn of(arn: &str) -> Kind {
        if let Ok(Identifier::ApplicationProfileArn) = identifier::read_at_home(arn) {
            return Kind::ApplicationProfile;
        }
        let mut parts = arn.splitn(6, ':').skip(2);
        let (service, resource) = (parts.next().unwrap_or_default(), parts.nth(2).unwrap_or_default());
        match (service, resource.split_once('/').map_or("", |(kind, _)| kind)) {
            ("bedrock", "prompt-router" | "default-prompt-router") => Kind::PromptRouter,
            ("bedrock", "provisioned-model") => Kind::ProvisionedModel,
            ("bedrock", "imported-model" | "custom-model" | "custom-model-deployment")
            | ("bedrock", "marketplace")
            | ("sagemaker", "endpoint") => Kind::OwnModel,
            _ => Kind::Other,
        }
    }

    pub(super) fn can_be_described(self) -> bool {
        !matches!(self, Kind::OwnModel | Kind::Other)
    }

    /// It may stand for an inference profile, which sends to other regions.
    pub(super) fn may_leave_its_region(self) -> bool {
        matches!(self, Kind::ApplicationProfile | Kind::PromptRouter | Kind::Other)
    }

    fn operation(self) -> &'static str {
        match self {
            Kind::ApplicationProfile => "GetInferenceProfile",
            Kind::PromptRouter => "GetPromptRouter",
            Kind::ProvisionedModel => "GetProvisionedModelThroughput",
            Kind::OwnModel | Kind::Other => "GetModel",
        }
    }
}

async fn ask(arn: &str, kind: Kind, upstream: &Upstream, asker: &Asker) -> Result<Looked, Refusal> {
    let _turn = catalogue::turn(upstream, asker).map_err(|error| refusal(arn, kind, upstream, &error))?;
    let asked = match kind {
        Kind::ApplicationProfile => catalogue::profile(upstream, arn).await.map(|profile| {
            let models = profile.model_ids().into_iter().map(str::to_owned).collect();
            Looked { models, profile: Some(profile) }
        }),
        Kind::PromptRouter => described(arn, "prompt-routers", upstream).await,
        Kind::ProvisionedModel => described(arn, "provisioned-model-throughput", upstream).await,
        Kind::OwnModel | Kind::Other => return Err(untold(arn)),
    };
    match asked {
        Ok(looked) if looked.models.is_empty() => Err(untold(arn)),
        Ok(looked) => Ok(looked),
        Err(error) => Err(refusal(arn, kind, upstream, &error)),
    }
}

fn refusal(arn: &str, kind: Kind, upstream: &Upstream, error: &CallError) -> Refusal {
    match error {
        // Another upstream may have a key that works.
        error if error.refuses_credential() => {
            Refusal::new(RefusalKind::ServiceUnavailable, format!("{arn} cannot be looked up: {error}."))
        }
        CallError::Answered(404 | 400, _) => {
            let message = format!("{arn} does not exist in {} ({error}).", upstream.region);
            Refusal::new(RefusalKind::ResourceNotFound, message)
        }
        CallError::Answered(403, _) => Refusal::new(
            RefusalKind::AccessDenied,
            format!(
                "{arn} cannot be checked against [models]: {error}; allow bedrock:{}, or name the ARN in models.allow.",
                kind.operation()
            ),
        ),
        _ => Refusal::new(RefusalKind::ServiceUnavailable, format!("{arn} cannot be looked up: {error}.")),
    }
}

/// Asks what a prompt router or provisioned throughput is made of.
async fn described(arn: &str, path: &str, upstream: &Upstream) -> Result<Looked, CallError> {
    let path = format!("/{path}/{}", utf8_percent_encode(arn, SEGMENT));
    let body = catalogue::call(upstream, Method::GET, &path, Bytes::new()).await?;
    let description = serde_json::from_slice(&body).unwrap_or_default();
    let models = named_in(&description).into_iter().map(str::to_owned).collect();
    Ok(Looked { models, profile: None })
}

/// The models that a description names: all that a router may choose, and what a provisioned model is made from.
fn named_in(description: &Value) -> BTreeSet<&str> {
    let listed = description["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    let arns = listed.iter().map(|model| &model["modelArn"]).chain([
        &description["fallbackModel"]["modelArn"],
        &description["foundationModelArn"],
        &description["modelArn"],
    ]);
    arns.filter_map(|arn| Some(arn.as_str()?.rsplit_once('/')?.1)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_tells_what_limits_go_by() {
        let text = "[models.aliases]\nfast = \"us.meta.llama-v1:0\"\n".to_owned();
        let source = crate::config::Source::new(std::path::Path::new("config.toml"), text);
        let settings = settings::Settings::from_source(&source).unwrap().models;
        let arn = "arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/x1";
        for (asked, profile, name, behind) in [
            ("fast", Some("us.meta.llama-v1:0"), "us.meta.llama-v1:0", Behind::Itself),
            ("fast", None, "us.meta.llama-v1:0", Behind::Itself),
            ("old-alias", Some("us.meta.x"), "old-alias", Behind::Models(vec!["us.meta.x".to_owned()])),
            (arn, Some(arn), arn, Behind::Unknown),
            (arn, Some("us.meta.x"), arn, Behind::Models(vec!["us.meta.x".to_owned()])),
        ] {
            assert_eq!(of_record(asked, profile, &settings), (name.to_owned(), behind), "{asked} {profile:?}");
        }
    }

    #[test]
    fn descriptions_name_their_models() {
        let router = json!({
            "models": [{"modelArn": "arn:aws:bedrock:us-east-1:1:inference-profile/us.a.b-v1:0"},
                       {"modelArn": "arn:aws:bedrock:us-east-1::foundation-model/c.d-v1:0"}],
            "fallbackModel": {"modelArn": "arn:aws:bedrock:us-east-1::foundation-model/c.d-v1:0"},
        });
        assert_eq!(named_in(&router), BTreeSet::from(["us.a.b-v1:0", "c.d-v1:0"]));
        let provisioned = json!({
            "modelArn": "arn:aws:bedrock:us-east-1:1:custom-model/a.b-v1:0/xyz",
            "foundationModelArn": "arn:aws:bedrock:us-east-1::foundation-model/a.b-v1:0",
        });
        assert_eq!(named_in(&provisioned), BTreeSet::from(["a.b-v1:0", "xyz"]));
        assert_eq!(named_in(&json!({})), BTreeSet::new());
    }

    #[test]
    fn only_what_can_be_described_is_asked_for() {
        let of = |resource: &str| Kind::of(&format!("arn:aws:bedrock:us-east-1:123456789012:{resource}"));
        assert_eq!(of("application-inference-profile/a1"), Kind::ApplicationProfile);
        assert_eq!(of("prompt-router/a1"), Kind::PromptRouter);
        assert_eq!(of("default-prompt-router/anthropic.claude:1"), Kind::PromptRouter);
        assert_eq!(of("provisioned-model/a1"), Kind::ProvisionedModel);
        for own in ["imported-model/a1", "custom-model-deployment/a1"] {
            assert_eq!(of(own), Kind::OwnModel, "{own}");
        }
        for other in ["prompt/A1:1", "x", "Provisioned-Model/a1", "foundation-model2/a.b"] {
            assert_eq!(of(other), Kind::Other, "{other}");
        }
        for other in ["arn:aws:BEDROCK:us-east-1:1:provisioned-model/x", "arn:aws:s3:::prompt-router/x"] {
            assert_eq!(Kind::of(other), Kind::Other, "{other}");
        }
        assert!(![Kind::OwnModel, Kind::Other].into_iter().any(Kind::can_be_described));
    }
}
