//! The files of the AWS configuration, and the process that a profile may name: what does not answer holds up neither the start
//! nor the end, and is found again when it does.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use simulator::{DEFAULT_ACCESS_KEY_ID, DEFAULT_SECRET_ACCESS_KEY, DEFAULT_SESSION_TOKEN};
use simulator::{DEFAULT_TEMPORARY_ACCESS_KEY_ID, DEFAULT_TEMPORARY_SECRET_ACCESS_KEY};
use test_support::*;

use super::ask;

const PROFILE: &str = "[credentials]\nsource = \"profile\"\nprofile = \"commercial\"\n";

/// A daemon's setup whose AWS configuration is in a directory.
fn with_files(setup: Setup, directory: &Path) -> Setup {
    setup
        .env("AWS_CONFIG_FILE", directory.join("config").to_str().unwrap())
        .env("AWS_SHARED_CREDENTIALS_FILE", directory.join("credentials").to_str().unwrap())
        .env("PATH", "/usr/bin:/bin")
}

/// Nobody writes to it, so that reading it would never end.
fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn static_keys() -> String {
    format!(
        "[commercial]\naws_access_key_id = {DEFAULT_ACCESS_KEY_ID}\naws_secret_access_key = {DEFAULT_SECRET_ACCESS_KEY}\n"
    )
}

/// Replaces a file as configuration management does.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn temporary_keys() -> String {
    json!({
        "Version": 1, "AccessKeyId": DEFAULT_TEMPORARY_ACCESS_KEY_ID,
        "SecretAccessKey": DEFAULT_TEMPORARY_SECRET_ACCESS_KEY, "SessionToken": DEFAULT_SESSION_TOKEN,
        "Expiration": "2099-01-01T00:00:00Z",
    })
    .to_string()
}

/// It listens, says which file it is, and needs no restart once the file can be read.
#[tokio::test]
async fn a_start_with_a_profile_that_cannot_be_read_listens_and_recovers() {
    for name in ["config", "credentials"] {
        let bedrock = bedrock().await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(name);
        fifo(&file);
        let daemon = with_files(Setup::plain(&bedrock).credentials(PROFILE), directory.path()).start().await;
        let told = file.display().to_string();
        let answer = ask(&daemon).await;
        let sentence = refused(&answer, 503, "ServiceUnavailableException");
        assert!(sentence.contains(&told) && sentence.contains("is not a regular file"), "{sentence}");
        assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");
        for page in ["/ready", "/status"] {
            let page = daemon.admin_get(page).await;
            assert!(page.json()["ready"] == false && page.text().contains(&told), "{}", page.text());
        }
        replace(&directory.path().join("credentials"), &static_keys());
        if name == "config" {
            replace(&file, "");
        }
        daemon.until_ready().await;
        let answer = ask(&daemon).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    }
}

/// This host's own role is looked for in the same files, as are the keys for Secrets Manager.
#[tokio::test]
async fn a_host_whose_own_configuration_cannot_be_read_starts_and_ends_at_once() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    fifo(&directory.path().join("config"));
    let mut daemon = with_files(Setup::plain(&bedrock), directory.path()).ready().await;
    let answer = ask(&daemon).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());

    let section = "[credentials]\nsource = \"secrets_manager\"\nsecret_id = \"s\"\nregion = \"us-gov-west-1\"\n";
    let setup =
        Setup::plain(&bedrock).credentials(section).env("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1");
    let daemon = with_files(setup, directory.path()).start().await;
    let answer = ask(&daemon).await;
    let sentence = refused(&answer, 503, "ServiceUnavailableException");
    let told = directory.path().join("config").display().to_string();
    assert!(sentence.contains(&told), "{sentence}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");
    // Readable again, it gives keys, and Secrets Manager is asked with them.
    let keys = "[default]\naws_access_key_id = AKIAHOST\naws_secret_access_key = of-this-host\n";
    replace(&directory.path().join("config"), keys);
    until_async("a question to Secrets Manager", || async {
        let answer = ask(&daemon).await;
        let sentence = refused(&answer, 503, "ServiceUnavailableException");
        sentence.contains("there is no connection to it").then_some(())
    })
    .await;
}

/// Neither the process nor what it has started outlives the daemon, and the stop does not wait for them.
#[tokio::test]
async fn a_process_that_hangs_ends_with_the_daemon() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let (command, pids) = (directory.path().join("keys.sh"), directory.path().join("pids"));
    script(&command, &format!("sleep 3600 &\necho $$ $! > {0}.new\nmv {0}.new {0}\nwait", pids.display()));
    let text = format!("[profile commercial]\ncredential_process = {}\n", command.display());
    std::fs::write(directory.path().join("config"), text).unwrap();
    let mut daemon = with_files(Setup::plain(&bedrock).credentials(PROFILE), directory.path()).start().await;
    let running = until("the process to run", || std::fs::read_to_string(&pids).ok()).await;
    let answer = ask(&daemon).await;
    refused(&answer, 503, "ServiceUnavailableException");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");
    daemon.signal("TERM");
    assert!(daemon.ended().await.success());
    for pid in running.split_whitespace() {
        eventually("the process to end", || has_ended(pid)).await;
    }
}

/// Gone, or waiting for whoever took it over.
fn has_ended(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

/// The process that gives this host's own keys is held to the same bounds as one that gives the commercial ones.
#[tokio::test]
async fn the_process_of_the_host_itself_is_bounded_too() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let command = directory.path().join("keys.sh");
    let section = "[credentials]\nsource = \"secrets_manager\"\nsecret_id = \"s\"\nregion = \"us-gov-west-1\"\n";
    std::fs::write(directory.path().join("config"), format!("[default]\ncredential_process = {}\n", command.display()))
        .unwrap();
    let setup = || {
        let setup = Setup::plain(&bedrock).credentials(section);
        with_files(setup.env("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1"), directory.path())
    };
    script(&command, &format!("head -c 100000 /dev/zero | tr '\\0' ' '; echo '{}'; echo CANARY >&2", temporary_keys()));
    let daemon = setup().start().await;
    let answer = ask(&daemon).await;
    let sentence = refused(&answer, 503, "ServiceUnavailableException");
    let told = "the credential_process of the AWS profile default has written more than 64 KiB, and was killed";
    assert!(sentence.contains(told), "{sentence}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");
    assert!(!daemon.log_text().contains("CANARY"), "{}", daemon.log_text());
    // Mended, it gives keys, and Secrets Manager is asked with them.
    script(&command, &format!("echo '{}'", temporary_keys()));
    let asked = async |daemon: &Daemon| {
        let answer = ask(daemon).await;
        let sentence = refused(&answer, 503, "ServiceUnavailableException");
        sentence.contains("there is no connection to it").then_some(())
    };
    until_async("a question to Secrets Manager", || asked(&daemon)).await;
    // Keys in the environment come first, as in the SDKs' own order.
    script(&command, "exit 7");
    let environment = setup().env("AWS_ACCESS_KEY_ID", "AKIAHOST").env("AWS_SECRET_ACCESS_KEY", "of-this-host");
    let daemon = environment.start().await;
    until_async("a question to Secrets Manager", || asked(&daemon)).await;
}

/// What it writes to its standard error may quote keys, so nobody reads it.
#[tokio::test]
async fn what_a_credential_process_says_stands_nowhere() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let command = directory.path().join("keys.sh");
    let text = format!("[profile commercial]\ncredential_process = {}\n", command.display());
    std::fs::write(directory.path().join("config"), text).unwrap();
    let not_keys = "{\"Version\": 1, \"AccessKeyId\": \"CANARY\", \"SecretAccessKey\": [\"CANARY\"]}";
    for (said, told) in [
        ("echo CANARY; echo CANARY >&2; exit 7".to_owned(), "exit status: 7"),
        (format!("echo '{not_keys}'"), "has written no keys as AWS documents them"),
    ] {
        script(&command, &said);
        let daemon = with_files(Setup::plain(&bedrock).credentials(PROFILE), directory.path()).start().await;
        let answer = ask(&daemon).await;
        let sentence = refused(&answer, 503, "ServiceUnavailableException");
        assert!(sentence.contains("the credential_process of the AWS profile commercial"), "{sentence}");
        assert!(sentence.contains(told), "{sentence}");
        assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");
        for page in ["/ready", "/status", "/metrics"] {
            assert!(!daemon.admin_get(page).await.text().contains("CANARY"), "{page}");
        }
        daemon.has_said_all().await;
        assert!(!daemon.log_text().contains("CANARY"), "{}", daemon.log_text());
    }
    // What works leaves its keys nowhere either.
    script(&command, &format!("echo '{}'", temporary_keys()));
    let daemon = with_files(Setup::plain(&bedrock).credentials(PROFILE), directory.path()).ready().await;
    let answer = ask(&daemon).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    daemon.record_of(&answer).await;
    daemon.has_said_all().await;
    for canary in [DEFAULT_TEMPORARY_SECRET_ACCESS_KEY, DEFAULT_SESSION_TOKEN] {
        assert!(!daemon.log_text().contains(canary), "{}", daemon.log_text());
        assert!(!daemon.admin_get("/status").await.text().contains(canary));
    }
}
