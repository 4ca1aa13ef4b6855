//! `bedrock-sidecar run`: the daemon, from its settings to its exit code.

use std::process::ExitCode;

use super::failed;
use crate::app::App;
use crate::auditor::check::odd_place;
use crate::lifecycle::Events;
use crate::settings::Settings;
use crate::{config, log, panics};

pub(super) fn run(settings: Settings) -> ExitCode {
    log::start(settings.log, settings.log_level);
    panics::watch();
    if !settings.core_dumps {
        keep_memory_private();
    }
    if settings.path.is_none() {
        tracing::info!(default_path = config::DEFAULT_PATH, "no configuration file; running on built-in defaults");
    }
    if let Some(sentence) = odd_place(&settings.audit) {
        tracing::warn!("{sentence}");
    }
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the runtime cannot start: {error}")),
    };
    runtime.block_on(async {
        let events = match Events::of_signals() {
            Ok(events) => events,
            Err(error) => return failed(&format!("signals cannot be received: {error}")),
        };
        let app = match App::bind(settings) {
            Ok(app) => app,
            Err(error) => return failed(&error.to_string()),
        };
        match app.run(events).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error.to_string()),
        }
    })
}

/// The commercial key is in this process's memory: no core dump may hold it, and nobody but root may look at it.
fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none);
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Err(error) = limited.and(hidden) {
        tracing::warn!(%error, "core dumps of this process, which would hold the commercial key, cannot be turned off");
    }
}
