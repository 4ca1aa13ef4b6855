//! The command line and its exit codes.

use serde_json::{Value, json};
use test_support::*;
use tokio::net::TcpListener;

use super::{stderr, stdout};

#[tokio::test]
async fn usage_errors_exit_with_2_and_questions_with_0() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["run", "--nonsense"],
        &["check", "extra"],
        &["completions"],
        &["completions", "tcsh"],
    ] {
        let output = command(arguments, &[]).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("--help") || arguments.is_empty(), "{arguments:?}: {}", stderr(&output));
    }
    let version = command(&["--version"], &[]).await;
    let said = stdout(&version);
    let (first, module) = said.split_once('\n').unwrap();
    assert_eq!((version.status.code(), first), (Some(0), concat!("bedrock-sidecar ", env!("CARGO_PKG_VERSION"))));
    assert!(module.starts_with("AWS-LC "), "the module that encrypts, and its certificate: {module}");
    let help = command(&["--help"], &[]).await;
    for word in ["run", "check", "models", "status", "top", "env", "completions"] {
        assert!(stdout(&help).contains(&format!("\n  {word} ")), "{word}: {}", stdout(&help));
    }
    for (shell, says) in [
        ("bash", "complete -F _bedrock__sidecar"),
        ("zsh", "#compdef bedrock-sidecar"),
        ("fish", "complete -c bedrock-sidecar"),
    ] {
        let output = command(&["completions", shell], &[]).await;
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains(says), "{shell}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_failure_with_advice() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    for listen in [
        format!("addresses = [\"{address}\"]\nadmin_address = \"127.0.0.1:0\"\n"),
        format!("addresses = [\"127.0.0.1:0\"]\nadmin_address = \"{address}\"\n"),
    ] {
        let output = Setup::alone().listen(&listen).command(&["run"]).await;
        assert_eq!(output.status.code(), Some(1));
        let complaint = stderr(&output);
        let expected = format!("bedrock-sidecar: {address} cannot be listened on: ");
        assert!(complaint.contains(&expected) && complaint.contains("another process has this port"), "{complaint}");
    }
}

#[tokio::test]
async fn env_names_the_configured_address() {
    let setup = Setup::alone().listen("addresses = [\"127.0.0.1:9999\"]\nadmin_address = \"127.0.0.1:0\"\n");
    let output = setup.command(&["env"]).await;
    assert!(stdout(&output).contains("export AWS_ENDPOINT_URL_BEDROCK_RUNTIME=http://127.0.0.1:9999\n"));
    let setup =
        Setup::alone().listen("addresses = []\nunix_socket = \"/tmp/x.sock\"\nadmin_address = \"127.0.0.1:0\"\n");
    let output = setup.command(&["env"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("SDKs cannot use a unix socket"));
}

#[tokio::test]
async fn models_are_listed_as_a_table_and_as_json() {
    let bedrock = bedrock().await;
    let setup = Setup::tls(&bedrock).with("[models]\ndeny = [\"cohere.*\"]");
    let output = setup.command(&["models"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table = stdout(&output);
    let row = |model: &str| {
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(model));
        line.unwrap_or_else(|| panic!("no {model} in\n{table}")).split_once(' ').unwrap().1.trim().to_owned()
    };
    assert_eq!(row("MODEL"), "INVOKED AS");
    assert_eq!(row(ON_DEMAND), ON_DEMAND);
    assert_eq!(row(PROFILE_ONLY), format!("us.{PROFILE_ONLY}"));
    assert_eq!(row(NEEDS_CREATED_PROFILE), "(a profile is created at the first request)");
    assert!(
        row("cohere.command-r-v1:0").starts_with("- cohere.command-r-v1:0 is refused by \"cohere.*\" in models.deny")
    );

    let json: Value = serde_json::from_str(&stdout(&setup.command(&["models", "--json"]).await)).unwrap();
    let models = json["models"].as_array().unwrap();
    assert_eq!(models.len() + 1, table.lines().count());
    let premier = models.iter().find(|model| model["modelId"] == PROFILE_ONLY).unwrap();
    assert_eq!(
        *premier,
        json!({
            "modelId": PROFILE_ONLY, "modelName": "Nova Premier", "providerName": "Amazon",
            "invokable": true, "invokedAs": format!("us.{PROFILE_ONLY}"), "createsProfile": false, "reason": null,
            "servedBy": "us-east-1", "partition": "aws",
        })
    );
    let output = Setup::alone().command(&["models"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("bedrock-sidecar: "), "{}", stderr(&output));
}
