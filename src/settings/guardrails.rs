//! What `[guardrails]` means: which commercial guardrail takes the place of one that an app names.

use std::collections::BTreeMap;

use toml::Spanned;

use crate::config::{ConfigError, Source};
use crate::operation::check_identifier;

/// From an identifier or ARN that apps use to the one that is sent.
pub(crate) type Guardrails = BTreeMap<String, String>;

pub(super) fn guardrails(
    written: BTreeMap<String, Spanned<String>>,
    source: &Source,
) -> Result<Guardrails, ConfigError> {
    let mut guardrails = Guardrails::new();
    for (asked, sent) in written {
        let fail = |sentence: String| Err(source.error(sent.span(), sentence));
        if !is_guardrail(&asked, &["aws-us-gov", "aws"]) {
            return fail(format!(
                "\"{asked}\" is no guardrail; write its identifier or \"arn:aws-us-gov:bedrock:REGION:ACCOUNT:guardrail/ID\"."
            ));
        }
        if !is_guardrail(sent.get_ref(), &["aws"]) {
            return fail(format!(
                "\"{}\" is no guardrail of the commercial account; write its identifier or \"arn:aws:bedrock:REGION:ACCOUNT:guardrail/ID\".",
                sent.get_ref()
            ));
        }
        guardrails.insert(asked, sent.into_inner());
    }
    Ok(guardrails)
}

/// An identifier such as `gr1a2b3c`, or the ARN of a guardrail in one of the partitions.
fn is_guardrail(text: &str, partitions: &[&str]) -> bool {
    if check_identifier(text).is_err() {
        return false;
    }
    if text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return true;
    }
    match text.split(':').collect::<Vec<_>>()[..] {
        ["arn", partition, "bedrock", _, _, resource] => {
            partitions.contains(&partition)
                && resource.strip_prefix("guardrail/").is_some_and(|id| !id.is_empty() && !id.contains('/'))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use std::path::Path;

    fn read(line: &str) -> Result<Guardrails, String> {
        let source = Source::new(Path::new("c.toml"), format!("[guardrails]\n{line}"));
        Settings::from_source(&source).map(|settings| settings.guardrails).map_err(|error| error.to_string())
    }

    #[test]
    fn arns_and_bare_identifiers_are_understood() {
        let arn = |partition| format!("arn:{partition}:bedrock:us-east-1:123456789012:guardrail/abc");
        let read = |asked: &str, sent: &str| read(&format!("\"{asked}\" = \"{sent}\""));
        for asked in [arn("aws-us-gov"), arn("aws"), "gr1".into()] {
            for sent in [arn("aws"), "gr2".into()] {
                assert_eq!(read(&asked, &sent).unwrap()[&asked], sent);
            }
        }
        for wrong in [arn("aws-us-gov"), arn("aws-cn"), String::new(), "A b".into(), "arn:aws:s3:::guardrail/x".into()]
        {
            let error = read("gr1", &wrong).unwrap_err();
            assert!(error.starts_with("c.toml:2:") && error.contains("no guardrail"), "{error}");
        }
        assert!(read("arn:aws-us-gov:bedrock:r:1:prompt/x", "gr2").unwrap_err().contains("no guardrail"));
    }
}
