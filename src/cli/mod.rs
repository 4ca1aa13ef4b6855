//! The command line: what an admin types, and the exit codes that scripts rely on.

mod audit;
mod check;
mod env;
mod models;
mod run;
mod status;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{ConfigError, DEFAULT_PATH};
use crate::crypto;
use crate::settings::Settings;

/// Configuration errors: sysexits.h's EX_CONFIG, which systemd knows by name.
const EX_CONFIG: u8 = 78;

/// Commercial Amazon Bedrock for AWS GovCloud hosts, behind a Bedrock-compatible endpoint on localhost.
#[derive(Debug, Parser)]
#[command(name = "bedrock-sidecar", version, long_version = crypto::long_version(), arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run(ConfigPath),
    /// Check the configuration, and with --online everything that the daemon will need
    Check {
        #[command(flatten)]
        config: ConfigPath,
        /// Contact AWS: read the secret, list models and profiles, compare clocks. Never invokes a model
        #[arg(long)]
        online: bool,
    },
    /// List the models, whether each can be invoked, and what is sent for it
    Models {
        #[command(flatten)]
        config: ConfigPath,
        /// One JSON document instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Ask the records: list, tail, export, verify
    Audit {
        #[command(flatten)]
        config: ConfigPath,
        #[command(subcommand)]
        command: crate::auditor::cli::Command,
    },
    /// Ask the running daemon how it is
    Status(ConfigPath),
    /// Print the variables that an app needs, for eval
    Env(ConfigPath),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, clap::Args)]
struct ConfigPath {
    /// The configuration file [default: /etc/bedrock-sidecar/config.toml]
    #[arg(long, value_name = "PATH", global = true)]
    config: Option<PathBuf>,
}

/// Runs the program; the arguments are those of the process.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(config) => with_settings(config, run::run),
        Command::Check { config, online } => with_settings(config, |settings| check::check(settings, online)),
        Command::Models { config, json } => with_settings(config, |settings| models::models(settings, json)),
        Command::Audit { config, command } => with_settings(config, |settings| audit::audit(settings, &command)),
        Command::Status(config) => with_settings(config, status::status),
        Command::Env(config) => with_settings(config, env::env),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bedrock-sidecar", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}

fn with_settings(config: ConfigPath, command: impl FnOnce(Settings) -> ExitCode) -> ExitCode {
    if let Err(sentence) = crypto::check() {
        complain(&format!("bedrock-sidecar: {sentence}"));
        return ExitCode::FAILURE;
    }
    match load(config.config.as_deref()) {
        Ok(settings) => command(settings),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(EX_CONFIG)
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
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()
}

#[expect(clippy::print_stderr, reason = "this is what a command says to a person")]
fn complain(sentence: &str) {
    eprintln!("{sentence}");
}

#[expect(clippy::print_stdout, reason = "this is what a command answers")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
