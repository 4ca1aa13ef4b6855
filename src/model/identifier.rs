//! What a model identifier says by itself: a model, a profile of some geography, or an ARN; and what an identifier of one
//! partition stands for in the other.

use crate::error::{Refusal, RefusalKind};
use crate::partition::Partition;

/// First labels of inference profile identifiers that AWS uses (model support tables of the Bedrock user guide).
pub(crate) const GEOGRAPHIES: [&str; 10] = ["us", "us-gov", "eu", "apac", "jp", "au", "ca", "in", "sa", "global"];

/// The geography of all of GovCloud's profiles.
pub(crate) const GOVCLOUD_GEOGRAPHY: &str = "us-gov";

/// The geographies of commercial profiles in whose place a GovCloud one may stand: what it serves stays in the United States.
const HELD_BY_GOVCLOUD: [&str; 2] = ["us", "global"];

/// The geographies that commercial profiles have.
pub(crate) fn commercial_geographies() -> impl Iterator<Item = &'static str> {
    GEOGRAPHIES.into_iter().filter(|name| *name != GOVCLOUD_GEOGRAPHY)
}

/// Providers of models (the same tables). A name of three parts that begins with none of these, and with no geography, may
/// begin with a geography that is newer than this program.
const PROVIDERS: [&str; 21] = [
    "ai21",
    "amazon",
    "anthropic",
    "cohere",
    "deepseek",
    "google",
    "luma",
    "meta",
    "minimax",
    "mistral",
    "moonshot",
    "moonshotai",
    "nvidia",
    "openai",
    "qwen",
    "stability",
    "twelvelabs",
    "writer",
    "xai",
    "zai",
    "z-ai",
];

/// An identifier, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Identifier<'a> {
    /// A foundation model; `wants_profile` when it was asked for through a profile of the other partition.
    Model { id: &'a str, wants_profile: bool },
    /// `us.anthropic.…`, in GovCloud `us-gov.anthropic.…`: a system profile and the model it is named after.
    Profile { geography: &'a str, model: &'a str },
    /// `arn:aws:bedrock:…:foundation-model/…`
    ModelArn { id: &'a str },
    /// `arn:aws:bedrock:…:inference-profile/us.…`
    ProfileArn { id: &'a str, geography: &'a str, model: &'a str },
    /// `arn:aws:bedrock:…:application-inference-profile/…`
    ApplicationProfileArn,
    /// Provisioned throughput, imported and custom models, prompts, marketplace endpoints: sent as they are.
    OtherArn,
}

/// Reads an identifier as an upstream of a partition is to understand it. `is_profile` knows the profiles of the catalogue, for
/// geographies that are newer than this program.
///
/// # Errors
/// 400 for what is no identifier, or has no counterpart in that partition.
pub(crate) fn read<'a>(
    identifier: &'a str,
    partition: Partition,
    is_profile: impl Fn(&str) -> bool,
) -> Result<Identifier<'a>, Refusal> {
    if let Some(arn) = identifier.strip_prefix("arn:") {
        return read_arn(identifier, arn, partition);
    }
    match split_geography(identifier, is_profile) {
        Some((geography, model)) => {
            let foreign = foreign_profile(identifier, geography, model, partition)?;
            Ok(foreign.unwrap_or(Identifier::Profile { geography, model }))
        }
        None => Ok(Identifier::Model { id: identifier, wants_profile: false }),
    }
}

/// The same in the partition in which the name is at home: `us-gov.` profiles and ARNs of GovCloud are what they are there.
pub(crate) fn read_at_home(identifier: &str) -> Result<Identifier<'_>, Refusal> {
    read(identifier, Partition::of_name(identifier).unwrap_or_default(), |_| false)
}

/// The model in the place of a profile of the other partition; none if it is of this one.
fn foreign_profile<'a>(
    identifier: &str,
    geography: &str,
    model: &'a str,
    partition: Partition,
) -> Result<Option<Identifier<'a>>, Refusal> {
    let is_govclouds = geography == GOVCLOUD_GEOGRAPHY;
    match partition {
        Partition::Commercial if !is_govclouds => Ok(None),
        Partition::Govcloud if is_govclouds => Ok(None),
        Partition::Govcloud if !HELD_BY_GOVCLOUD.contains(&geography) => Err(Refusal::new(
            RefusalKind::Validation,
            format!(
                "\"{identifier:.200}\" is a profile of the geography \"{geography}\", in whose place GovCloud has none; name the model, or a us-gov profile."
            ),
        )),
        _ => Ok(Some(Identifier::Model { id: model, wants_profile: true })),
    }
}

fn split_geography(identifier: &str, is_profile: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    let (first, rest) = identifier.split_once('.')?;
    // A model identifier is provider.model, so a geography has two dots behind it; model names may hold more.
    (rest.contains('.') && (GEOGRAPHIES.contains(&first) || is_profile(identifier))).then_some((first, rest))
}

fn read_arn<'a>(identifier: &str, arn: &'a str, partition: Partition) -> Result<Identifier<'a>, Refusal> {
    let mut parts = arn.splitn(5, ':');
    let (Some(named), Some(service), Some(_), Some(_), Some(resource)) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::new(RefusalKind::Validation, format!("\"{identifier}\" is not a complete ARN.")));
    };
    let (kind, id) = resource.split_once('/').unwrap_or((resource, ""));
    let Some(home) = Partition::of_name(identifier) else {
        let served = match partition {
            Partition::Commercial => "commercial Bedrock serves arn:aws: only",
            Partition::Govcloud => "GovCloud serves arn:aws-us-gov: only",
        };
        return Err(Refusal::new(
            RefusalKind::Validation,
            format!("\"{identifier}\" is of the partition {named}; {served}."),
        ));
    };
    let is_foreign = home != partition;
    match (service, kind) {
        ("bedrock", "foundation-model") if is_foreign => Ok(Identifier::Model { id, wants_profile: false }),
        ("bedrock", "foundation-model") => Ok(Identifier::ModelArn { id }),
        ("bedrock", "inference-profile") => match split_geography(id, |_| true) {
            Some((geography, model)) => match foreign_profile(identifier, geography, model, partition)? {
                Some(counterpart) => Ok(counterpart),
                None if is_foreign => Err(bound_to(home, identifier)),
                None => Ok(Identifier::ProfileArn { id, geography, model }),
            },
            None if is_foreign => Err(bound_to(home, identifier)),
            None => Ok(Identifier::ApplicationProfileArn),
        },
        _ if is_foreign => Err(bound_to(home, identifier)),
        ("bedrock", "application-inference-profile") => Ok(Identifier::ApplicationProfileArn),
        _ => Ok(Identifier::OtherArn),
    }
}

/// Refuses the name of a model that begins with what is a geography, or may be one, or that is a path.
///
/// # Errors
/// 400 or 403, with what is wrong with it.
pub(super) fn check_plain(shown: &str, id: &str, is_provider: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let invalid = |why: &str| Err(Refusal::new(RefusalKind::Validation, format!("\"{shown:.200}\" {why}.")));
    if id.contains('/') {
        return invalid("holds a slash, which no model's name does");
    }
    let Some((first, rest)) = id.split_once('.') else { return Ok(()) };
    if !rest.contains('.') || PROVIDERS.contains(&first) || is_provider(first) {
        return Ok(());
    }
    if GEOGRAPHIES.iter().any(|geography| geography.eq_ignore_ascii_case(first)) {
        return invalid("names a geography where a model's provider stands");
    }
    Err(Refusal::new(
        RefusalKind::AccessDenied,
        format!(
            "\"{shown:.200}\" begins with \"{first:.64}\", which is no provider that is known here; if it is a geography, add it to models.geographies."
        ),
    ))
}

/// The refusal of an ARN whose model nobody can tell.
pub(super) fn untold(arn: &str) -> Refusal {
    Refusal::new(
        RefusalKind::AccessDenied,
        format!(
            "{arn:.200} does not tell which model it is, so that [models] cannot be checked; name the ARN in models.allow."
        ),
    )
}

fn bound_to(home: Partition, identifier: &str) -> Refusal {
    let sentence = match home {
        Partition::Govcloud => format!(
            "\"{identifier}\" belongs to a GovCloud account and does not exist on the commercial side; name the model or a commercial profile."
        ),
        Partition::Commercial => format!(
            "\"{identifier}\" belongs to a commercial account and does not exist in GovCloud; name the model or a us-gov profile."
        ),
    };
    Refusal::new(RefusalKind::Validation, sentence)
}

/// The regions that a geography keeps requests in (the user guide's table of cross-region inference).
pub(crate) fn geography_holds(geography: &str, region: &str) -> bool {
    match geography {
        "global" => true,
        "us" => region.starts_with("us-") && !region.starts_with("us-gov-"),
        GOVCLOUD_GEOGRAPHY => region.starts_with("us-gov-"),
        "eu" => region.starts_with("eu-"),
        "apac" => region.starts_with("ap-"),
        "jp" => matches!(region, "ap-northeast-1" | "ap-northeast-3"),
        "au" => matches!(region, "ap-southeast-2" | "ap-southeast-4"),
        "in" => matches!(region, "ap-south-1" | "ap-south-2"),
        "ca" => region.starts_with("ca-"),
        "sa" => region.starts_with("sa-"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(identifier: &str) -> Identifier<'_> {
        read(identifier, Partition::Commercial, |name| name == "mx.vendor.model-v1:0").unwrap()
    }

    #[test]
    fn models_profiles_and_arns_are_told_apart() {
        let plain = |id| Identifier::Model { id, wants_profile: false };
        assert_eq!(known("anthropic.claude-3-haiku-20240307-v1:0"), plain("anthropic.claude-3-haiku-20240307-v1:0"));
        assert_eq!(
            known("us.anthropic.claude-v1:0"),
            Identifier::Profile { geography: "us", model: "anthropic.claude-v1:0" }
        );
        assert_eq!(known("mx.vendor.model-v1:0"), Identifier::Profile { geography: "mx", model: "vendor.model-v1:0" });
        assert_eq!(known("openai.gpt-5.5"), plain("openai.gpt-5.5"));
        assert_eq!(known("us.claude"), plain("us.claude"));
        assert_eq!(
            known("arn:aws:bedrock:us-east-1::foundation-model/a.b-v1:0"),
            Identifier::ModelArn { id: "a.b-v1:0" }
        );
        assert_eq!(
            known("arn:aws:bedrock:us-east-1:1:inference-profile/us.a.b-v1:0"),
            Identifier::ProfileArn { id: "us.a.b-v1:0", geography: "us", model: "a.b-v1:0" }
        );
        assert_eq!(
            known("arn:aws:bedrock:us-east-1:1:application-inference-profile/x1"),
            Identifier::ApplicationProfileArn
        );
        assert_eq!(known("arn:aws:bedrock:us-east-1:1:provisioned-model/x1"), Identifier::OtherArn);
    }

    #[test]
    fn govcloud_forms_are_translated_or_refused() {
        let wants = |id| Identifier::Model { id, wants_profile: true };
        assert_eq!(known("us-gov.anthropic.claude-v1:0"), wants("anthropic.claude-v1:0"));
        assert_eq!(
            known("arn:aws-us-gov:bedrock:us-gov-west-1:1:inference-profile/us-gov.a.b-v1:0"),
            wants("a.b-v1:0")
        );
        assert_eq!(
            known("arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/a.b-v1:0"),
            Identifier::Model { id: "a.b-v1:0", wants_profile: false }
        );
        for refused in [
            "arn:aws-us-gov:bedrock:us-gov-west-1:1:application-inference-profile/x",
            "arn:aws-us-gov:bedrock:us-gov-west-1:1:provisioned-model/x",
            "arn:aws-us-gov:bedrock:us-gov-west-1:1:inference-profile/x",
            "arn:aws-us-gov:sagemaker:us-gov-west-1:1:endpoint/x",
            "arn:aws-cn:bedrock:cn-north-1::foundation-model/a.b",
            "arn:aws:bedrock",
        ] {
            let read = read(refused, Partition::Commercial, |_| false);
            assert_eq!(read.unwrap_err().kind, RefusalKind::Validation, "{refused}");
        }
    }

    #[test]
    fn govclouds_own_names_are_native_there_and_commercial_ones_are_translated_or_refused() {
        let model = |id, wants_profile| Ok(Identifier::Model { id, wants_profile });
        let profile_arn = |id| Ok(Identifier::ProfileArn { id, geography: "us-gov", model: "a.b-v1:0" });
        let gov = |resource: &str| format!("arn:aws-us-gov:bedrock:us-gov-west-1:{resource}");
        fn by(identifier: &str) -> Result<Identifier<'_>, RefusalKind> {
            read(identifier, Partition::Govcloud, |_| false).map_err(|refusal| refusal.kind)
        }
        assert_eq!(by("a.b-v1:0"), model("a.b-v1:0", false));
        assert_eq!(by("us-gov.a.b-v1:0"), Ok(Identifier::Profile { geography: "us-gov", model: "a.b-v1:0" }));
        assert_eq!(by(&gov("1:inference-profile/us-gov.a.b-v1:0")), profile_arn("us-gov.a.b-v1:0"));
        assert_eq!(by(&gov(":foundation-model/a.b-v1:0")), Ok(Identifier::ModelArn { id: "a.b-v1:0" }));
        assert_eq!(by(&gov("1:application-inference-profile/x")), Ok(Identifier::ApplicationProfileArn));
        assert_eq!(by(&gov("1:provisioned-model/x")), Ok(Identifier::OtherArn));
        assert_eq!(by("us.a.b-v1:0"), model("a.b-v1:0", true));
        assert_eq!(by("global.a.b-v1:0"), model("a.b-v1:0", true));
        assert_eq!(by("arn:aws:bedrock:us-east-1::foundation-model/a.b-v1:0"), model("a.b-v1:0", false));
        assert_eq!(by("arn:aws:bedrock:us-east-1:1:inference-profile/us.a.b-v1:0"), model("a.b-v1:0", true));
        for refused in [
            "eu.a.b-v1:0",
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/x",
            "arn:aws:bedrock:us-east-1:1:provisioned-model/x",
            "arn:aws:bedrock:us-east-1:1:inference-profile/eu.a.b-v1:0",
            "arn:aws-cn:bedrock:cn-north-1::foundation-model/a.b",
        ] {
            assert_eq!(by(refused), Err(RefusalKind::Validation), "{refused}");
        }
    }
}
