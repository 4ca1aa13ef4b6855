//! The models behind a name that does not tell its model: an application profile, a prompt router, provisioned throughput.
//! Limits and prices go by them, so they are found before a request is admitted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use percent_encoding::utf8_percent_encode;
use serde_json::Value;

use super::identifier::{self, Identifier};
use super::{Models, catalogue, lock};
use crate::limits::Behind;
use crate::operation::SEGMENT;
use crate::upstream::Upstream;

/// A request waits no longer for this; then what stands behind the name is unknown.
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// What could not be found is looked for again after this long.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// Names that are kept. More than an account has; a bound against clients that make names up.
const MOST_NAMES: usize = 4_096;

/// What was found for names, until when it holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    names: Mutex<HashMap<String, (Behind, Instant)>>,
    /// One search at a time: requests that arrive together need one call, not one each.
    searching: tokio::sync::Mutex<()>,
}

impl Found {
    fn recall(&self, name: &str) -> Option<Behind> {
        let names = lock(&self.names);
        names.get(name).filter(|(_, until)| *until > Instant::now()).map(|(behind, _)| behind.clone())
    }

    fn keep(&self, name: &str, behind: &Behind, time: Duration) {
        let mut names = lock(&self.names);
        let now = Instant::now();
        if names.len() >= MOST_NAMES {
            names.retain(|_, (_, until)| *until > now);
        }
        if names.len() < MOST_NAMES {
            names.insert(name.to_owned(), (behind.clone(), now + time));
        }
    }
}

impl Models {
    /// What stands behind a name, after aliases: from the catalogue, or asked of the upstream once and kept.
    pub(crate) async fn behind(&self, name: &str, upstream: &Upstream) -> Behind {
        let identifier = identifier::read(name, |_| false);
        if let Ok(Identifier::Profile { .. } | Identifier::ProfileArn { .. } | Identifier::ModelArn { .. }) = identifier
        {
            return Behind::Itself;
        }
        if let Some(listed) = self.catalogue.load().as_ref()
            && let Some(profile) = listed.catalogue.profile(name)
        {
            return models(profile.model_ids());
        }
        let Ok(Identifier::ApplicationProfileArn | Identifier::OtherArn) = identifier else {
            return Behind::Itself;
        };
        if let Some(found) = self.behind.recall(name) {
            return found;
        }
        // Whoever waits in vain behind others knows nothing either.
        tokio::time::timeout(2 * LONGEST_LOOK, self.search(name, upstream)).await.unwrap_or(Behind::Unknown)
    }

    async fn search(&self, name: &str, upstream: &Upstream) -> Behind {
        let _one_at_a_time = self.behind.searching.lock().await;
        if let Some(found) = self.behind.recall(name) {
            return found;
        }
        let look = async {
            match identifier::read(name, |_| false) {
                Ok(Identifier::ApplicationProfileArn) => match self.look_up(name, upstream).await {
                    Ok(profile) => models(profile.model_ids()),
                    Err(_) => Behind::Unknown,
                },
                _ => described(name, upstream).await,
            }
        };
        // A look-up that hangs is kept as unknown too, or every request would wait for it again.
        let behind = tokio::time::timeout(LONGEST_LOOK, look).await.unwrap_or(Behind::Unknown);
        let time = if behind == Behind::Unknown { UNKNOWN_FOR } else { self.settings.refresh_interval };
        self.behind.keep(name, &behind, time);
        behind
    }
}

/// Asks what a prompt router or provisioned throughput is made of.
async fn described(arn: &str, upstream: &Upstream) -> Behind {
    let kind = arn.splitn(6, ':').nth(5).and_then(|resource| resource.split_once('/')).map(|(kind, _)| kind);
    let operation = match kind {
        Some("prompt-router" | "default-prompt-router") => "prompt-routers",
        Some("provisioned-model") => "provisioned-model-throughput",
        _ => return Behind::Unknown,
    };
    let path = format!("/{operation}/{}", utf8_percent_encode(arn, SEGMENT));
    match catalogue::call(upstream, Method::GET, &path, Bytes::new()).await {
        Ok(body) => models(named_in(&serde_json::from_slice(&body).unwrap_or_default())),
        Err(_) => Behind::Unknown,
    }
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

fn models(names: BTreeSet<&str>) -> Behind {
    if names.is_empty() {
        return Behind::Unknown;
    }
    Behind::Models(names.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        assert_eq!(models(named_in(&provisioned)), Behind::Models(vec!["a.b-v1:0".into(), "xyz".into()]));
        assert_eq!(models(named_in(&json!({}))), Behind::Unknown);
    }

    #[test]
    fn names_are_bounded() {
        let found = Found::default();
        for number in 0..MOST_NAMES + 10 {
            found.keep(&number.to_string(), &Behind::Unknown, Duration::from_secs(60));
        }
        assert_eq!(lock(&found.names).len(), MOST_NAMES);
        assert_eq!(found.recall("0"), Some(Behind::Unknown));
        assert_eq!(found.recall("x"), None);
    }
}
