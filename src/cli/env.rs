//! `bedrock-sidecar env`: what an app's environment needs, for `eval "$(bedrock-sidecar env)"`.

use std::process::ExitCode;

use super::{complain, say};
use crate::settings::Settings;

pub(super) fn env(settings: Settings) -> ExitCode {
    let Some(address) = settings.listen.addresses.first() else {
        complain(
            "bedrock-sidecar: listen.addresses is empty, and SDKs cannot use a unix socket by an environment variable.",
        );
        return ExitCode::FAILURE;
    };
    let endpoint = format!("http://{address}");
    for name in ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL_BEDROCK", "ANTHROPIC_BEDROCK_BASE_URL"] {
        say(&format!("export {name}={endpoint}"));
    }
    // SDKs refuse FIPS together with an endpoint of their own; the daemon itself uses FIPS hosts.
    say("unset AWS_USE_FIPS_ENDPOINT");
    ExitCode::SUCCESS
}
