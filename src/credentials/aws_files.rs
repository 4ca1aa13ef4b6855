//! `~/.aws/config` and `~/.aws/credentials`, or what `AWS_CONFIG_FILE` and `AWS_SHARED_CREDENTIALS_FILE` name in their place.
//! The AWS SDK would read them on a thread that serves requests, and wait there for as long as they do not answer. They are read
//! here, and the SDK is given their text.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use zeroize::Zeroizing;

use super::file::{self, Lookout};
use crate::file_stamp::FileStamp;

#[expect(deprecated, reason = "aws-config has no other name for it")]
pub(super) type Files = aws_config::profile::profile_file::ProfileFiles;
#[expect(deprecated, reason = "aws-config has no other name for it")]
type Kind = aws_config::profile::profile_file::ProfileFileKind;

/// A file that takes longer cannot be read.
pub(super) const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// One for all who need these files, so that at most one thread hangs.
static LOOKOUT: LazyLock<Lookout> = LazyLock::new(|| Lookout::new(LONGEST_LOOK));

/// What the log has told: these files are read again every few minutes.
static TOLD: LazyLock<Told> = LazyLock::new(Told::default);

/// Why files could not be read when the log last told it.
#[derive(Debug, Default)]
struct Told(Mutex<HashMap<PathBuf, ErrorKind>>);

impl Told {
    /// Whether the log is to tell why a file cannot be read; none if it can.
    fn is_news(&self, path: &Path, why: Option<ErrorKind>) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match why {
            Some(why) => told.insert(path.to_owned(), why),
            None => told.remove(path),
        };
        why.is_some() && before != why
    }
}

/// The text of both, as it is now. A file that is missing counts as empty, as it does for the SDK; so does one that this user
/// may not read.
///
/// # Errors
/// A sentence that names the file that cannot be read.
pub(super) async fn read() -> Result<Files, String> {
    let mut files = Files::builder();
    for (kind, path) in named(|name| std::env::var(name).ok()) {
        let text = match path {
            Some(path) => text(&path).await?,
            None => Zeroizing::default(),
        };
        files = files.with_contents(kind, text.as_str());
    }
    Ok(files.build())
}

/// Files that hold nothing.
pub(super) fn none() -> Files {
    Files::builder().with_contents(Kind::Config, "").build()
}

#[cfg(test)]
pub(super) fn of_config(text: &str) -> Files {
    Files::builder().with_contents(Kind::Config, text).build()
}

/// What changes when one of them is replaced or rewritten; none while they do not answer.
pub(super) async fn stamps() -> Option<Vec<Option<FileStamp>>> {
    let paths: Vec<PathBuf> = named(|name| std::env::var(name).ok()).into_iter().filter_map(|(_, path)| path).collect();
    LOOKOUT.look(move || paths.iter().map(|path| FileStamp::of(path)).collect()).await
}

async fn text(path: &Path) -> Result<Zeroizing<String>, String> {
    // The usual way to say that there is none.
    if path == Path::new("/dev/null") {
        return Ok(Zeroizing::default());
    }
    let own = path.to_owned();
    match LOOKOUT.look(move || file::read(&own)).await {
        None => Err(file::unanswering(path)),
        Some(Ok(text)) => {
            TOLD.is_news(path, None);
            Ok(text)
        }
        Some(Err(error)) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                TOLD.is_news(path, None);
                Ok(Zeroizing::default())
            }
            ErrorKind::PermissionDenied | ErrorKind::InvalidData => {
                if TOLD.is_news(path, Some(error.kind())) {
                    tracing::warn!(path = %path.display(), %error, "a file of the AWS configuration cannot be read, and counts as empty");
                }
                Ok(Zeroizing::default())
            }
            _ => Err(format!("the file {} of the AWS configuration cannot be read: {error}", path.display())),
        },
    }
}

/// Where the SDK looks for them; none where that depends on a home directory and there is none.
fn named(variable: impl Fn(&str) -> Option<String>) -> [(Kind, Option<PathBuf>); 2] {
    let home = variable("HOME").map(PathBuf::from);
    let place = |name: &str, default: &str| {
        let path = variable(name).unwrap_or_else(|| default.to_owned());
        match path.strip_prefix("~/") {
            Some(rest) => Some(home.as_ref()?.join(rest)),
            None => Some(PathBuf::from(path)),
        }
    };
    [
        (Kind::Config, place("AWS_CONFIG_FILE", "~/.aws/config")),
        (Kind::Credentials, place("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
        named(variable).into_iter().filter_map(|(_, path)| path).collect()
    }

    #[test]
    fn they_are_where_the_sdk_looks_for_them() {
        let home = |name: &str| (name == "HOME").then(|| "/home/x".to_owned());
        let expected = |named: &[&str]| named.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(paths(home), expected(&["/home/x/.aws/config", "/home/x/.aws/credentials"]));
        let named = |name: &str| home(name).or_else(|| (name == "AWS_CONFIG_FILE").then(|| "/etc/aws".to_owned()));
        assert_eq!(paths(named), expected(&["/etc/aws", "/home/x/.aws/credentials"]));
        assert_eq!(paths(|_| None), expected(&[]));
    }

    #[test]
    fn what_keeps_a_file_from_being_read_is_told_once() {
        let (told, one, other) = (Told::default(), Path::new("one"), Path::new("other"));
        let refused = Some(ErrorKind::PermissionDenied);
        assert!(told.is_news(one, refused) && !told.is_news(one, refused));
        assert!(told.is_news(other, refused), "another file is");
        assert!(told.is_news(one, Some(ErrorKind::InvalidData)), "another reason is");
        assert!(!told.is_news(one, None), "that it can be read is not");
        assert!(told.is_news(one, refused), "it could be read meanwhile");
    }

    #[tokio::test]
    async fn what_is_missing_is_empty_and_what_does_not_answer_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (file, fifo) = (directory.path().join("file"), directory.path().join("fifo"));
        std::fs::write(&file, "text").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_eq!(text(&file).await.unwrap().as_str(), "text");
        for empty in [directory.path().join("none"), file.join("none"), "/dev/null".into()] {
            assert_eq!(text(&empty).await.unwrap().as_str(), "", "{empty:?}");
        }
        let why = text(&fifo).await.unwrap_err();
        assert!(why.contains(fifo.to_str().unwrap()) && why.contains("not a regular file"), "{why}");
    }
}
