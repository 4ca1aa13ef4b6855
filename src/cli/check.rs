//! `bedrock-sidecar check`: the configuration, and with `--online` each thing that the daemon will need, a line each.

use std::process::ExitCode;
use std::time::SystemTime;

use super::{complain, say};
use crate::app;
use crate::auditor::check::{Verdict, check_online};
use crate::crypto;
use crate::model::catalogue;
use crate::road::Region;
use crate::settings::secrets::exposed;
use crate::settings::tls::out_of_date;
use crate::settings::{SecretLocation, Settings};

pub(super) fn check(settings: Settings, online: bool) -> ExitCode {
    let file = settings.path.as_ref().map_or("built-in defaults".to_owned(), |path| path.display().to_string());
    say(&format!("ok    configuration: {file}"));
    for warning in settings.all_warnings() {
        say(&format!("warn  {warning}"));
    }
    say(&format!("info  FIPS module: {}", crypto::module()));
    for warning in warnings(&settings) {
        say(&format!("warn  {warning}"));
    }
    if !online {
        return ExitCode::SUCCESS;
    }
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("bedrock-sidecar: the runtime cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let lines = runtime.block_on(contact(&settings));
    for line in &lines {
        say(&line.text());
    }
    let ledger = runtime.block_on(check_online(&settings.audit));
    for line in &ledger {
        let label = match line.verdict {
            Verdict::Good => "ok   ",
            Verdict::Advice => "warn ",
            Verdict::Bad => "FAIL ",
            Verdict::Unknown => "?    ",
        };
        let remedy = line.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        say(&format!("{label} {}{remedy}", line.finding));
    }
    let recorded = ledger.iter().all(|line| matches!(line.verdict, Verdict::Good | Verdict::Advice));
    if recorded && lines.iter().all(|line| line.outcome.is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is only odd about the files that the configuration names.
fn warnings(settings: &Settings) -> Vec<String> {
    let now = SystemTime::now();
    let mut warnings: Vec<String> = settings.listen.tls.iter().flat_map(|tls| tls.warnings(now)).collect();
    for upstream in &settings.upstreams {
        let ca = upstream.ca.as_deref().unwrap_or_default();
        let place = format!("ca_file of the upstream {}", upstream.region);
        warnings.extend(out_of_date(std::path::Path::new(&place), ca, now));
    }
    if let SecretLocation::File(path) = &settings.credentials.source {
        warnings.extend(exposed(path));
    }
    warnings
}

/// One thing that was tried.
#[derive(Debug)]
pub(super) struct Line {
    pub what: String,
    /// What was found, or what is wrong and what to do.
    pub outcome: Result<String, String>,
}

impl Line {
    fn text(&self) -> String {
        match &self.outcome {
            Ok(found) => format!("ok    {}: {found}", self.what),
            Err(wrong) => format!("FAIL  {}: {wrong}", self.what),
        }
    }
}

async fn contact(settings: &Settings) -> Vec<Line> {
    let (regions, credentials) = match app::commercial(settings).await {
        Ok(commercial) => commercial,
        Err(error) => return vec![Line { what: "upstream".into(), outcome: Err(error.to_string()) }],
    };
    credentials.load().await;
    let source = match &settings.credentials.source {
        SecretLocation::SecretsManager { secret_id, region } => format!("secret {secret_id} in {region}"),
        SecretLocation::Environment => "credentials from the environment".into(),
        SecretLocation::File(path) => format!("credentials file {}", path.display()),
        SecretLocation::Profile(name) => format!("AWS profile {name}"),
    };
    let credential = credentials.current(SystemTime::now());
    let found = match &credential {
        Ok(credential) => Ok(credential.description().to_owned()),
        Err(refusal) => Err(refusal.message.clone().into_owned()),
    };
    let mut lines = vec![Line { what: source, outcome: found }];
    if let Ok(credential) = credential {
        for region in &regions {
            let fits = credential.check_region(&region.upstream.region);
            if let Err(refusal) = fits {
                lines.push(Line {
                    what: format!("key for {}", region.upstream.region),
                    outcome: Err(refusal.message.into_owned()),
                });
                continue;
            }
            lines.extend(upstream(region).await);
        }
    }
    lines
}

async fn upstream(region: &Region) -> Vec<Line> {
    let upstream = &region.upstream;
    let name = &upstream.region;
    let mut lines = Vec::new();
    let models = catalogue::call(upstream, http::Method::GET, "/foundation-models", bytes::Bytes::new()).await;
    lines.push(Line {
        what: format!("key accepted by {name} (ListFoundationModels)"),
        outcome: models
            .map(|_| "yes".to_owned())
            .map_err(|error| format!("{}; check the key, and that it may bedrock:ListFoundationModels", error)),
    });
    let profiles = catalogue::list_profiles(upstream, "SYSTEM_DEFINED").await;
    lines.push(Line {
        what: format!("inference profiles of {name} (ListInferenceProfiles)"),
        outcome: profiles
            .map(|profiles| format!("{} system profiles", profiles.len()))
            .map_err(|why| format!("{why}; allow bedrock:ListInferenceProfiles")),
    });
    let offset = upstream.clock_offset();
    lines.push(Line {
        what: format!("clock against {name}"),
        outcome: if offset == 0 {
            Ok("no correction was needed".to_owned())
        } else {
            Err(format!("off by {} s; synchronise it (chronyc tracking)", offset / 1000))
        },
    });
    lines
}
