//! `bedrock-sidecar env`: what an app's environment needs, for `eval "$(bedrock-sidecar env)"`.

use std::io::{self, Write};
use std::process::ExitCode;

use super::failed;
use crate::settings::Settings;

/// What no line here can decide, because it depends on the app. Comments stand behind the variables, so that they do no harm
/// if a shell reads all lines as one.
const REMARKS: &str = "\
# AWS_USE_FIPS_ENDPOINT: the SDKs for JavaScript, Java, Go and Rust refuse it together with an endpoint of one's own, and
#   so does JavaScript with AWS_USE_DUALSTACK_ENDPOINT. Unset it for such an app, if the app needs it for no other service.
#   boto3, the AWS CLI and Claude Code work with it. The daemon itself calls FIPS hosts.
# AWS_BEARER_TOKEN_BEDROCK: boto3 and Go do not send it over http, even if AWS keys are there too. Unset it for such an app,
#   or use [listen.tls] and name its CA in AWS_CA_BUNDLE.
# AWS_ENDPOINT_URL_BEDROCK_AGENT_RUNTIME: of that service the daemon relays Rerank. Unset it for an app that uses knowledge
#   bases, agents or flows of GovCloud, and give the address to its client for Rerank alone.
# Clients that read none of the variables above are in docs/apps.md.
";

pub(super) fn env(settings: Settings, out: &mut dyn Write) -> io::Result<ExitCode> {
    let Some(address) = settings.listen.addresses.first() else {
        return Ok(failed("listen.addresses is empty, and SDKs cannot use a unix socket by an environment variable."));
    };
    for name in [
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",
        "AWS_ENDPOINT_URL_BEDROCK",
        "ANTHROPIC_BEDROCK_BASE_URL",
        "AWS_ENDPOINT_URL_BEDROCK_AGENT_RUNTIME",
    ] {
        writeln!(out, "export {name}=http://{address}")?;
    }
    if settings.mantle.enabled {
        for (name, path) in [("AWS_BEDROCK_BASE_URL", "v1"), ("ANTHROPIC_BEDROCK_MANTLE_BASE_URL", "anthropic")] {
            writeln!(out, "export {name}=http://{address}/{path}")?;
        }
    }
    // With HTTP_PROXY set, clients would ask the proxy for this host's loopback. Some read the one spelling, some the other,
    // so that both have to name everything; one command sets both, so that neither sees the other's new value.
    let direct = format!("\"${{NO_PROXY:+$NO_PROXY,}}${{no_proxy:+$no_proxy,}}{},localhost\"", address.ip());
    writeln!(out, "export NO_PROXY={direct} no_proxy={direct}")?;
    write!(out, "{REMARKS}")?;
    Ok(ExitCode::SUCCESS)
}
