//! How the commands behave towards whoever reads their output, and what they say to programs.

use std::fs::File;
use std::process::{Command, Output, Stdio};

use http::Method;
use serde_json::{Value, json};
use simulator::{Effect, Fault};
use test_support::*;

/// Every command that answers, on a host where all works.
const COMMANDS: [&[&str]; 13] = [
    &["--help"],
    &["--version"],
    &["audit", "--help"],
    &["check"],
    &["check", "--online"],
    &["models"],
    &["models", "--json"],
    &["status"],
    &["env"],
    &["completions", "bash"],
    &["audit", "list"],
    &["audit", "export"],
    &["audit", "verify"],
];

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A running daemon with one record, and a configuration for commands that leads to it.
async fn host(bedrock: &simulator::Simulator) -> Daemon {
    let daemon = Setup::tls(bedrock).ready().await;
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    daemon.record_of(&answer).await;
    let config = std::fs::read_to_string(daemon.config_path()).unwrap();
    let bound = config.replacen("127.0.0.1:0", &daemon.address().to_string(), 1);
    std::fs::write(
        daemon.directory.path().join("commands.toml"),
        bound.replace("127.0.0.1:0", &daemon.admin.to_string()),
    )
    .unwrap();
    daemon
}

/// Runs a command of that host, with its output going to `stdout`.
async fn run(daemon: &Daemon, words: &[&str], stdout: Stdio) -> Output {
    let mut command = program();
    command.args(words).arg("--config").arg(daemon.directory.path().join("commands.toml"));
    command.env_clear().env("STATE_DIRECTORY", daemon.directory.path().join("state"));
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    tokio::task::spawn_blocking(move || command.spawn().unwrap().wait_with_output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_reader_who_leaves_ends_a_command_quietly() {
    let bedrock = bedrock().await;
    let daemon = host(&bedrock).await;
    // Ends at the first line that it cannot write: it would follow the records for ever.
    let tail = &["audit", "tail"][..];
    for words in COMMANDS.into_iter().chain([tail]) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(&daemon, words, writer.into()).await;
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(141), ""), "{words:?}");
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_is_a_failure() {
    let bedrock = bedrock().await;
    let daemon = host(&bedrock).await;
    for words in COMMANDS {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = run(&daemon, words, full.into()).await;
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (Some(1), "bedrock-sidecar: the output cannot be written: No space left on device (os error 28).\n"),
            "{words:?}"
        );
        let well = run(&daemon, words, Stdio::piped()).await;
        assert_eq!(well.status.code(), Some(0), "{words:?}: {}{}", stdout(&well), stderr(&well));
    }
}

#[tokio::test]
async fn a_complaint_that_nobody_can_read_changes_no_exit_code() {
    for (words, code) in [
        (&["status"][..], 1),
        (&["check", "--config", "/nowhere"], 78),
        (&["nonsense"], 2),
        (&["run", "--config", "/"], 78),
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = program();
        command.args(words).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(full);
        let status = tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap();
        assert_eq!(status.code(), Some(code), "{words:?}");
    }
}

#[tokio::test]
async fn the_configuration_may_be_named_before_the_command_or_behind_it() {
    let setup = Setup::alone();
    let path = setup.write();
    for words in [
        &["--config", &path, "check"][..],
        &["check", "--config", &path],
        &["--config", &path, "audit", "list"],
        &["audit", "--config", &path, "list"],
        &["audit", "list", "--config", &path],
    ] {
        let state = setup.path().join("state");
        let output = command(words, &[("STATE_DIRECTORY", state.to_str().unwrap())]).await;
        if words.contains(&"check") {
            assert!(stdout(&output).starts_with(&format!("ok    configuration: {path}\n")), "{words:?}: {output:?}");
        } else {
            assert!(stderr(&output).contains("there is no ledger in "), "{words:?}: {output:?}");
        }
    }
}

#[tokio::test]
async fn check_online_says_whether_the_key_may_create_profiles_and_creates_none() {
    let bedrock = bedrock().await;
    let found = |output: &Output| {
        let text = stdout(output);
        let line = text.lines().find(|line| line.contains("(CreateInferenceProfile)")).map(str::to_owned);
        (output.status.code(), line.unwrap_or_default())
    };
    let (code, line) = found(&Setup::tls(&bedrock).command(&["check", "--online"]).await);
    let may = format!(
        "ok    profiles may be created in us-east-1 (CreateInferenceProfile): yes, for {NEEDS_CREATED_PROFILE}"
    );
    assert_eq!((code, line.as_str()), (Some(0), may.as_str()));
    let profiles = direct(&bedrock, request(Method::GET, "/inference-profiles?type=APPLICATION", "")).await;
    assert_eq!(profiles.json()["inferenceProfileSummaries"], json!([]));

    bedrock.inject(
        Fault::once(Effect::Error {
            status: 403,
            error_type: "AccessDeniedException".into(),
            message: "User: x is not authorized to perform: bedrock:CreateInferenceProfile".into(),
            capital: false,
            headers: Default::default(),
        })
        .times(0)
        .on("CreateInferenceProfile"),
    );
    let (code, line) = found(&Setup::tls(&bedrock).command(&["check", "--online"]).await);
    assert_eq!(code, Some(0), "the other models can be invoked: {line}");
    assert!(
        line.starts_with("warn  profiles may be created in us-east-1 (CreateInferenceProfile): AccessDenied"),
        "{line}"
    );
    assert!(line.contains(NEEDS_CREATED_PROFILE) && line.contains("create_profiles = false"), "{line}");

    // A right is judged before a name; what others have worded is one line.
    bedrock.clear_faults();
    for (status, expected) in [(409, "ok    "), (500, "warn  ")] {
        bedrock.inject(
            Fault::once(Effect::Error {
                status,
                error_type: "SomeException".into(),
                message: format!("one\n{}\u{1b}[31m", "x".repeat(5_000)),
                capital: false,
                headers: Default::default(),
            })
            .on("CreateInferenceProfile"),
        );
        let output = Setup::tls(&bedrock).command(&["check", "--online"]).await;
        let (_, line) = found(&output);
        assert!(line.starts_with(expected) && line.len() < 1_000, "{line}");
        assert!(stdout(&output).lines().all(|line| line.get(5..6) == Some(" ")), "{}", stdout(&output));
    }

    let none = Setup::tls(&bedrock).with("[models]\ncreate_profiles = false");
    assert_eq!(found(&none.command(&["check", "--online"]).await), (Some(0), String::new()));
}

#[tokio::test]
async fn check_warns_of_a_ledger_in_roots_home() {
    let home = tempfile::tempdir().unwrap();
    let home_text = home.path().to_str().unwrap();
    let is_root = users::own_uid() == 0;
    let warning = format!("warn  run by root without audit.state_dir, the daemon keeps its ledger in {home_text}");
    let output = command(&["check"], &[("HOME", home_text)]).await;
    assert_eq!(stdout(&output).contains(&warning), is_root, "{}", stdout(&output));
    let output = command(&["check"], &[("HOME", home_text), ("STATE_DIRECTORY", home_text)]).await;
    assert!(!stdout(&output).contains("run by root"), "{}", stdout(&output));
}

/// A daemon that was tried out leaves a ledger in the home of whoever asks: no verdict on that shall pass for one on the
/// service's.
#[tokio::test]
async fn audit_says_which_ledger_it_reads_where_nobody_has_named_one() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join(".local/state/bedrock-sidecar");
    std::fs::create_dir_all(state.join("journal")).unwrap();
    let home = home.path().to_str().unwrap();
    let output = command(&["audit", "verify"], &[("HOME", home)]).await;
    let note = format!("note: this host's ledger is taken to be {}\n", state.display());
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), note), "{output:?}");
    let output = command(&["audit", "verify"], &[("HOME", home), ("STATE_DIRECTORY", state.to_str().unwrap())]).await;
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{output:?}");
}

#[tokio::test]
async fn a_model_whose_profile_is_still_to_be_created_is_told_by_a_key_of_its_own() {
    let bedrock = bedrock().await;
    let output = Setup::tls(&bedrock).command(&["models", "--json"]).await;
    let listing: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of =
        |id: &str| listing["models"].as_array().unwrap().iter().find(|model| model["modelId"] == id).unwrap().clone();
    let told = |model: Value| json!([model["invokable"], model["invokedAs"], model["createsProfile"], model["reason"]]);
    assert_eq!(told(of(NEEDS_CREATED_PROFILE)), json!([true, null, true, null]));
    assert_eq!(told(of(ON_DEMAND)), json!([true, ON_DEMAND, false, null]));
}

#[tokio::test]
async fn no_daemon_is_said_without_a_word_on_units_that_may_not_exist() {
    let output = Setup::alone().listen("admin_address = \"127.0.0.1:1\"\n").command(&["status"]).await;
    assert_eq!(output.status.code(), Some(1));
    let complaint = stderr(&output);
    assert!(
        complaint.starts_with("bedrock-sidecar: no daemon answers on 127.0.0.1:1 (listen.admin_address in /"),
        "{complaint}"
    );
    assert!(
        complaint.contains("is it running, with this configuration?") && !complaint.contains("systemctl"),
        "{complaint}"
    );
}

/// What a shell has after `eval "$(bedrock-sidecar env)"`.
fn after_eval(printed: &str, before: &[(&str, &str)], names: &[&str]) -> Vec<String> {
    let shown: Vec<String> = names.iter().map(|name| format!("printf '%s\\n' \"${{{name}-unset}}\"")).collect();
    let script = format!("set -eu; eval \"$1\"; {}", shown.join("; "));
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", printed]).env_clear().envs(before.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn env_keeps_the_apps_calls_on_this_host_and_its_other_variables_as_they_are() {
    let setup = Setup::alone().listen("addresses = [\"127.0.0.1:9999\"]\nadmin_address = \"127.0.0.1:0\"\n");
    let printed = stdout(&setup.command(&["env"]).await);
    let endpoint = "http://127.0.0.1:9999";
    let names = [
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",
        "AWS_ENDPOINT_URL_BEDROCK",
        "AWS_ENDPOINT_URL_BEDROCK_AGENT_RUNTIME",
        "ANTHROPIC_BEDROCK_BASE_URL",
    ];
    assert_eq!(after_eval(&printed, &[], &names), [endpoint; 4]);

    let proxy = ["NO_PROXY", "no_proxy"];
    assert_eq!(after_eval(&printed, &[], &proxy), ["127.0.0.1,localhost"; 2]);
    assert_eq!(after_eval(&printed, &[("NO_PROXY", "a")], &proxy), ["a,127.0.0.1,localhost"; 2]);
    assert_eq!(after_eval(&printed, &[("no_proxy", "b")], &proxy), ["b,127.0.0.1,localhost"; 2]);
    assert_eq!(after_eval(&printed, &[("NO_PROXY", "a"), ("no_proxy", "b")], &proxy), ["a,b,127.0.0.1,localhost"; 2]);

    let others = ["AWS_USE_FIPS_ENDPOINT", "AWS_BEARER_TOKEN_BEDROCK"];
    let before = [("AWS_USE_FIPS_ENDPOINT", "true"), ("AWS_BEARER_TOKEN_BEDROCK", "t")];
    assert_eq!(after_eval(&printed, &before, &others), ["true", "t"], "the app may need them for other services");
    for name in others {
        assert!(
            printed.lines().any(|line| line.starts_with(&format!("# {name}: "))),
            "{name} is explained:\n{printed}"
        );
    }
    // `eval $(…)` without quotes makes one line of all, in which the first comment is the end.
    assert_eq!(after_eval(&printed.replace('\n', " "), &[], &names), [endpoint; 4]);
}
