//! Commands and their options, as the command line defines them.

use std::io;

use clap::{Arg, Command};
use clap_mangen::Man;

use crate::markdown;

/// The options of every command.
pub(crate) fn global_options() -> io::Result<String> {
    options(bedrock_sidecar::cli::command())
}

/// Each command with its options. Those of `audit` have a page of their own.
pub(crate) fn commands() -> io::Result<String> {
    subcommands(&bedrock_sidecar::cli::command(), "")
}

/// Each command below `audit` with its options.
pub(crate) fn audit_commands() -> io::Result<String> {
    let root = bedrock_sidecar::cli::command();
    root.find_subcommand("audit").map_or_else(|| Ok(String::new()), |audit| subcommands(audit, "audit "))
}

fn subcommands(parent: &Command, prefix: &str) -> io::Result<String> {
    let mut page = String::new();
    for command in parent.get_subcommands() {
        let name = command.get_name();
        page += &format!(".SS {}\n", markdown::escaped(&format!("{prefix}{name}")));
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        page += &markdown::paragraph(&format!("{}.", about.trim_end_matches('.')));
        if command.has_subcommands() {
            page += &format!("See\n.BR bedrock\\-sidecar\\-{name} (8).\n");
            continue;
        }
        page += &options(command.clone().disable_help_flag(true))?;
    }
    Ok(page)
}

/// The options of a command by itself, without the section's head and the preamble, which each page has once.
fn options(command: Command) -> io::Result<String> {
    if command.get_arguments().next().is_none() && command.is_disable_help_flag_set() {
        return Ok(String::new());
    }
    let mut section = Vec::new();
    Man::new(command.mut_args(with_values)).render_options_section(&mut section)?;
    let section = String::from_utf8(section).map_err(io::Error::other)?;
    let (_, options) = section.split_once(".SH OPTIONS\n").ok_or_else(|| io::Error::other("no options"))?;
    // Help texts name keys and commands as Markdown does.
    Ok(markdown::code_spans(options))
}

/// Has the values that an argument may have in its help, in one sentence instead of a list.
fn with_values(argument: Arg) -> Arg {
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut help = format!("{}.", help.trim_end_matches('.'));
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .map(|value| match value.get_help() {
            Some(meaning) => format!("`{}` ({})", value.get_name(), meaning.to_string().trim_end_matches('.')),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    let hides = argument.get_action().takes_values() && !values.is_empty();
    if hides {
        help += &format!(" One of {}.", values.join(", "));
    }
    argument.help(help.clone()).long_help(help).hide_possible_values(hides)
}
