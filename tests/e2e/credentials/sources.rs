//! The places that a credential is read from: a file, the environment, a profile.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;
use simulator::{
    DEFAULT_ACCESS_KEY_ID, DEFAULT_BEARER_TOKEN, DEFAULT_SECRET_ACCESS_KEY, DEFAULT_SESSION_TOKEN,
    DEFAULT_TEMPORARY_ACCESS_KEY_ID, DEFAULT_TEMPORARY_SECRET_ACCESS_KEY, ROTATED_BEARER_TOKEN,
};
use test_support::*;

use super::{ask, temporary};

#[tokio::test]
async fn a_missing_secret_is_waited_for() {
    let bedrock = bedrock().await;
    let setup = Setup::plain(&bedrock);
    std::fs::remove_file(setup.secret_path()).unwrap();
    let daemon = setup.start().await;
    assert_eq!(daemon.admin_get("/health").await.status, 200, "alive, and not ready");
    let ready = daemon.admin_get("/ready").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (503, &json!(false)));
    let answer = ask(&daemon).await;
    let sentence = refused(&answer, 503, "ServiceUnavailableException");
    assert!(sentence.contains("no commercial credential: the credentials file"), "{sentence}");
    assert!(sentence.contains("cannot be read: No such file or directory"), "{sentence}");
    assert_eq!(daemon.record_of(&answer).await["outcome"], "refused");

    std::fs::write(daemon.secret_path(), DEFAULT_BEARER_TOKEN).unwrap();
    daemon.until_ready().await;
    assert_eq!(ask(&daemon).await.status, 200, "healed without a restart");
}

#[tokio::test]
async fn a_changed_file_is_taken_over_without_a_refused_request() {
    let bedrock = bedrock().await;
    bedrock.set_bearer_tokens(vec![DEFAULT_BEARER_TOKEN.into(), ROTATED_BEARER_TOKEN.into()]);
    let daemon = Setup::tls(&bedrock).ready().await;
    assert_eq!(ask(&daemon).await.status, 200);
    // As systemd and config management replace files: by renaming.
    let new = daemon.directory.path().join("new");
    std::fs::write(&new, ROTATED_BEARER_TOKEN).unwrap();
    std::fs::rename(&new, daemon.secret_path()).unwrap();
    let rotated = format!("Bearer {ROTATED_BEARER_TOKEN}");
    until_async("the new key in use", || async {
        bedrock.clear();
        assert_eq!(ask(&daemon).await.status, 200);
        received(&bedrock, "Converse")[0].header("authorization").filter(|sent| *sent == rotated).map(|_| ())
    })
    .await;
    // Another kind of credential altogether.
    std::fs::write(daemon.secret_path(), temporary()).unwrap();
    until_async("the AWS keys in use", || async {
        bedrock.clear();
        assert_eq!(ask(&daemon).await.status, 200);
        (received(&bedrock, "Converse")[0].auth == "sigv4").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_source_that_breaks_keeps_the_key_that_works() {
    let bedrock = bedrock().await;
    let daemon = Setup::plain(&bedrock).ready().await;
    std::fs::write(daemon.secret_path(), "broken").unwrap();
    daemon.says("the commercial credential could not be read; trying again").await;
    assert_eq!(ask(&daemon).await.status, 200);
    assert_eq!(daemon.admin_get("/ready").await.status, 200);
    let failures = "bedrock_sidecar_credential_refresh_total{result=\"failure\"}";
    assert!(metric(&daemon.metrics().await, failures).unwrap() >= 1.0);
}

#[tokio::test]
async fn a_file_of_systemds_credentials_directory_is_found() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("commercial"), DEFAULT_BEARER_TOKEN).unwrap();
    let daemon = Setup::plain(&bedrock)
        .credentials("[credentials]\nsource = \"file\"\nfile = \"$CREDENTIALS_DIRECTORY/commercial\"\n")
        .env("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap())
        .ready()
        .await;
    assert_eq!(ask(&daemon).await.status, 200);
}

#[tokio::test]
async fn the_environment_gives_either_kind() {
    let bedrock = bedrock().await;
    let section = "[credentials]\nsource = \"environment\"\n";
    let bearer = Setup::plain(&bedrock)
        .credentials(section)
        .env("AWS_BEARER_TOKEN_BEDROCK", DEFAULT_BEARER_TOKEN)
        .env("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
        .env("AWS_SECRET_ACCESS_KEY", "unknown")
        .ready()
        .await;
    let keys = Setup::plain(&bedrock)
        .credentials(section)
        .env("AWS_ACCESS_KEY_ID", DEFAULT_TEMPORARY_ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", DEFAULT_TEMPORARY_SECRET_ACCESS_KEY)
        .env("AWS_SESSION_TOKEN", DEFAULT_SESSION_TOKEN)
        .ready()
        .await;
    bedrock.clear();
    assert_eq!((ask(&bearer).await.status, ask(&keys).await.status), (200, 200));
    let sent: Vec<_> = received(&bedrock, "Converse").into_iter().map(|one| one.auth).collect();
    assert_eq!(sent, ["bearer", "sigv4"]);

    let none = Setup::plain(&bedrock).credentials(section).start().await;
    let sentence = refused(&ask(&none).await, 503, "ServiceUnavailableException");
    assert!(sentence.contains("set AWS_BEARER_TOKEN_BEDROCK"), "{sentence}");

    bedrock.clear();
    let without_token = Setup::plain(&bedrock)
        .credentials(section)
        .env("AWS_ACCESS_KEY_ID", DEFAULT_TEMPORARY_ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", DEFAULT_TEMPORARY_SECRET_ACCESS_KEY)
        .start()
        .await;
    let answer = ask(&without_token).await;
    let sentence = refused(&answer, 503, "ServiceUnavailableException");
    assert!(sentence.contains("starts with ASIA, so it is temporary and needs its aws_session_token"), "{sentence}");
    assert_eq!(without_token.record_of(&answer).await["outcome"], "refused");
    assert_eq!(bedrock.requests().len(), 0);
}

#[tokio::test]
async fn a_profile_gives_its_keys_or_those_of_its_process() {
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let (config, shared) = (directory.path().join("config"), directory.path().join("credentials"));
    let script = directory.path().join("keys.sh");
    let keys = json!({
        "Version": 1, "AccessKeyId": DEFAULT_TEMPORARY_ACCESS_KEY_ID,
        "SecretAccessKey": DEFAULT_TEMPORARY_SECRET_ACCESS_KEY, "SessionToken": DEFAULT_SESSION_TOKEN,
        "Expiration": "2099-01-01T00:00:00Z",
    });
    std::fs::write(&script, format!("#!/bin/sh\necho '{keys}'\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(&config, format!("[profile process]\ncredential_process = {}\n", script.display())).unwrap();
    std::fs::write(
        &shared,
        format!("[static]\naws_access_key_id = {DEFAULT_ACCESS_KEY_ID}\naws_secret_access_key = {DEFAULT_SECRET_ACCESS_KEY}\n"),
    )
    .unwrap();
    for (profile, id) in [("static", DEFAULT_ACCESS_KEY_ID), ("process", DEFAULT_TEMPORARY_ACCESS_KEY_ID)] {
        let daemon = Setup::plain(&bedrock)
            .credentials(&format!("[credentials]\nsource = \"profile\"\nprofile = \"{profile}\"\n"))
            .env("AWS_CONFIG_FILE", config.to_str().unwrap())
            .env("AWS_SHARED_CREDENTIALS_FILE", shared.to_str().unwrap())
            .env("PATH", "/usr/bin:/bin")
            // The profile is named, so that these must not be taken instead.
            .env("AWS_ACCESS_KEY_ID", "AKIAHOSTKEYS")
            .env("AWS_SECRET_ACCESS_KEY", "host")
            .ready()
            .await;
        bedrock.clear();
        assert_eq!(ask(&daemon).await.status, 200, "{profile}");
        assert_eq!(received(&bedrock, "Converse")[0].access_key_id.as_deref(), Some(id), "{profile}");
    }
    let nothing = Setup::plain(&bedrock)
        .credentials("[credentials]\nsource = \"profile\"\nprofile = \"nobody\"\n")
        .env("AWS_CONFIG_FILE", config.to_str().unwrap())
        .env("AWS_SHARED_CREDENTIALS_FILE", shared.to_str().unwrap())
        .start()
        .await;
    let sentence = refused(&ask(&nothing).await, 503, "ServiceUnavailableException");
    assert!(sentence.contains("the AWS profile nobody gives no credentials"), "{sentence}");
}

/// The keys of the profile belong to the commercial account, so that its role is asked for in the commercial partition,
/// whatever region this GovCloud host is in.
#[tokio::test]
async fn a_profile_may_assume_a_role_of_the_commercial_account() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>{DEFAULT_TEMPORARY_ACCESS_KEY_ID}</AccessKeyId>\
         <SecretAccessKey>{DEFAULT_TEMPORARY_SECRET_ACCESS_KEY}</SecretAccessKey>\
         <SessionToken>{DEFAULT_SESSION_TOKEN}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
         </AssumeRoleResult></AssumeRoleResponse>"
    );
    let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            // The body is the last that comes: its parameters end with the version.
            while !String::from_utf8_lossy(&request).contains("Version=2011-06-15") {
                match stream.read(&mut buffer).await {
                    Ok(read @ 1..) => request.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            let _ = stream.write_all(format!("{head}{answer}").as_bytes()).await;
            let _ = asked.send(String::from_utf8_lossy(&request).into_owned());
        }
    });
    let bedrock = bedrock().await;
    let directory = tempfile::tempdir().unwrap();
    let (config, script) = (directory.path().join("config"), directory.path().join("keys.sh"));
    let keys = json!({ "Version": 1, "AccessKeyId": "AKIABASE", "SecretAccessKey": "base" });
    std::fs::write(&script, format!("#!/bin/sh\necho '{keys}'\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    for base in [
        "aws_access_key_id = AKIABASE\naws_secret_access_key = base".to_owned(),
        format!("credential_process = {}", script.display()),
    ] {
        let role = "role_arn = arn:aws:iam::123456789012:role/bedrock\nsource_profile = base\nregion = us-west-2";
        while asks.try_recv().is_ok() {}
        std::fs::write(&config, format!("[profile base]\n{base}\n[profile commercial]\n{role}\n")).unwrap();
        let daemon = Setup::plain(&bedrock)
            .credentials("[credentials]\nsource = \"profile\"\nprofile = \"commercial\"\n")
            .env("AWS_CONFIG_FILE", config.to_str().unwrap())
            .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
            .env("AWS_ENDPOINT_URL_STS", &endpoint)
            .env("AWS_REGION", "us-gov-west-1")
            .env("PATH", "/usr/bin:/bin")
            .ready()
            .await;
        bedrock.clear();
        let answer = ask(&daemon).await;
        assert_eq!(answer.status, 200, "{base}");
        assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");
        let sent = received(&bedrock, "Converse").pop().unwrap();
        assert_eq!(sent.access_key_id.as_deref(), Some(DEFAULT_TEMPORARY_ACCESS_KEY_ID), "{base}");
        let request = within("the call to STS", asks.recv()).await.unwrap();
        assert!(request.contains("Action=AssumeRole&") && request.contains("role%2Fbedrock"), "{request}");
        assert!(request.contains("Credential=AKIABASE/"), "{request}");
        assert!(request.contains("/us-west-2/sts/aws4_request"), "{request}");
    }
}

#[tokio::test]
async fn a_credentials_file_that_everybody_can_read_is_worth_a_warning() {
    let bedrock = bedrock().await;
    for (mode, warns) in [(0o644, true), (0o600, false)] {
        let setup = Setup::plain(&bedrock);
        std::fs::set_permissions(setup.secret_path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let checked = String::from_utf8(setup.command(&["check"]).await.stdout).unwrap();
        assert_eq!(checked.contains("warn  every user of this host can reach the secret"), warns, "{checked}");
        let daemon = setup.ready().await;
        daemon.has_said_all().await;
        assert_eq!(daemon.log_text().contains("every user of this host can reach the secret"), warns);
    }
}

#[tokio::test]
async fn no_core_dump_holds_the_key_unless_the_admin_says_so() {
    const USER: u32 = 61_041;
    if !users::can_be_others("no_core_dump_holds_the_key_unless_the_admin_says_so") {
        return;
    }
    let bedrock = bedrock().await;
    // How large a dump may be, and who may look into the process: its own user, or root alone.
    let exposure = async |section: &str| {
        let setup = Setup::plain(&bedrock).with(section);
        let config = setup.write();
        std::fs::create_dir(setup.path().join("state")).unwrap();
        for name in ["", "config.toml", "secret", "state"] {
            std::os::unix::fs::chown(setup.path().join(name), Some(USER), Some(USER)).unwrap();
        }
        let mut shell = std::process::Command::new("bash");
        let user = format!("--reuid {USER} --regid {USER} --clear-groups");
        shell.arg("-c").arg(format!("ulimit -c unlimited; exec setpriv {user} \"$0\" run --config \"$1\""));
        shell.arg(program().get_program()).arg(&config);
        let daemon = Daemon::spawn(shell, std::collections::BTreeMap::new(), setup.directory).await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let owner = std::fs::metadata(format!("/proc/{}/environ", daemon.pid())).unwrap().uid();
        (line.split_whitespace().nth(4).unwrap().to_owned(), owner)
    };
    assert_eq!(exposure("").await, ("0".to_owned(), 0));
    assert_eq!(exposure("[process]\ncore_dumps = true").await, ("unlimited".to_owned(), USER));
}
