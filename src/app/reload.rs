//! SIGHUP: a second road is prepared beside the first, and takes its place only if it can be used.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::build::{Built, build};
use super::front::{Changes, Front, Standing};
use super::{Lasting, StartError};
use crate::error::Refusal;
use crate::log;
use crate::operation::Plane;
use crate::road::{Region, Road};
use crate::settings::Settings;
use crate::telemetry;

/// How long the source of a new credential may take; the SDKs give up after 30 s.
const PATIENCE: Duration = Duration::from_secs(35);

/// How long the whole may take, files that do not answer included.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// What is to take the place of the road that is in use.
#[derive(Debug)]
pub(super) struct Prepared {
    pub built: Built,
    pub changes: Changes,
    pub telemetry: telemetry::Change,
}

/// Reads the configuration again, and prepares what it says, within `longest`. Nothing that is in use is changed.
///
/// # Errors
/// A sentence that says why the configuration cannot be taken over.
pub(super) async fn prepare(
    former: Arc<Built>,
    lasting: Arc<Lasting>,
    standing: Standing,
    longest: Duration,
) -> Result<Prepared, String> {
    timeout(longest, read_and_build(former, lasting, standing)).await.unwrap_or_else(|_| {
        let seconds = longest.as_secs();
        Err(format!(
            "it was not ready to use after {seconds} s: check that the files it names, and what they are stored on, can be read"
        ))
    })
}

async fn read_and_build(former: Arc<Built>, lasting: Arc<Lasting>, standing: Standing) -> Result<Prepared, String> {
    let old = &former.road.settings;
    let Some(path) = old.path.clone() else {
        return Err("the daemon runs on built-in defaults, so there is no file to read again".to_owned());
    };
    // Reading files may take its time.
    let read = spawn_blocking(move || Settings::load(&path)).await;
    let mut new = read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let kept = keep_back(old, &mut new);
    let listen = new.listen.clone();
    let changes = spawn_blocking(move || standing.changes(&listen)).await;
    let changes = changes.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let built = build(&new, &lasting, Some(&former), PATIENCE).await.map_err(|error| error.to_string())?;
    if let Some(reason) = loses_credential(&former.road, &built.road) {
        return Err(reason);
    }
    let telemetry = telemetry::Change::between(old.telemetry.as_ref(), new.telemetry.as_ref())
        .map_err(|why| StartError::Telemetry(why).to_string())?;
    if !kept.is_empty() {
        tracing::warn!(keys = %kept.join(", "), "changes of these keys take effect at the next restart");
    }
    Ok(Prepared { built, changes, telemetry })
}

impl Prepared {
    /// Takes the place of what is in use.
    ///
    /// # Errors
    /// A sentence that says what cannot be opened. Nothing has changed then.
    pub(super) async fn take_over(self, lasting: &Lasting, front: &mut Front) -> Result<Built, String> {
        let Prepared { built, changes, telemetry } = self;
        let changes = front.open_new_admin(changes).map_err(|error| error.to_string())?;
        for account in &built.road.accounts {
            account.credentials.put_in_use();
        }
        let settings = &built.road.settings;
        log::set_format(settings.log);
        log::set_level(settings.log_level);
        lasting.audit.apply(&settings.audit);
        lasting.limits.apply(&settings.limits);
        lasting.telemetry.apply(telemetry, lasting.audit.host_id()).await;
        front.apply(changes, Arc::clone(&built.road));
        Ok(built)
    }
}

/// What cannot change while the daemon runs stays as it is; the names of what would have changed.
fn keep_back(old: &Settings, new: &mut Settings) -> Vec<&'static str> {
    let mut kept = Vec::new();
    let mut keep = |is_changed: bool, name| kept.extend(is_changed.then_some(name));
    let (was, is) = (&old.listen, &mut new.listen);
    keep(was.max_connections != is.max_connections, "listen.max_connections");
    keep(was.max_connections_per_user != is.max_connections_per_user, "listen.max_connections_per_user");
    (is.max_connections, is.max_connections_per_user) = (was.max_connections, was.max_connections_per_user);
    if let (Some(was), Some(is)) = (&was.unix_socket, &mut is.unix_socket)
        && was.path == is.path
    {
        keep(was.mode != is.mode, "listen.unix_socket_mode");
        keep(was.group != is.group, "listen.unix_socket_group");
        *is = was.clone();
    }
    keep(old.core_dumps != new.core_dumps, "process.core_dumps");
    new.core_dumps = old.core_dumps;
    keep(old.threads != new.threads, "runtime.threads");
    new.threads = old.threads;
    keep(new.limits.fleet.is_some() && old.limits.fleet.is_none(), "[fleet]");
    kept
}

/// A sentence if an upstream would be without a credential that has a usable one now.
fn loses_credential(old: &Road, new: &Road) -> Option<String> {
    let works = |region: &Region| credential(region).is_ok();
    // A region may have several upstreams, each with a credential of its own.
    let had = |region: &Region| {
        let of_region = || old.regions.iter().filter(|own| own.settings.region == region.settings.region);
        let at_runtime = |region: &Region| region.settings.endpoint(Plane::Runtime).clone();
        let same = of_region().find(|own| at_runtime(own) == at_runtime(region));
        same.map_or_else(|| of_region().any(works), works)
    };
    let has_none_at_all = old.regions.iter().any(works) && !new.regions.iter().any(works);
    let lost = new.regions.iter().find(|region| (has_none_at_all || had(region)) && !works(region))?;
    let region = &lost.upstream.region;
    let why = credential(lost).err()?.message;
    Some(format!("{region} would lose the credential that it has: {why}"))
}

fn credential(region: &Region) -> Result<(), Refusal> {
    let credential = region.upstream.credentials().current(SystemTime::now())?;
    credential.check_region(&region.upstream.region)
}
