//! `bedrock-sidecar check`: the configuration, and with `--online` each thing that the daemon will need, a line each.

mod credentials;
mod unused;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use bytes::Bytes;
use http::Method;

use super::failed;
use crate::app;
use crate::auditor::check::{CheckLine, Verdict, check_online, odd_place};
use crate::config::DataRetention;
use crate::crypto;
use crate::model::{CallError, Overview, Sent, catalogue, create, retention};
use crate::operation::Plane;
use crate::partition::{Partition, Partitions};
use crate::road::Region;
use crate::settings::Settings;
use crate::settings::secrets::{closed_to_service, exposed};
use crate::settings::tls::out_of_date;
use crate::upstream::Upstream;

pub(super) fn check(settings: Settings, online: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let file = settings.path.as_ref().map_or("built-in defaults".to_owned(), |path| path.display().to_string());
    writeln!(out, "ok    configuration: {file}")?;
    for warning in settings.all_warnings() {
        writeln!(out, "warn  {warning}")?;
    }
    writeln!(out, "info  FIPS module: {}", crypto::module())?;
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
    let mut lines = runtime.block_on(contact(&settings));
    lines.extend(runtime.block_on(check_online(&settings.audit)));
    for line in &lines {
        let label = match line.verdict {
            Verdict::Good => "ok   ",
            Verdict::Advice => "warn ",
            Verdict::Bad => "FAIL ",
            Verdict::Unknown => "?    ",
        };
        let remedy = line.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        writeln!(out, "{label} {}{remedy}", line.finding)?;
    }
    let is_good = lines.iter().all(|line| matches!(line.verdict, Verdict::Good | Verdict::Advice));
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    let mut sources: Vec<_> = settings.upstreams.iter().map(|upstream| &upstream.credentials.source).collect();
    sources.dedup();
    warnings.extend(sources.into_iter().flat_map(|source| credentials::warnings(source, now)));
    let mut files: Vec<_> =
        settings.upstreams.iter().filter_map(|upstream| upstream.credentials.source.file()).collect();
    files.sort_unstable();
    files.dedup();
    warnings.extend(files.into_iter().filter_map(|path| exposed(path).or_else(|| closed_to_service(path))));
    warnings
}

/// One thing that was tried, and what was found.
fn good(what: &str, found: &str) -> CheckLine {
    CheckLine::new(Verdict::Good, format!("{what}: {found}"))
}

/// One thing that was tried, and what is wrong with it.
fn bad(what: &str, wrong: &str) -> CheckLine {
    CheckLine::new(Verdict::Bad, format!("{what}: {wrong}"))
}

async fn contact(settings: &Settings) -> Vec<CheckLine> {
    let (accounts, regions) = match app::upstreams(settings, None).await {
        Ok(built) => built,
        Err(error) => return vec![bad("upstream", &error.to_string())],
    };
    let mut lines = Vec::new();
    for account in &accounts {
        lines.extend(credentials::source(account).await);
    }
    let (mut names, mut models, mut are_all_listed) = (Vec::new(), Vec::new(), true);
    for region in &regions {
        let Ok(credential) = region.upstream.credentials().current(SystemTime::now()) else {
            are_all_listed = false;
            continue;
        };
        if let Err(refusal) = credential.check_region(&region.upstream.region) {
            lines.push(bad(&format!("key for {}", region.upstream.region), &refusal.message));
            are_all_listed = false;
            continue;
        }
        lines.extend(upstream(region, &settings.policy.require_data_retention).await);
        // What cannot be listed has a line of its own.
        let is_listed = region.models.refresh(&region.upstream).await.is_ok();
        let overview = region.models.overview(&region.upstream.credentials().account_key());
        if is_listed {
            lines.extend(profile_creation(&region.upstream, &overview).await);
        }
        are_all_listed &= is_listed;
        names.extend(region.models.names());
        models.extend(overview);
    }
    // A model that one region does not tell of may be the one that a pattern is for.
    if are_all_listed {
        lines.extend(served(&regions));
        models.sort_by(|one, other| one.model.model_id.cmp(&other.model.model_id));
        models.dedup_by(|one, other| one.model.model_id == other.model.model_id);
        lines.extend(unused::advice(settings, &names, &models));
    }
    lines
}

/// What each upstream serves, and what the commercial partition alone has. Nothing where there is one partition.
fn served(regions: &[Region]) -> Vec<CheckLine> {
    let partitions: Partitions = regions.iter().map(Region::partition).collect();
    if partitions != Partitions::ALL {
        return Vec::new();
    }
    let invokable = |region: &Region| -> BTreeSet<String> {
        let overview = region.models.overview(&region.upstream.credentials().account_key());
        overview.into_iter().filter(|one| one.sent.is_invokable()).map(|one| one.model.model_id).collect()
    };
    let listed = |models: &BTreeSet<String>| match models.is_empty() {
        true => "none".to_owned(),
        false => models.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    };
    let of = |partition| regions.iter().filter(move |region| region.partition() == partition);
    let mut lines: Vec<CheckLine> = regions
        .iter()
        .map(|region| {
            let models = invokable(region);
            let what = format!("models of {} ({}), {}", region.upstream.region, region.partition(), models.len());
            good(&what, &listed(&models))
        })
        .collect();
    let of_govcloud: BTreeSet<String> = of(Partition::Govcloud).flat_map(invokable).collect();
    let commercial: BTreeSet<String> = of(Partition::Commercial).flat_map(invokable).collect();
    let only: BTreeSet<String> = commercial.difference(&of_govcloud).cloned().collect();
    lines.push(good(&format!("models that the commercial partition alone has, {}", only.len()), &listed(&only)));
    lines
}

async fn upstream(region: &Region, required: &[DataRetention]) -> Vec<CheckLine> {
    let upstream = &region.upstream;
    let name = &upstream.region;
    let mut lines = Vec::new();
    let what = format!("key accepted by {name} (ListFoundationModels)");
    let models = catalogue::call(upstream, Method::GET, "/foundation-models", Bytes::new()).await;
    lines.push(match models {
        Ok(_) => good(&what, "yes"),
        Err(error) => {
            bad(&what, &error.to_string()).remedy("check the key, and that it may bedrock:ListFoundationModels")
        }
    });
    let what = format!("inference profiles of {name} (ListInferenceProfiles)");
    lines.push(match catalogue::list_profiles(upstream, "SYSTEM_DEFINED").await {
        Ok(profiles) => good(&what, &format!("{} system profiles", profiles.len())),
        Err(why) => bad(&what, &why.to_string()).remedy("allow bedrock:ListInferenceProfiles"),
    });
    lines.push(data_retention(upstream, required).await);
    lines.push(runtime_host(upstream).await);
    if upstream.serves(Plane::Mantle) {
        lines.push(mantle_host(upstream).await);
    }
    let what = format!("clock against {name}");
    lines.push(match upstream.clock_offset() {
        0 => good(&what, "no correction was needed"),
        offset => bad(&what, &format!("off by {} s", offset / 1000)).remedy("synchronise it (chronyc tracking)"),
    });
    lines
}

/// Whether the host answers that invokes models. No model is invoked.
async fn runtime_host(upstream: &Upstream) -> CheckLine {
    let what = format!("host for inference in {} ({})", upstream.region, upstream.endpoint(Plane::Runtime));
    match upstream.probe().await {
        Ok(()) => good(&what, "it answers"),
        Err(failure) => bad(&what, failure.refusal().message.trim_end_matches('.'))
            .remedy("look at names, routes, security groups and VPC endpoints on the way to it (docs/network.md)"),
    }
}

/// Whether the second inference host answers, and takes the key.
async fn mantle_host(upstream: &Upstream) -> CheckLine {
    let what = format!("bedrock-mantle in {} ({})", upstream.region, upstream.endpoint(Plane::Mantle));
    match catalogue::count_on_mantle(upstream).await {
        Ok(models) => good(&what, &format!("{models} models")),
        Err(error @ CallError::Answered(..)) => bad(&what, &error.to_string())
            .remedy("allow bedrock-mantle:ListModels and bedrock-mantle:CreateInference, with an API key bedrock-mantle:CallWithBearerToken too"),
        Err(error) => bad(&what, &error.to_string())
            .remedy("AWS has this host in some regions only; look at names, routes and security groups on the way to it (docs/network.md)"),
    }
}

async fn data_retention(upstream: &Upstream, required: &[DataRetention]) -> CheckLine {
    let region = &upstream.region;
    let what = format!("data retention of the account in {region} (GetAccountDataRetention)");
    match retention::mode(upstream).await {
        Ok(mode) if required.is_empty() || retention::is_one_of(&mode, required) => {
            good(&what, &format!("{mode}: {}", retention::meaning(&mode)))
        }
        Ok(mode) => bad(&what, &format!("{mode}: {}", retention::meaning(&mode))).remedy(format!(
            "policy.require_data_retention allows {} only: run `aws bedrock put-account-data-retention --region {region} --mode {}` in the commercial account, or change the policy",
            retention::listed(required),
            required.first().map_or("", |mode| mode.as_str()),
        )),
        Err(error) => {
            let verdict = if required.is_empty() { Verdict::Advice } else { Verdict::Bad };
            CheckLine::new(verdict, format!("{what}: {error}")).remedy("allow bedrock:GetAccountDataRetention")
        }
    }
}

/// Whether the key may create the profiles without which some of the allowed models cannot be invoked.
async fn profile_creation(upstream: &Upstream, models: &[Overview]) -> Option<CheckLine> {
    let mut names = models.iter().filter(|line| line.sent == Sent::AsNewProfile).map(|line| &line.model.model_id);
    let first = names.next()?;
    let needed = match names.count() {
        0 => first.clone(),
        more => format!("{first} and {more} more"),
    };
    let what = format!("profiles may be created in {} (CreateInferenceProfile)", upstream.region);
    Some(match create::is_permitted(upstream).await {
        Ok(()) => good(&what, &format!("yes, for {needed}")),
        Err(error @ CallError::Answered(403, _)) => CheckLine::new(Verdict::Advice, format!("{what}: {error}")).remedy(format!(
            "{needed} can be invoked through a profile that the daemon creates, and otherwise not: allow bedrock:CreateInferenceProfile (CreateProfiles in packaging/aws), or set models.create_profiles = false"
        )),
        Err(error) => CheckLine::new(Verdict::Advice, format!("{what}: could not be found out: {error}")),
    })
}
