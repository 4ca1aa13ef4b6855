//! `bedrock-sidecar run`: the daemon, from its settings to its exit code.

use std::process::ExitCode;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::EX_CONFIG;
use crate::app::{App, StartError};
use crate::auditor::check::odd_place;
use crate::lifecycle::{Events, InheritError, Inherited};
use crate::settings::Settings;
use crate::{config, log, panics};

/// Threads for large bodies and for what the daemon does by itself.
const MOST_BESIDE: usize = 8;
/// What the end of the last tasks may take.
const LAST_MOMENT: Duration = Duration::from_secs(1);

pub(super) fn run(settings: Settings) -> ExitCode {
    // While this is the only thread.
    let inherited = Inherited::take();
    if let Err(error) = log::start(settings.log, settings.log_level) {
        return super::failed(&format!("the log cannot be written: {error}"));
    }
    panics::watch();
    let code = serve(settings, inherited);
    log::finish();
    code
}

fn serve(settings: Settings, inherited: Result<Inherited, InheritError>) -> ExitCode {
    if !settings.core_dumps {
        keep_memory_private();
    }
    if settings.path.is_none() {
        tracing::info!(default_path = config::DEFAULT_PATH, "no configuration file; running on built-in defaults");
    }
    if let Some(sentence) = odd_place(&settings.audit) {
        tracing::warn!("{sentence}");
    }
    // Beside the threads that serve connections (`workers.rs`).
    let runtime = match super::runtime_of(settings.threads.get().min(MOST_BESIDE)) {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the runtime cannot start: {error}")),
    };
    let code = runtime.block_on(async {
        let mut events = match Events::of_signals() {
            Ok(events) => events,
            Err(error) => return failed(&format!("signals cannot be received: {error}")),
        };
        // It reads files, which may not answer.
        let bind = spawn_blocking(|| App::bind(settings, inherited?));
        let app = match events.unless_stopped(bind).await {
            None => return ExitCode::SUCCESS,
            Some(Err(error)) => return failed(&error.to_string()),
            Some(Ok(Err(error))) => return not_started(&error),
            Some(Ok(Ok(app))) => app,
        };
        match app.run(events).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => not_started(&error),
        }
    });
    // All that matters has ended by now. What is left is dropped, and with it ends a credential_process that is still running.
    // What waits for a file that does not answer holds up no end.
    runtime.shutdown_timeout(LAST_MOMENT);
    code
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

/// As `cli::failed`, in its place behind what was logged before.
fn failed(reason: &str) -> ExitCode {
    log::plain(&format!("bedrock-sidecar: {reason}"));
    ExitCode::FAILURE
}

fn not_started(error: &StartError) -> ExitCode {
    let status = failed(&error.to_string());
    // Nothing that passes by itself: the service manager shall not try again.
    if matches!(error, StartError::Inherited(_)) { ExitCode::from(EX_CONFIG) } else { status }
}
