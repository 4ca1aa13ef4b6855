//! `bedrock-sidecar audit list|tail|export|verify|retry`.

use std::io::{self, Write};
use std::process::ExitCode;

use super::failed;
use crate::auditor::cli::{CliError, Command, run};
use crate::settings::Settings;

pub(super) fn audit(settings: Settings, command: &Command, out: &mut (dyn Write + Send)) -> io::Result<ExitCode> {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Ok(failed(&format!("the runtime cannot start: {error}"))),
    };
    match runtime.block_on(run(command, &settings.audit, out)) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(CliError::Output(error)) => Err(error),
        Err(error) => Ok(failed(&format!("{error}."))),
    }
}
