//! The models and system profiles of a region. Identifiers are AWS's; how each behaves is chosen to cover every case
//! a client meets, and is not a claim about that model at AWS today.

use serde_json::{Value, json};

use crate::partition;
use crate::reply::AwsError;

/// Whose request and answer shape a model speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vendor {
    Anthropic,
    Nova,
    Titan,
    TitanEmbed,
    Llama,
    Mistral,
    Cohere,
    CohereEmbed,
    /// Served by Rerank alone.
    Rerank,
    OpenAi,
    Image,
    Video,
    Speech,
}

/// What happens on invoking a model by its bare identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serve {
    OnDemand,
    /// Refused with the on-demand text; through a profile it answers.
    ProfileOnly,
    /// The same with the straight apostrophe, which also occurs.
    ProfileOnlyStraight,
    ProvisionedOnly,
    Denied,
    NeedsForm,
}

/// One foundation model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Model {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) vendor: Vendor,
    pub(crate) serve: Serve,
    /// What the catalogue claims, which is not always what is true.
    listed: &'static [&'static str],
    /// Geographies with a system profile.
    profiles: &'static [&'static str],
    legacy: bool,
}

const fn model(
    id: &'static str,
    name: &'static str,
    vendor: Vendor,
    serve: Serve,
    listed: &'static [&'static str],
    profiles: &'static [&'static str],
) -> Model {
    Model { id, name, vendor, serve, listed, profiles, legacy: false }
}

const fn legacy(model: Model) -> Model {
    Model { legacy: true, ..model }
}

const OD: &[&str] = &["ON_DEMAND"];
const IP: &[&str] = &["INFERENCE_PROFILE"];
const BOTH: &[&str] = &["ON_DEMAND", "INFERENCE_PROFILE"];
const PT: &[&str] = &["PROVISIONED"];

use Serve::*;
use Vendor::*;

const MODELS: [Model; 30] = [
    model("anthropic.claude-3-haiku-20240307-v1:0", "Claude 3 Haiku", Anthropic, OnDemand, OD, &["us", "eu", "apac"]),
    model("anthropic.claude-3-haiku-20240307-v1:0:48k", "Claude 3 Haiku", Anthropic, ProvisionedOnly, PT, &[]),
    model("anthropic.claude-opus-4-1-20250805-v1:0", "Claude Opus 4.1", Anthropic, ProfileOnly, IP, &["us"]),
    model(
        "anthropic.claude-3-5-sonnet-20241022-v2:0",
        "Claude 3.5 Sonnet v2",
        Anthropic,
        ProfileOnly,
        IP,
        &["us", "apac"],
    ),
    model(
        "anthropic.claude-sonnet-4-5-20250929-v1:0",
        "Claude Sonnet 4.5",
        Anthropic,
        ProfileOnly,
        IP,
        &["us", "eu", "jp", "au", "global"],
    ),
    model("anthropic.claude-haiku-4-5-20251001-v1:0", "Claude Haiku 4.5", Anthropic, ProfileOnly, IP, &["global"]),
    model("anthropic.claude-3-opus-20240229-v1:0", "Claude 3 Opus", Anthropic, NeedsForm, OD, &["us"]),
    model("amazon.titan-text-lite-v1", "Titan Text G1 - Lite", Titan, OnDemand, OD, &[]),
    legacy(model("amazon.titan-text-express-v1", "Titan Text G1 - Express", Titan, OnDemand, OD, &[])),
    model("amazon.titan-embed-text-v2:0", "Titan Text Embeddings V2", TitanEmbed, OnDemand, OD, &[]),
    model("amazon.titan-image-generator-v2:0", "Titan Image Generator G1 v2", Image, OnDemand, OD, &[]),
    model("amazon.nova-micro-v1:0", "Nova Micro", Nova, OnDemand, BOTH, &["us", "eu", "apac"]),
    model("amazon.nova-lite-v1:0", "Nova Lite", Nova, OnDemand, BOTH, &["us", "eu", "apac"]),
    model("amazon.nova-premier-v1:0", "Nova Premier", Nova, ProfileOnly, IP, &["us"]),
    model("amazon.nova-reel-v1:0", "Nova Reel", Video, OnDemand, OD, &[]),
    model("amazon.nova-sonic-v1:0", "Nova Sonic", Speech, OnDemand, OD, &[]),
    model("meta.llama4-scout-17b-instruct-v1:0", "Llama 4 Scout 17B Instruct", Llama, ProfileOnly, IP, &["us"]),
    // Listed as ON_DEMAND, and yet refused with the on-demand text: one with each apostrophe.
    model("meta.llama3-3-70b-instruct-v1:0", "Llama 3.3 70B Instruct", Llama, ProfileOnly, OD, &["us"]),
    model("meta.llama3-2-11b-instruct-v1:0", "Llama 3.2 11B Instruct", Llama, ProfileOnlyStraight, OD, &["us"]),
    model("meta.llama3-8b-instruct-v1:0", "Llama 3 8B Instruct", Llama, OnDemand, OD, &[]),
    model("mistral.mistral-7b-instruct-v0:2", "Mistral 7B Instruct", Mistral, OnDemand, OD, &[]),
    // No system profile anywhere: only an application profile makes it invokable.
    model("mistral.pixtral-large-2502-v1:0", "Pixtral Large (25.02)", Mistral, ProfileOnly, IP, &[]),
    model("cohere.command-r-v1:0", "Command R", Cohere, OnDemand, OD, &[]),
    model("cohere.command-text-v14:7:4k", "Command", Cohere, ProvisionedOnly, PT, &[]),
    model("cohere.embed-english-v3", "Embed English", CohereEmbed, OnDemand, OD, &[]),
    model("cohere.rerank-v3-5:0", "Rerank 3.5", Rerank, OnDemand, OD, &[]),
    // Of a provider that nobody knows but by this catalogue.
    model("newcomer.reader.small-v1:0", "Reader Small", Titan, OnDemand, OD, &[]),
    model("ai21.jamba-1-5-large-v1:0", "Jamba 1.5 Large", Mistral, Denied, OD, &[]),
    model("deepseek.r1-v1:0", "DeepSeek-R1", Llama, ProfileOnly, IP, &["us"]),
    model("openai.gpt-oss-20b-1:0", "gpt-oss-20b", OpenAi, OnDemand, OD, &[]),
];

/// Those of the mantle host, which knows no others.
static MANTLE: [Model; 8] = [
    model("openai.gpt-oss-20b", "gpt-oss-20b", OpenAi, OnDemand, &[], &[]),
    model("openai.gpt-oss-120b", "gpt-oss-120b", OpenAi, OnDemand, &[], &[]),
    model(BELOW_OPENAI[0], "GPT-5.4", OpenAi, OnDemand, &[], &[]),
    model(BELOW_OPENAI[1], "GPT-5.5", OpenAi, OnDemand, &[], &[]),
    model(CHAT_ONLY, "Nemotron Nano 9B v2", OpenAi, OnDemand, &[], &[]),
    model("mistral.mistral-large-3-675b-instruct", "Mistral Large 3", OpenAi, OnDemand, &[], &[]),
    model("anthropic.claude-haiku-4-5", "Claude Haiku 4.5", Anthropic, OnDemand, &[], &[]),
    model("anthropic.claude-opus-4-7", "Claude Opus 4.7", Anthropic, OnDemand, &[], &[]),
];

/// These are served under `/openai/v1` and not under `/v1`; all others the other way round.
const BELOW_OPENAI: [&str; 2] = ["openai.gpt-5.4", "openai.gpt-5.5"];

/// This one makes no responses.
const CHAT_ONLY: &str = "nvidia.nemotron-nano-9b-v2";

/// Whether the mantle host serves this model on a path of OpenAI's API.
pub(crate) fn serves(id: &str, path: &str) -> bool {
    path.starts_with("/openai/") == BELOW_OPENAI.contains(&id) && !(id == CHAT_ONLY && path.ends_with("/responses"))
}

pub(crate) fn all_on_mantle() -> impl Iterator<Item = &'static Model> {
    MANTLE.iter()
}

/// The model of the mantle host with this identifier.
pub(crate) fn on_mantle(id: &str) -> Option<&'static Model> {
    all_on_mantle().find(|model| model.id == id)
}

/// GovCloud has some of them, under profiles of its own, and one that commercial regions have no more.
const GOVCLOUD: [Model; 7] = [
    model("anthropic.claude-3-haiku-20240307-v1:0", "Claude 3 Haiku", Anthropic, OnDemand, OD, &["us-gov"]),
    model("anthropic.claude-3-5-sonnet-20241022-v2:0", "Claude 3.5 Sonnet v2", Anthropic, ProfileOnly, IP, &["us-gov"]),
    model("anthropic.claude-sonnet-4-5-20250929-v1:0", "Claude Sonnet 4.5", Anthropic, ProfileOnly, IP, &["us-gov"]),
    model("amazon.nova-lite-v1:0", "Nova Lite", Nova, OnDemand, BOTH, &["us-gov"]),
    model("amazon.titan-embed-text-v2:0", "Titan Text Embeddings V2", TitanEmbed, OnDemand, OD, &[]),
    model("amazon.titan-tg1-large", "Titan Text Large", Titan, OnDemand, OD, &[]),
    model("mistral.pixtral-large-2502-v1:0", "Pixtral Large (25.02)", Mistral, ProfileOnly, IP, &[]),
];

/// The models of a region. All commercial ones have the same, and so have those of GovCloud.
pub(crate) fn models(region: &str) -> &'static [Model] {
    if partition::is_govcloud(region) { &GOVCLOUD } else { &MODELS }
}

/// The model with this identifier.
pub(crate) fn find(id: &str, region: &str) -> Option<&'static Model> {
    models(region).iter().find(|model| model.id == id)
}

/// The profile prefixes a region offers. Tokyo has `jp.` besides `apac.`: they cannot be derived from the region's name.
fn geographies(region: &str) -> &'static [&'static str] {
    match region {
        "ap-northeast-1" | "ap-northeast-3" => &["apac", "jp", "global"],
        "ap-southeast-2" | "ap-southeast-4" => &["apac", "au", "global"],
        "ca-central-1" => &["us", "ca", "global"],
        region if partition::is_govcloud(region) => &["us-gov"],
        region if region.starts_with("us-") => &["us", "global"],
        region if region.starts_with("eu-") => &["eu", "global"],
        _ => &["apac", "global"],
    }
}

/// The regions a geography's profiles spread over.
fn regions_of(geography: &str) -> &'static [&'static str] {
    match geography {
        "us-gov" => &["us-gov-west-1", "us-gov-east-1"],
        "us" => &["us-east-1", "us-east-2", "us-west-2"],
        "eu" => &["eu-central-1", "eu-west-1", "eu-west-3"],
        "jp" => &["ap-northeast-1", "ap-northeast-3"],
        "au" => &["ap-southeast-2", "ap-southeast-4"],
        "apac" => &["ap-northeast-1", "ap-southeast-1", "ap-southeast-2"],
        "global" => &[""],
        _ => &["us-east-1"],
    }
}

/// A system-defined inference profile.
#[derive(Debug, Clone)]
pub(crate) struct SystemProfile {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) model: &'static Model,
    geography: &'static str,
}

impl SystemProfile {
    pub(crate) fn model_arns(&self) -> Vec<String> {
        regions_of(self.geography).iter().map(|region| self.model.arn(region)).collect()
    }
}

/// The system profiles of a region, in a fixed order.
pub(crate) fn system_profiles(region: &str) -> Vec<SystemProfile> {
    let mut profiles = Vec::new();
    for model in models(region) {
        for geography in geographies(region).iter().filter(|geography| model.profiles.contains(geography)) {
            profiles.push(SystemProfile {
                id: format!("{geography}.{}", model.id),
                name: format!("{} {}", geography.to_uppercase(), model.name),
                model,
                geography,
            });
        }
    }
    profiles
}

impl Model {
    pub(crate) fn arn(&self, region: &str) -> String {
        format!("{}:bedrock:{region}::foundation-model/{}", partition::arn(region), self.id)
    }

    pub(crate) fn provider(&self) -> &'static str {
        match self.id.split('.').next().unwrap_or_default() {
            "anthropic" => "Anthropic",
            "amazon" => "Amazon",
            "meta" => "Meta",
            "mistral" => "Mistral AI",
            "cohere" => "Cohere",
            "ai21" => "AI21 Labs",
            "deepseek" => "DeepSeek",
            "newcomer" => "Newcomer",
            _ => "OpenAI",
        }
    }

    pub(crate) fn modalities(&self) -> (&'static [&'static str], &'static [&'static str]) {
        match self.vendor {
            TitanEmbed | CohereEmbed => (&["TEXT"], &["EMBEDDING"]),
            Image => (&["TEXT", "IMAGE"], &["IMAGE"]),
            Video => (&["TEXT", "IMAGE"], &["VIDEO"]),
            Speech => (&["SPEECH"], &["SPEECH", "TEXT"]),
            Anthropic | Nova => (&["TEXT", "IMAGE"], &["TEXT"]),
            _ => (&["TEXT"], &["TEXT"]),
        }
    }

    pub(crate) fn streams(&self) -> bool {
        self.modalities().1 == ["TEXT"]
    }

    pub(crate) fn lists(&self, inference_type: &str) -> bool {
        self.listed.contains(&inference_type)
    }

    /// As in `modelSummaries`.
    pub(crate) fn summary(&self, region: &str) -> Value {
        let (input, output) = self.modalities();
        json!({
            "modelArn": self.arn(region),
            "modelId": self.id,
            "modelName": self.name,
            "providerName": self.provider(),
            "inputModalities": input,
            "outputModalities": output,
            "responseStreamingSupported": self.streams(),
            "customizationsSupported": [],
            "inferenceTypesSupported": self.listed,
            "modelLifecycle": {"status": if self.legacy { "LEGACY" } else { "ACTIVE" }},
        })
    }

    /// Whether it may be invoked; `direct` without a profile, `named` as the client named it.
    pub(crate) fn admit(&self, direct: bool, named: &str) -> Result<(), AwsError> {
        let refuse = |apostrophe: char| {
            Err(AwsError::validation(format!(
                "Invocation of model ID {named} with on-demand throughput isn{apostrophe}t supported. Retry your request \
                 with the ID or ARN of an inference profile that contains this model."
            )))
        };
        match self.serve {
            Denied => Err(AwsError::new(
                403,
                "AccessDeniedException",
                "You don't have access to the model with the specified model ID.",
            )),
            NeedsForm => Err(AwsError::not_found(
                "Model use case details have not been submitted for this account. Fill out the Anthropic use case \
                 details form before using the model. If you have already filled out the form, try again in 15 minutes.",
            )),
            ProfileOnly | ProvisionedOnly if direct => refuse('’'),
            ProfileOnlyStraight if direct => refuse('\''),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_differ_in_their_profiles() {
        let ids = |region| system_profiles(region).into_iter().map(|profile| profile.id).collect::<Vec<_>>();
        assert!(ids("us-east-1").contains(&"us.amazon.nova-premier-v1:0".to_owned()));
        assert!(ids("ap-northeast-1").contains(&"jp.anthropic.claude-sonnet-4-5-20250929-v1:0".to_owned()));
        assert!(!ids("eu-west-1").iter().any(|id| id.starts_with("us.")));
        assert!(ids("us-east-1").len() > 10, "enough for three pages");
        assert!(ids("us-gov-west-1").iter().all(|id| id.starts_with("us-gov.")));
        assert!(
            find("amazon.titan-tg1-large", "us-gov-east-1").is_some()
                && find("amazon.titan-tg1-large", "us-west-2").is_none()
        );
    }

    #[test]
    fn the_on_demand_text_is_awss() {
        let refused =
            find("amazon.nova-premier-v1:0", "us-east-1").map(|model| model.admit(true, "amazon.nova-premier-v1:0"));
        let text = refused.and_then(Result::err).map(|error| error.message).unwrap_or_default();
        assert_eq!(
            text,
            "Invocation of model ID amazon.nova-premier-v1:0 with on-demand throughput isn’t supported. Retry your \
             request with the ID or ARN of an inference profile that contains this model."
        );
    }
}
