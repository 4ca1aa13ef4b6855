//! Whether the pages are whole, and roff that nobody complains about.

use std::process::{Command, Stdio};

use super::*;

/// A page as it is read, without the marks of roff.
fn plain(name: &str) -> String {
    let (_, page) = pages().unwrap().into_iter().find(|(page, _)| *page == name).unwrap();
    assert!(!page.contains('@'), "a mark of {name} was not filled in");
    page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "").replace("\\(dq", "\"")
}

#[test]
fn every_command_and_every_option_is_on_a_page() {
    let root = bedrock_sidecar::cli::command();
    let mut options = 0;
    let mut holds = |page: &str, command: &clap::Command| {
        for argument in command.get_arguments() {
            options += 1;
            let written = match argument.get_long() {
                Some(long) => format!("--{long}"),
                None => format!("{}", argument.get_value_names().unwrap()[0]),
            };
            assert!(page.contains(&written), "{written} of {} is missing", command.get_name());
            let is_flag = !argument.get_action().takes_values();
            for value in argument.get_possible_values().iter().filter(|_| !is_flag) {
                assert!(page.contains(value.get_name()), "{written} {}", value.get_name());
            }
        }
    };
    let (page, audit_page) = (plain("bedrock-sidecar.8"), plain("bedrock-sidecar-audit.8"));
    holds(&page, &root);
    for command in root.get_subcommands() {
        assert!(page.contains(&format!("\n.SS {}\n", command.get_name())), "{}", command.get_name());
        holds(&page, command);
    }
    for command in root.find_subcommand("audit").unwrap().get_subcommands() {
        assert!(audit_page.contains(&format!("\n.SS audit {}\n", command.get_name())), "{}", command.get_name());
        holds(&audit_page, command);
    }
    assert!(options > 20, "only {options} options were looked at");
}

/// That `docs/configuration.md` has every key is a test of the library's documentation.
#[test]
fn every_key_of_the_configuration_is_on_its_page() {
    let page = plain("bedrock-sidecar.toml.5");
    let documented = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut keys = 0;
    for line in documented.lines() {
        if let Some(table) = line.strip_prefix("## `").and_then(|rest| rest.strip_suffix('`')) {
            assert!(page.contains(&format!("\n.SS {table}\n")), "{table}");
        }
        let Some((cell, _)) = line.strip_prefix("| `").and_then(|row| row.split_once(" | ")) else { continue };
        for key in cell.split(", ").map(|key| key.trim_matches('`')) {
            keys += 1;
            assert!(page.contains(&format!("\n.TP\n{key}")) || page.contains(&format!(", {key}")), "{key}");
        }
    }
    assert!(keys > 80, "only {keys} keys were looked at");
}

#[test]
fn every_page_has_the_sections_that_readers_look_for() {
    let common = ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXAMPLES", "SEE ALSO"];
    for (name, more) in [
        ("bedrock-sidecar.8", &["OPTIONS", "COMMANDS", "SIGNALS", "EXIT STATUS", "ENVIRONMENT"][..]),
        ("bedrock-sidecar-audit.8", &["COMMANDS", "EXIT STATUS", "ENVIRONMENT"]),
        ("bedrock-sidecar.toml.5", &["TABLES AND KEYS"]),
    ] {
        let page = plain(name);
        for section in common.iter().chain(more) {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{name} has no {section}");
        }
    }
}

#[test]
fn groff_and_man_render_the_pages_without_a_warning() {
    let directory = std::env::temp_dir().join(format!("bedrock-sidecar-manual-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for (name, page) in pages().unwrap() {
        let path = directory.join(name);
        std::fs::write(&path, page).unwrap();
        let path = path.to_str().unwrap();
        for (tool, arguments) in
            [("groff", &["-man", "-Tutf8", "-ww", "-K", "utf8", path][..]), ("man", &["--warnings=w", "-l", path])]
        {
            let mut command = Command::new(tool);
            command.args(arguments).env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80").env("MANPAGER", "cat");
            let output = match command.stdin(Stdio::null()).output() {
                Ok(output) => output,
                Err(error) => {
                    println!("NOT RUN: {name} in {tool}: {error}");
                    continue;
                }
            };
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && complaint.is_empty(), "{tool} {name}: {complaint}");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.len() > 2_000, "{tool} has rendered {} bytes of {name}", text.len());
            assert!(!text.contains('`') && !text.contains("]("), "Markdown is left in {name}");
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
