//! What `[admin]` means: who sees every record on the admin address.

use toml::Spanned;

use crate::config::{self, ConfigError, Source};

/// The longest name of a group that useradd(8) makes, in bytes.
const LONGEST: usize = 32;

/// Who sees what on the admin address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Admin {
    /// Groups of this host whose members see every record, as root does.
    pub groups: Vec<String>,
}

impl Admin {
    pub(super) fn new(written: config::Admin, source: &Source) -> Result<Admin, ConfigError> {
        let groups = written.groups.into_iter().map(|name| group(name, source)).collect::<Result<_, _>>()?;
        Ok(Admin { groups })
    }
}

fn group(name: Spanned<String>, source: &Source) -> Result<String, ConfigError> {
    let text = name.get_ref();
    let is_name =
        (1..=LONGEST).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() && !":,/".contains(c));
    if !is_name {
        return Err(source.error(name.span(), "write the name of a group of this host, as /etc/group has it."));
    }
    Ok(name.into_inner())
}
