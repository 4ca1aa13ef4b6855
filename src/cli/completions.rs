//! `bedrock-sidecar completions SHELL`: a script that completes this command line in a shell.

use std::io::{self, Write};
use std::process::ExitCode;

use clap_complete::{Shell, generate};

pub(super) fn completions(shell: Shell, out: &mut (dyn Write + Send)) -> io::Result<ExitCode> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    generate(shell, &mut super::command(), "bedrock-sidecar", &mut script);
    let script = String::from_utf8_lossy(&script);
    // The generator for bash takes the dash of a program's name once for a part of the name and once for the mark before a
    // subcommand, so that nothing completes below the first word.
    out.write_all(script.replace("bedrock__subcmd__sidecar", "bedrock__sidecar").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
