//! `bedrock-sidecar audit list|tail|export|verify|retry`.

use std::process::ExitCode;

use super::complain;
use crate::auditor::cli::{Command, run};
use crate::settings::Settings;

pub(super) fn audit(settings: Settings, command: &Command) -> ExitCode {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("bedrock-sidecar: the runtime cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(command, &settings.audit, &mut std::io::stdout())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // `audit list | head` is no failure.
        Err(crate::auditor::cli::CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("bedrock-sidecar: {error}."));
            ExitCode::FAILURE
        }
    }
}
