//! The first entry that fits a request holds, so what an earlier entry already names never reaches a later one.

use std::collections::HashMap;
use std::sync::Arc;

use super::CallerEntry;
use crate::config::Glob;

/// What of an entry an earlier one takes.
pub(super) enum Shadow {
    Nothing,
    /// These criteria never count, each with the earlier entry's name; others do.
    Some(Vec<String>),
    /// No request can ever reach the entry.
    Everything(Vec<String>),
}

/// What the entries so far name, and the first that does.
#[derive(Default)]
pub(super) struct Earlier {
    users: HashMap<u32, Arc<CallerEntry>>,
    groups: HashMap<u32, Arc<CallerEntry>>,
    /// A pattern may fit what another one fits, so each is looked at.
    certificate_names: Vec<Arc<CallerEntry>>,
    host_role: Option<Arc<CallerEntry>>,
}

impl Earlier {
    pub(super) fn add(&mut self, entry: &Arc<CallerEntry>) {
        for uid in &entry.users {
            self.users.entry(*uid).or_insert_with(|| Arc::clone(entry));
        }
        for gid in &entry.groups {
            self.groups.entry(*gid).or_insert_with(|| Arc::clone(entry));
        }
        if !entry.certificate_names.is_empty() {
            self.certificate_names.push(Arc::clone(entry));
        }
        if entry.host_role {
            self.host_role.get_or_insert_with(|| Arc::clone(entry));
        }
    }

    pub(super) fn shadow(&self, entry: &CallerEntry) -> Shadow {
        let mut taken = Vec::new();
        // A local key and a token are no other entry's: whoever is neither user nor member comes in by them.
        let mut reached = entry.key.is_some() || entry.bearer.is_some();
        let mut look = |what: &dyn Fn() -> String, by: Option<&Arc<CallerEntry>>| match by {
            Some(other) => taken.push(format!("{} is already in \"{}\"", what(), other.name)),
            None => reached = true,
        };
        for uid in &entry.users {
            look(&|| format!("user {uid}"), self.users.get(uid));
        }
        for gid in &entry.groups {
            look(&|| format!("group {gid}"), self.groups.get(gid));
        }
        for pattern in &entry.certificate_names {
            let takes = |other: &&Arc<CallerEntry>| other.certificate_names.iter().any(|wider| covers(wider, pattern));
            look(&|| format!("the certificate name {pattern:?}"), self.certificate_names.iter().find(takes));
        }
        if entry.host_role {
            look(&|| "host_role".to_owned(), self.host_role.as_ref());
        }
        match (taken.is_empty(), reached) {
            (true, _) => Shadow::Nothing,
            (false, true) => Shadow::Some(taken),
            (false, false) => Shadow::Everything(taken),
        }
    }
}

/// Whether everything that fits `narrow` fits `wide` too. With `*` alone it is enough that `wide` fits the other's text;
/// a `?` would take the other's `*` for a letter.
fn covers(wide: &Glob, narrow: &Glob) -> bool {
    let (wide_text, narrow_text) = (wide.to_string(), narrow.to_string());
    wide_text == narrow_text || (!wide_text.contains('?') && wide.matches(&narrow_text))
}
