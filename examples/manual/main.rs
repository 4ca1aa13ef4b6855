//! Writes the manual pages: `cargo run --example manual -- DIRECTORY`. Their text is in `packaging/man`; commands and options
//! come from the definition of the command line, keys of the configuration from `docs/configuration.md`.

mod command_line;
mod configuration;
mod markdown;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn main() -> std::io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(std::io::Error::other("name the directory to write to: cargo run --example manual -- DIRECTORY"));
    };
    std::fs::create_dir_all(&directory)?;
    for (name, page) in pages()? {
        std::fs::write(directory.join(name), page)?;
    }
    Ok(())
}

/// The pages, by file name.
fn pages() -> std::io::Result<[(&'static str, String); 3]> {
    let configuration = std::fs::read_to_string(root().join("docs/configuration.md"))?;
    Ok([
        (
            "bedrock-sidecar.8",
            page(
                "bedrock-sidecar.8",
                &[("@OPTIONS@", command_line::global_options()?), ("@COMMANDS@", command_line::commands()?)],
            )?,
        ),
        (
            "bedrock-sidecar-audit.8",
            page("bedrock-sidecar-audit.8", &[("@COMMANDS@", command_line::audit_commands()?)])?,
        ),
        (
            "bedrock-sidecar.toml.5",
            page(
                "bedrock-sidecar.toml.5",
                &[
                    ("@DESCRIPTION@", configuration::introduction(&configuration)),
                    ("@TABLES@", configuration::tables(&configuration)),
                ],
            )?,
        ),
    ])
}

/// A template with what stands in the place of its marks, each a line of its own.
fn page(name: &str, parts: &[(&str, String)]) -> std::io::Result<String> {
    let mut page = std::fs::read_to_string(root().join("packaging/man").join(format!("{name}.in")))?;
    page = page.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    for (mark, text) in parts {
        page = page.replace(mark, text.trim_end());
    }
    Ok(page)
}
