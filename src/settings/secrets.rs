//! Secrets that the configuration names by file: local signing keys and bearer tokens.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use toml::Spanned;
use zeroize::Zeroizing;

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

/// Reads a secret from a file of one line; a newline at its end is the editor's.
pub(super) fn secret(
    file: &Spanned<FilePath>,
    warnings: &mut Vec<String>,
    source: &Source,
) -> Result<Secret, ConfigError> {
    let path = &file.get_ref().0;
    let fail = |why: &str| source.error(file.span(), format!("the secret {} cannot be used: {why}.", path.display()));
    let (text, mode) = read(path).map_err(|error| fail(&error.to_string()))?;
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
    warnings.extend(exposure(path, mode));
    Ok(Secret::new(secret))
}

/// A sentence if every user of this host can reach a file that holds a secret.
pub(crate) fn exposed(path: &Path) -> Option<String> {
    exposure(path, std::fs::metadata(path).ok()?.permissions().mode() & 0o777)
}

fn exposure(path: &Path, mode: u32) -> Option<String> {
    (mode & 0o007 != 0).then(|| {
        format!(
            "every user of this host can reach the secret {} (mode {mode:03o}); run chmod 0600 on it, owned by the daemon's user.",
            path.display()
        )
    })
}

/// The file's text and its permissions.
fn read(path: &Path) -> std::io::Result<(Zeroizing<String>, u32)> {
    let mut file = std::fs::File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    // The capacity suffices for every secret that is accepted, so that growing leaves no copy behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * LONGEST));
    file.by_ref().take(2 * LONGEST as u64 - 64).read_to_string(&mut text)?;
    Ok((text, mode))
}
