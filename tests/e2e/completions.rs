//! The completion scripts, in the shells that they are for. A shell that is not installed is named as NOT RUN.

use std::path::Path;
use std::process::{Command, Stdio};

use test_support::users::is_installed;
use test_support::*;

/// What is typed, and what a shell offers for its last word.
const TYPED: [(&str, &[&str]); 5] = [
    ("bedrock-sidecar aud", &["audit"]),
    ("bedrock-sidecar audit v", &["verify"]),
    ("bedrock-sidecar audit verify --s", &["--scan", "--source"]),
    ("bedrock-sidecar audit list --format j", &["jsonl"]),
    ("bedrock-sidecar top --by c", &["caller"]),
];

async fn script(shell: &str, path: &Path) {
    let output = command(&["completions", shell], &[]).await;
    assert_eq!(output.status.code(), Some(0));
    std::fs::write(path, output.stdout).unwrap();
}

/// What a shell prints; none if it is not installed.
fn printed(shell: &str, arguments: &[&str]) -> Option<String> {
    if !is_installed(shell) {
        println!("NOT RUN: completions in {shell}: it is not installed");
        return None;
    }
    // A shell that waits for what does not come must not hold up the tests.
    let mut command = Command::new("timeout");
    command.args(["60", shell]).args(arguments).stdin(Stdio::null()).env("TERM", "dumb");
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{shell}: {}, {complaint}", output.status);
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn bash_completes_every_word() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("script");
    script("bash", &path).await;
    // What readline does: the function that is registered for the command gets the command, the word and the one before.
    const ASK: &str = r#"
        source "$1"
        function=$(complete -p bedrock-sidecar | sed 's/.*-F \([^ ]*\) .*/\1/')
        COMP_WORDS=($2) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        $function bedrock-sidecar "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    for (typed, expected) in TYPED {
        let Some(found) = printed("bash", &["--norc", "-c", ASK, "bash", path.to_str().unwrap(), typed]) else {
            return;
        };
        let mut found: Vec<&str> = found.lines().collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{typed}");
    }
}

#[tokio::test]
async fn fish_completes_every_word() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("script");
    script("fish", &path).await;
    const ASK: &str = "source $argv[1]; complete -C $argv[2]";
    for (typed, expected) in TYPED {
        let Some(found) = printed("fish", &["--no-config", "-c", ASK, path.to_str().unwrap(), typed]) else { return };
        // Behind a tab stands what it means.
        let mut found: Vec<&str> = found.lines().map(|line| line.split('\t').next().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{typed}");
    }
}

#[tokio::test]
async fn zsh_completes_every_word() {
    let directory = tempfile::tempdir().unwrap();
    script("zsh", &directory.path().join("_bedrock-sidecar")).await;
    // zsh completes in its line editor only: an interactive shell behind a terminal, whose line is typed and then shown.
    const ASK: &str = r#"
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "PROMPT= PROMPT2= ; unsetopt zle_bracketed_paste; setopt no_beep; stty -echo
            fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D
            zstyle ':completion:*' list-prompt ''; LISTMAX=1000
            show() { print -r -- \"<<\$BUFFER>>\" }; zle -N show; bindkey '^X' show; bindkey '^I' complete-word
            print ready-\${:-now}"
        zpty -r shell text '*ready-now*'
        zpty -w -n shell "$2"$'\t'
        [[ $3 = 2 ]] && zpty -w -n shell $'\t'
        zpty -w -n shell $'\030'
        zpty -r shell text '*<<*>>*'
        print -r -- "$text"
        zpty -d shell
    "#;
    for (typed, expected) in TYPED {
        let arguments =
            ["-f", "-c", ASK, "zsh", directory.path().to_str().unwrap(), typed, &expected.len().to_string()];
        let Some(text) = printed("zsh", &arguments) else { return };
        match expected {
            [only] => {
                let line = text.split_once("<<").unwrap().1.split_once(">>").unwrap().0;
                let before = typed.rsplit_once(' ').unwrap().0;
                assert_eq!(line.trim_end(), format!("{before} {only}"), "{text}");
            }
            // Several are listed below the line.
            several => {
                let missing: Vec<_> = several.iter().filter(|word| !text.contains(**word)).collect();
                assert!(missing.is_empty(), "{missing:?} of {typed}: {text}");
            }
        }
    }
}
