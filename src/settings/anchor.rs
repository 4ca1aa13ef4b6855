//! What `[audit.anchor]` means: where the end of the hash chain is written every minute.

use std::net::Ipv4Addr;

use toml::Spanned;

use super::any_region;
use crate::config::{self, AnchorPlace, ConfigError, Endpoint, ObjectLockMode, Source};

/// A place for anchors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anchor {
    /// The daemon's own log.
    Log,
    /// A bucket of S3.
    S3(S3Anchor),
}

/// Objects in a bucket, one for each anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Anchor {
    pub(crate) bucket: String,
    /// What each key begins with: empty, or ending with a slash.
    pub(crate) prefix: String,
    pub(crate) region: String,
    /// Whom to ask, and whether the bucket stands in the path instead of the host's name.
    pub(crate) endpoint: Endpoint,
    pub(crate) bucket_in_path: bool,
    pub(crate) lock: Option<ObjectLock>,
}

/// How long S3 refuses to delete an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectLock {
    pub(crate) mode: ObjectLockMode,
    pub(crate) days: u32,
}

/// S3's own bound: 100 years.
const MAX_LOCK_DAYS: u32 = 36_500;
/// A key has at most 1,024 bytes; the rest is for what the daemon adds.
const MAX_PREFIX: usize = 512;

/// `region` is that of the table.
pub(super) fn anchor(written: Spanned<config::Anchor>, region: &str, source: &Source) -> Result<Anchor, ConfigError> {
    let span = written.span();
    let written = written.into_inner();
    match written.to {
        AnchorPlace::Log => {
            let stray = [
                ("bucket", written.bucket.is_some()),
                ("prefix", written.prefix.is_some()),
                ("region", written.region.is_some()),
                ("endpoint", written.endpoint.is_some()),
                ("object_lock_mode", written.object_lock_mode.is_some()),
                ("object_lock_days", written.object_lock_days.is_some()),
            ];
            match stray.iter().find(|(_, is_set)| *is_set) {
                Some((key, _)) => Err(source
                    .error(span, format!("{key} has no meaning with to = \"log\"; remove it from [audit.anchor]."))),
                None => Ok(Anchor::Log),
            }
        }
        AnchorPlace::S3 => {
            let bucket = written
                .bucket
                .ok_or_else(|| source.error(span.clone(), "to = \"s3\" needs bucket beside it in [audit.anchor]."))?;
            let bucket = bucket_name(&bucket, source)?;
            let region = written.region.map_or_else(|| Ok(region.to_owned()), |region| any_region(&region, source))?;
            let lock = match (written.object_lock_mode, written.object_lock_days) {
                (None, None) => None,
                (Some(mode), Some(days)) => Some(ObjectLock { mode, days: lock_days(&days, source)? }),
                (Some(_), None) => return Err(source.error(span, needs("object_lock_mode", "object_lock_days"))),
                (None, Some(_)) => return Err(source.error(span, needs("object_lock_days", "object_lock_mode"))),
            };
            // The certificate of S3 covers one name below its own.
            let bucket_in_path = written.endpoint.is_some() || bucket.contains('.');
            Ok(Anchor::S3(S3Anchor {
                endpoint: written.endpoint.unwrap_or_else(|| host(&bucket, &region, bucket_in_path)),
                prefix: written.prefix.map_or_else(|| Ok(String::new()), |prefix| key_prefix(&prefix, source))?,
                bucket,
                region,
                bucket_in_path,
                lock,
            }))
        }
    }
}

fn needs(one: &str, other: &str) -> String {
    format!("{one} needs {other} beside it in [audit.anchor].")
}

/// AWS's own host of a region; the FIPS one in GovCloud, the United States and Canada, which have it.
fn host(bucket: &str, region: &str, bucket_in_path: bool) -> Endpoint {
    let service = if region.starts_with("us-") || region.starts_with("ca-") { "s3-fips" } else { "s3" };
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let host = format!("{service}.{region}.{suffix}");
    Endpoint::https(if bucket_in_path { host } else { format!("{bucket}.{host}") })
}

/// S3's rules for the names of buckets.
fn bucket_name(bucket: &Spanned<String>, source: &Source) -> Result<String, ConfigError> {
    let name = bucket.get_ref();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_name = (3..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || matches!(b, b'-' | b'.'))
        && name.bytes().next().is_some_and(plain)
        && name.bytes().next_back().is_some_and(plain)
        && !name.contains("..")
        && name.parse::<Ipv4Addr>().is_err();
    if is_name {
        return Ok(name.clone());
    }
    Err(source.error(
        bucket.span(),
        format!("\"{name}\" is not the name of a bucket: 3 to 63 lower-case letters, digits, hyphens and dots; write for example \"audit-anchors\"."),
    ))
}

/// A folder, so that it can be copied into a directory of the same name.
fn key_prefix(prefix: &Spanned<String>, source: &Source) -> Result<String, ConfigError> {
    let text = prefix.get_ref();
    let folder = text.strip_suffix('/').unwrap_or(text);
    if folder.is_empty() && text.is_empty() {
        return Ok(String::new());
    }
    let is_folder = folder.len() <= MAX_PREFIX
        && folder.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !folder.contains(char::is_control);
    if is_folder {
        return Ok(format!("{folder}/"));
    }
    Err(source.error(
        prefix.span(),
        format!("\"{text}\" is not the prefix of keys; write a folder of the bucket, for example \"anchors\" or \"bedrock/anchors\"."),
    ))
}

fn lock_days(days: &Spanned<u32>, source: &Source) -> Result<u32, ConfigError> {
    match *days.get_ref() {
        count @ 1..=MAX_LOCK_DAYS => Ok(count),
        count => Err(source.error(
            days.span(),
            format!("object_lock_days is {count}; S3 locks objects for 1 to {MAX_LOCK_DAYS} days."),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::Settings;

    fn read(keys: &str) -> Result<S3Anchor, String> {
        let text = format!("[audit.anchor]\n{keys}");
        match Settings::from_source(&Source::new(Path::new("c"), text)).map(|settings| settings.audit.anchor) {
            Ok(Some(Anchor::S3(anchor))) => Ok(anchor),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn hosts_are_those_of_s3_and_the_rest_is_filled_in() {
        let anchor = read("to = \"s3\"\nbucket = \"audit-anchors\"").unwrap();
        assert_eq!(anchor.endpoint.to_string(), "https://audit-anchors.s3-fips.us-gov-west-1.amazonaws.com");
        assert_eq!((anchor.prefix.as_str(), anchor.bucket_in_path, anchor.lock), ("", false, None));

        let anchor = read("to = \"s3\"\nbucket = \"a.b\"\nregion = \"us-gov-east-1\"\nprefix = \"x/y/\"").unwrap();
        assert_eq!(anchor.endpoint.to_string(), "https://s3-fips.us-gov-east-1.amazonaws.com");
        assert_eq!((anchor.prefix.as_str(), anchor.bucket_in_path), ("x/y/", true));

        let anchor = read("to = \"s3\"\nbucket = \"abc\"\nregion = \"eu-west-1\"\nprefix = \"x\"\nobject_lock_mode = \"COMPLIANCE\"\nobject_lock_days = 30").unwrap();
        assert_eq!(anchor.endpoint.to_string(), "https://abc.s3.eu-west-1.amazonaws.com");
        assert_eq!(anchor.prefix, "x/");
        assert_eq!(anchor.lock, Some(ObjectLock { mode: ObjectLockMode::Compliance, days: 30 }));

        let anchor = read("to = \"s3\"\nbucket = \"abc\"\nendpoint = \"http://127.0.0.1:9\"").unwrap();
        assert_eq!((anchor.endpoint.authority().as_str(), anchor.bucket_in_path), ("127.0.0.1:9", true));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (keys, sentence) in [
            ("to = \"s3\"", "c:1:1: to = \"s3\" needs bucket beside it in [audit.anchor]."),
            (
                "to = \"log\"\nbucket = \"abc\"",
                "c:1:1: bucket has no meaning with to = \"log\"; remove it from [audit.anchor].",
            ),
            ("to = \"s3\"\nbucket = \"Abc\"", "c:3:10: \"Abc\" is not the name of a bucket: "),
            ("to = \"s3\"\nbucket = \"192.168.1.1\"", "c:3:10: \"192.168.1.1\" is not the name of a bucket: "),
            ("to = \"s3\"\nbucket = \"ab\"", "c:3:10: "),
            ("to = \"s3\"\nbucket = \"a..b\"", "c:3:10: "),
            ("to = \"s3\"\nbucket = \"abc-\"", "c:3:10: "),
            ("to = \"s3\"\nbucket = \"a/bc\"", "c:3:10: "),
            ("to = \"s3\"\nbucket = \"abc\"\nprefix = \"/a\"", "c:4:10: \"/a\" is not the prefix of keys; "),
            ("to = \"s3\"\nbucket = \"abc\"\nprefix = \"a/../b\"", "c:4:10: "),
            ("to = \"s3\"\nbucket = \"abc\"\nprefix = \"/\"", "c:4:10: "),
            ("to = \"s3\"\nbucket = \"abc\"\nregion = \"gov\"", "c:4:10: \"gov\" is not an AWS region; "),
            (
                "to = \"s3\"\nbucket = \"abc\"\nobject_lock_mode = \"COMPLIANCE\"",
                "c:1:1: object_lock_mode needs object_lock_days ",
            ),
            ("to = \"s3\"\nbucket = \"abc\"\nobject_lock_days = 3", "c:1:1: object_lock_days needs object_lock_mode "),
            (
                "to = \"s3\"\nbucket = \"abc\"\nobject_lock_mode = \"COMPLIANCE\"\nobject_lock_days = 0",
                "c:5:20: object_lock_days is 0; S3 locks",
            ),
            (
                "to = \"s3\"\nbucket = \"abc\"\nobject_lock_mode = \"governance\"",
                "c:4:20: unknown variant `governance`",
            ),
            (
                "to = \"s3\"\nbucket = \"abc\"\nendpoint = \"http://example.com\"",
                "plain http is allowed to loopback only",
            ),
        ] {
            let error = read(keys).unwrap_err();
            assert!(error.contains(sentence), "{keys}\n{error}");
        }
    }
}
