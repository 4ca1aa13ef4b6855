//! Which models a pattern of `[limits.models]` or of the price file fits.

use crate::config::Glob;

/// Whether a pattern fits a model under any of its names: as it was written, without the ARN before it, and without the
/// geography of an inference profile. So `anthropic.*` also limits `us.anthropic.…`, and no spelling evades a limit.
pub(crate) fn fits(glob: &Glob, model: &str) -> bool {
    if glob.matches(model) {
        return true;
    }
    let resource = model.rsplit('/').next().unwrap_or(model);
    if resource.len() != model.len() && glob.matches(resource) {
        return true;
    }
    match resource.split_once('.') {
        Some((geography, rest)) if is_geography(geography) => glob.matches(rest),
        _ => false,
    }
}

fn is_geography(text: &str) -> bool {
    matches!(text, "global" | "apac" | "us-gov")
        || (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
