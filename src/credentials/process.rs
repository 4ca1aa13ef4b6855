//! The `credential_process` of an AWS profile: run as the AWS SDKs run it, and ended with all that it has started if it takes
//! too long or the daemon stops. The SDK for Rust would leave it running.
//!
//! Its standard error is not read: it may quote keys.

use std::borrow::Cow;
use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as AwsKeys;
use aws_credential_types::attributes::AccountId;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// A process that takes longer is ended.
pub(super) const LONGEST_RUN: Duration = Duration::from_secs(30);
/// More than any keys take.
const LARGEST: usize = 64 * 1024;

/// Runs it by the shell, and reads the keys that it writes. They are of `account` unless it says another one.
///
/// # Errors
/// How it has ended without keys. What it wrote is not quoted.
pub(super) async fn run(command: &str, account: Option<&str>, longest: Duration) -> Result<AwsKeys, String> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let mut group = Group::of(&child);
    let ended = timeout(longest, output(&mut child)).await.unwrap_or_else(|_| {
        Err(format!(
            "has not ended within {} s, and was killed; run it by hand as the daemon's user",
            longest.as_secs()
        ))
    });
    match ended {
        Ok((status, text)) => {
            group.leave();
            if status.success() { parse(&text, account) } else { Err(failed(status)) }
        }
        Err(why) => {
            drop(group);
            let _ = child.wait().await;
            Err(why)
        }
    }
}

/// What it has written, and how it has ended.
async fn output(child: &mut Child) -> Result<(ExitStatus, Zeroizing<Vec<u8>>), String> {
    let mut pipe = child.stdout.take().ok_or("has no standard output")?;
    // It never grows, so that no copy is left behind.
    let mut text = Zeroizing::new(vec![0; LARGEST]);
    let mut length = 0;
    while length < LARGEST {
        match pipe.read(&mut text[length..]).await {
            Ok(0) => {
                text.truncate(length);
                let status = child.wait().await.map_err(|error| format!("cannot be waited for: {error}"))?;
                return Ok((status, text));
            }
            Ok(read) => length += read,
            Err(error) => return Err(format!("cannot be read: {error}")),
        }
    }
    Err(format!("has written more than {} KiB, and was killed", LARGEST / 1024))
}

fn failed(status: ExitStatus) -> String {
    format!(
        "has failed ({status}); run it by hand as the daemon's user: what it says is not logged, because it may quote keys"
    )
}

/// A process and all that it has started and that has not gone its own way. They are killed when this is dropped.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Group {
        Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    /// Its process has been waited for, so the number may be another's soon.
    fn leave(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// What AWS documents, read as its SDKs read it: the case of a name does not matter, and what has another type is not there.
#[derive(Default)]
struct Written<'a> {
    version: Option<i64>,
    access_key_id: Option<Text<'a>>,
    secret_access_key: Option<Text<'a>>,
    session_token: Option<Text<'a>>,
    expiration: Option<Text<'a>>,
    account_id: Option<Text<'a>>,
}

impl<'de> Deserialize<'de> for Written<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Written<'de>, D::Error> {
        deserializer.deserialize_map(Names)
    }
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Written<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written<'de>, A::Error> {
        let mut written = Written::default();
        while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            let text = move || serde_json::from_str(value.get()).ok();
            match name.0.to_ascii_lowercase().as_str() {
                "version" => written.version = serde_json::from_str(value.get()).ok(),
                "accesskeyid" => written.access_key_id = text(),
                "secretaccesskey" => written.secret_access_key = text(),
                "sessiontoken" => written.session_token = text(),
                "expiration" => written.expiration = text(),
                "accountid" => written.account_id = text(),
                _ => {}
            }
        }
        Ok(written)
    }
}

/// Borrowed from what is wiped, unless it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn parse(text: &[u8], account: Option<&str>) -> Result<AwsKeys, String> {
    // The error of the JSON parser quotes values.
    let written = serde_json::from_slice::<Written>(text).ok().filter(|written| written.version == Some(1));
    let Some(Written {
        access_key_id: Some(id),
        secret_access_key: Some(secret),
        session_token,
        expiration,
        account_id,
        ..
    }) = written
    else {
        return Err("has written no keys as AWS documents them: one JSON object with Version 1, AccessKeyId, \
             SecretAccessKey and, for temporary keys, SessionToken and Expiration"
            .to_owned());
    };
    let expiry = match expiration.map(|end| end.0.parse::<jiff::Timestamp>()) {
        None => None,
        Some(Ok(end)) => Some(SystemTime::from(end)),
        Some(Err(_)) => return Err("has written an Expiration that is no time as 2026-01-31T23:59:59Z is".to_owned()),
    };
    let mut keys =
        AwsKeys::builder().access_key_id(id.0).secret_access_key(secret.0).provider_name("credential_process");
    keys.set_session_token(session_token.map(|token| token.0.into_owned()));
    keys.set_expiry(expiry);
    let account = account_id.map(|id| id.0).or(account.map(Cow::Borrowed));
    keys.set_account_id(account.map(|id| AccountId::from(id.into_owned())));
    Ok(keys.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn keys(more: &str) -> String {
        format!(r#"echo '{{"Version": 1, "AccessKeyId": "AKIAX", "SecretAccessKey": "s"{more}}}'"#)
    }

    #[tokio::test]
    async fn keys_are_read_as_aws_documents_them() {
        let bare = run(&keys(""), None, LONG).await.unwrap();
        assert_eq!((bare.access_key_id(), bare.secret_access_key(), bare.session_token()), ("AKIAX", "s", None));
        assert_eq!((bare.expiry(), bare.account_id()), (None, None));
        let told = run(&keys(""), Some("210987654321"), LONG).await.unwrap();
        assert_eq!(told.account_id().map(|id| id.as_str()), Some("210987654321"));
        let more = r#", "SessionToken": "t", "Expiration": "2026-01-31T23:59:59+00:00", "AccountId": "123456789012", "Other": [1]"#;
        let all = run(&keys(more), None, LONG).await.unwrap();
        assert_eq!(all.session_token(), Some("t"));
        assert_eq!(all.expiry(), crate::credentials::secret::parse_amz_date("20260131T235959Z"));
        assert_eq!(all.account_id().map(|id| id.as_str()), Some("123456789012"));
        let null = run(&keys(r#", "SessionToken": null, "Expiration": null"#), None, LONG).await.unwrap();
        assert_eq!((null.session_token(), null.expiry()), (None, None));
    }

    #[tokio::test]
    async fn what_the_sdk_has_read_is_read_as_before() {
        let small = r#"echo '{"version": 1, "accessKeyID": "AKIAX", "SECRETACCESSKEY": "s", "sessiontoken": "t"}'"#;
        let keys_read = run(small, None, LONG).await.unwrap();
        assert_eq!((keys_read.access_key_id(), keys_read.session_token()), ("AKIAX", Some("t")));
        // What is no text is not there.
        let more = r#", "SessionToken": false, "Expiration": 1769903999, "AccountId": 123456789012"#;
        let odd = run(&keys(more), Some("210987654321"), LONG).await.unwrap();
        assert_eq!((odd.session_token(), odd.expiry()), (None, None));
        assert_eq!(odd.account_id().map(|id| id.as_str()), Some("210987654321"));
    }

    #[tokio::test]
    async fn what_is_no_keys_is_said_and_not_quoted() {
        for (command, told) in [
            ("echo CANARY; exit 7".to_owned(), "has failed (exit status: 7)"),
            ("echo CANARY".to_owned(), "no keys as AWS documents"),
            (keys("").replace('1', "2"), "Version 1"),
            (r#"echo '{"Version": 1, "AccessKeyId": "CANARY"}'"#.to_owned(), "SecretAccessKey"),
            (r#"echo '{"Version": 1, "AccessKeyId": "CANARY", "SecretAccessKey": 5}'"#.to_owned(), "SecretAccessKey"),
            (format!("{}; echo CANARY", keys("")), "one JSON object"),
            (keys(r#", "Expiration": "CANARY""#), "an Expiration that is no time"),
            ("exec cat /dev/zero".to_owned(), "more than 64 KiB"),
            ("/nonexistent/CANARY 2>&1".to_owned(), "exit status: 127"),
        ] {
            let why = run(&command, None, LONG).await.unwrap_err();
            assert!(why.contains(told) && !why.contains("CANARY"), "{why}");
        }
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_ended_with_what_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let command = format!("sleep 3600 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", pids.display());
        // However late the shell comes to run.
        let running = loop {
            let why = run(&command, None, Duration::from_millis(500)).await.unwrap_err();
            assert!(why.contains("has not ended within 0 s, and was killed"), "{why}");
            if let Ok(text) = std::fs::read_to_string(&pids) {
                break text;
            }
        };
        let pids: Vec<&str> = running.split_whitespace().collect();
        assert!(!std::path::Path::new("/proc").join(pids[0]).exists(), "the shell is no zombie");
        // Whoever takes over the other one waits for it.
        let is_gone = |stat: String| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
        while !std::fs::read_to_string(format!("/proc/{}/stat", pids[1])).map_or(true, is_gone) {
            tokio::task::yield_now().await;
        }
    }

    /// An agent that a process leaves behind on purpose goes on.
    #[tokio::test]
    async fn what_a_process_leaves_behind_is_not_ended_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let command = format!("sleep 3600 >/dev/null & echo $! > {}; {}", pid.display(), keys(""));
        run(&command, None, LONG).await.unwrap();
        let pid: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        rustix::process::test_kill_process(pid).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
}
