//! What the pages show: commands exist with the options that are shown, and error texts are those of the code.

use std::path::{Path, PathBuf};

use test_support::command;

/// Every command of the daemon, wherever a page shows one.
#[tokio::test]
async fn every_command_that_the_pages_show_is_understood() {
    let mut shown = 0;
    let mut refused = Vec::new();
    for page in pages() {
        for line in commands(&std::fs::read_to_string(&page).unwrap()) {
            shown += 1;
            // With --help, the program reads what stands before it, and does nothing.
            let mut arguments: Vec<&str> = line.split_whitespace().skip(1).collect();
            arguments.push("--help");
            let output = command(&arguments, &[]).await;
            if !output.status.success() {
                refused.push(format!("{}: {line}: {}", page.display(), String::from_utf8_lossy(&output.stderr)));
            }
        }
    }
    assert!(shown > 30, "only {shown} commands were found");
    assert!(refused.is_empty(), "{refused:#?}");
}

/// docs/troubleshooting.md is looked up by what is on the screen.
#[test]
fn every_error_text_of_the_troubleshooting_page_is_in_the_code() {
    let code = source(&root().join("src"));
    let page = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let mut looked_for = 0;
    let mut missing = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let seen = row.trim_start_matches("| ").split(" | ").next().unwrap();
        for text in seen.split('`').skip(1).step_by(2) {
            // `…` and `N` stand for what differs from case to case.
            let text = text.trim_start_matches("bedrock-sidecar:");
            for part in text.split(['…', 'N']).map(|part| part.trim_matches([' ', ':'])) {
                if part.contains(' ') {
                    looked_for += 1;
                    if !code.contains(part) {
                        missing.push(part.to_owned());
                    }
                }
            }
        }
    }
    assert!(looked_for >= 10, "only {looked_for} texts were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// In code blocks and code spans, what begins with the program's name, up to what a shell would take.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, span) in text.split('`').enumerate() {
        let is_block = span.contains('\n');
        if at % 2 == 0 || is_block {
            found.extend(span.lines().filter(|line| is_block && (at % 2 == 1 || line.starts_with("    "))));
        } else {
            found.push(span);
        }
    }
    let from_the_name = found.iter().filter_map(|line| {
        let start = line.find("bedrock-sidecar ")?;
        let before = line[..start].trim();
        let is_command = before.is_empty() || before.ends_with(['|', '(', ';']) || before.ends_with("sudo");
        is_command.then(|| &line[start..])
    });
    let up_to_the_shell = from_the_name.map(|line| {
        let end = line.find(['|', '#', '>', ';', ')', '&', '<', '…', '\\']).unwrap_or(line.len());
        line[..end].trim().to_owned()
    });
    // What `--version` prints is no command.
    up_to_the_shell.filter(|line| line.contains(' ') && !line.contains(env!("CARGO_PKG_VERSION"))).collect()
}

/// All Rust code below a folder, each text as the program has it: joined where it goes on in the next line.
fn source(folder: &Path) -> String {
    let mut code = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            code.push_str(&source(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            code.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
    let mut joined = String::with_capacity(code.len());
    let mut pieces = code.split("\\\n");
    joined.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        joined.push_str(piece.trim_start());
    }
    joined
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let of = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = of(root()).chain(of(root().join("docs"))).chain(of(root().join("packaging/aws")));
    all.filter(|path| path.extension().is_some_and(|end| end == "md") && !path.ends_with("CHANGELOG.md")).collect()
}
