//! Which `[[callers]]` entry a request fits, found without a look at each: a host may have thousands. The first in the
//! order of the file counts.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use subtle::ConstantTimeEq;

use crate::config::Glob;
use crate::settings::callers::{CallerEntry, Secret};

/// Entries by their criteria. Each is known by its place in the file.
#[derive(Debug, Default)]
pub(super) struct Index {
    users: HashMap<u32, usize>,
    groups: HashMap<u32, usize>,
    keys: HashMap<String, usize>,
    /// By a hash under a key that nobody knows, so that the time of a look-up tells nothing of a token.
    tokens: HashMap<u64, Vec<(Secret, usize)>>,
    hasher: RandomState,
    /// Whole names of certificates, and patterns, of which each may fit any name.
    certificate_names: HashMap<String, usize>,
    certificate_patterns: Vec<(Glob, usize)>,
    host_role: Option<usize>,
}

impl Index {
    pub(super) fn new(entries: &[Arc<CallerEntry>]) -> Index {
        let mut index = Index::default();
        for (at, entry) in entries.iter().enumerate() {
            for uid in &entry.users {
                index.users.entry(*uid).or_insert(at);
            }
            for gid in &entry.groups {
                index.groups.entry(*gid).or_insert(at);
            }
            if let Some(key) = &entry.key {
                index.keys.entry(key.access_key_id.clone()).or_insert(at);
            }
            if let Some(token) = &entry.bearer {
                let hash = index.hasher.hash_one(token.expose());
                index.tokens.entry(hash).or_default().push((token.clone(), at));
            }
            for pattern in &entry.certificate_names {
                let text = pattern.to_string();
                if text.contains(['*', '?']) {
                    index.certificate_patterns.push((pattern.clone(), at));
                } else {
                    index.certificate_names.entry(text).or_insert(at);
                }
            }
            if entry.host_role {
                index.host_role = index.host_role.or(Some(at));
            }
        }
        index
    }

    pub(super) fn of_user(&self, uid: u32) -> Option<usize> {
        self.users.get(&uid).copied()
    }

    pub(super) fn of_group(&self, gid: u32) -> Option<usize> {
        self.groups.get(&gid).copied()
    }

    pub(super) fn has_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    pub(super) fn of_key(&self, access_key_id: &str) -> Option<usize> {
        self.keys.get(access_key_id).copied()
    }

    /// The entry that has this token. Those with the same hash are compared, each in constant time.
    pub(super) fn of_token(&self, token: &str) -> Option<usize> {
        if self.tokens.is_empty() {
            return None;
        }
        let of_hash = self.tokens.get(&self.hasher.hash_one(token))?;
        let is_it = |(known, _): &&(Secret, usize)| known.expose().as_bytes().ct_eq(token.as_bytes()).into();
        of_hash.iter().find(is_it).map(|(_, at)| *at)
    }

    /// The first entry with a pattern that fits one of these names.
    pub(super) fn of_certificate(&self, names: &[String]) -> Option<usize> {
        let whole = names.iter().filter_map(|name| self.certificate_names.get(name).copied()).min();
        let fits = |(pattern, _): &&(Glob, usize)| names.iter().any(|name| pattern.matches(name));
        let by_pattern =
            if names.is_empty() { None } else { self.certificate_patterns.iter().find(fits).map(|(_, at)| *at) };
        whole.into_iter().chain(by_pattern).min()
    }

    pub(super) fn of_host_role(&self) -> Option<usize> {
        self.host_role
    }
}
