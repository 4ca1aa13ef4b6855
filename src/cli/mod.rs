//! The command line: what an admin types, and the exit codes that scripts rely on.

mod admin;
mod audit;
mod check;
mod completions;
mod env;
mod fitting;
mod models;
mod other_screen;
mod run;
mod status;
mod terminal;
mod top;
mod words;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{ConfigError, DEFAULT_PATH};
use crate::crypto;
use crate::settings::Settings;

/// Configuration errors: sysexits.h's EX_CONFIG, which systemd knows by name.
const EX_CONFIG: u8 = 78;

/// Nobody reads the output any more (`| head`): what a shell reports of a program that SIGPIPE has ended.
const ENDED_BY_SIGPIPE: u8 = 128 + 13;

/// Commercial Amazon Bedrock for AWS GovCloud hosts, behind a Bedrock-compatible endpoint on localhost.
#[derive(Debug, Parser)]
#[command(name = "bedrock-sidecar", version, long_version = crypto::long_version(), arg_required_else_help = true)]
struct Cli {
    /// The configuration file [default: /etc/bedrock-sidecar/config.toml]
    #[arg(long, value_name = "PATH", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run,
    /// Check the configuration, and with --online everything that the daemon will need
    Check {
        /// Contact AWS: read the secret, list models and profiles, compare clocks. Never invokes a model
        #[arg(long)]
        online: bool,
    },
    /// List the models, whether each can be invoked, and what is sent for it
    Models {
        /// One JSON document instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Query the records: list, tail, export, verify, retry
    Audit {
        #[command(subcommand)]
        command: crate::auditor::cli::Command,
    },
    /// Ask the running daemon how it is: one screen in a terminal, otherwise JSON. Fails unless it is ready
    Status {
        /// JSON in a terminal too
        #[arg(long)]
        json: bool,
        /// Draw the screen anew every so many seconds (2 if none are named), until Ctrl-C
        #[arg(
            long,
            value_name = "SECONDS",
            num_args = 0..=1,
            default_missing_value = "2",
            value_parser = clap::value_parser!(u64).range(1..=3600),
            conflicts_with = "json"
        )]
        watch: Option<u64>,
    },
    /// Watch the running daemon in a terminal: who uses what, what it costs, what failed, and the newest requests
    Top(top::Top),
    /// Print the variables that an app needs, for eval
    Env,
    /// Print a completion script for a shell
    Completions {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
}

/// Runs the program; the arguments are those of the process.
pub fn main() -> ExitCode {
    let mut out = io::stdout();
    match Cli::try_parse().map_or_else(|error| explain(&error), |cli| answer(cli, &mut out)) {
        Ok(code) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(ENDED_BY_SIGPIPE),
        Err(error) => {
            complain(&format!("bedrock-sidecar: the output cannot be written: {error}."));
            ExitCode::FAILURE
        }
    }
}

/// The definition of the command line, for the manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Prints help, the version, or what is wrong with the arguments.
fn explain(error: &clap::Error) -> io::Result<ExitCode> {
    let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(u8::MAX));
    match error.print() {
        Err(unwritten) if !error.use_stderr() => Err(unwritten),
        _ => Ok(code),
    }
}

/// Writes the answer to `out`; the only errors are those of writing it.
fn answer(cli: Cli, out: &mut (dyn Write + Send)) -> io::Result<ExitCode> {
    let config = cli.config.as_deref();
    let code = match cli.command {
        Command::Run => with_settings(config, |settings| Ok(run::run(settings))),
        Command::Check { online } => with_settings(config, |settings| check::check(settings, online, out)),
        Command::Models { json } => with_settings(config, |settings| models::models(settings, json, out)),
        Command::Audit { command } => with_settings(config, |settings| audit::audit(settings, &command, out)),
        Command::Status { json, watch } => {
            let watched = watch.map(Duration::from_secs);
            with_settings(config, |settings| status::status(&settings, json, watched, out))
        }
        Command::Top(asked) => with_settings(config, |settings| top::top(&settings, &asked, out)),
        Command::Env => with_settings(config, |settings| env::env(settings, out)),
        Command::Completions { shell } => completions::completions(shell, out),
    }?;
    out.flush()?;
    Ok(code)
}

fn with_settings(
    config: Option<&Path>,
    command: impl FnOnce(Settings) -> io::Result<ExitCode>,
) -> io::Result<ExitCode> {
    if let Err(sentence) = crypto::check() {
        complain(&format!("bedrock-sidecar: {sentence}"));
        return Ok(ExitCode::FAILURE);
    }
    match load(config) {
        Ok(settings) => command(settings),
        Err(error) => {
            complain(&error.to_string());
            Ok(ExitCode::from(EX_CONFIG))
        }
    }
}

/// The named file; without a name the default file, and without that the built-in defaults.
fn load(named: Option<&Path>) -> Result<Settings, ConfigError> {
    match named {
        Some(path) => Settings::load(path),
        None if Path::new(DEFAULT_PATH).exists() => Settings::load(Path::new(DEFAULT_PATH)),
        None => Settings::built_in(),
    }
}

/// A runtime for commands that contact AWS.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    runtime_of(2)
}

fn runtime_of(threads: usize) -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(threads).build()
}

/// Says on the standard error why a command has failed.
fn failed(reason: &str) -> ExitCode {
    complain(&format!("bedrock-sidecar: {reason}"));
    ExitCode::FAILURE
}

/// Says something on the standard error. Where nobody can read it, the exit code has to do.
fn complain(sentence: &str) {
    let _ = writeln!(io::stderr(), "{sentence}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_has_as_many_threads_as_asked_for() {
        for threads in [1, 3] {
            assert_eq!(runtime_of(threads).unwrap().metrics().num_workers(), threads);
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
