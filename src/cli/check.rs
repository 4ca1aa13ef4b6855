//! `bedrock-sidecar check`: the configuration, and with `--online` each thing that the daemon will need, a line each.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use super::failed;
use crate::app;
use crate::auditor::check::{Verdict, check_online, odd_place};
use crate::model::{CallError, Sent, catalogue, create};
use crate::road::Region;
use crate::settings::secrets::exposed;
use crate::settings::tls::out_of_date;
use crate::settings::{SecretLocation, Settings};

pub(super) fn check(settings: Settings, online: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let file = settings.path.as_ref().map_or("built-in defaults".to_owned(), |path| path.display().to_string());
    writeln!(out, "ok    configuration: {file}")?;
    for warning in settings.all_warnings() {
        writeln!(out, "warn  {warning}")?;
    }
    let fips = rustls::crypto::aws_lc_rs::default_provider().fips();
    writeln!(out, "info  FIPS module: {}", if fips { "active" } else { "not built in" })?;
    for warning in warnings(&settings).into_iter().chain(odd_place(&settings.audit)) {
        writeln!(out, "warn  {warning}")?;
    }
    if !online {
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Ok(failed(&format!("the runtime cannot start: {error}"))),
    };
    let lines = runtime.block_on(contact(&settings));
    for line in &lines {
        writeln!(out, "{}", line.text())?;
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
        writeln!(out, "{label} {}{remedy}", line.finding)?;
    }
    let recorded = ledger.iter().all(|line| matches!(line.verdict, Verdict::Good | Verdict::Advice));
    let is_well = recorded && lines.iter().all(|line| !matches!(line.outcome, Outcome::Failed(_)));
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
struct Line {
    what: String,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// What was found.
    Good(String),
    /// The daemon works, something may not; what to do.
    Advice(String),
    /// What is wrong and what to do.
    Failed(String),
}

impl Line {
    fn new(what: impl Into<String>, outcome: Result<String, String>) -> Line {
        Line { what: what.into(), outcome: outcome.map_or_else(Outcome::Failed, Outcome::Good) }
    }

    fn text(&self) -> String {
        let (label, text) = match &self.outcome {
            Outcome::Good(found) => ("ok   ", found),
            Outcome::Advice(advice) => ("warn ", advice),
            Outcome::Failed(wrong) => ("FAIL ", wrong),
        };
        format!("{label} {}: {text}", self.what)
    }
}

async fn contact(settings: &Settings) -> Vec<Line> {
    let (regions, credentials) = match app::commercial(settings).await {
        Ok(commercial) => commercial,
        Err(error) => return vec![Line::new("upstream", Err(error.to_string()))],
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
    let mut lines = vec![Line::new(source, found)];
    if let Ok(credential) = credential {
        for region in &regions {
            if let Err(refusal) = credential.check_region(&region.upstream.region) {
                lines.push(Line::new(format!("key for {}", region.upstream.region), Err(refusal.message.into_owned())));
                continue;
            }
            lines.extend(upstream(region).await);
            lines.extend(profile_creation(region, &credentials.account_key()).await);
        }
    }
    lines
}

async fn upstream(region: &Region) -> Vec<Line> {
    let upstream = &region.upstream;
    let name = &upstream.region;
    let mut lines = Vec::new();
    let models = catalogue::call(upstream, http::Method::GET, "/foundation-models", bytes::Bytes::new()).await;
    lines.push(Line::new(
        format!("key accepted by {name} (ListFoundationModels)"),
        models
            .map(|_| "yes".to_owned())
            .map_err(|error| format!("{}; check the key, and that it may bedrock:ListFoundationModels", error)),
    ));
    let profiles = catalogue::list_profiles(upstream, "SYSTEM_DEFINED").await;
    lines.push(Line::new(
        format!("inference profiles of {name} (ListInferenceProfiles)"),
        profiles
            .map(|profiles| format!("{} system profiles", profiles.len()))
            .map_err(|why| format!("{why}; allow bedrock:ListInferenceProfiles")),
    ));
    let offset = upstream.clock_offset();
    lines.push(Line::new(
        format!("clock against {name}"),
        if offset == 0 {
            Ok("no correction was needed".to_owned())
        } else {
            Err(format!("off by {} s; synchronise it (chronyc tracking)", offset / 1000))
        },
    ));
    lines
}

/// Whether the key may create the profiles without which some of the allowed models cannot be invoked.
async fn profile_creation(region: &Region, account: &str) -> Option<Line> {
    let Region { upstream, models } = region;
    // What could not be listed has a line of its own.
    models.refresh(upstream).await.ok()?;
    let mut names = models.overview(account).into_iter().filter(|line| line.sent == Sent::AsNewProfile);
    let first = names.next()?.model.model_id;
    let needed = match names.count() {
        0 => first,
        more => format!("{first} and {more} more"),
    };
    let outcome = match create::is_permitted(upstream).await {
        Ok(()) => Outcome::Good(format!("yes, for {needed}")),
        Err(CallError::Answered(403, error)) => Outcome::Advice(format!(
            "{}; {needed} can be invoked through a profile that the daemon creates, and otherwise not: allow bedrock:CreateInferenceProfile (CreateProfiles in packaging/aws), or set models.create_profiles = false",
            CallError::Answered(403, error)
        )),
        Err(error) => Outcome::Advice(format!("could not be found out: {error}")),
    };
    Some(Line { what: format!("profiles may be created in {} (CreateInferenceProfile)", upstream.region), outcome })
}
