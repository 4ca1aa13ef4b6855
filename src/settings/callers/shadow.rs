//! The first entry that fits a request holds, so what an earlier entry already names never reaches a later one.

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

pub(super) fn shadow(entry: &CallerEntry, earlier: &[Arc<CallerEntry>]) -> Shadow {
    let mut taken = Vec::new();
    // A local key and a token are no other entry's: whoever is neither user nor member comes in by them.
    let mut reached = entry.key.is_some() || entry.bearer.is_some();
    let mut look = |what: String, takes: &dyn Fn(&CallerEntry) -> bool| match earlier.iter().find(|other| takes(other))
    {
        Some(other) => taken.push(format!("{what} is already in \"{}\"", other.name)),
        None => reached = true,
    };
    for uid in &entry.users {
        look(format!("user {uid}"), &|other| other.users.contains(uid));
    }
    for gid in &entry.groups {
        look(format!("group {gid}"), &|other| other.groups.contains(gid));
    }
    for pattern in &entry.certificate_names {
        look(format!("the certificate name {pattern:?}"), &|other| {
            other.certificate_names.iter().any(|wider| covers(wider, pattern))
        });
    }
    if entry.host_role {
        look("host_role".to_owned(), &|other| other.host_role);
    }
    match (taken.is_empty(), reached) {
        (true, _) => Shadow::Nothing,
        (false, true) => Shadow::Some(taken),
        (false, false) => Shadow::Everything(taken),
    }
}

/// Whether everything that fits `narrow` fits `wide` too. With `*` alone it is enough that `wide` fits the other's text;
/// a `?` would take the other's `*` for a letter.
fn covers(wide: &Glob, narrow: &Glob) -> bool {
    let (wide_text, narrow_text) = (wide.to_string(), narrow.to_string());
    wide_text == narrow_text || (!wide_text.contains('?') && wide.matches(&narrow_text))
}
