//! Why an AWS service could not be asked, in one sentence. The SDKs tell it as a chain of causes, each with its own words.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::result::SdkError;

/// What is said of an error that others have worded, in bytes at most.
const LONGEST_REASON: usize = 500;

/// A call that no service has answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// What is missing and what to do, without a full stop.
    pub sentence: String,
    /// It was not sent, because there was nothing to sign it with.
    pub lacks_credentials: bool,
}

/// Of an error without a code: a service's own errors say enough themselves.
pub(crate) fn unanswered<E, R>(error: &SdkError<E, R>) -> Unanswered
where
    E: Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    if let Some(credentials) = causes(error).find_map(|cause| cause.downcast_ref::<CredentialsError>()) {
        return Unanswered { sentence: without_credentials(credentials), lacks_credentials: true };
    }
    let cause = deepest(error);
    let timed_out = match error {
        SdkError::TimeoutError(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_timeout(),
        _ => false,
    };
    let sentence = match error {
        _ if timed_out => {
            "it gave no answer in time; look at routes, security groups and VPC endpoints on the way to it".to_owned()
        }
        SdkError::DispatchFailure(_) => format!("there is no connection to it ({cause})"),
        _ => format!("its answer cannot be read ({cause})"),
    };
    Unanswered { sentence, lacks_credentials: false }
}

/// Of a look for credentials that found none.
pub(crate) fn without_credentials(error: &CredentialsError) -> String {
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            "this host has no AWS credentials; give it a role (an instance profile, or the task's role), or name a profile in AWS_PROFILE".to_owned()
        }
        CredentialsError::ProviderTimedOut(_) => {
            "this host's AWS credentials did not come in time; look at the way to the instance metadata (IMDS), or to what else gives them".to_owned()
        }
        other => {
            let cause = deepest(other);
            // What a credential_process has written to its standard error may be keys, and callers are told this sentence.
            let told = cause.split(" Stderr:").next().unwrap_or_default();
            format!("this host's AWS credentials cannot be had ({told})")
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (**error).source())
}

fn deepest(error: &(dyn Error + 'static)) -> String {
    bounded(&causes(error).last().map(ToString::to_string).unwrap_or_default())
}

/// An error that others have worded, on one line and not too long.
pub(crate) fn bounded(text: &str) -> String {
    let mut short = String::new();
    for shown in text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }) {
        if short.len() + shown.len() > LONGEST_REASON {
            return short + "…";
        }
        short.push_str(&shown);
    }
    short
}

#[cfg(test)]
mod tests {
    use aws_smithy_runtime_api::client::result::ConnectorError;

    use super::*;

    type Failed = SdkError<std::io::Error, ()>;

    #[test]
    fn errors_that_others_have_worded_are_one_short_line() {
        assert_eq!(bounded("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert!(bounded(&"é\n".repeat(10_000)).len() <= LONGEST_REASON + "…".len());
    }

    #[test]
    fn what_is_missing_is_said_and_not_the_chain_of_causes() {
        let io = |kind, text: &str| std::io::Error::new(kind, text.to_owned());
        let none = CredentialsError::not_loaded("no providers in chain provided credentials");
        let broken = CredentialsError::provider_error(io(std::io::ErrorKind::Other, "profile \"x\" is not\ndefined"));
        // As the SDK words it.
        let process = CredentialsError::provider_error(
            "Error retrieving credentials: external process exited with code exit status: 3. Stderr: SECRET",
        );
        let refused = io(std::io::ErrorKind::ConnectionRefused, "Connection refused (os error 111)");
        for (error, lacks, says) in [
            (Failed::dispatch_failure(ConnectorError::other(none.into(), None)), true, "give it a role"),
            (Failed::construction_failure(CredentialsError::not_loaded("x")), true, "give it a role"),
            (
                Failed::dispatch_failure(ConnectorError::other(broken.into(), None)),
                true,
                "this host's AWS credentials cannot be had (profile \"x\" is not\\ndefined)",
            ),
            (
                Failed::dispatch_failure(ConnectorError::other(process.into(), None)),
                true,
                "cannot be had (Error retrieving credentials: external process exited with code exit status: 3.)",
            ),
            (Failed::timeout_error("x"), false, "it gave no answer in time"),
            (Failed::dispatch_failure(ConnectorError::timeout("x".into())), false, "it gave no answer in time"),
            (
                Failed::dispatch_failure(ConnectorError::io(refused.into())),
                false,
                "there is no connection to it (Connection refused (os error 111))",
            ),
            (Failed::response_error("not JSON", ()), false, "its answer cannot be read (not JSON)"),
        ] {
            let Unanswered { sentence, lacks_credentials } = unanswered(&error);
            assert!(sentence.contains(says), "{sentence}");
            assert_eq!(lacks_credentials, lacks, "{sentence}");
            for chain in ["dispatch failure", "other:", "an error occurred", "\n", "SECRET"] {
                assert!(!sentence.contains(chain), "{sentence}");
            }
        }
    }
}
