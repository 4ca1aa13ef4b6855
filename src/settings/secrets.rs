//! Secrets that the configuration names by file: local signing keys and bearer tokens.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use toml::Spanned;
use zeroize::Zeroizing;

use super::accounts::Accounts;
use crate::config::{ConfigError, FilePath, Source};

/// A secret that no log shows and that is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Secrets of fewer characters can be guessed from a recorded signature.
const SHORT: usize = 16;

/// More than any token has.
const LONGEST: usize = 4096;

/// Of the packages' sysusers.d.
const PACKAGED_GROUP: &str = "bedrock-sidecar";

/// Reads a secret from a file of one line; a newline at its end is the editor's.
pub(super) fn secret(
    file: &Spanned<FilePath>,
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<Secret, ConfigError> {
    let path = &file.get_ref().0;
    let fail = |why: &str| source.error(file.span(), format!("the secret {} cannot be used: {why}.", path.display()));
    let (text, file_of) = read(path).map_err(|error| fail(&error.to_string()))?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() || secret.len() > LONGEST || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(fail("it must be one line of 1 to 4096 visible ASCII characters, without spaces"));
    }
    if secret.len() < SHORT {
        let length = secret.len();
        warnings.push(format!(
            "the secret {} has only {length} characters; make one with: openssl rand -hex 20",
            path.display()
        ));
    }
    warnings.extend(exposure(path, &file_of));
    Ok(Secret::new(secret))
}

/// A sentence if others than the daemon can reach a file that holds a secret.
pub(crate) fn exposed(path: &Path) -> Option<String> {
    exposure(path, &std::fs::metadata(path).ok()?)
}

fn exposure(path: &Path, file: &Metadata) -> Option<String> {
    let mode = file.permissions().mode() & 0o777;
    let who = readers(mode, (file.uid(), file.gid()), &Own::of_process())?;
    Some(format!(
        "{who} can reach the secret {} (mode {mode:03o}); run chmod 0600 on it, owned by the daemon's user.",
        path.display()
    ))
}

/// A sentence if root, who checks, can read a file with a secret and the packages' service cannot.
pub(crate) fn closed_to_service(path: &Path) -> Option<String> {
    let file = std::fs::metadata(path).ok()?;
    is_for_root_alone(file.permissions().mode(), file.uid(), &Own::of_process()).then(|| {
        format!(
            "only root can read the secret {}, and the service runs as the user {PACKAGED_GROUP}; give it that group and run chmod 0640 on it, or pass it on by LoadCredential=",
            path.display()
        )
    })
}

fn is_for_root_alone(mode: u32, owner: u32, own: &Own) -> bool {
    own.user == 0 && own.packaged.is_some() && owner == 0 && mode & 0o077 == 0
}

/// Who the daemon is.
struct Own {
    user: u32,
    group: u32,
    /// The group that packages make for the daemon: `check` may be run by root.
    packaged: Option<u32>,
}

impl Own {
    fn of_process() -> Own {
        Own {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
            packaged: Accounts::read().gid(PACKAGED_GROUP),
        }
    }
}

/// Who but the daemon and root has rights to a file. A file of root or of the daemon may be open to the daemon's group. Root's
/// group is nobody else; where systemd lets the daemon's user read a credential by an access control list, the mode shows
/// that as a right of root's group.
fn readers(mode: u32, (owner, group): (u32, u32), own: &Own) -> Option<String> {
    if mode & 0o007 != 0 {
        return Some("every user of this host".to_owned());
    }
    let is_own_group = group == 0 || group == own.group || Some(group) == own.packaged;
    let is_own = (owner == 0 || owner == own.user) && is_own_group;
    (mode & 0o070 != 0 && !is_own).then(|| format!("group {group}"))
}

/// The file's text, and what is known of the file.
fn read(path: &Path) -> std::io::Result<(Zeroizing<String>, Metadata)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    // The capacity suffices for every secret that is accepted, so that growing leaves no copy behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * LONGEST));
    file.by_ref().take(2 * LONGEST as u64 - 64).read_to_string(&mut text)?;
    Ok((text, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_may_read_only_if_it_is_the_daemons_own() {
        let own = Own { user: 990, group: 980, packaged: Some(981) };
        let everybody = Some("every user of this host".to_owned());
        let group = |gid: u32| Some(format!("group {gid}"));
        for (mode, of, expected) in [
            (0o600, (990, 5), None),
            (0o400, (0, 5), None),
            (0o640, (0, 980), None),
            (0o640, (990, 980), None),
            (0o440, (0, 981), None),
            (0o440, (0, 0), None),
            (0o640, (990, 0), None),
            (0o640, (7, 0), group(0)),
            (0o640, (0, 5), group(5)),
            (0o640, (990, 5), group(5)),
            (0o620, (0, 5), group(5)),
            (0o640, (7, 980), group(980)),
            (0o644, (0, 980), everybody.clone()),
            (0o604, (990, 980), everybody.clone()),
            (0o601, (990, 980), everybody),
        ] {
            assert_eq!(readers(mode, of, &own), expected, "{mode:o} {of:?}");
        }
    }

    #[test]
    fn what_root_alone_can_read_is_none_of_the_services() {
        let root = |packaged| Own { user: 0, group: 0, packaged };
        assert!(is_for_root_alone(0o100_600, 0, &root(Some(981))));
        // The service's own, or open to its group.
        assert!(!is_for_root_alone(0o100_600, 990, &root(Some(981))));
        assert!(!is_for_root_alone(0o100_640, 0, &root(Some(981))));
        // In a container the daemon may be root, and who is not root reads for itself.
        assert!(!is_for_root_alone(0o100_600, 0, &root(None)));
        assert!(!is_for_root_alone(0o100_600, 0, &Own { user: 990, group: 980, packaged: Some(980) }));
    }
}
