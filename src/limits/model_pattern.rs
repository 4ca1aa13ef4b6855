//! Which models a pattern of `[limits.models]` or of the price file fits.

use std::borrow::Cow;

use crate::config::Glob;

/// Whether a pattern fits a model under any of its names: as it was written, without the ARN before it, and without the
/// geography of an inference profile. So `anthropic.*` also limits `us.anthropic.…`, and no spelling evades a limit.
pub(crate) fn fits(glob: &Glob, model: &str) -> bool {
    names(model).into_iter().flatten().any(|name| glob.matches(name))
}

/// The same, whatever the case in which pattern and model are written.
pub(crate) fn fits_in_any_case(glob: &Glob, model: &str) -> bool {
    let lower = match model.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(model.to_ascii_lowercase()),
        false => Cow::Borrowed(model),
    };
    names(&lower).into_iter().flatten().any(|name| glob.matches_any_case(name))
}

/// What a model may be called: as it was written, and what is left without an ARN and without a geography.
fn names(model: &str) -> [Option<&str>; 3] {
    let resource = model.rsplit('/').next().unwrap_or(model);
    let bare = resource.split_once('.').filter(|(geography, _)| is_geography(geography)).map(|(_, rest)| rest);
    [Some(model), (resource.len() != model.len()).then_some(resource), bare]
}

fn is_geography(text: &str) -> bool {
    matches!(text, "global" | "apac" | "us-gov")
        || (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_makes_no_difference_where_it_must_not() {
        for pattern in ["anthropic.claude-*", "Anthropic.Claude-*", "ANTHROPIC.*"] {
            for model in [
                "anthropic.claude-v2",
                "US.Anthropic.Claude-v2",
                "arn:aws:bedrock:x::foundation-model/anthropic.CLAUDE-2",
            ] {
                assert!(fits_in_any_case(&Glob::new(pattern), model), "{pattern} {model}");
            }
            assert!(!fits_in_any_case(&Glob::new(pattern), "amazon.claude-v2"), "{pattern}");
        }
        assert!(!fits(&Glob::new("Anthropic.*"), "anthropic.claude-v2"), "limits are for names as AWS writes them");
    }

    #[test]
    fn a_profile_is_still_its_model() {
        let glob = Glob::new("anthropic.*");
        for model in [
            "anthropic.claude-v2",
            "us.anthropic.claude-v2",
            "global.anthropic.claude-v2",
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-v2",
            "arn:aws:bedrock:us-east-1:1:inference-profile/eu.anthropic.claude-v2",
        ] {
            assert!(fits(&glob, model), "{model}");
        }
        for model in ["amazon.anthropic.x", "meta.llama", "", "us.", "usa.anthropic.x"] {
            assert!(!fits(&glob, model), "{model}");
        }
    }
}
